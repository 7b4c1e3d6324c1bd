"""One replication connection to a slot: receives, hands over, reports what is done, and listens to the server."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar, final

import anyio
from anyio.abc import TaskGroup

from cdc_core import CdcError, Epoch, PartitionLost
from cdc_pgoutput import Decoder, Lsn, Relation, StandbyStatusUpdate, TypeRegistry

from ._changes import ChangeBuilder, MakeEvent
from ._config import WalConfig
from ._confirm import ConfirmTracker
from ._connection import PasswordProvider
from ._errors import ConnectionLost
from ._relations import SourceName
from ._replication import ReplicationStream
from ._schema_changes import SchemaChangeHook, Shapes
from ._shutdown import ShutdownWatch
from ._side_connection import SideConnection
from ._slots import inspect_slot, stream_error

T = TypeVar("T")

# The Commit follows its rows at once: this is for a network that delays it.
_COMMIT_TIMEOUT_SECONDS: Final = 1.0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """Where an earlier connection of the same run stood: its epoch, what it had confirmed, the shapes it had seen."""

    epoch: Epoch
    confirmed_lsn: Lsn
    shapes: Mapping[int, Relation]


@final
class SlotSession(Generic[T]):
    """A running replication connection; received from `open_session`.

    The receiving never waits for whoever takes the batches: at `max_buffered_bytes` it pauses the socket, and status
    updates go out on their own clock all the same.
    """

    def __init__(
        self,
        config: WalConfig,
        stream: ReplicationStream,
        side: SideConnection,
        *,
        epoch: Epoch,
        database: str,
        start: Lsn,
        make: MakeEvent[T],
        mark_end: Callable[[T], T] | None,
        password: PasswordProvider | None,
        on_schema_change: SchemaChangeHook | None,
        shapes: Mapping[int, Relation],
    ) -> None:
        self.epoch = epoch
        self.database = database
        self.server_stopping = anyio.Event()
        self.ended = anyio.Event()
        self.taken_bytes = 0  # of the batch that was taken last
        self._config = config
        self._stream = stream
        self._side = side
        self._password = password
        self._tracker = ConfirmTracker(start)
        source = SourceName(name=config.slot_name, database=database)
        self._decoder = Decoder(protocol_version=1, types=TypeRegistry())
        self._builder = ChangeBuilder(
            epoch=epoch,
            source=source,
            decoder=self._decoder,
            tracker=self._tracker,
            make=make,
            message_keys=dict(config.message_keys),
            now_us=lambda: time.time_ns() // 1000,
            max_bytes=config.max_batch_bytes,
            mark_end=mark_end,
        )
        self._shapes = Shapes(config, side, self._decoder, source, on_schema_change, shapes)
        self._batches: deque[tuple[list[T], int]] = deque()
        self._buffered_bytes = 0
        self._frames: list[bytes] = []
        self._next_frame = 0  # of `_frames`, the first that is not fed yet
        self._resolving = False
        self._receive_ended = anyio.Event()
        self._paused = False
        self._intake = anyio.CancelScope()
        self._closed = False
        self._starved = False  # whoever takes batches has done with the last one
        self._left = False
        self._failure: CdcError | None = None
        self._changed = anyio.Event()  # something for whoever takes batches
        self._room = anyio.Event()  # something for the receiving
        self._report = anyio.Event()  # something for the reporting
        self._reported_lsn = Lsn(0)
        self._heard_at = time.monotonic()
        self._silent_ticks = 0

    @property
    def confirmed_lsn(self) -> Lsn:
        """The LSN up to which all is done; it has been reported, or is about to be."""
        return self._tracker.flush_lsn

    @property
    def is_progress(self) -> bool:
        """Whether a transaction was confirmed over this connection."""
        return self._tracker.is_progress

    def resume(self) -> Resume:
        """Return where the next connection goes on."""
        return Resume(epoch=self.epoch, confirmed_lsn=self.confirmed_lsn, shapes=self._shapes.last)

    @property
    def truncates(self) -> int:
        """How many events of TRUNCATE came over this connection."""
        return self._builder.truncates

    @property
    def failure(self) -> CdcError | None:
        """What broke the connection, None while it holds."""
        return self._failure

    @property
    def heard_at(self) -> float:
        """When the server was last heard, by `time.monotonic()`."""
        return self._heard_at

    def run_in(self, tasks: TaskGroup) -> None:
        """Start the receiving, the reporting and the watching in a task group that outlives the session."""
        tasks.start_soon(self._guard, self._receive)
        tasks.start_soon(self._guard, self._report_status)
        tasks.start_soon(self._guard, self._watch_server)

    async def next_batch(self) -> list[T] | None:
        """Wait for the next batch, never empty, and take it; None once the intake is closed.

        Raises:
            CdcError: the connection broke, or the server sent what cannot be decoded; what was buffered is dropped.
        """
        while True:
            if self._failure is not None:
                raise self._failure
            if self._closed:
                return None
            if self._batches:
                events, self.taken_bytes = self._batches.popleft()
                self._buffered_bytes -= self.taken_bytes
                self._starved = False
                self._room.set()
                return events
            self._changed = anyio.Event()
            self._starved = True
            self._room.set()
            await self._changed.wait()

    def close_intake(self) -> None:
        """Take nothing more from the server; what is buffered and not taken is dropped."""
        self._closed = True
        self._batches.clear()
        self._intake.cancel()
        self._changed.set()

    def done(self, first: int, count: int) -> int:
        """Record that `count` events from number `first` on are done; return how many were not before.

        Raises:
            PartitionLost: the connection is lost: another reader may own the slot by now.
        """
        if self._failure is not None or self._left:
            raise PartitionLost(
                "the replication connection is gone", where={"slot": self._config.slot_name}
            ) from self._failure
        added = self._tracker.done(first, count)
        if self._tracker.flush_lsn > self._reported_lsn:
            self._report.set()
        return added

    async def flush(self) -> None:
        """Report what is done now.

        Raises:
            ConnectionLost: the connection broke.
        """
        await self._send_status()

    async def leave(self) -> None:
        """Report what is done, and end the stream so that the server has read the report. The caller bounds it."""
        self.close_intake()
        if self._failure is not None:
            return
        try:
            await self._await_commit()
            await self._send_status()
            self._left = True
            await self._stream.finish()
        except CdcError as error:
            self._failure = error

    async def _guard(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except CdcError as error:
            if self._failure is None and not self._left:
                self._failure = stream_error(error, config=self._config, streaming=True)
                self._batches.clear()
            self.ended.set()
            self._changed.set()
            self._intake.cancel()

    async def _receive(self) -> None:
        try:
            with self._intake:
                while True:
                    while self._next_frame < len(self._frames):
                        await self._wait_for_room()
                        await self._feed()
                    await self._wait_for_room()
                    await self._read()
        finally:
            self._receive_ended.set()

    async def _read(self) -> None:
        # assigned at once: cancelled while it waits, it has taken nothing
        self._frames, self._next_frame = (
            await self._stream.receive(
                max_frames=self._config.max_batch_events, max_bytes=self._config.max_batch_bytes
            ),
            0,
        )
        self._heard_at = time.monotonic()
        self._silent_ticks = 0

    async def _feed(self) -> None:
        self._next_frame, relation = self._builder.feed(self._frames, self._next_frame)
        if relation is None:
            self._hand_over()
            return
        # nothing is received meanwhile: that is no silence of the server's
        self._paused = self._resolving = True
        if self._shapes.is_new(relation):
            self._hand_over(hold_last=False)
            await self._until_starved()
        self._builder.resolve(relation, await self._shapes.resolve(relation))
        self._paused = self._resolving = False

    async def _await_commit(self) -> None:
        """Read on to the Commit of a transaction all of whose events are done: it may lie in the next read.

        Without it the transaction is not confirmed, and would come again after a clean leave.
        """
        if not self._tracker.awaits_commit:
            return
        await self._receive_ended.wait()
        with anyio.move_on_after(_COMMIT_TIMEOUT_SECONDS):
            while self._tracker.awaits_commit and not self._resolving:
                if self._next_frame == len(self._frames):
                    await self._read()
                self._next_frame, relation = self._builder.feed(self._frames, self._next_frame)
                if relation is not None:
                    return  # rows follow, which nobody will take

    async def _wait_for_room(self) -> None:
        while self._buffered_bytes >= self._config.max_buffered_bytes:
            self._paused = True
            self._room = anyio.Event()
            await self._room.wait()
        self._paused = False

    async def _until_starved(self) -> None:
        """Wait until whoever takes batches asks for more: a publisher has accepted all, a worker has handled it."""
        while self._batches or not self._starved:
            self._room = anyio.Event()
            await self._room.wait()

    def _hand_over(self, *, hold_last: bool = True) -> None:
        size, last_size = self._builder.payload_bytes, self._builder.last_bytes
        events = self._builder.take(hold_last=hold_last)
        if self._builder.reply_requested or self._tracker.flush_lsn > self._reported_lsn:
            self._report.set()
        if len(events) > 1 and size > self._config.max_batch_bytes:
            # the builder stops behind the event that is too much
            last = events.pop()
            self._put(events, size - last_size)
            self._put([last], last_size)
        elif events:
            self._put(events, size)

    def _put(self, events: list[T], size: int) -> None:
        """Put events where they are taken from: behind those of the last batch, where there is room in it."""
        if self._batches and self._has_room(len(events), size):
            last, last_size = self._batches[-1]
            last.extend(events)
            self._batches[-1] = (last, last_size + size)
        else:
            self._batches.append((events, size))
        self._buffered_bytes += size
        self._changed.set()

    def _has_room(self, count: int, size: int) -> bool:
        events, taken = self._batches[-1]
        return (
            len(events) + count <= self._config.max_batch_events
            and taken + size <= self._config.max_batch_bytes
        )

    async def _report_status(self) -> None:
        """Report on our own clock, a quarter of the server's timeout, and soon after progress."""
        interval = self._config.wal_sender_timeout_seconds / 4
        add_up = min(self._config.commit_interval_seconds, interval)
        tick_at = anyio.current_time() + interval
        while True:
            with anyio.CancelScope(deadline=tick_at):
                await self._until(
                    lambda: self._builder.reply_requested or self.confirmed_lsn > self._reported_lsn
                )
            # Asked at each tick, also amid progress, of which the server knows nothing: the fence of a publisher (rule
            # 19) goes by the server's answers alone.
            is_tick = anyio.current_time() >= tick_at
            if is_tick:
                await self._listen()
                tick_at = anyio.current_time() + interval
            await self._send_status(reply_requested=is_tick)
            with anyio.move_on_after(add_up):  # let progress add up
                await self._until(lambda: self._builder.reply_requested)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._report = anyio.Event()
            await self._report.wait()

    async def _listen(self) -> None:
        """Find out whether the server is still there, and the slot still ours.

        Counts ticks, not time: a loop that was blocked for long has heard nothing and proves nothing. While the
        reading is paused, answers wait behind what is not read; then the server is asked on another connection.
        """
        if self._paused:
            self._silent_ticks = 0
            await self._ask_for_owner()
            return
        self._silent_ticks += 1
        if self._silent_ticks > 4:
            raise ConnectionLost(
                f"the server was silent for {self._config.wal_sender_timeout_seconds:g} s, also when asked",
                where={"slot": self._config.slot_name},
            )

    async def _ask_for_owner(self) -> None:
        asked_at = time.monotonic()
        with anyio.move_on_after(self._config.wal_sender_timeout_seconds / 4):
            try:
                async with self._side.use() as connection:
                    state = await inspect_slot(connection, self._config.slot_name)
            except ConnectionLost:
                return  # nothing was learnt: the fence runs out by itself
            if state is not None and state.active_pid == self._stream.backend_pid:
                self._heard_at = max(self._heard_at, asked_at)

    async def _send_status(self, *, reply_requested: bool = False) -> None:
        flush_lsn = self._tracker.flush_lsn
        self._builder.reply_requested = False
        await self._stream.send_status(
            StandbyStatusUpdate(
                flush_lsn=flush_lsn,
                write_lsn=self._tracker.received_lsn,
                timestamp_us=time.time_ns() // 1000,
                reply_requested=reply_requested,
            )
        )
        self._reported_lsn = max(self._reported_lsn, flush_lsn)

    async def _watch_server(self) -> None:
        await ShutdownWatch(self._config, self._password).wait()
        self.server_stopping.set()
