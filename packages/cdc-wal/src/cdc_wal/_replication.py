"""COPY BOTH on a replication connection: whole frames in, standby status updates out.

https://www.postgresql.org/docs/current/protocol-replication.html (START_REPLICATION)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, final

import anyio
import anyio.lowlevel
import psycopg
from psycopg import pq

from cdc_core import CdcError
from cdc_pgoutput import Lsn, StandbyStatusUpdate

from ._errors import ConnectionLost, server_error

if TYPE_CHECKING:
    from ._connection import Connection

# libpq reads at most 16 KiB in one call, so a read of half of that or more means that more is waiting.
_FULL_READ_BYTES: Final = 8192
# After a small read the sender is given a moment to fill the socket: one wake-up for a hundred messages instead of
# one each makes the server four times cheaper (measured), at a latency of at most this.
_NAP_SECONDS: Final = 0.001


@final
class ReplicationStream:
    """The streaming state of a replication connection, from `start` to `finish`.

    One task receives; another may send status updates meanwhile: a full send buffer never stops the reading.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._bytes_since_read = 0
        self._slot_name = ""
        self._sending = anyio.Lock()

    @property
    def backend_pid(self) -> int:
        """The server process that sends."""
        return self._connection.backend_pid

    async def start(self, slot_name: str, start_lsn: Lsn, options: Mapping[str, str]) -> None:
        """Begin streaming a slot; the server goes on from `start_lsn` or from what the slot confirmed, if that is more.

        Raises:
            CdcError: the server refused, typed by what it said.
        """
        self._slot_name = slot_name
        listed = ", ".join(f"{name} {_literal(value)}" for name, value in options.items())
        command = f'START_REPLICATION SLOT "{slot_name}" LOGICAL {start_lsn} ({listed})'
        await self._connection.start_copy_both(command)

    async def receive(self, *, max_frames: int, max_bytes: int) -> list[bytes]:
        """Wait for frames, and return those that are there, up to a count or size; never none.

        Reads again at once after a full read, naps a millisecond after a small one, and waits for the socket only
        when a read brought nothing. Each call yields to the event loop.

        Raises:
            ConnectionLost: the connection broke, or the server ended the stream.
        """
        await anyio.lowlevel.checkpoint()
        frames: list[bytes] = []
        room = max_bytes
        while True:
            taken = self._take_frames(frames, max_frames, room)
            self._bytes_since_read += taken
            room -= taken
            if len(frames) >= max_frames or room <= 0:
                return frames
            if self._bytes_since_read >= _FULL_READ_BYTES:
                self._read()
            elif frames:
                return frames
            else:
                if self._bytes_since_read:
                    await anyio.sleep(_NAP_SECONDS)
                else:
                    await self._connection.wait_readable()
                self._read()

    async def send_status(self, update: StandbyStatusUpdate) -> None:
        """Send a standby status update; waits while the send buffer is full, and the reading goes on meanwhile.

        Raises:
            ConnectionLost: the connection broke.
        """
        async with self._sending:
            try:
                self._pgconn.put_copy_data(update.to_bytes())
                while self._pgconn.flush():
                    await anyio.wait_writable(self._pgconn.socket)
            except (psycopg.OperationalError, OSError, anyio.ClosedResourceError) as error:
                raise ConnectionLost("the replication connection broke while a status was sent") from error

    async def finish(self) -> None:
        """End the stream cleanly: the server has processed every status sent before when this returns.

        Frames that still arrive are dropped. The caller bounds the time.

        Raises:
            ConnectionLost: the connection broke first.
        """
        async with self._sending:
            try:
                self._pgconn.put_copy_end()
                while self._pgconn.flush():
                    await anyio.wait_writable(self._pgconn.socket)
            except (psycopg.OperationalError, OSError, anyio.ClosedResourceError) as error:
                raise ConnectionLost("the replication connection broke while it was closed") from error
        while True:
            size, _ = self._next_frame(end_is_error=False)
            if size < 0:
                return
            if size == 0:
                await self._connection.wait_readable()
                self._read()

    def _take_frames(self, frames: list[bytes], max_frames: int, max_bytes: int) -> int:
        """Append the whole frames that libpq holds, up to a count or size; return their size."""
        get_copy_data, append = self._pgconn.get_copy_data, frames.append
        taken = 0
        try:
            for _ in range(max_frames - len(frames)):
                size, data = get_copy_data(1)
                if size <= 0:
                    break
                append(data.tobytes())  # the only copy: `data` is libpq's own memory
                taken += size
                if taken >= max_bytes:
                    break
            else:
                return taken
        except psycopg.OperationalError as error:
            raise ConnectionLost("the replication connection broke") from error
        if size < 0:
            raise self._ended()
        return taken

    def _next_frame(self, *, end_is_error: bool = True) -> tuple[int, memoryview]:
        try:
            size, data = self._pgconn.get_copy_data(1)
        except psycopg.OperationalError as error:
            raise ConnectionLost("the replication connection broke") from error
        if size < 0 and end_is_error:
            raise self._ended()
        return size, data

    def _read(self) -> None:
        self._bytes_since_read = 0
        self._connection.consume_input()

    def _ended(self) -> CdcError:
        result = self._pgconn.get_result()
        if result is None or result.status != pq.ExecStatus.FATAL_ERROR:
            return ConnectionLost("the server ended the replication stream", where={"slot": self._slot_name})
        state = result.error_field(pq.DiagnosticField.SQLSTATE)
        message = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"the connection broke"
        if state is None:  # libpq's own message: nothing came from the server
            return ConnectionLost(message.decode(errors="replace"), where={"slot": self._slot_name})
        return server_error(state.decode(), message.decode(errors="replace"), where={"slot": self._slot_name})


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
