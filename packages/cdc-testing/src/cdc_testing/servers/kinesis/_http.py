"""The HTTP side: one thread for each connection, kept alive between requests.

http.server rather than h11: a PutRecords of 200 kB costs 0.05 ms here and 0.26 ms there (measured, Python 3.11).
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, cast, final

from ._front import HttpAnswer

Answering = Callable[[str, Mapping[str, str], bytes], HttpAnswer | None]
"""From path, headers and body of a POST to its answer; None closes the connection."""

_POLL_SECONDS: Final = 0.1
# A PutRecords of 10 MiB in base64 and JSON has 14 MB.
_MAX_BODY_BYTES: Final = 64 * 1024 * 1024


@final
class HttpServer:
    """An HTTP server on a loopback port, in threads of this process.

    Args:
        host: The address to listen on.
        port: 0 for a free one.
        answering: Called in the connections' threads.
    """

    def __init__(self, host: str, port: int, answering: Answering) -> None:
        self._server = _Server((host, port), answering)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_SECONDS,), name="cdc-testing-kinesis", daemon=True
        )

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to take connections."""
        self._thread.start()

    def close(self) -> None:
        """Take no more connections, cut those there are, wait for their threads."""
        self._server.shutdown()
        self._thread.join()
        self._server.cut()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    # The default backlog of 5 refuses the connections of a busy test.
    request_queue_size = 128
    daemon_threads = False
    block_on_close = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], answering: Answering) -> None:
        self.answering = answering
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer's own looks up the host's name, which may take seconds.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of ours; the front has caught everything else."""

    def cut(self) -> None:
        """End every connection."""
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "cdc-testing"
    disable_nagle_algorithm = True
    wbufsize = 64 * 1024

    def do_POST(self) -> None:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            self.send_error(HTTPStatus.LENGTH_REQUIRED)
            return
        length = int(self.headers.get("Content-Length", "0"))
        if length > _MAX_BODY_BYTES:
            self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True
            return
        server = cast("_Server", self.server)
        answer = server.answering(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
        if answer is None:
            self.close_connection = True
            return
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        if answer.pieces is not None:
            self._send_pieces(answer.pieces)
            return
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)
        self.wfile.flush()

    def _send_pieces(self, pieces: Iterator[bytes]) -> None:
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """The front has a log of its own."""
        del format, args
