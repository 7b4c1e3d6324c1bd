"""N keys of a partition at a time: which events may be handled side by side, and which must wait. No I/O, no clock."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import final

from ._events import Event, TableId

Key = tuple[TableId | None, bytes | None]
"""What keeps its order: a table and the bytes of a key; all events of a table that have no key are one key."""


def keys_of(event: Event) -> tuple[Key, ...]:
    """Return the keys that an event occupies: its own, and the other one where an update changed it."""
    own = (event.table, event.key)
    return (own,) if event.related_key is None else (own, (event.table, event.related_key))


@final
class _Group:
    """Events of one batch that must be handled one after the other; a barrier is a group of its own."""

    __slots__ = ("batch", "dependents", "indexes", "keys", "number", "waiting_on")

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.number = -1
        self.keys: list[Key] = []
        self.indexes: list[int] = []
        self.waiting_on = 0
        self.dependents: list[_Group] = []

    def __lt__(self, other: _Group) -> bool:
        return self.number < other.number


@final
class Work:
    """Events of one batch, in their order, for one call at a time; give it back to `KeyPlan.finish`."""

    __slots__ = ("batch", "events", "groups")

    def __init__(self, batch: int, events: Sequence[Event], groups: Sequence[_Group]) -> None:
        self.batch = batch
        self.events = events
        self.groups = groups


@final
class KeyPlan:
    """Plans the events of one partition: order per key kept, barriers alone, everything else side by side.

    Within a batch, events that share a key, directly or through an update that changed it, form a group. A group
    waits for the unfinished groups before it that have a key of its own, and for the last barrier; a barrier waits
    for all. `take` hands out groups whose turn has come, the earliest first.

    - `concurrency`: how many pieces of work will be under way at once. Where far more groups are ready than that,
      one piece takes several of them: a batch handler is not called once per row. At most a `4 * concurrency`-th of
      what is ready goes into one piece, so a slow key holds back few others.
    """

    def __init__(self, concurrency: int) -> None:
        self._share = 4 * concurrency
        self._groups = 0
        self._batches = 0
        self._events: dict[int, Sequence[Event]] = {}
        self._open_groups: dict[int, int] = {}
        self._unfinished: dict[int, _Group] = {}
        self._last_of_key: dict[Key, _Group] = {}
        self._last_barrier: _Group | None = None
        self._ready: list[_Group] = []

    @property
    def unfinished_batches(self) -> int:
        """How many batches have groups that are not finished."""
        return len(self._events)

    @property
    def has_ready(self) -> bool:
        """Whether `take` has something to give."""
        return bool(self._ready)

    def add(self, events: Sequence[Event]) -> int:
        """Plan a batch behind those before it, and return its number; batches are numbered from 0."""
        batch = self._batches
        self._batches += 1
        self._events[batch] = events
        self._open_groups[batch] = 0
        segment: dict[Key, _Group] = {}
        for index, event in enumerate(events):
            if event.is_barrier:
                self._place(segment)
                segment = {}
                self._place_barrier(batch, index)
            else:
                _join(segment, batch, index, event)
        self._place(segment)
        return batch

    def take(self) -> Work | None:
        """Return the next work, None where all of it waits for work under way."""
        if not self._ready:
            return None
        groups = [heapq.heappop(self._ready)]
        batch = groups[0].batch
        for _ in range(len(self._ready) // self._share):
            if self._ready[0].batch != batch:
                break
            groups.append(heapq.heappop(self._ready))
        indexes = (
            groups[0].indexes if len(groups) == 1 else sorted(i for group in groups for i in group.indexes)
        )
        events = self._events[batch]
        return Work(batch, [events[index] for index in indexes], groups)

    def finish(self, work: Work) -> bool:
        """Say that work is done with; return whether that was the last of its batch."""
        for group in work.groups:
            del self._unfinished[group.number]
            for key in group.keys:
                if self._last_of_key.get(key) is group:
                    del self._last_of_key[key]
            if self._last_barrier is group:
                self._last_barrier = None
            for dependent in group.dependents:
                dependent.waiting_on -= 1
                if dependent.waiting_on == 0:
                    heapq.heappush(self._ready, dependent)
        self._open_groups[work.batch] -= len(work.groups)
        if self._open_groups[work.batch]:
            return False
        del self._open_groups[work.batch], self._events[work.batch]
        return True

    def _place(self, segment: dict[Key, _Group]) -> None:
        for group in dict.fromkeys(segment.values()):  # in order of each group's first key
            group.indexes.sort()
            before = {
                id(last): last for key in group.keys if (last := self._last_of_key.get(key)) is not None
            }
            if self._last_barrier is not None:
                before[id(self._last_barrier)] = self._last_barrier
            self._last_of_key.update(dict.fromkeys(group.keys, group))
            self._enter(group, list(before.values()))

    def _place_barrier(self, batch: int, index: int) -> None:
        barrier = _Group(batch)
        barrier.indexes.append(index)
        self._enter(barrier, list(self._unfinished.values()))
        self._last_barrier = barrier

    def _enter(self, group: _Group, before: Sequence[_Group]) -> None:
        group.number = self._groups
        self._groups += 1
        for earlier in before:
            earlier.dependents.append(group)
        group.waiting_on = len(before)
        self._unfinished[group.number] = group
        self._open_groups[group.batch] += 1
        if not before:
            heapq.heappush(self._ready, group)


def _join(segment: dict[Key, _Group], batch: int, index: int, event: Event) -> None:
    """Add an event to the group of its keys, and make one group of two where it ties them together."""
    own = (event.table, event.key)
    group = segment.get(own)
    if event.related_key is not None:
        related = (event.table, event.related_key)
        other = segment.get(related)
        if group is None:
            group = other
        elif other is not None and other is not group:
            group, other = (group, other) if len(group.keys) >= len(other.keys) else (other, group)
            group.indexes += other.indexes
            group.keys += other.keys
            segment.update(dict.fromkeys(other.keys, group))
        group = group or _Group(batch)
        if related not in segment:
            segment[related] = group
            group.keys.append(related)
    if group is None:
        group = _Group(batch)
    if own not in segment:
        segment[own] = group
        group.keys.append(own)
    group.indexes.append(index)
