"""Leases: what a row of the lease table says, when it has expired, and who takes which. No I/O, no clock.

A lease is the right to read one shard. It stands in a row that every owner renews by adding one to its counter, so
there is no wall clock in it: who looks on judges by the time that its own monotonic clock saw the counter stand still.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, final

TRIM_HORIZON: Final = "TRIM_HORIZON"
LATEST: Final = "LATEST"
AT_TIMESTAMP: Final = "AT_TIMESTAMP"
SHARD_END: Final = "SHARD_END"

# The KCL's own limit for a hand-over (gracefulLeaseHandoffTimeoutMillis).
HAND_OVER_SECONDS: Final = 30.0


@final
@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The last record of a shard that is done, or a word for where none is.

    - `sequence_number`: decimal, or TRIM_HORIZON, LATEST, AT_TIMESTAMP (nothing is done yet), or SHARD_END (all is).
    - `sub_sequence`: the last one done inside an aggregated record, from 0; 0 for a record that is none.
    """

    sequence_number: str
    sub_sequence: int = 0

    def __post_init__(self) -> None:
        number = self.sequence_number
        if number not in _WORDS and not (number.isascii() and number.isdecimal()):
            raise ValueError(f"{number!r} is no sequence number, and none of {', '.join(sorted(_WORDS))}")
        if self.sub_sequence < 0:
            raise ValueError(f"the sub-sequence number {self.sub_sequence} is negative")

    @property
    def is_shard_end(self) -> bool:
        """Whether every record of the shard is done, and no more will come."""
        return self.sequence_number == SHARD_END

    @property
    def is_sequence(self) -> bool:
        """Whether it names a record."""
        return self.sequence_number not in _WORDS

    @property
    def has_begun(self) -> bool:
        """Whether some record is done, or the end is reached."""
        return self.is_sequence or self.is_shard_end

    def precedes(self, other: Checkpoint) -> bool:
        """Return whether it stands before another one of the same shard: to replace `other` by it would move back.

        The words for nothing done stand first, and beside each other; SHARD_END stands last.
        """
        return self._rank < other._rank

    @property
    def _rank(self) -> tuple[int, int, int]:
        # as numbers: the digits of one shard's sequence numbers need not be equally many
        if self.is_sequence:
            return (1, int(self.sequence_number), self.sub_sequence)
        return (2 if self.is_shard_end else 0, 0, 0)


_WORDS: Final = frozenset({TRIM_HORIZON, LATEST, AT_TIMESTAMP, SHARD_END})


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One row of the lease table, as it was read or as we wrote it.

    - `counter`: grows with every write of an owner; what a conditional write compares.
    - `owner`: who shall read the shard; None while it is free.
    - `checkpoint_owner`: during a hand-over the former owner, who still drains and writes checkpoints.
    - `owner_switches`: how often it changed its owner since the last checkpoint.
    - `parents`, `children`: shard ids; the children stand in it from SHARD_END on.
    - `starting_hash_key`, `ending_hash_key`: decimal; None in rows of programs that leave them out.
    - `pending_checkpoint`: what a program of the KCL had prepared and not confirmed; ours never write one.
    """

    shard_id: str
    checkpoint: Checkpoint
    counter: int = 0
    owner: str | None = None
    checkpoint_owner: str | None = None
    owner_switches: int = 0
    parents: frozenset[str] = frozenset()
    children: frozenset[str] = frozenset()
    starting_hash_key: str | None = None
    ending_hash_key: str | None = None
    pending_checkpoint: Checkpoint | None = None

    @property
    def holder(self) -> str | None:
        """Who may renew and write checkpoints now: the former owner until it has handed over."""
        return self.checkpoint_owner or self.owner

    @property
    def is_done(self) -> bool:
        """Whether the whole shard is done."""
        return self.checkpoint.is_shard_end

    @property
    def is_handing_over(self) -> bool:
        """Whether its holder was asked to drain and to leave it to `owner`."""
        return self.checkpoint_owner is not None and self.checkpoint_owner != self.owner


@final
class LeaseClock:
    """Remembers how long each lease's counter has stood still, by the observer's own monotonic clock.

    - `failover_seconds`: a lease whose counter has not moved for so long is nobody's any more.
    - `hand_over_seconds`: the time that a former owner has to drain.
    """

    def __init__(self, *, failover_seconds: float, hand_over_seconds: float = HAND_OVER_SECONDS) -> None:
        self._failover_seconds = failover_seconds
        self._hand_over_seconds = hand_over_seconds
        self._seen: dict[str, _Seen] = {}

    def observe(self, leases: Iterable[Lease], *, asked_at: float, answered_at: float) -> None:
        """Take in one scan of the whole table.

        - `asked_at`, `answered_at`: monotonic seconds before and after it. A counter stood still from the end of the
          scan that first saw it to the start of the last that saw it again: a slow scan takes no lease from anybody.
        """
        seen: dict[str, _Seen] = {}
        for lease in leases:
            before = self._seen.get(lease.shard_id)
            same_counter = before is not None and before.counter == lease.counter
            same_pair = before is not None and before.pair == (lease.owner, lease.checkpoint_owner)
            seen[lease.shard_id] = _Seen(
                counter=lease.counter,
                pair=(lease.owner, lease.checkpoint_owner),
                counter_since=before.counter_since if before is not None and same_counter else answered_at,
                pair_since=before.pair_since if before is not None and same_pair else answered_at,
                confirmed_at=asked_at,
            )
        self._seen = seen

    def is_expired(self, lease: Lease) -> bool:
        """Return whether the counter of a lease, as last observed, has stood still for `failover_seconds`."""
        seen = self._seen.get(lease.shard_id)
        if seen is None or seen.counter != lease.counter:
            return False
        return seen.confirmed_at - seen.counter_since >= self._failover_seconds

    def is_overdue(self, lease: Lease) -> bool:
        """Return whether a hand-over has taken its time, and that in which the former owner hears of it."""
        seen = self._seen.get(lease.shard_id)
        if seen is None or not lease.is_handing_over or seen.pair != (lease.owner, lease.checkpoint_owner):
            return False
        return seen.confirmed_at - seen.pair_since >= self._hand_over_seconds + self._failover_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    counter: int
    pair: tuple[str | None, str | None]
    counter_since: float
    pair_since: float
    confirmed_at: float


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one worker does in this round; every step may lose its race, and the next round says what then.

    - `take`: leases to take, in this order: ours that nobody reads, then free and expired ones.
    - `steal`: a lease to ask its owner for; None where nothing is to be stolen.
    - `hand_over`: leases that their new owner waits for us to drain.
    - `awaited`: leases that we asked for and that are being drained for us.
    """

    take: Sequence[Lease] = ()
    steal: Lease | None = None
    hand_over: Sequence[Lease] = ()
    awaited: Sequence[Lease] = ()


def plan(
    leases: Iterable[Lease],
    *,
    me: str,
    held: Collection[str],
    ready: Collection[str],
    clock: LeaseClock,
    random: Random,
) -> Plan:
    """Return what worker `me` does now, so that every lease has an owner soon, and each worker its fair share.

    A fair share is the number of leases that can be read, divided by the workers that are seen alive, rounded up.
    Free and expired leases are taken up to it. Only where there are none is one lease stolen, from the worker with
    the most, and only where that brings the two closer together: so it comes to rest.

    - `leases`: one scan of the table, that `clock` has observed.
    - `me`: unique to this run of this process.
    - `held`: the shards that this worker reads now, also those that it drains, or whose worker has yet to leave.
    - `ready`: the shards that may be read, since their parents are done (`_shards.ready`).
    - `random`: so that workers that start together do not all run for the same lease.
    """
    active = [
        lease
        for lease in leases
        if not lease.is_done and (lease.shard_id in ready or lease.owner is not None)
    ]
    awaited = [lease for lease in active if _is_awaited(lease, me, clock)]
    not_to_take = {*held, *(lease.shard_id for lease in awaited)}
    abandoned = [
        lease
        for lease in active
        if lease.owner == me and lease.shard_id in ready and lease.shard_id not in not_to_take
    ]
    free = [
        lease
        for lease in active
        if lease.owner != me
        and lease.shard_id in ready
        and lease.shard_id not in held  # given back or lost, and its worker has not left yet
        and (lease.owner is None or clock.is_expired(lease))
    ]
    loads = Counter(
        lease.owner for lease in active if lease.owner is not None and not clock.is_expired(lease)
    )
    loads[me] = sum(lease.owner == me for lease in active)
    share = -(-len(active) // len(loads))
    random.shuffle(free)
    steal = None
    if not free and loads[me] < share:
        steal = _stolen(active, me=me, loads=loads, ready=ready, clock=clock, random=random)
    return Plan(
        take=(*abandoned, *free[: max(0, share - loads[me])]),
        steal=steal,
        hand_over=tuple(lease for lease in active if lease.checkpoint_owner == me and lease.is_handing_over),
        awaited=tuple(awaited),
    )


def _is_awaited(lease: Lease, me: str, clock: LeaseClock) -> bool:
    if lease.owner != me or not lease.is_handing_over:
        return False
    return not clock.is_expired(lease) and not clock.is_overdue(lease)


def _stolen(
    active: Iterable[Lease],
    *,
    me: str,
    loads: Counter[str],
    ready: Collection[str],
    clock: LeaseClock,
    random: Random,
) -> Lease | None:
    stealable: dict[str, list[Lease]] = {}
    for lease in active:
        if lease.owner is None or lease.owner == me or lease.shard_id not in ready:
            continue
        if lease.checkpoint_owner is None and not clock.is_expired(lease):
            stealable.setdefault(lease.owner, []).append(lease)
    most = max((loads[owner] for owner in stealable), default=0)
    if most < loads[me] + 2:  # to steal at a difference of one would only turn it round
        return None
    victim = random.choice(sorted(owner for owner in stealable if loads[owner] == most))
    return random.choice(stealable[victim])
