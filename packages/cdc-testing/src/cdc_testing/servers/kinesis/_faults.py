"""Faults on demand: what a rule does to the requests that it matches."""

import random
import threading
from collections.abc import Callable
from typing import Final, final

import msgspec

from . import _requests as requests
from ._calls import Call
from ._shard import Shard
from ._writing import THROTTLED, Rejecting


@final
class Refuse(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Answer with an error; nothing is carried out, or (`stored`) everything was, and the client cannot tell."""

    code: str = "InternalFailure"
    message: str = "refused by a fault of the test"
    status: int = 500
    stored: bool = False


@final
class Drop(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Close the connection without an answer, before anything is carried out or (`stored`) after: a lost answer."""

    stored: bool = False


@final
class Delay(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Wait (real time), before the request is carried out or (`stored`) between that and the answer."""

    seconds: float
    stored: bool = False


@final
class Hold(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Wait until the rule is released or removed, before the request is carried out or (`stored`) after."""

    stored: bool = False


@final
class RejectEntries(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Reject records of PutRecords one by one, and PutRecord as a whole.

    Attributes:
        fraction: Which share of the records, at random.
        seed: Of that choice; the same requests in the same order meet the same choices.
        code: "ProvisionedThroughputExceededException" or "InternalFailure", the two that the service knows.
        shards, hash_keys, partition_keys: Only records that go to these shards, with these explicit hash keys,
            with these partition keys; empty for all.
    """

    fraction: float = 1.0
    seed: int = 0
    code: str = THROTTLED
    message: str = "rejected by a fault of the test"
    shards: tuple[str, ...] = ()
    hash_keys: tuple[str, ...] = ()
    partition_keys: tuple[str, ...] = ()


Action = Refuse | Drop | Delay | Hold | RejectEntries


@final
class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """Which requests meet a fault, and which fault.

    Attributes:
        action: What happens.
        operations, streams, shards, access_keys: Names of what is met; empty for all. `shards` looks at what
            reading requests name: puts name none (`RejectEntries.shards` is for them).
        skip: So many matching requests are let through first.
        count: So many requests are met (by `RejectEntries`: records), then no more; None for all.
        seconds: The rule ends after this time by the server's clock; None for never.
    """

    action: Action
    operations: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()
    shards: tuple[str, ...] = ()
    access_keys: tuple[str, ...] = ()
    skip: int = 0
    count: int | None = None
    seconds: float | None = None

    def concerns(self, call: Call) -> bool:
        """Whether the names fit."""
        wanted = (
            (self.operations, call.operation),
            (self.streams, call.stream),
            (self.shards, call.shard),
            (self.access_keys, call.access_key),
        )
        return all(not names or name in names for names, name in wanted)


@final
class FaultState(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule has done so far.

    Attributes:
        hits: How many requests (or records, by `RejectEntries`) it met.
        waiting: How many requests it holds or delays at the moment.
        active: Whether it meets any more.
    """

    hits: int
    waiting: int
    active: bool


@final
class Fault:
    """A rule at work."""

    def __init__(self, rule: Rule, when: Callable[[Call], bool] | None, now: float) -> None:
        self.rule = rule
        self.hits = 0
        self.waiting = 0
        self.opened = threading.Event()
        self._when = when
        self._skipped = 0
        self._until = None if rule.seconds is None else now + rule.seconds
        seed = rule.action.seed if isinstance(rule.action, RejectEntries) else 0
        self._random = random.Random(seed)
        self._removed = False

    def remove(self) -> None:
        """Meet nothing more; what waits goes on."""
        self._removed = True
        self.opened.set()

    def active(self, now: float) -> bool:
        return (
            not self._removed
            and (self._until is None or now < self._until)
            and (self.rule.count is None or self.hits < self.rule.count)
        )

    def meets(self, call: Call, now: float) -> bool:
        """Whether it applies to a request; counts what is skipped."""
        if not self.active(now) or not self.rule.concerns(call):
            return False
        if self._when is not None and not self._when(call):
            return False
        if self._skipped < self.rule.skip:
            self._skipped += 1
            return False
        return True

    def rejects(self, action: RejectEntries, shard: Shard, entry: requests.Entry, now: float) -> bool:
        """Whether it rejects a record."""
        wanted = (
            (action.shards, shard.shard_id),
            (action.hash_keys, entry.explicit_hash_key),
            (action.partition_keys, entry.partition_key),
        )
        if any(names and name not in names for names, name in wanted) or not self.active(now):
            return False
        return self._random.random() < action.fraction


_WAITS: Final = (Delay, Hold)


@final
class Faults:
    """The rules of one server; safe for threads."""

    def __init__(self) -> None:
        self._faults: dict[int, Fault] = {}
        self._active: list[Fault] = []
        self._changed = threading.Condition()
        self._next = 1

    def add(self, rule: Rule, when: Callable[[Call], bool] | None, now: float) -> int:
        """Put a rule to work and return its number."""
        with self._changed:
            number, self._next = self._next, self._next + 1
            fault = self._faults[number] = Fault(rule, when, now)
            self._active = [*self._active, fault]
            return number

    def remove(self, number: int) -> None:
        """Take a rule back; what it holds goes on."""
        with self._changed:
            fault = self._faults[number]
            fault.remove()
            self._active = [each for each in self._active if each is not fault]

    def clear(self) -> None:
        """Take every rule back."""
        with self._changed:
            for fault in self._faults.values():
                fault.remove()
            self._active = []

    def state(self, number: int, now: float) -> FaultState:
        """What a rule has done so far."""
        with self._changed:
            fault = self._faults[number]
            return FaultState(hits=fault.hits, waiting=fault.waiting, active=fault.active(now))

    def wait(self, number: int, hits: int, timeout_seconds: float) -> bool:
        """Wait until a rule has met so many; whether it has."""
        with self._changed:
            fault = self._faults[number]
            return self._changed.wait_for(lambda: fault.hits >= hits, timeout_seconds)

    def meeting(self, call: Call, now: float) -> list[Fault]:
        """The rules that a request meets, counted as hits; those about single records are not among them."""
        if not self._active:
            return []
        with self._changed:
            met = [
                fault
                for fault in self._active
                if not isinstance(fault.rule.action, RejectEntries) and fault.meets(call, now)
            ]
            for fault in met:
                fault.hits += 1
            if met:
                self._changed.notify_all()
            return met

    def rejecting(self, call: Call, now: float) -> Rejecting | None:
        """What decides about a request's records; None where no rule does."""
        if not self._active:
            return None
        with self._changed:
            met = [
                (fault, fault.rule.action)
                for fault in self._active
                if isinstance(fault.rule.action, RejectEntries) and fault.meets(call, now)
            ]
        if not met:
            return None

        def decide(shard: Shard, entry: requests.Entry) -> tuple[str, str] | None:
            with self._changed:
                for fault, action in met:
                    if fault.rejects(action, shard, entry, now):
                        fault.hits += 1
                        self._changed.notify_all()
                        return action.code, action.message
            return None

        return decide

    def pause(self, fault: Fault) -> None:
        """Wait as a rule says; the server's end and the rule's removal end it."""
        action = fault.rule.action
        assert isinstance(action, _WAITS)
        with self._changed:
            fault.waiting += 1
        fault.opened.wait(action.seconds if isinstance(action, Delay) else None)
        with self._changed:
            fault.waiting -= 1
