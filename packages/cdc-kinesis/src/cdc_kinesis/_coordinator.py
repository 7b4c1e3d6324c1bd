"""The member of a group: finds shards, takes and gives up leases, and hands out their streams."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from random import Random
from typing import Any, Final, Self, final

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from cdc_core import (
    AccessError,
    Backoff,
    CdcError,
    NotProvisioned,
    PartitionStream,
    RetryPolicy,
    SourceError,
)

from ._config import KinesisConfig
from ._errors import AwsError
from ._holding import RENEWALS, HeldShard, Membership
from ._leases import Checkpoint, Lease, LeaseClock, plan
from ._meta_table import MetaTable
from ._shard_stream import Signal
from ._shards import Shard, deletable, list_shards, missing_rows, ready

_logger = logging.getLogger("cdc_kinesis")

_DISCOVERY_SECONDS: Final = 60.0
_RETRIES: Final = RetryPolicy(initial_delay_seconds=0.25, max_delay_seconds=10.0)
# Credentials may be renewed just now, and a permission take its time to arrive; after so many tries nobody helps.
_ACCESS_TRIES: Final = 5
# A hand-over that we wait for is looked at so often.
_AWAITED_SECONDS: Final = 1.0
# Beyond the drain timeout, for cancelling late workers and writing the last checkpoints.
LEAVE_MARGIN_SECONDS: Final = 10.0


@final
class Coordinator:
    """Keeps one member's share of a group's leases, and is the iterable of their streams.

    - `bucket_hash`: what the meta table shall say of how keys become buckets.
    """

    def __init__(
        self,
        membership: Membership,
        meta_table: MetaTable,
        tasks: TaskGroup,
        *,
        bucket_hash: str,
        random: Random,
    ) -> None:
        self._membership = membership
        self._config: KinesisConfig = membership.config
        self._meta_table = meta_table
        self._tasks = tasks
        self._bucket_hash = bucket_hash
        self._random = random
        self._failure: CdcError | None = None
        self._held: dict[str, HeldShard] = {}
        self._assigned: deque[HeldShard] = deque()
        self._arrived = Signal()
        self._woken = anyio.Event()
        self._shards: list[Shard] = []
        self._unknown: frozenset[str] = frozenset()
        self._discover_at = float("-inf")
        self._lease_clock = LeaseClock(failover_seconds=membership.config.failover_seconds)
        self._backoff = Backoff(_RETRIES)
        self._access_failures = 0
        self._leaving = False
        self._scope = anyio.CancelScope()
        self._stopped = anyio.Event()
        membership.failed = self.fail

    async def join(self) -> None:
        """Look whether all is there, and be the group's first start where nobody was; what may pass is tried again.

        Raises:
            NotProvisioned: the stream or a table does not exist.
            CdcError: what no further try can mend.
        """
        try:
            await self._initialise()
        except CdcError as error:
            if not error.retryable:
                raise

    async def run(self) -> None:
        """Look for shards and leases again and again, until left or until an error is final."""
        try:
            with self._scope:
                while self._failure is None:
                    pause = await self._round_or_backoff()
                    self._woken = anyio.Event() if self._woken.is_set() else self._woken
                    with anyio.move_on_after(pause):
                        await self._woken.wait()
        finally:
            self._stopped.set()

    async def leave(self) -> None:
        """End the streams, wait for their workers, cancel the late ones, write checkpoints, give the leases back."""
        self._leaving = True
        self._scope.cancel()
        deadline = anyio.current_time() + self._membership.drain_timeout_seconds
        self._arrived.notify()
        try:
            with anyio.move_on_at(deadline + LEAVE_MARGIN_SECONDS):
                self._revoke_all(deadline)
                await self._stopped.wait()
                self._revoke_all(deadline)  # with what was being taken just now
                for each in list(self._held.values()):
                    await each.ended.wait()
        finally:
            for each in self._held.values():
                each.abandon()

    def fail(self, error: CdcError) -> None:
        """End the source: the iteration raises the error."""
        if self._failure is None:
            self._failure = error
        self._arrived.notify()
        self._wake()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> PartitionStream:
        await anyio.lowlevel.checkpoint()
        while True:
            if self._failure is not None:
                raise self._failure
            if self._leaving:
                raise StopAsyncIteration
            while self._assigned:
                stream = self._assigned.popleft().stream
                # finished before anybody entered it: it was lost or revoked meanwhile
                if not stream.scope.finished.is_set():
                    return stream
            await self._arrived.wait()

    def _revoke_all(self, deadline: float) -> None:
        for each in self._held.values():
            each.revoke(deadline)

    async def _round_or_backoff(self) -> float:
        """Do one round; return after how many seconds to do the next."""
        try:
            if self._membership.meta is None:
                await self._initialise()
            awaits = await self._round()
        except CdcError as error:
            if isinstance(error, AwsError) and error.code == "ResourceNotFoundException":
                self.fail(self._no_stream())
                return 0.0
            may_pass = error.retryable
            if isinstance(error, AccessError):
                self._access_failures += 1
                may_pass = self._access_failures < _ACCESS_TRIES
            if not may_pass:
                self.fail(error)
                return 0.0
            delay = self._backoff.next_delay_seconds()
            _logger.warning(
                "looking after the leases failed, trying again",
                extra={
                    "stream": self._config.stream_name,
                    "error": type(error).__name__,
                    "reason": error.message,
                    "delay_seconds": delay,
                },
            )
            return delay
        self._backoff.reset()
        self._access_failures = 0
        pause = self._config.failover_seconds / RENEWALS * (0.9 + 0.2 * self._random.random())
        return min(pause, _AWAITED_SECONDS) if awaits else pause

    async def _initialise(self) -> None:
        membership, config = self._membership, self._config
        summary, now = await self._describe()
        if membership.consumer is not None:
            await membership.consumer.find()
        leases = await membership.table.scan()
        meta = await self._meta_table.claim(
            config, summary, now, bucket_hash=self._bucket_hash, has_leases=bool(leases)
        )
        membership.retention_seconds = 3600.0 * summary["RetentionPeriodHours"]
        await self._discover(None if meta.is_initialised else meta.initial)
        if not meta.is_initialised:
            meta = await self._meta_table.mark_initialised(meta)
        membership.meta = meta

    async def _describe(self) -> tuple[Mapping[str, Any], datetime]:
        """Return what the stream is, and the service's own time, as far as it told it."""
        name = self._config.stream_name
        try:
            answer = await self._membership.aws.call("kinesis", "describe_stream_summary", StreamName=name)
        except AwsError as error:
            if error.code == "ResourceNotFoundException":
                raise self._no_stream() from error
            raise
        summary: Mapping[str, Any] = answer["StreamDescriptionSummary"]
        if summary["StreamStatus"] == "DELETING":
            raise NotProvisioned("the stream is being deleted", where={"stream": name})
        if summary["StreamStatus"] == "CREATING":
            raise SourceError("the stream is being created", where={"stream": name}, retryable=True)
        return summary, _time_of(answer)

    async def _discover(self, initial: Checkpoint | None) -> None:
        """Make rows for shards that have none, and delete those that nobody needs any more."""
        table = self._membership.table
        shards = await list_shards(self._membership.aws, self._config.stream_name)
        leases = await table.scan()
        for row in missing_rows(shards, leases, initial=initial):
            if row.unexpected:
                _logger.warning(
                    "a shard had no lease row, and is read from its oldest record",
                    extra={"stream": self._config.stream_name, "shard": row.lease.shard_id},
                )
            await table.create(row.lease)
        for lease in deletable(shards, leases):
            await table.delete(lease)
        self._shards = shards
        self._discover_at = self._membership.clock() + _DISCOVERY_SECONDS * (
            0.8 + 0.4 * self._random.random()
        )

    async def _round(self) -> bool:
        """Look at all leases once and do what is to be done; say whether a hand-over is awaited."""
        membership = self._membership
        if membership.clock() >= self._discover_at:
            await self._discover(None)
        asked_at = membership.clock()
        leases = await membership.table.scan()
        self._lease_clock.observe(leases, asked_at=asked_at, answered_at=membership.clock())
        todo = plan(
            leases,
            me=membership.me,
            held=self._held.keys(),
            ready=ready(self._shards, leases),
            clock=self._lease_clock,
            random=self._random,
        )
        for lease in todo.hand_over:
            if lease.shard_id in self._held:
                self._held[lease.shard_id].hand_over()
        for lease in todo.take:
            if lease.shard_id not in self._held:
                above = max((each.counter for each in leases if each.shard_id in lease.parents), default=0)
                await self._take(lease, above=above)
        stolen = None if todo.steal is None else await membership.table.steal(todo.steal, membership.me)
        self._look_for_unknown(leases)
        return bool(todo.awaited) or stolen is not None

    async def _take(self, lease: Lease, *, above: int) -> None:
        # a lease that was taken and is not known to be would stand idle until it expires
        with anyio.CancelScope(shield=True):
            taken_at = self._membership.clock()
            taken = await self._membership.table.take(lease, self._membership.me, above=above)
            if taken is None:
                return
            held = HeldShard(self._membership, taken, taken_at=taken_at)
            self._held[taken.shard_id] = held
            self._assigned.append(held)
            self._arrived.notify()
            self._tasks.start_soon(self._hold, held)

    async def _hold(self, held: HeldShard) -> None:
        await held.run()
        del self._held[held.stream.partition.id]
        if held.stream.is_done:
            self._discover_at = float("-inf")
            self._wake()

    def _look_for_unknown(self, leases: Sequence[Lease]) -> None:
        """Discover soon where another member knows of shards that we do not: children may be among them."""
        known = {shard.shard_id for shard in self._shards}
        unknown = frozenset(lease.shard_id for lease in leases if not lease.is_done) - known
        if unknown - self._unknown:
            self._discover_at = float("-inf")
        self._unknown = unknown

    def _no_stream(self) -> NotProvisioned:
        return NotProvisioned("the stream does not exist", where={"stream": self._config.stream_name})

    def _wake(self) -> None:
        self._woken.set()


def _time_of(answer: Mapping[str, Any]) -> datetime:
    """Return the service's time of an answer, to the second below; ours where it tells none."""
    told = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    if told is not None:
        try:
            return parsedate_to_datetime(told)
        except ValueError:
            pass
    return datetime.now(UTC)
