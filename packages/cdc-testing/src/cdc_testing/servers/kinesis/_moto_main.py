"""The program of the DynamoDB server: moto, on a free loopback port."""

import argparse
import logging
import signal

from moto.server import ThreadedMotoServer

from ._program import announce


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description="DynamoDB for tests, by moto, on a loopback port.")
    parser.add_argument("--port", type=int, default=0, help="0 for a free one")
    arguments = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request otherwise
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # inherited by the server's threads
    server = ThreadedMotoServer("127.0.0.1", arguments.port, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    announce(f"http://{host}:{port}")
    signal.sigwait(signals)
    server.stop()


if __name__ == "__main__":
    main()
