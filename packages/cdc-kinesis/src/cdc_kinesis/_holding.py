"""One shard while its lease is ours: read, renewed, written down, and given back or lost."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, final

import anyio

from cdc_core import AccessError, Backoff, CdcError, Lane, Partition, RetryPolicy, open_task_group

from ._aws import Aws
from ._config import KinesisConfig
from ._errors import AnswerLost
from ._fan_out import FanOut, FanOutConsumer
from ._feed import Feed, Polling
from ._lease_table import LeaseLost, LeaseTable
from ._leases import HAND_OVER_SECONDS, Checkpoint, Lease
from ._meta_table import Meta
from ._pacing import Pacing
from ._records import ChildShard, DataClient
from ._retention import ReadMarks, Retention
from ._rows import RowBuffer
from ._shard_reader import ShardLag, ShardReader, Start
from ._shard_stream import ShardStream, Signal
from ._shards import children_of, list_shards

_logger = logging.getLogger("cdc_kinesis")

# After a worker was cancelled: code that cannot be cancelled (a thread) is not waited for longer than this.
CANCEL_GRACE_SECONDS: Final = 1.0
# A lease is renewed three times before it expires, as the KCL 3 does.
RENEWALS: Final = 3
_RETRIES: Final = RetryPolicy(initial_delay_seconds=0.1, max_delay_seconds=2.0)
_SHORTEST_WAIT_SECONDS: Final = 0.02
_LOOK_SECONDS: Final = 0.1


def lease_clock() -> float:
    """Return monotonic seconds that go on while the machine sleeps, where the system has such a clock.

    A lease goes on expiring meanwhile; `time.monotonic` stands still on Linux.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@final
@dataclass(slots=True, kw_only=True)
class Membership:
    """What all shards of one opened source share.

    - `consumer`: for enhanced fan-out; None for polling.
    - `me`: unique to this opening, in this process and beyond.
    - `failed`: called with an error that no further try can mend.
    """

    config: KinesisConfig
    aws: Aws
    data: DataClient
    table: LeaseTable
    marks: ReadMarks
    me: str
    pacing: Pacing
    lanes: Sequence[Lane]
    drain_timeout_seconds: float
    consumer: FanOutConsumer | None = None
    meta: Meta | None = None
    retention_seconds: float = 24 * 3600.0
    lags: dict[str, ShardLag] = field(default_factory=dict[str, ShardLag])
    clock: Callable[[], float] = lease_clock
    failed: Callable[[CdcError], None] = lambda error: None

    def feed_of(self, shard_id: str) -> Feed:
        """Return a feed of one shard, by fan-out or by polling."""
        if self.consumer is not None:
            return FanOut(self.config, self.aws, self.consumer, shard_id, clock=self.clock)
        pace = self.pacing.of(self.config, shard_id)
        return Polling(self.config, self.aws, self.data, shard_id, pace=pace, clock=self.clock)


@final
class HeldShard:
    """Holds one lease from its taking on. Only its own task writes the row, so that no two writes of it meet.

    - `taken_at`: when the request that took it was sent, by `Membership.clock`.
    """

    def __init__(self, membership: Membership, lease: Lease, *, taken_at: float) -> None:
        self.ended: Final = anyio.Event()
        self._membership = membership
        self._config = membership.config
        self._clock = membership.clock
        self._lease = lease
        self._renewed_at = taken_at
        self._written = lease.checkpoint
        self._written_at = taken_at
        self._asked = self._answered = 0
        self._answer = Signal()
        self._look_again_at = 0.0
        # what a cancelled host leaves undone is for `Coordinator.leave` to bound
        self._holding = anyio.CancelScope(shield=True)
        self._reading = anyio.CancelScope()
        self._retention = Retention(
            self._config,
            lease.shard_id,
            membership.retention_seconds,
            membership.marks,
            clock=membership.clock,
        )
        start = _start(lease.checkpoint, membership.meta)
        self.stream: Final = ShardStream(
            Partition(self._config.stream_name, lease.shard_id),
            self._config,
            RowBuffer(done=start.checkpoint),
            self,
            lanes=membership.lanes,
            fence=lease.counter,
            valid_until=taken_at + self._config.failover_seconds,
            clock=membership.clock,
        )
        self._reader = ShardReader(
            self._config,
            membership.aws,
            membership.feed_of(lease.shard_id),
            self.stream,
            start=start,
            lags=membership.lags,
            retention=self._retention,
        )

    async def run(self) -> None:
        """Hold the lease until it is given back or lost; then wait until its worker has left, however long."""
        try:
            with self._holding:
                async with open_task_group() as tasks:
                    tasks.start_soon(self._read)
                    tasks.start_soon(self._watch_deadline)
                    await self._hold()
        except LeaseLost as error:
            _logger.warning("lease lost", extra={"shard": self._lease.shard_id, "reason": error.message})
        except CdcError as error:
            self._membership.failed(error)
        finally:
            self.stream.release()
            self._answer.notify()
            self.ended.set()
        # Two workers on one shard would break the order of its keys: the next one waits for the last.
        await self.stream.scope.finished.wait()

    def revoke(self, deadline: float) -> None:
        """End the stream; its worker has until the deadline by `anyio.current_time()`."""
        self._reading.cancel()
        self.stream.revoke(deadline)

    def hand_over(self) -> None:
        """Another worker asks for the lease."""
        if self.stream.revoking_at is None:
            seconds = min(self._membership.drain_timeout_seconds, HAND_OVER_SECONDS)
            self.revoke(anyio.current_time() + seconds)

    def abandon(self) -> None:
        """Let go of everything at once, whatever stands in the row."""
        self.stream.lose()
        self._holding.cancel()

    async def write_now(self) -> None:
        """Write what is done; return when it is written, or when the lease is no longer ours."""
        self._asked += 1
        wanted = self._asked
        self.stream.changed.notify()
        while self._answered < wanted and not self.ended.is_set():
            await self._answer.wait()

    async def _read(self) -> None:
        try:
            with self._reading:
                await self._reader.run()
        except CdcError as error:
            self._membership.failed(error)

    async def _watch_deadline(self) -> None:
        """Lose the lease at its deadline, also while a renewal hangs."""
        while self.stream.is_owned:  # noqa: ASYNC110 - it waits for a time, which renewals put off
            await anyio.sleep(max(_SHORTEST_WAIT_SECONDS, self.stream.valid_until - self._clock()))

    async def _hold(self) -> None:
        stream = self.stream
        while stream.is_owned:
            if stream.is_done and await self._finish():
                return
            if stream.scope.finished.is_set() and self._may_leave():
                break
            if stream.revoking_at is not None and anyio.current_time() >= stream.revoking_at:
                await self._cancel_worker()
                break
            if self._due_at() <= self._clock():
                await self._write(self._membership.table.renew)
                await self._mark()
            if self._lease.is_handing_over:
                self.hand_over()
            with anyio.move_on_after(self._pause_seconds()):
                await stream.changed.wait()
        if stream.is_owned:
            await self._write(self._membership.table.release)

    def _may_leave(self) -> bool:
        """Say whether a lease whose worker has left is to be given back: its shard is not done."""
        return not self.stream.is_done or self.stream.revoking_at is not None

    def _due_at(self) -> float:
        if self._asked > self._answered:
            return self._clock()
        due = self._renewed_at + self._config.failover_seconds / RENEWALS
        if self._news() is not None:
            due = min(due, self._written_at + self._config.checkpoint_interval_seconds)
        return due

    def _pause_seconds(self) -> float:
        pause = self._due_at() - self._clock()
        if not self.stream.is_idle:  # what is acknowledged beside events in flight wakes nobody
            pause = min(pause, max(_LOOK_SECONDS, self._config.checkpoint_interval_seconds))
        if self.stream.revoking_at is not None:
            pause = min(pause, self.stream.revoking_at - anyio.current_time())
        return max(_SHORTEST_WAIT_SECONDS, pause)

    def _news(self) -> Checkpoint | None:
        checkpoint = self.stream.checkpoint
        return None if checkpoint is None or checkpoint == self._written else checkpoint

    async def _write(self, write: Callable[[Lease, Checkpoint | None], Awaitable[Lease]]) -> None:
        """Write the row, again until the service answers or the lease is over.

        Raises:
            LeaseLost: it is another's.
            CdcError: the table is not there, and the like.
        """
        backoff = Backoff(_RETRIES)
        sent_at = self._clock()
        while self.stream.is_owned:
            asked, checkpoint = self._asked, self._news()
            try:
                self._lease = await write(self._lease, checkpoint)
            except CdcError as error:
                if not (error.retryable or isinstance(error, AccessError)):
                    raise
                _logger.warning(
                    "writing a lease failed, trying again",
                    extra={
                        "shard": self._lease.shard_id,
                        "error": type(error).__name__,
                        "reason": error.message,
                    },
                )
                await anyio.sleep(backoff.next_delay_seconds())
                if not isinstance(error, AnswerLost):
                    # otherwise the first request may be the one that is found written in the end, and others have
                    # seen the counter stand still since then
                    sent_at = self._clock()
                continue
            self._renewed_at = sent_at
            self.stream.valid_until = sent_at + self._config.failover_seconds
            if checkpoint is not None:
                self._written, self._written_at = checkpoint, sent_at
            self._answered = asked
            self._answer.notify()
            return

    async def _finish(self) -> bool:
        """Write that the shard is done, once its children are known; say whether it is written."""
        if self._clock() < self._look_again_at:
            return False
        shard_id = self._lease.shard_id
        children: Sequence[ChildShard] = self._reader.children
        if not children:
            try:
                shards = await list_shards(self._membership.aws, self._config.stream_name)
            except CdcError as error:
                if not error.retryable:
                    raise
                return self._look_later()
            children = children_of(shard_id, shards)
            if not children and any(shard.shard_id == shard_id for shard in shards):
                return self._look_later()  # a KCL would never make rows of children that come later
        table = self._membership.table

        async def finish(lease: Lease, checkpoint: Checkpoint | None) -> Lease:
            return await table.finish(lease, children)

        await self._write(finish)
        return True

    def _look_later(self) -> bool:
        self._look_again_at = self._clock() + self._config.failover_seconds / RENEWALS
        return False

    async def _cancel_worker(self) -> None:
        self.stream.scope.cancel()
        with anyio.move_on_after(CANCEL_GRACE_SECONDS):
            await self.stream.scope.finished.wait()

    async def _mark(self) -> None:
        if not (self.stream.is_idle and self._written.is_sequence):
            return
        try:
            await self._retention.mark(self._reader.last_arrived_at)
        except CdcError as error:
            _logger.warning(
                "a quiet shard could not be marked as read",
                extra={"shard": self._lease.shard_id, "error": type(error).__name__, "reason": error.message},
            )


def _start(checkpoint: Checkpoint, meta: Meta | None) -> Start:
    if checkpoint.is_sequence:
        return Start("CHECKPOINT", checkpoint=checkpoint)
    if checkpoint.sequence_number == "TRIM_HORIZON" or meta is None:
        return Start("TRIM_HORIZON")
    return Start("AT_TIMESTAMP", timestamp=meta.start_at.timestamp())
