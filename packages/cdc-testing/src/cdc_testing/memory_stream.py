"""One partition as its present owner's worker sees it."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, final

import anyio
import anyio.lowlevel

from cdc_core import AckTracker, Event, Granularity, Partition, PartitionLost, WorkerScope

from .faults import CrashPoint
from .memory_log import MemoryLog, MemoryPosition, Signal

if TYPE_CHECKING:
    from .memory_source import Membership


@final
class MemoryStream:
    """A `PartitionStream` that reads its log directly: nothing is buffered ahead of the worker."""

    def __init__(self, log: MemoryLog, membership: Membership) -> None:
        self.membership: Final = membership
        self.scope: Final = WorkerScope()
        self.stale_acks: int = 0
        self._log = log
        self._fence = log.fence
        self._cursor = log.committed
        self._acks: AckTracker[int] = AckTracker()
        self._revoking_at: float | None = None
        self._owned = True
        self._signal = Signal()

    @property
    def partition(self) -> Partition:
        return self._log.partition

    @property
    def revoking_at(self) -> float | None:
        return self._revoking_at

    @property
    def is_owned(self) -> bool:
        """Whether the partition is still this stream's, revoking or not."""
        return self._owned

    async def __aenter__(self) -> Self:
        self.scope.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None:
        return self.scope.__exit__(kind, error, trace)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sequence[Event]:
        await anyio.lowlevel.checkpoint()  # before a batch is taken: a cancelled worker takes none with it
        while True:
            self.membership.process.ensure_alive()
            if not self._owned or self._revoking_at is not None:
                raise StopAsyncIteration
            if batch := self._take():
                return batch
            await self._signal.wait()

    def current(self, event: Event) -> bool:
        """Say whether the event was delivered by this stream and the partition is still its own."""
        if not self._owned or not self.membership.process.alive or not self._is_ours(event):
            return False
        return self._revoking_at is None or anyio.current_time() < self._revoking_at

    async def ack(self, events: Sequence[Event]) -> None:
        """Record events as done.

        Raises:
            PartitionLost: none of them is ours any more.
            InjectedCrash: the process died before it could.
        """
        self.membership.process.ensure_alive()
        ours = [event for event in events if self._owned and self._is_ours(event)]
        self.membership.process.crash_if_due(CrashPoint.ACK, (self._number_of(event) for event in ours))
        self.stale_acks += len(events) - len(ours)
        if events and not ours:
            raise PartitionLost(
                "none of the acknowledged events is ours any more", where={"partition": self.partition}
            )
        for event in ours:
            self._acks.done(event.delivery)
        if self._acks.in_flight == 0:
            self.commit()  # nothing else may come to carry it

    async def flush(self) -> None:
        """Commit what is acknowledged now; on a lost partition there is nothing to commit."""
        self.membership.process.ensure_alive()
        self.commit()

    def commit(self) -> None:
        """Commit the done prefix, as far as the granularity allows."""
        offset = self._acks.committable
        if not self._owned or offset is None or offset <= self._log.committed:
            return
        covered = self._log.records[self._log.committed : offset]
        self.membership.process.crash_if_due(CrashPoint.COMMIT, (record.number for record in covered))
        self._log.commit(offset, fence=self._fence)
        self.membership.store.changed.notify()

    def begin_revoke(self, deadline: float) -> None:
        """End the iteration, and let the worker finish until the deadline by `anyio.current_time()`."""
        if self._revoking_at is None:
            self._revoking_at = deadline
            self.scope.abandon()
            self.wake()

    def give_up(self) -> None:
        """Lose the partition now: nothing is committed any more, and the worker is cancelled."""
        if not self._owned:
            return
        self._owned = False
        self._log.owner = None
        self._log.fence += 1  # a late commit is refused even before the next owner comes
        self.scope.abandon()
        self.scope.cancel()
        self.wake()

    def release(self) -> None:
        """Give the partition back after its worker finished."""
        if self._owned:
            self._owned = False
            self._log.owner = None
            self.scope.cancel()  # one that was abandoned, and is entered only now, has no time either
            self.wake()

    def wake(self) -> None:
        """Look again: there are new records, or the stream ended."""
        self._signal.notify()

    def _take(self) -> list[Event]:
        limits, faults = self.membership.limits, self.membership.store.faults
        by_event = self.membership.store.granularity is Granularity.EVENT
        batch: list[Event] = []
        size = 0
        while self._cursor < self._log.end and len(batch) < limits.max_batch_events:
            record = self._log.records[self._cursor]
            size += record.size
            if batch and (
                size > limits.max_batch_bytes or faults.expects_crash(CrashPoint.HANDLER, record.number)
            ):
                break
            self.membership.process.crash_if_due(CrashPoint.HANDLER, (record.number,))
            batch.append(self._log.delivery_of(record, delivery=self._acks.deliver()))
            self._cursor += 1
            if by_event or record.ends_transaction:
                self._acks.boundary(self._cursor)
            if faults.take_duplicate(record.number):
                self._cursor -= 1
                break
        return batch

    def _is_ours(self, event: Event) -> bool:
        position = event.position
        return (
            isinstance(position, MemoryPosition)
            and position.partition == self._log.number
            and event.fence == self._fence
            and event.delivery < self._acks.delivered
        )

    def _number_of(self, event: Event) -> int:
        assert isinstance(event.position, MemoryPosition)
        return self._log.records[event.position.offset].number
