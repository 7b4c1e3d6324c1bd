"""Poisoned keys whose later events wait behind them in the dead letters, in order."""

from __future__ import annotations

from collections import Counter
from typing import final

from ._dead_letters import DeadLetters
from ._events import Event
from ._keys import Key, keys_of


@final
class ParkedKeys:
    """The parked keys of one run of a pipeline, all its partitions together.

    A key is parked while the store holds a letter that it waits behind: one of its own, or that of an update that
    ties it to another key. It is released once none of them is left: the store is asked once a batch for each key.
    (Asked less often, a key with a steady stream of events would never be released: each new letter would be there
    in time for the next question.)
    """

    def __init__(self, letters: DeadLetters, *, pipeline: str) -> None:
        self._letters = letters
        self._pipeline = pipeline
        self._behind: dict[Key, set[Key]] = {}
        self._asked: set[Key] = set()
        self._unstored: Counter[Key] = Counter()

    def __bool__(self) -> bool:
        return bool(self._behind)

    async def load(self) -> None:
        """Learn the keys of the letters that are stored: an earlier run, or another owner, left them."""
        async for letter in self._letters.list(pipeline=self._pipeline):
            self._park(letter.event)

    def batch_began(self) -> None:
        """Ask again for each key: letters may have been replayed since the last batch."""
        self._asked.clear()

    def hold(self, event: Event) -> None:
        """Park the keys of an event that is on its way into the dead letters."""
        self._park(event)
        self._unstored[keys_of(event)[0]] += 1

    def stored(self, event: Event) -> None:
        """The event is in the dead letters now."""
        own = keys_of(event)[0]
        self._unstored[own] -= 1
        if not self._unstored[own]:
            del self._unstored[own]

    def is_parked(self, event: Event) -> bool:
        """Say whether an event has to wait, as far as is known without asking the store."""
        return any(key in self._behind for key in keys_of(event))

    async def release(self, event: Event) -> None:
        """Release those keys of the event that have no letter left."""
        for key in keys_of(event):
            if key in self._behind and await self._is_free(key):
                self._behind.pop(key, None)

    async def _is_free(self, key: Key) -> bool:
        if key in self._asked:
            return False
        self._asked.add(key)
        for holder in tuple(self._behind[key]):
            if self._unstored[holder] or await self._has_letter(holder):
                return False
        return True

    async def _has_letter(self, holder: Key) -> bool:
        table, key = holder
        # a filter of None filters nothing: where the holder has no table or no key, look through what comes
        limit = None if table is None or key is None else 1
        found = False
        async for letter in self._letters.list(pipeline=self._pipeline, table=table, key=key, limit=limit):
            found = found or keys_of(letter.event)[0] == holder
        return found

    def _park(self, event: Event) -> None:
        own, *related = keys_of(event)
        for key in (own, *related):
            self._behind.setdefault(key, set()).add(own)
