"""Measures at the services how far a group is behind, and whether all is there and at work."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final, final

import anyio

from cdc_core import (
    CdcError,
    Check,
    CheckState,
    Health,
    NotProvisioned,
    Partition,
    PartitionLag,
    Unknown,
)

from ._aws import Aws
from ._cloudwatch import stream_metrics
from ._config import KinesisConfig
from ._health_checks import (
    check_buckets,
    check_distribution,
    check_existence,
    check_iterator_age,
    check_leases,
    check_retention,
    check_throttling,
)
from ._inspection import inspect_stream, inspect_table
from ._lease_table import LeaseTable
from ._leases import SHARD_END, TRIM_HORIZON, Checkpoint, Lease, LeaseClock
from ._meta_table import MetaTable
from ._pacing import Pacing
from ._plan_steps import check_bucket_count
from ._shard_lag import ShardProbe
from ._shards import Shard, list_shards

_LOOKS_AT_ONCE: Final = 8
_THROTTLING_REMEMBERED_SECONDS: Final = 300.0
_LAG_FRESH_SECONDS: Final = 60.0
_CHECKS: Final = (
    "stream",
    "record_distribution",
    "buckets",
    "bucket_count",
    "lease_table",
    "meta_table",
    "dead_letter_stream",
    "leases",
    "retention",
    "throttling",
)


@asynccontextmanager
async def open_monitor(
    config: KinesisConfig,
    aws: Aws,
    *,
    pacing: Pacing | None = None,
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
) -> AsyncGenerator[KinesisMonitor, None]:
    """Open the monitor of a group; nothing is asked before it is.

    - `pacing`: of the sources beside it; None for one of its own.
    - `clock`: seconds since 1970; `monotonic`: seconds, for how long something lasts.
    """
    yield KinesisMonitor(config, aws, pacing or Pacing(), clock, monotonic)


@final
class KinesisMonitor:
    """The monitor of one group: lag by the stream and the lease table, whoever reads."""

    def __init__(
        self,
        config: KinesisConfig,
        aws: Aws,
        pacing: Pacing,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._config = config
        self._aws = aws
        self._clock = clock
        self._monotonic = monotonic
        self._probe = ShardProbe(config, aws, pacing, clock=clock)
        self._leases = LeaseClock(failover_seconds=config.failover_seconds)
        self._lags: Mapping[str, float | Unknown] = {}
        self._measured_at: float | None = None
        self._watched_from: float | None = None
        self._throttled_at: float | None = None
        self._since: dict[str, tuple[CheckState, float]] = {}

    async def lag(self) -> Sequence[PartitionLag]:
        """Return the age of what waits in each shard that the group is not done with.

        It costs one GetRecords of one record a shard, of the five a second that all its readers have together.
        Records and bytes are UNKNOWN: the service does not count them. Seconds are UNKNOWN where the service refuses
        for want of throughput, and where it is not yet decided where the group starts.

        Raises:
            NotProvisioned: there is no stream or no lease table.
            AwsError, AwsAccessError, AnswerLost: a service could not be asked.
        """
        config = self._config
        shards = await list_shards(self._aws, config.stream_name)
        leases = await self._scan()
        start, start_at = await self._start()
        waiting = _checkpoints(shards, {lease.shard_id: lease for lease in leases}, start)
        found: dict[str, float | Unknown] = {}
        failures: list[CdcError] = []
        limiter = anyio.CapacityLimiter(_LOOKS_AT_ONCE)

        async def look(shard_id: str, checkpoint: Checkpoint) -> None:
            async with limiter:
                try:
                    seen = await self._probe.look(shard_id, checkpoint, start_at=start_at)
                except CdcError as error:  # raised behind the group, which would wrap it
                    failures.append(error)
                    tasks.cancel_scope.cancel()
                    return
            found[shard_id] = seen.lag_seconds
            if seen.throttled:
                self._throttled_at = self._monotonic()

        async with anyio.create_task_group() as tasks:
            for shard_id, checkpoint in waiting.items():
                tasks.start_soon(look, shard_id, checkpoint)
        if failures:
            raise failures[0]
        self._lags, self._measured_at = found, self._monotonic()
        return [
            PartitionLag(
                partition=Partition(source=config.stream_name, id=shard_id), lag_seconds=found[shard_id]
            )
            for shard_id in waiting
        ]

    async def health(self) -> Health:
        """Check the stream, the tables, the leases, and what waits against the stream's retention.

        Whether leases are renewed is known once they were watched for `failover_seconds`. What waits is measured anew
        where the last `lag()` is older than a minute.
        """
        try:
            checks = await self._checks()
        except CdcError as error:
            checks = (
                Check(name="service", state=CheckState.FAIL, why=error.message, remedy=error.remedy),
                *(
                    Check(name=name, state=CheckState.UNKNOWN, why="the services could not be asked")
                    for name in _CHECKS
                ),
            )
        return Health(checks=tuple(self._dated(check) for check in checks), sampled_at=self._clock())

    async def _checks(self) -> Sequence[Check]:
        config, aws = self._config, self._aws
        stream = await inspect_stream(aws, config.stream_name, tags=True)
        letters = await inspect_stream(aws, config.dead_letter_stream)
        lease_table = await inspect_table(aws, config.lease_table)
        meta_table = await inspect_table(aws, config.meta_table)
        leases = None
        if stream is not None and lease_table is not None and meta_table is not None:
            leases = await self._scan()
            if self._measured_at is None or self._monotonic() - self._measured_at > _LAG_FRESH_SECONDS:
                await self.lag()
        metrics = await stream_metrics(aws, config.stream_name) if config.cloudwatch else None
        checks = [
            Check(name="service", state=CheckState.OK, why="Kinesis and DynamoDB answer"),
            check_existence("stream", f"stream {config.stream_name}", stream),
            check_distribution(stream),
            check_buckets(config, stream),
            check_bucket_count(config, stream),
            check_existence("lease_table", f"table {config.lease_table}", lease_table),
            check_existence("meta_table", f"table {config.meta_table}", meta_table),
            check_existence("dead_letter_stream", f"stream {config.dead_letter_stream}", letters),
            Check(name="leases", state=CheckState.UNKNOWN, why="there is no stream, or no table")
            if leases is None
            else check_leases(
                leases,
                self._leases,
                self._lags,
                watched_seconds=self._watched_seconds(),
                failover_seconds=config.failover_seconds,
            ),
            check_retention(stream, self._lags),
            check_throttling(throttled_seconds_ago=self._throttled_seconds_ago(), metrics=metrics),
        ]
        return checks if metrics is None else [*checks, check_iterator_age(metrics)]

    async def _scan(self) -> Sequence[Lease]:
        asked_at = self._monotonic()
        leases = await LeaseTable(self._aws, self._config.lease_table).scan()
        self._leases.observe(leases, asked_at=asked_at, answered_at=self._monotonic())
        self._watched_from = asked_at if self._watched_from is None else self._watched_from
        return leases

    def _watched_seconds(self) -> float:
        return 0.0 if self._watched_from is None else self._monotonic() - self._watched_from

    async def _start(self) -> tuple[Checkpoint, datetime | None]:
        """Return where shards without a row are read from, and what AT_TIMESTAMP and LATEST mean."""
        config = self._config
        try:
            meta = await MetaTable(self._aws, config.meta_table).read()
        except NotProvisioned:
            meta = None
        if meta is None:  # the group has never started
            return Checkpoint(config.iterator_type), config.start_at
        return Checkpoint(TRIM_HORIZON) if meta.is_initialised else meta.initial, meta.start_at

    def _throttled_seconds_ago(self) -> float | None:
        if self._throttled_at is None:
            return None
        ago = self._monotonic() - self._throttled_at
        return ago if ago < _THROTTLING_REMEMBERED_SECONDS else None

    def _dated(self, check: Check) -> Check:
        state, since = self._since.get(check.name, (None, 0.0))
        if state is not check.state:
            since = self._clock()
            self._since[check.name] = (check.state, since)
        return Check(name=check.name, state=check.state, why=check.why, remedy=check.remedy, since=since)


def _checkpoints(
    shards: Sequence[Shard], leases: Mapping[str, Lease], start: Checkpoint
) -> Mapping[str, Checkpoint]:
    """Return from where each shard still has to be read; those that are done are left out.

    A shard has no row before the group takes note of it, and none after it and the beginning of its children are done.
    """
    children: dict[str, list[str]] = {}
    for shard in shards:
        for parent in shard.parents:
            children.setdefault(parent, []).append(shard.shard_id)
    known = set(leases)
    # a parent whose row was deleted is told by its children's, and so are its own parents
    while more := {
        parent for parent, those in children.items() if parent not in known and not known.isdisjoint(those)
    }:
        known |= more
    served = known - set(leases)
    waiting: dict[str, Checkpoint] = {}
    for shard in shards:
        lease = leases.get(shard.shard_id)
        checkpoint = start if lease is None else lease.checkpoint
        if shard.shard_id not in served and checkpoint.sequence_number != SHARD_END:
            waiting[shard.shard_id] = checkpoint
    return waiting
