import contextlib
import errno
import os
import socket
import struct
from typing import Literal, final

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from ._faults import Direction, Faults

Ending = Literal["rst", "fin"]
"""How a connection is cut: reset, or closed as if both peers had left."""

_READ_BYTES = 16 * 1024
# Chunks on their way in one direction, needed for a delay that does not throttle: 1 MiB.
_CHUNKS_IN_FLIGHT = 64

_Chunk = tuple[float, bytes]
"""When it is due, and the bytes; none mean that the sender closed its side."""


@final
class Connection:
    """A client's connection and the one to the target made for it, raw sockets both.

    Raw, since streams of an event loop read ahead: a stall must leave the bytes in the kernel, where they
    fill the sender's window.
    """

    def __init__(self, client: socket.socket, faults: Faults) -> None:
        self._client = client
        self._target: socket.socket | None = None
        self._faults = faults
        self._ending: Ending = "fin"
        self._scope = anyio.CancelScope()
        self.closed = anyio.Event()

    def cut(self, ending: Ending) -> None:
        """End it now; `closed` tells when it has happened."""
        self._ending = ending
        self._scope.cancel()

    async def run(self, host: str, port: int) -> bool:
        """Connect and pass bytes until both sides are done; False where the target could not be reached."""
        try:
            with self._scope:
                try:
                    self._target = await _connect(host, port)
                except OSError:
                    self._ending = "rst"
                    return False
                async with anyio.create_task_group() as tasks:
                    self._pass_bytes(tasks, "to_target", self._client, self._target)
                    self._pass_bytes(tasks, "to_client", self._target, self._client)
        finally:
            for side in (self._client, self._target):
                if side is not None:
                    _close(side, self._ending)
            self.closed.set()
        return True

    def _pass_bytes(
        self, tasks: anyio.abc.TaskGroup, direction: Direction, source: socket.socket, sink: socket.socket
    ) -> None:
        chunks_in, chunks_out = anyio.create_memory_object_stream[_Chunk](_CHUNKS_IN_FLIGHT)
        tasks.start_soon(self._read, direction, source, chunks_in)
        tasks.start_soon(self._write, direction, sink, chunks_out)

    async def _read(
        self, direction: Direction, source: socket.socket, chunks: MemoryObjectSendStream[_Chunk]
    ) -> None:
        gate = self._faults.gates[direction]
        with chunks:
            while True:
                await gate.passed()
                await anyio.wait_readable(source)
                if not gate.is_open:
                    continue
                try:
                    data = source.recv(_READ_BYTES)
                except BlockingIOError:
                    continue
                except OSError:
                    self.cut("rst")  # one peer reset its side: the other sees the same
                    return
                due = anyio.current_time() + self._faults.delays[direction]
                try:
                    await chunks.send((due, data))
                except anyio.BrokenResourceError:
                    return  # the writer met a reset, and has cut the connection
                if not data:
                    return

    async def _write(
        self, direction: Direction, sink: socket.socket, chunks: MemoryObjectReceiveStream[_Chunk]
    ) -> None:
        with chunks:
            async for due, data in chunks:
                await anyio.sleep_until(due)
                await self._faults.gates[direction].passed()
                try:
                    if not data:
                        sink.shutdown(socket.SHUT_WR)
                        return
                    await self._deliver(direction, sink, self._faults.apply(direction, data))
                except OSError:
                    self.cut("rst")
                    return

    async def _deliver(self, direction: Direction, sink: socket.socket, data: bytes) -> None:
        faults = self._faults
        view = memoryview(data)
        while view:
            await faults.gates[direction].passed()
            try:
                sent = sink.send(view[: faults.move_bytes(direction)])
            except BlockingIOError:
                await anyio.wait_writable(sink)
                continue
            view = view[sent:]
            faults.delivered[direction] += sent
            if (rate := faults.rates[direction]) is not None:
                await anyio.sleep(sent / rate)


async def _connect(host: str, port: int) -> socket.socket:
    failure: OSError = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    for family, kind, protocol, _, address in await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            status = connection.connect_ex(address)
            if status == errno.EINPROGRESS:
                await anyio.wait_writable(connection)
                status = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        except BaseException:
            connection.close()
            raise
        if status == 0:
            return connection
        connection.close()
        failure = OSError(status, os.strerror(status))
    raise failure


def _close(side: socket.socket, ending: Ending) -> None:
    with contextlib.suppress(OSError):  # its peer may have left already
        if ending == "rst":
            # Lingering for no time at all makes close() send a reset (socket(7), SO_LINGER).
            side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            side.shutdown(socket.SHUT_WR)
    side.close()
