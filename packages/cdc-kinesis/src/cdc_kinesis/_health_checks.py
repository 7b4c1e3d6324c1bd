"""From what was seen of a stream and its group to the checks of its health; decisions only, no calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from cdc_core import UNKNOWN, Check, CheckState, Unknown

from ._cloudwatch import StreamMetrics
from ._config import KinesisConfig
from ._inspection import BUCKETS_TAG, StreamFacts, TableFacts, buckets_of
from ._leases import Lease, LeaseClock

# Of the stream's retention: from the first on there is time to act, from the second on hardly any.
_WARN_SHARE: Final = 0.5
_FAIL_SHARE: Final = 0.9

PROVISION: Final = "run the provisioner: plan, then apply"


def check_existence(name: str, what: str, found: StreamFacts | TableFacts | None) -> Check:
    """Check that a stream or table is there, and usable."""
    if found is None:
        return Check(name=name, state=CheckState.FAIL, why=f"there is no {what}", remedy=PROVISION)
    if found.status not in ("ACTIVE", "UPDATING"):
        return Check(
            name=name,
            state=CheckState.FAIL,
            why=f"{what} is {found.status}",
            remedy="wait until it is ACTIVE" if found.status == "CREATING" else PROVISION,
        )
    return Check(name=name, state=CheckState.OK, why=f"{what} is {found.status}")


def check_distribution(found: StreamFacts | None) -> Check:
    """Check that records go where their keys say."""
    name = "record_distribution"
    if found is None:
        return Check(name=name, state=CheckState.UNKNOWN, why="there is no stream")
    if found.distribution == "AUTO":
        return Check(
            name=name,
            state=CheckState.FAIL,
            why="the stream ignores the keys of records: no order of a key holds",
            remedy=f"aws kinesis update-stream-record-distribution-strategy --stream-arn {found.arn}"
            " --record-distribution-strategy USER_PARTITION_KEY, or use another stream",
        )
    return Check(name=name, state=CheckState.OK, why="by the records' keys")


def check_buckets(config: KinesisConfig, found: StreamFacts | None) -> Check:
    """Check that the stream's publisher and this group speak of the same buckets."""
    name, wanted = "buckets", buckets_of(config)
    if found is None:
        return Check(name=name, state=CheckState.UNKNOWN, why="there is no stream")
    tag = found.tags.get(BUCKETS_TAG)
    if tag is None:
        return Check(
            name=name,
            state=CheckState.UNKNOWN,
            why=f"the stream has no tag {BUCKETS_TAG}: how its publisher makes buckets is not known",
            remedy=f"aws kinesis add-tags-to-stream --stream-name {config.stream_name}"
            f" --tags {BUCKETS_TAG}={wanted}",
        )
    if tag != wanted:
        return Check(
            name=name,
            state=CheckState.FAIL,
            why=f"the stream's {BUCKETS_TAG} is {tag}, the config says {wanted}",
            remedy=f"set bucket_count to {tag.partition('/')[0]}",
        )
    return Check(name=name, state=CheckState.OK, why=tag)


def check_leases(
    leases: Sequence[Lease],
    clock: LeaseClock,
    lags: Mapping[str, float | Unknown],
    *,
    watched_seconds: float,
    failover_seconds: float,
) -> Check:
    """Check that somebody owns each shard that is not done, and renews its lease.

    - `clock`: has observed these leases, for `watched_seconds` by now.
    - `lags`: by shard; bad is what nobody reads although something waits.
    """
    name = "leases"
    if not leases:
        return Check(
            name=name,
            state=CheckState.WARN,
            why="no consumer of the group has ever started",
            remedy="start its pipeline",
        )
    active = [lease for lease in leases if not lease.is_done]
    orphans = [lease for lease in active if lease.owner is None or clock.is_expired(lease)]
    owners = len({lease.owner for lease in active if lease.owner is not None})
    if not orphans:
        why = f"{len(active)} leases, {owners} consumers"
        if watched_seconds < failover_seconds:
            return Check(
                name=name,
                state=CheckState.UNKNOWN,
                why=f"{why}; whether they are at work shows within {failover_seconds:g} seconds",
            )
        return Check(name=name, state=CheckState.OK, why=why)
    names = ", ".join(sorted(lease.shard_id for lease in orphans)[:3])
    more = f" and {len(orphans) - 3} others" if len(orphans) > 3 else ""
    waiting = any((lag := lags.get(lease.shard_id, UNKNOWN)) is not UNKNOWN and lag > 0 for lease in orphans)
    return Check(
        name=name,
        state=CheckState.FAIL if waiting else CheckState.WARN,
        why=f"nobody reads {names}{more}" + (", and records wait there" if waiting else ""),
        remedy="start a consumer of the group; where one runs, look at its log",
    )


def check_retention(found: StreamFacts | None, lags: Mapping[str, float | Unknown]) -> Check:
    """Warn before what waits is trimmed away unread."""
    name = "retention"
    if found is None:
        return Check(name=name, state=CheckState.UNKNOWN, why="there is no stream")
    known = [lag for lag in lags.values() if lag is not UNKNOWN]
    if not known:
        return Check(name=name, state=CheckState.UNKNOWN, why="how far the group is behind is not known")
    worst, limit = max(known), found.retention_hours * 3600
    why = f"the oldest record that waits is {worst:.0f} seconds old, of {limit} that the stream keeps it"
    if worst < _WARN_SHARE * limit:
        return Check(name=name, state=CheckState.OK, why=why)
    return Check(
        name=name,
        state=CheckState.FAIL if worst >= _FAIL_SHARE * limit else CheckState.WARN,
        why=f"{why}: soon it is deleted unread",
        remedy="speed the consumers up; and for more time: aws kinesis increase-stream-retention-period"
        f" --stream-name {found.name} --retention-period-hours {min(2 * found.retention_hours, 8760)}",
    )


def check_throttling(*, throttled_seconds_ago: float | None, metrics: StreamMetrics | None) -> Check:
    """Warn where the service refused for want of throughput.

    - `throttled_seconds_ago`: when a look of ours was refused last; None for never, or long ago.
    """
    name = "throttling"
    seen: list[str] = []
    if throttled_seconds_ago is not None:
        seen.append(f"a look at a shard was refused {throttled_seconds_ago:.0f} seconds ago")
    if metrics is not None:
        for what, count in (("reads", metrics.reads_refused), ("writes", metrics.writes_refused)):
            if count is not UNKNOWN and count > 0:
                seen.append(f"{count:.0f} {what} were refused within a minute")
    if not seen:
        return Check(name=name, state=CheckState.OK, why="none seen")
    return Check(
        name=name,
        state=CheckState.WARN,
        why=", ".join(seen),
        remedy="give the stream more shards, or its readers a longer poll_interval_seconds",
    )


def check_iterator_age(metrics: StreamMetrics) -> Check:
    """Tell what CloudWatch says of the slowest of all readers."""
    name, age = "iterator_age", metrics.iterator_age_seconds
    if age is UNKNOWN:
        return Check(
            name=name,
            state=CheckState.UNKNOWN,
            why=metrics.why_unknown or "CloudWatch has no value of the last ten minutes",
        )
    return Check(
        name=name,
        state=CheckState.OK,
        why=f"the slowest reader of all groups is {age:.0f} seconds behind, says CloudWatch",
    )
