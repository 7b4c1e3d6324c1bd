"""Drops repeats of events, per epoch and lane; `RepeatFilter` decides, `drop_repeats` wraps a handler with it."""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import anyio

from ._events import Event
from ._handlers import Handler, split_runs
from ._position import ChangeIdentity, Epoch, Lane


class Admission(enum.Enum):
    """What a filter says about an event.

    - `NEW`: handle it, then call `done` or `abandon`. - `DONE`: a repeat of an event that is done: settle it.
    - `OPEN`: a repeat of an event that is being handled: settle it when that one is done.
    """

    NEW = "new"
    DONE = "done"
    OPEN = "open"


_Number = tuple[int, int, int]
_Place = tuple[Epoch, Lane]


class _State(enum.Enum):
    OPEN = "open"
    ABANDONED = "abandoned"
    DONE = "done"


@final
class _LaneRepeats:
    """One lane's knowledge: all up to `mark` is done, and what became of each later one."""

    __slots__ = ("mark", "numbers", "open", "states")

    def __init__(self) -> None:
        self.mark: _Number = (-1, -1, -1)
        self.numbers: list[_Number] = []  # of what is later than the mark, ascending
        self.states: dict[_Number, _State] = {}
        self.open = 0

    def admit(self, number: _Number) -> Admission:
        if number <= self.mark:
            return Admission.DONE
        state = self.states.get(number)
        if state is _State.DONE:
            return Admission.DONE
        if state is _State.OPEN:
            return Admission.OPEN
        if state is None:
            self._insert(number)
        self.states[number] = _State.OPEN
        self.open += 1
        return Admission.NEW

    def _insert(self, number: _Number) -> None:
        if not self.numbers or number > self.numbers[-1]:
            self.numbers.append(number)
        else:  # a replay from before what is known: it was forgotten, or never seen
            self.numbers.insert(bisect_left(self.numbers, number), number)

    def settle(self, number: _Number, state: _State, max_known: int) -> None:
        before = self.states.get(number)
        if before is _State.DONE or number <= self.mark:
            return
        if before is None:
            if state is not _State.DONE:
                return
            self._insert(number)
        self.open -= before is _State.OPEN
        self.states[number] = state
        self._advance()
        if len(self.numbers) > max_known:
            self._forget(len(self.numbers) - max_known // 2)  # in bulk: it walks the whole list

    def _advance(self) -> None:
        count = 0
        for number in self.numbers:
            if self.states[number] is not _State.DONE:
                break
            del self.states[number]
            self.mark = number
            count += 1
        del self.numbers[:count]

    def _forget(self, count: int) -> None:
        """Forget the oldest done ones: their repeats will pass, which at-least-once allows."""
        kept: list[_Number] = []
        for number in self.numbers:
            if count and self.states[number] is _State.DONE:
                del self.states[number]
                count -= 1
            else:
                kept.append(number)
        self.numbers = kept


@final
class RepeatFilter:
    """Recognises repeats by identity, within one epoch and lane. No I/O, no clock.

    Identities grow within a lane, and a source repeats only as a replay from at or before the first event that was
    not acknowledged. So per lane a mark suffices: all up to it is done. It moves over the contiguous prefix of what
    is done; an event that was given up holds it, since that one is delivered again. Events whose lane or identity is
    None, whose identity is not comparable (snapshot, foreign reader), or that are replayed from the dead letters are
    always new.

    - `max_lanes`: so many lanes are remembered; the one not seen for the longest, with nothing open, is forgotten.
    - `max_known`: so many events past a lane's mark are remembered, then the oldest done ones are forgotten.
      Forgetting lets repeats pass, and never loses an event.
    """

    def __init__(self, *, max_lanes: int = 100_000, max_known: int = 10_000) -> None:
        self._max_lanes = max_lanes
        self._max_known = max_known
        self._lanes: OrderedDict[_Place, _LaneRepeats] = OrderedDict()

    def admit(self, event: Event) -> Admission:
        """Say whether an event is to be handled, and count it as being handled if so."""
        found = _number(event)
        if found is None:
            return Admission.NEW
        place, number = found
        lane = self._lanes.get(place)
        if lane is None:
            lane = self._lanes[place] = _LaneRepeats()
        self._lanes.move_to_end(place)
        admission = lane.admit(number)
        if len(self._lanes) > self._max_lanes:
            self._forget_lanes()
        return admission

    def done(self, event: Event) -> None:
        """Record that an event is handled, or stands in the dead letters (then it need not have been admitted)."""
        self._settle(event, _State.DONE)

    def abandon(self, event: Event) -> None:
        """Record that an event admitted as new was not handled: its next repeat is new."""
        self._settle(event, _State.ABANDONED)

    def _settle(self, event: Event, state: _State) -> None:
        if (found := _number(event)) is not None and (lane := self._lanes.get(found[0])) is not None:
            lane.settle(found[1], state, self._max_known)

    def _forget_lanes(self) -> None:
        for place, lane in self._lanes.items():
            if not lane.open:
                del self._lanes[place]
                return


@final
class DropRepeats:
    """A handler that is called with each event once; made by `drop_repeats`."""

    def __init__(self, handler: Handler, repeats: RepeatFilter) -> None:
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

    def settled(self, events: Sequence[Event]) -> None:
        """Record that events are settled without having been handled: they stand in the dead letters."""
        for event in events:
            self._repeats.done(event)
        self._wake()

    def _admit_prefix(self, events: Sequence[Event]) -> tuple[_Prefix, anyio.Event | None]:
        """Admit events up to the first that another call is handling; that one is waited for."""
        new: list[Event] = []
        mine: set[object] = set()
        for index, event in enumerate(events):
            admission = self._repeats.admit(event)
            if admission is Admission.NEW:
                new.append(event)
                mine.add(_number(event))
            elif admission is Admission.OPEN and _number(event) not in mine:
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
    handled if that fails. Where an event goes to the dead letters the pipeline calls `settled`.

    - `repeats`: a filter of other bounds than the default ones, of this handler alone.
    """
    return DropRepeats(handler, repeats if repeats is not None else RepeatFilter())


def _number(event: Event) -> tuple[_Place, _Number] | None:
    identity = event.identity
    if event.lane is None or event.replayed or not isinstance(identity, ChangeIdentity):
        return None
    return (identity.epoch, event.lane), (identity.commit_lsn, identity.ordinal, identity.sub_index)
