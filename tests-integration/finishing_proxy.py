"""An HTTP proxy that carries out whole requests, whatever becomes of the client that sent them.

kinesis-local 0.6.2 answers nobody any more once a few clients have gone in the middle of a request (seen with killed
clients and with cut connections), so what kills clients needs this between them and it. AWS does the same: a request
that it has received is carried out.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, final
from urllib.parse import urlsplit

_NOT_FORWARDED = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}
)


@contextmanager
def start_finishing_proxy(endpoint_url: str) -> Generator[str]:
    """Serve an endpoint on another port of 127.0.0.1, in threads of this process; give the new endpoint."""
    target = urlsplit(endpoint_url)
    server = _Server((target.hostname or "", target.port or 80))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@final
class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: what is tested here is clients that go."""


@final
class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        assert isinstance(self.server, _Server)
        self._target = http.client.HTTPConnection(*self.server.target)
        self._target.connect()
        self._target.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def finish(self) -> None:
        self._target.close()
        with contextlib.suppress(OSError):
            super().finish()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._target.request("POST", self.path, body, dict(self.headers.items()))
        answer = self._target.getresponse()
        content = answer.read()
        head = [f"HTTP/1.1 {answer.status} {answer.reason}"]
        head += [
            f"{name}: {value}" for name, value in answer.getheaders() if name.lower() not in _NOT_FORWARDED
        ]
        head += [f"Content-Length: {len(content)}", "", ""]
        self.wfile.write("\r\n".join(head).encode() + content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Say nothing."""
