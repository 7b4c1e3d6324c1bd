import socket
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol, final

import anyio

from .._errors import ServerError
from ._connection import Connection, Ending
from ._faults import DIRECTIONS, Direction, Faults, Gate

_HOST = "127.0.0.1"
# After an error that will be there again at once, such as too many open files.
_ACCEPT_PAUSE_SECONDS = 0.1


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyStatistics:
    """What passed through a proxy since it was opened.

    Attributes:
        accepted: Connections taken from clients.
        open: Those of them that are still there.
        failed: Those whose target could not be reached.
        bytes_to_target, bytes_to_client: Bytes handed to the kernel for each side.
        corrupted_bytes: How many of them were changed.
    """

    accepted: int
    open: int
    failed: int
    bytes_to_target: int
    bytes_to_client: int
    corrupted_bytes: int


@final
class TcpProxy:
    """A TCP proxy in this process that fails on demand, made by `open_tcp_proxy`.

    Its methods are for the event loop's thread. Faults hold for the connections there are and for those to
    come, until they are taken back. A direction of None means both.
    """

    def __init__(self, target_host: str, target_port: int) -> None:
        self._target = (target_host, target_port)
        self._faults = Faults()
        self._connections: set[Connection] = set()
        self._accepted = 0
        self._failed = 0
        self._accepting = Gate()
        # Bound and never listening, it keeps the port while `refuse` has the listener closed.
        self._reservation = _bind(0)
        self._port: int = self._reservation.getsockname()[1]
        self._listener = _listen(self._port)

    @property
    def host(self) -> str:
        return _HOST

    @property
    def port(self) -> int:
        return self._port

    @property
    def statistics(self) -> ProxyStatistics:
        return ProxyStatistics(
            accepted=self._accepted,
            open=len(self._connections),
            failed=self._failed,
            bytes_to_target=self._faults.delivered["to_target"],
            bytes_to_client=self._faults.delivered["to_client"],
            corrupted_bytes=self._faults.corrupted,
        )

    async def cut(self, ending: Ending = "rst") -> int:
        """End all connections, bytes in flight included, on both sides; new ones are accepted as before.

        Args:
            ending: "rst", as when a host or a firewall drops its state; "fin", as when a peer closes.

        Returns:
            How many were ended; they are gone when this returns.
        """
        connections = tuple(self._connections)
        for connection in connections:
            connection.cut(ending)
        for connection in connections:
            await connection.closed.wait()
        return len(connections)

    def stall(self, direction: Direction | None = None) -> None:
        """Pass nothing on, closings included, while the connections stay: half-open, as with a pulled cable.

        What the sender still sends fills the kernel's buffers, and then its own. The kernel goes on answering
        keep-alive probes.
        """
        for each in _directions(direction):
            self._faults.gates[each].close()

    def resume(self, direction: Direction | None = None) -> None:
        """Take `stall` back; what was held back arrives."""
        for each in _directions(direction):
            self._faults.gates[each].open()

    def delay(self, seconds: float, direction: Direction | None = None) -> None:
        """Let bytes arrive that much later, 1 MiB of them at most on their way; 0 takes it back.

        Bytes that are on their way already keep their delay.

        Raises:
            ValueError: if the time is negative.
        """
        if not seconds >= 0:
            raise ValueError(f"seconds must be 0 or more, not {seconds}")
        for each in _directions(direction):
            self._faults.delays[each] = seconds

    def throttle(self, bytes_per_second: int | None, direction: Direction | None = None) -> None:
        """Let each connection pass at most that many bytes a second; None takes it back.

        Raises:
            ValueError: if it is not above 0; use `stall` for that.
        """
        if bytes_per_second is not None and not bytes_per_second > 0:
            raise ValueError(
                f"bytes_per_second must be above 0, not {bytes_per_second}; stall() passes nothing"
            )
        for each in _directions(direction):
            self._faults.rates[each] = bytes_per_second

    def corrupt(self, direction: Direction, *, after_bytes: int = 0, mask: int = 0xFF) -> None:
        """Change one byte, the next that leaves in this direction once `after_bytes` more have.

        Args:
            after_bytes: Counted over all connections.
            mask: The bits that are flipped.

        Raises:
            ValueError: if there is nothing to flip or to count.
        """
        if not 0 < mask <= 0xFF or after_bytes < 0:
            raise ValueError(f"mask must be 1 to 255, after_bytes 0 or more, not {mask}, {after_bytes}")
        self._faults.corrupt(direction, after_bytes, mask)

    def refuse(self) -> None:
        """Refuse new connections, as a port that nobody listens on; those there are stay (see `cut`)."""
        if self._accepting.is_open:
            self._accepting.close()
            anyio.notify_closing(self._listener)
            self._listener.close()

    def accept(self) -> None:
        """Take `refuse` back, on the same port."""
        if not self._accepting.is_open:
            self._listener = _listen(self._port)
            self._accepting.open()

    async def _serve(self, tasks: anyio.abc.TaskGroup) -> None:
        while True:
            await self._accepting.passed()
            try:
                await anyio.wait_readable(self._listener)
                client, _ = self._listener.accept()
            except (BlockingIOError, ConnectionError, anyio.ClosedResourceError):
                continue  # the client left meanwhile, or `refuse` closed the listener
            except OSError:
                await anyio.sleep(_ACCEPT_PAUSE_SECONDS)
                continue
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(client, self._faults)
            self._connections.add(connection)
            self._accepted += 1
            tasks.start_soon(self._run, connection)

    async def _run(self, connection: Connection) -> None:
        try:
            if not await connection.run(*self._target):
                self._failed += 1
        finally:
            self._connections.discard(connection)

    def _close(self) -> None:
        self._listener.close()
        self._reservation.close()


class ProxyFactory(Protocol):
    """What the fixture `tcp_proxy` gives: `open_tcp_proxy`."""

    def __call__(self, target_host: str, target_port: int) -> AbstractAsyncContextManager[TcpProxy]: ...


@asynccontextmanager
async def open_tcp_proxy(target_host: str, target_port: int) -> AsyncGenerator[TcpProxy]:
    """Open a proxy on a free loopback port; leaving the block ends its connections, its tasks and its port.

    Args:
        target_host, target_port: Where each connection leads; need not be there yet.

    Raises:
        ServerError: if no port can be had.
    """
    try:
        proxy = TcpProxy(target_host, target_port)
    except OSError as error:
        raise ServerError(
            f"cannot open a proxy: {error}",
            where=_HOST,
            remedy="too many open files or sockets? end what is no longer needed",
        ) from error
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(proxy._serve, tasks)  # pyright: ignore[reportPrivateUsage]
            try:
                yield proxy
            finally:
                tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # The task group wraps what its block raised; a test wants its own error.
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise
    finally:
        proxy._close()  # pyright: ignore[reportPrivateUsage]


def _directions(direction: Direction | None) -> tuple[Direction, ...]:
    return DIRECTIONS if direction is None else (direction,)


def _bind(port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        bound.setblocking(False)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((_HOST, port))
    except BaseException:
        bound.close()
        raise
    return bound


def _listen(port: int) -> socket.socket:
    listener = _bind(port)
    listener.listen(128)
    return listener
