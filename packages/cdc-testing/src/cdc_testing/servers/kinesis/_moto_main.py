"""The program of the DynamoDB server: moto, on a free loopback port."""

import argparse
import io
import logging
import signal
import threading
from collections.abc import Callable, Iterable
from typing import Any

# moto is typed, but pyright does not take this folder of it for a part of it: it has no __init__.py.
from moto.moto_server.werkzeug_app import (  # pyright: ignore[reportMissingTypeStubs]
    DomainDispatcherApplication,
    create_backend_app,
)
from werkzeug.serving import make_server

from ._program import announce


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description="DynamoDB for tests, by moto, on a loopback port.")
    parser.add_argument("--port", type=int, default=0, help="0 for a free one")
    arguments = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request otherwise
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # inherited by the server's threads
    server = make_server("127.0.0.1", arguments.port, OneAtATime(), threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    announce(f"http://127.0.0.1:{server.server_port}")
    signal.sigwait(signals)
    server.shutdown()


class OneAtATime:
    """moto as a WSGI application that carries out one request after the other.

    moto checks a condition and then writes, and between the two another thread may write: of eight that took one
    lease at once, two have won (seen on a busy machine). The connections still have a thread each.
    """

    def __init__(self) -> None:
        self._moto: Callable[..., Iterable[bytes]] = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        # read first: a client that is frozen half-way must not stop the others
        environ["wsgi.input"] = io.BytesIO(
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        )
        with self._lock:
            return self._moto(environ, start_response)


if __name__ == "__main__":
    main()
