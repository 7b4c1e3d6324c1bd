"""One leased shard as its present owner's worker sees it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Protocol, Self, final

import anyio
import anyio.lowlevel

from cdc_core import AckTracker, Event, Lane, Partition, PartitionLost, WorkerScope

from ._config import KinesisConfig
from ._leases import Checkpoint
from ._position import KinesisPosition
from ._record_data import RecordDecoder
from ._records import GotRecord
from ._rows import EventBatch, RowBuffer


class Writer(Protocol):
    """Whoever writes the checkpoints of a stream."""

    async def write_now(self) -> None:
        """Write what is done; return when it is written, or when the lease is no longer ours."""
        ...


@final
class Signal:
    """Wakes whoever waits; nothing is kept of a call that nobody waited for."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    async def wait(self) -> None:
        """Wait for the next call."""
        await self._event.wait()

    def notify(self) -> None:
        """Wake all who wait now."""
        self._event.set()
        self._event = anyio.Event()


@final
class ShardStream:
    """A `cdc_core.PartitionStream` of one shard, under one lease.

    - `fence`: the lease counter at the taking; `buffer`: what was read and not handed out.
    - `valid_until`: until when the lease is ours by `clock` (monotonic seconds), as its last renewal says: a process
      that was frozen sees on its own that it is no longer the owner.
    """

    def __init__(
        self,
        partition: Partition,
        config: KinesisConfig,
        buffer: RowBuffer,
        writer: Writer,
        *,
        lanes: Sequence[Lane],
        fence: int,
        valid_until: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scope: Final = WorkerScope()
        self.changed: Final = Signal()
        self.stale_acks = 0
        self.valid_until = valid_until
        self._partition = partition
        self._config = config
        self._buffer = buffer
        self._writer = writer
        self._decoder = RecordDecoder(lanes)
        self._fence = fence
        self._clock = clock
        self._acks: AckTracker[None] = AckTracker()
        self._handed: deque[EventBatch] = deque()  # from the one with the last event of the done prefix on
        self._revoking_at: float | None = None
        self._owned = True
        self._is_read = False
        self._is_dropped = False
        self._arrived = Signal()
        self._room = Signal()

    @property
    def partition(self) -> Partition:
        return self._partition

    @property
    def revoking_at(self) -> float | None:
        return self._revoking_at

    @property
    def is_owned(self) -> bool:
        """Whether the shard is still this stream's, revoking or not; False once the lease's deadline has passed."""
        if self._owned and self._clock() >= self.valid_until:
            self.lose()
        return self._owned

    @property
    def is_done(self) -> bool:
        """Whether the shard is read to its end, and all of it handed out and done."""
        return self._is_read and not self._is_dropped and self.is_idle

    @property
    def is_idle(self) -> bool:
        """Whether all that was read is done."""
        return self._buffer.is_empty and self._acks.in_flight == 0

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The end of the done prefix; None while not even the first event is done."""
        number = self._acks.low_water_mark - 1
        return None if number < 0 else self._handed[0].checkpoint(number)

    async def __aenter__(self) -> Self:
        self.scope.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None:
        try:
            return self.scope.__exit__(kind, error, trace)
        finally:
            self.changed.notify()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sequence[Event]:
        await anyio.lowlevel.checkpoint()  # before a batch is taken: a cancelled worker takes none with it
        while True:
            if not self.is_owned or self._revoking_at is not None:
                raise StopAsyncIteration
            if (batch := self._take()) is not None:
                return batch
            if self._is_read:
                raise StopAsyncIteration
            await self._arrived.wait()

    def current(self, event: Event) -> bool:
        """Say whether the event was delivered by this stream, and the lease is still ours by our clock."""
        if not self.is_owned or not self._is_ours(event):
            return False
        return self._revoking_at is None or anyio.current_time() < self._revoking_at

    async def ack(self, events: Sequence[Event]) -> None:
        """Record events as done; see `cdc_core.PartitionStream.ack`.

        Raises:
            PartitionLost: none of them is ours any more.
        """
        if not events:
            return
        if self.is_owned and self._is_last_batch(events):
            self._acks.done(self._handed[-1].first_delivery, len(events))
        else:
            self._ack_each(events)
        handed, low = self._handed, self._acks.low_water_mark
        while len(handed) > 1 and handed[1].first_delivery < low:
            handed.popleft()
        if self._acks.in_flight == 0:
            self.changed.notify()

    async def flush(self) -> None:
        """Write the checkpoint of what is acknowledged now; on a lost shard there is nothing to write."""
        if self.is_owned:
            await self._writer.write_now()

    async def put(self, records: Sequence[GotRecord]) -> None:
        """Give the worker more to read, and wait until there is room for the next."""
        if self._revoking_at is not None or not self._owned:
            self._is_dropped = True
            return
        self._buffer.add(records)
        self._arrived.notify()
        while self._buffer.size >= self._config.max_buffered_bytes:
            await self._room.wait()

    def end(self) -> None:
        """The shard is read to its end: the iteration ends behind what is buffered."""
        self._is_read = True
        self._wake()

    def revoke(self, deadline: float) -> None:
        """End the iteration, and let the worker finish until the deadline by `anyio.current_time()`."""
        if self._revoking_at is None:
            self._revoking_at = deadline
            self._drop()
            self.scope.abandon()
            self._wake()

    def lose(self) -> None:
        """The lease is no longer ours: nothing is written any more, and the worker is cancelled."""
        if self._owned:
            self.release()

    def release(self) -> None:
        """Give the shard back; a worker that is still at work is cancelled."""
        self._owned = False
        self._drop()
        self.scope.abandon()
        self.scope.cancel()  # one that was abandoned, and is entered only now, has no time either
        self._wake()

    def _drop(self) -> None:
        self._is_dropped = self._is_dropped or not self._buffer.is_empty
        self._buffer.clear()

    def _wake(self) -> None:
        self._arrived.notify()
        self._room.notify()
        self.changed.notify()

    def _take(self) -> EventBatch | None:
        buffer, config = self._buffer, self._config
        rows = buffer.take(max_rows=config.max_batch_events, max_bytes=config.max_batch_bytes)
        if buffer.size < config.max_buffered_bytes:
            self._room.notify()
        if not rows:
            return None
        if self._acks.in_flight == 0:
            self.changed.notify()  # from now on somebody has to look for what is acknowledged
        first = self._acks.deliver(len(rows))
        batch = EventBatch(rows, self._partition.id, self._decoder, self._fence, first)
        self._handed.append(batch)
        return batch

    def _ack_each(self, events: Sequence[Event]) -> None:
        first = following = -1
        stale = 0
        for event in events:
            if not self._owned or not self._is_ours(event):
                stale += 1
            elif (number := event.delivery) == following:
                following += 1
            else:
                if following > first:
                    self._acks.done(first, following - first)
                first, following = number, number + 1
        if following > first:
            self._acks.done(first, following - first)
        self.stale_acks += stale
        if stale == len(events):
            raise PartitionLost(
                "none of the acknowledged events is ours any more", where={"shard": self._partition}
            )

    def _is_last_batch(self, events: Sequence[Event]) -> bool:
        return bool(self._handed) and events is self._handed[-1]

    def _is_ours(self, event: Event) -> bool:
        position = event.position
        return (
            isinstance(position, KinesisPosition)
            and position.shard_id == self._partition.id
            and event.fence == self._fence
            and event.delivery < self._acks.delivered
        )
