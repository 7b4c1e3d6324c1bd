"""What a running pipeline did and how it is doing: counters, and the progress of each partition as a check."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import final

from ._health import Check, CheckState
from ._position import Partition


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What one run of a pipeline did so far.

    - `handled`: events that the handler took; `dead_lettered`: events stored in the dead letters, `parked` of them
      only because they wait behind a poisoned one of their key.
    - `calls`: calls of the handler; `retries`: those made again after a failure.
    - `not_current`: events that were not handled since they were no longer ours; `partitions_lost`: workers that
      ended since their partition was lost, or its deadline passed.
    - `repeats`: events that were settled without a call, being repeats of handled ones (see `drop_repeats`); they
      count as handled too.
    """

    handled: int = 0
    dead_lettered: int = 0
    parked: int = 0
    calls: int = 0
    retries: int = 0
    not_current: int = 0
    partitions_lost: int = 0
    repeats: int = 0


@final
@dataclass(slots=True)
class Tally:
    """`Counters` while they are counted, and when a handler was last at work (for the watch of the event loop)."""

    handled: int = 0
    dead_lettered: int = 0
    parked: int = 0
    calls: int = 0
    retries: int = 0
    not_current: int = 0
    partitions_lost: int = 0
    repeats: int = 0
    calls_running: int = 0
    last_call_ended_at: float = float("-inf")
    last_cause_type: str = ""
    first_dead_letter_at: float | None = None

    def snapshot(self) -> Counters:
        """Return the counters as they are now."""
        return Counters(**{field.name: getattr(self, field.name) for field in fields(Counters)})


@final
@dataclass(frozen=True, slots=True)
class Retrying:
    """Something that is tried again without end: what, the type of its last error, and since when (1970)."""

    doing: str
    cause_type: str
    since: float


@final
class PartitionProgress:
    """Whether the work in hand of one partition moves.

    - `clock`: monotonic seconds.
    """

    def __init__(self, partition: Partition, clock: Callable[[], float]) -> None:
        self.partition = partition
        self._clock = clock
        self._batches_in_hand = 0
        self.moved_at = clock()
        self._moved_at_wall = time.time()
        self._retrying: dict[object, Retrying] = {}

    def begin(self) -> None:
        """A batch came in."""
        if self._batches_in_hand == 0:
            self.moved()
        self._batches_in_hand += 1

    def end(self) -> None:
        """A batch is done with."""
        self._batches_in_hand -= 1
        self.moved()

    def moved(self) -> None:
        """Something was acknowledged."""
        self.moved_at, self._moved_at_wall = self._clock(), time.time()

    def retry(self, who: object, doing: str, cause_type: str) -> None:
        """Somebody tries again what only others can mend."""
        before = self._retrying.get(who)
        since = before.since if before is not None else time.time()
        self._retrying[who] = Retrying(doing, cause_type, since)

    def recovered(self, who: object) -> None:
        """It is over."""
        self._retrying.pop(who, None)

    def check(self, *, stalled_after_seconds: float) -> Check:
        """Say how it is: FAIL while a retry goes on, and while work waits and nothing moves."""
        name = f"progress {self.partition}"
        if self._retrying:
            longest = min(self._retrying.values(), key=lambda retrying: retrying.since)
            return Check(
                name=name,
                state=CheckState.FAIL,
                why=f"{longest.doing} fails with {longest.cause_type}, and is tried again",
                remedy="bring back what it needs; nothing is lost or set aside meanwhile",
                since=longest.since,
            )
        waited = self._clock() - self.moved_at
        if self._batches_in_hand and waited > stalled_after_seconds:
            return Check(
                name=name,
                state=CheckState.FAIL,
                why=f"events wait, and none was acknowledged for {waited:.0f} seconds",
                remedy="see what the handler is waiting for",
                since=self._moved_at_wall,
            )
        why = "events are being handled" if self._batches_in_hand else "there is nothing to do"
        return Check(name=name, state=CheckState.OK, why=why, since=self._moved_at_wall)
