"""Virtual time: it stands still until somebody moves it."""

from __future__ import annotations

import heapq
import itertools
from typing import Final, final

import anyio
import anyio.lowlevel


@final
class VirtualClock:
    """A clock and a sleep for whoever takes them as parameters, as `Pipeline(clock=..., sleep=...)` does.

    >>> clock = VirtualClock()
    >>> clock.advance(1.5)
    >>> clock.now()
    1.5
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._sleepers: Final[list[tuple[float, int, anyio.Event]]] = []
        self._numbers = itertools.count()

    def now(self) -> float:
        """Return the virtual time in seconds."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock was moved so far."""
        if seconds <= 0:
            await anyio.lowlevel.checkpoint()
            return
        sleeper = (self._now + seconds, next(self._numbers), anyio.Event())
        heapq.heappush(self._sleepers, sleeper)
        try:
            await sleeper[2].wait()
        finally:
            if sleeper in self._sleepers:  # cancelled
                self._sleepers.remove(sleeper)
                heapq.heapify(self._sleepers)

    def advance(self, seconds: float) -> None:
        """Move the clock, and wake those whose time has come."""
        self._now += seconds
        while self._sleepers and self._sleepers[0][0] <= self._now:
            heapq.heappop(self._sleepers)[2].set()

    def jump(self) -> bool:
        """Move the clock to the next sleeper's time; say whether there was one."""
        if not self._sleepers:
            return False
        self.advance(max(0.0, self._sleepers[0][0] - self._now))
        return True
