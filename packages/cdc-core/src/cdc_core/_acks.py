"""Contiguous acknowledgement: events are done in any order, only the done prefix is committed. No I/O, no clock."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from typing import Generic, TypeVar, final

Token = TypeVar("Token")


@final
class AckTracker(Generic[Token]):
    """Tracks what of one partition (or lane) is done, and which commit point that allows.

    Deliveries are numbered from 0 in their order. A boundary is a commit point between deliveries: it becomes
    committable when every delivery before it is done. Where single events can be committed, mark a boundary behind
    each; a slot marks one at each end of a transaction.

    >>> acks: AckTracker[str] = AckTracker()
    >>> acks.deliver(2)
    0
    >>> acks.boundary("0/10")
    >>> acks.done(1)
    1
    >>> acks.committable is None
    True
    >>> acks.done(0)
    1
    >>> acks.committable
    '0/10'
    """

    def __init__(self) -> None:
        self._delivered = 0
        self._low_water_mark = 0
        self._boundaries: deque[tuple[int, Token]] = deque()
        self._committable: Token | None = None
        # Done ranges above the low-water mark, ascending, disjoint and not touching: range i is starts[i]..ends[i]-1.
        self._starts: list[int] = []
        self._ends: list[int] = []

    @property
    def delivered(self) -> int:
        """How many deliveries there were."""
        return self._delivered

    @property
    def low_water_mark(self) -> int:
        """The number of the first delivery that is not done."""
        return self._low_water_mark

    @property
    def in_flight(self) -> int:
        """How many deliveries stand at or behind the low-water mark, done ones among them."""
        return self._delivered - self._low_water_mark

    @property
    def committable(self) -> Token | None:
        """The last boundary before which all is done; None before the first."""
        return self._committable

    def deliver(self, count: int = 1) -> int:
        """Number `count` new deliveries, and return the first one's number."""
        first = self._delivered
        self._delivered += count
        return first

    def boundary(self, token: Token) -> None:
        """Mark a commit point behind the last delivery."""
        if self._low_water_mark == self._delivered:
            self._committable = token
        else:
            self._boundaries.append((self._delivered, token))

    def done(self, first: int, count: int = 1) -> int:
        """Record that `count` deliveries from number `first` on are done; return how many were not before.

        Raises:
            ValueError: a number was never delivered.
        """
        end = first + count
        if first < 0 or count < 0 or end > self._delivered:
            raise ValueError(f"deliveries {first}..{end - 1} of {self._delivered} were never made")
        first = max(first, self._low_water_mark)
        if first >= end:
            return 0
        added = self._merge(first, end)
        self._advance()
        return added

    def is_done(self, number: int) -> bool:
        """Say whether a delivery is done."""
        if number < self._low_water_mark:
            return True
        index = bisect_right(self._starts, number) - 1
        return index >= 0 and number < self._ends[index]

    def _merge(self, first: int, end: int) -> int:
        if first == self._low_water_mark and not self._ends:  # the usual case: in order
            self._low_water_mark = end
            return end - first
        low, high = bisect_left(self._ends, first), bisect_right(self._starts, end)  # the ranges it touches
        added = end - first
        for start, stop in zip(self._starts[low:high], self._ends[low:high], strict=True):
            added -= max(0, min(stop, end) - max(start, first))
        if low < high:
            first, end = min(first, self._starts[low]), max(end, self._ends[high - 1])
        self._starts[low:high] = [first]
        self._ends[low:high] = [end]
        return added

    def _advance(self) -> None:
        if self._starts and self._starts[0] == self._low_water_mark:
            self._low_water_mark = self._ends[0]
            del self._starts[0], self._ends[0]
        while self._boundaries and self._boundaries[0][0] <= self._low_water_mark:
            self._committable = self._boundaries.popleft()[1]
