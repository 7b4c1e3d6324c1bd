"""Drops repeats of events, per epoch and lane; `RepeatFilter` decides, `drop_repeats` wraps a handler with it."""

from __future__ import annotations

import enum
from bisect import insort
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, cast, final

import anyio

from ._events import Event
from ._handlers import Handler, split_runs
from ._position import ChangeIdentity, Epoch, Lane


class FollowsDeliveries(Protocol):
    """A handler that a pipeline tells what happens to events outside of its calls."""

    def delivered(self, events: Sequence[Event]) -> None:
        """Be told of a batch as it came, before any event of it is handled."""
        ...

    def settled(self, events: Sequence[Event]) -> None:
        """Be told that events stand in the dead letters."""
        ...


class Admission(enum.Enum):
    """What a filter says about an event.

    - `NEW`: handle it, then call `done` or `abandon`. - `DONE`: a repeat of an event that is done: settle it.
    - `OPEN`: a repeat of an event that is being handled: settle it when that one is done.
    """

    NEW = "new"
    DONE = "done"
    OPEN = "open"


_Number = tuple[int, int, int]


class _State(enum.Enum):
    PENDING = "pending"  # delivered or given up: its handling may begin
    OPEN = "open"
    DONE = "done"


@final
class _LaneRepeats:
    """One lane's knowledge: all up to `mark` is done, and what became of each later event that was seen."""

    __slots__ = ("in_order", "mark", "numbers", "open", "states")

    def __init__(self, *, in_order: bool) -> None:
        self.mark: _Number = (-1, -1, -1)
        self.numbers: list[_Number] = []  # the keys of `states`, ascending
        self.states: dict[_Number, _State] = {}
        self.open = 0
        # Whether every event was delivered before it was handled, so that nothing unseen hides in the gaps.
        self.in_order = in_order

    @property
    def unfinished(self) -> bool:
        return any(state is not _State.DONE for state in self.states.values())

    def deliver(self, number: _Number) -> None:
        if number > self.mark and number not in self.states:
            self._put(number, _State.PENDING)

    def admit(self, number: _Number) -> Admission:
        if number <= self.mark:
            return Admission.DONE
        state = self.states.get(number)
        if state is _State.DONE:
            return Admission.DONE
        if state is _State.OPEN:
            return Admission.OPEN
        if state is None:
            self.in_order = False
        self._put(number, _State.OPEN)
        self.open += 1
        return Admission.NEW

    def settle(self, number: _Number, state: _State) -> None:
        before = self.states.get(number)
        if number <= self.mark or before is _State.DONE:
            return
        if before is None:
            if state is not _State.DONE:
                return
            self.in_order = False
        self.open -= before is _State.OPEN
        self._put(number, state)
        if self.in_order and state is _State.DONE:
            self._advance()

    def forget(self, state: _State, limit: int) -> int:
        """Forget at most so many events of a state, the oldest ones; return how many."""
        kept: list[_Number] = []
        forgotten = 0
        for number in self.numbers:
            if forgotten < limit and self.states[number] is state:
                del self.states[number]
                forgotten += 1
            else:
                kept.append(number)
        self.numbers = kept
        if forgotten and state is _State.PENDING:
            self.in_order = (
                False  # the mark, where it is, stays true; it may not move over what was forgotten
            )
        return forgotten

    def _put(self, number: _Number, state: _State) -> None:
        if number not in self.states:
            if not self.numbers or number > self.numbers[-1]:
                self.numbers.append(number)
            else:
                insort(self.numbers, number)
        self.states[number] = state

    def _advance(self) -> None:
        count = 0
        for number in self.numbers:
            if self.states[number] is not _State.DONE:
                break
            del self.states[number]
            self.mark = number
            count += 1
        del self.numbers[:count]


@final
class RepeatFilter:
    """Recognises repeats by identity, within one epoch and lane. No I/O, no clock.

    Identities grow within a lane, and a source repeats only as a replay from at or before the first event that was
    not acknowledged. So per lane a mark suffices: it moves over the contiguous prefix of what is done, and all up
    to it is done. That needs `deliver` for every event in the order of delivery, before any of them is handled:
    handled several keys at a time, an event may be done before its predecessor was even looked at. A lane
    where an event came without `deliver` has no mark from then on: of it single events are remembered.

    Events whose lane or identity is None, whose identity is not comparable (snapshot, foreign reader), or that are
    replayed from the dead letters are always new.

    - `max_lanes`: so many lanes are remembered, then the one not seen for the longest is forgotten.
    - `max_known`: so many events past their lanes' marks are remembered (about 300 bytes each), then half of them are
      forgotten: of the lanes not seen for the longest, and what is done before what is not.

    Forgetting lets repeats pass, which at-least-once allows; it never loses an event.
    """

    def __init__(self, *, max_lanes: int = 100_000, max_known: int = 100_000) -> None:
        self._max_lanes = max_lanes
        self._max_known = max_known
        self._by_epoch: dict[Epoch, dict[Lane, _LaneRepeats]] = {}
        self._epoch: Epoch | None = None  # the last event's, and its lanes
        self._epoch_lanes: dict[Lane, _LaneRepeats] = {}
        self._seen: OrderedDict[_LaneRepeats, tuple[Epoch, Lane]] = (
            OrderedDict()
        )  # the one seen last at the end
        self._known = 0
        self._lanes_in_order = True

    @property
    def known(self) -> int:
        """How many events past their lanes' marks are remembered."""
        return self._known

    def deliver(self, event: Event) -> None:
        """Record that an event came from its source, in the order of delivery; a repeat may be delivered again."""
        if (lane := self._lane_of(event)) is not None:
            before = len(lane.numbers)
            lane.deliver(_number_of(event))
            self._count(len(lane.numbers) - before)

    def admit(self, event: Event) -> Admission:
        """Say whether an event is to be handled, and count it as being handled if so."""
        if (lane := self._lane_of(event)) is None:
            return Admission.NEW
        before = len(lane.numbers)
        admission = lane.admit(_number_of(event))
        self._count(len(lane.numbers) - before)
        return admission

    def done(self, event: Event) -> None:
        """Record that an event is handled, or stands in the dead letters (then it need not have been admitted)."""
        if (lane := self._lane_of(event)) is not None:
            before = len(lane.numbers)
            lane.settle(_number_of(event), _State.DONE)
            self._count(len(lane.numbers) - before)

    def abandon(self, event: Event) -> None:
        """Record that an event admitted as new was not handled: it, or its repeat, is new again."""
        if (lane := self._lane_of(event)) is not None:
            before = len(lane.numbers)
            lane.settle(_number_of(event), _State.PENDING)
            self._count(len(lane.numbers) - before)

    def _lane_of(self, event: Event) -> _LaneRepeats | None:
        """Return what is known of the event's lane, now the one seen last; None where repeats cannot be told."""
        identity = event.identity
        if event.lane is None or event.replayed or not isinstance(identity, ChangeIdentity):
            return None
        # by the object: hashing an epoch costs more than all the rest, and one connection's events share theirs
        if identity.epoch is not self._epoch:
            self._epoch = identity.epoch
            self._epoch_lanes = self._by_epoch.setdefault(identity.epoch, {})
        lane = self._epoch_lanes.get(event.lane)
        if lane is None:
            lane = self._epoch_lanes[event.lane] = _LaneRepeats(in_order=self._lanes_in_order)
            self._seen[lane] = (identity.epoch, event.lane)
            if len(self._seen) > self._max_lanes:
                self._forget_lane(but=lane)
        else:
            self._seen.move_to_end(lane)
        return lane

    def _count(self, difference: int) -> None:
        if difference:
            self._known += difference
            if self._known > self._max_known:
                self._forget_events(self._known - self._max_known // 2)

    def _forget_events(self, count: int) -> None:
        # What is pending only after what is done: it keeps marks true, but a lost partition leaves it behind.
        for state in (_State.DONE, _State.PENDING):
            for lane in self._seen:
                forgotten = lane.forget(state, count)
                self._known -= forgotten
                count -= forgotten
                if not count:
                    return

    def _forget_lane(self, *, but: _LaneRepeats) -> None:
        # An open event is kept in any case: its repeat must wait.
        lane = next((lane for lane in self._seen if lane is not but and not lane.unfinished), None)
        if lane is None:
            lane = next((lane for lane in self._seen if lane is not but and not lane.open), None)
            self._lanes_in_order = False  # if it comes back, a mark could move over what is pending in it now
        if lane is not None:
            epoch, name = self._seen.pop(lane)
            del self._by_epoch[epoch][name]
            if not self._by_epoch[epoch] and self._epoch is not epoch:
                del self._by_epoch[epoch]
            self._known -= len(lane.numbers)


@final
class DropRepeats:
    """A handler that is called with each event once; made by `drop_repeats`."""

    def __init__(self, handler: Handler, repeats: RepeatFilter) -> None:
        self.dropped: int = 0
        """How many repeats of finished events were dropped so far."""
        self._handler = handler
        self._repeats = repeats
        self._waiters: set[anyio.Event] = set()

    async def __call__(self, events: Sequence[Event]) -> None:
        """Handle the events that are new, in order; return when the repeats among them are done as well."""
        while events:
            # Events count as being handled only while they are, never while a call waits: so no two calls wait for
            # each other. Nothing behind a repeat that waits is handled before it: if it fails, it is still first.
            new, waiter = self._admit_prefix(events)
            events = events[new.looked_at :]
            try:
                await self._handle(new.events)
                if waiter is not None:
                    await waiter.wait()
            finally:
                if waiter is not None:
                    self._waiters.discard(waiter)

    def runs(self, events: Sequence[Event]) -> Iterator[Sequence[Event]]:
        """Yield the wrapped handler's runs."""
        return split_runs(self._handler, events)

    def delivered(self, events: Sequence[Event]) -> None:
        """Record a batch in the order of delivery, before any of it is handled; see `RepeatFilter`."""
        for event in events:
            self._repeats.deliver(event)

    def settled(self, events: Sequence[Event]) -> None:
        """Record that events are settled without having been handled: they stand in the dead letters."""
        for event in events:
            self._repeats.done(event)
        self._wake()

    def _admit_prefix(self, events: Sequence[Event]) -> tuple[_Prefix, anyio.Event | None]:
        """Admit events up to the first that another call is handling; that one is waited for."""
        new: list[Event] = []
        for index, event in enumerate(events):
            admission = self._repeats.admit(event)
            if admission is Admission.NEW:
                new.append(event)
                continue
            self.dropped += admission is Admission.DONE
            if admission is Admission.OPEN and not any(_is_repeat(event, mine) for mine in new):
                waiter = anyio.Event()
                self._waiters.add(waiter)  # before anything is awaited: the other call may end meanwhile
                return _Prefix(index, new), waiter
        return _Prefix(len(events), new), None

    async def _handle(self, new: list[Event]) -> None:
        if not new:
            return
        settle = self._repeats.abandon
        try:
            await self._handler(new)
            settle = self._repeats.done
        finally:
            for event in new:
                settle(event)
            self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            waiter.set()


@dataclass(frozen=True, slots=True)
class _Prefix:
    looked_at: int
    events: list[Event]


def drop_repeats(handler: Handler, *, repeats: RepeatFilter | None = None) -> DropRepeats:
    """Wrap a handler so that a repeat of an event that it has handled is not given to it again.

    What it knows lives in memory, so it drops the repeats of reconnections and rebalances within a process; across
    restarts a sink compares `event.identity` itself. A repeat of an event that is being handled waits for it, and is
    handled if that fails. The pipeline calls `delivered` for each batch and `settled` for what goes to the dead
    letters; where nobody does, fewer repeats are recognised, and still no event is lost.

    - `repeats`: a filter of other bounds than the default ones, of this handler alone.
    """
    return DropRepeats(handler, repeats if repeats is not None else RepeatFilter())


def _number_of(event: Event) -> _Number:
    identity = cast("ChangeIdentity", event.identity)  # only asked for an event that has a lane
    return (identity.commit_lsn, identity.ordinal, identity.sub_index)


def _is_repeat(event: Event, other: Event) -> bool:
    return event.lane == other.lane and event.identity == other.identity
