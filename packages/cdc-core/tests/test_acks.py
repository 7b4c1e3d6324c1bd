"""The ack tracker commits the end of the contiguous done prefix: never more, and never less than a boundary allows."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cdc_core import AckTracker


class AckTrackerAgainstModel(RuleBasedStateMachine):
    """The model keeps a flag per delivery and walks over all of them each time."""

    def __init__(self) -> None:
        super().__init__()
        self.acks: AckTracker[int] = AckTracker()
        self.flags: list[bool] = []
        self.boundaries: list[int] = []  # boundary i is committable once so many deliveries are done

    def prefix(self) -> int:
        return next((number for number, done in enumerate(self.flags) if not done), len(self.flags))

    @rule(count=st.integers(0, 4))
    def deliver(self, count: int) -> None:
        assert self.acks.deliver(count) == len(self.flags)
        self.flags += [False] * count

    @rule()
    def boundary(self) -> None:
        self.acks.boundary(len(self.boundaries))
        self.boundaries.append(len(self.flags))

    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        first = data.draw(st.integers(0, len(self.flags)))
        count = data.draw(st.integers(0, min(4, len(self.flags) - first)))
        added = self.flags[first : first + count].count(False)
        assert self.acks.done(first, count) == added
        self.flags[first : first + count] = [True] * count

    @invariant()
    def agrees(self) -> None:
        prefix = self.prefix()
        allowed = [token for token, needed in enumerate(self.boundaries) if needed <= prefix]
        assert self.acks.committable == (max(allowed) if allowed else None)
        assert (self.acks.low_water_mark, self.acks.delivered) == (prefix, len(self.flags))
        assert self.acks.in_flight == len(self.flags) - prefix
        assert [self.acks.is_done(number) for number in range(len(self.flags))] == self.flags


TestAckTrackerAgainstModel = AckTrackerAgainstModel.TestCase
TestAckTrackerAgainstModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@given(st.integers(0, 5), st.integers(-3, 8), st.integers(-3, 8))
def test_what_was_never_delivered_cannot_be_done(delivered: int, first: int, count: int) -> None:
    acks: AckTracker[str] = AckTracker()
    acks.deliver(delivered)
    if first >= 0 and count >= 0 and first + count <= delivered:
        assert acks.done(first, count) == count
    else:
        with pytest.raises(ValueError, match="never made"):
            acks.done(first, count)


def test_a_boundary_in_front_of_the_first_delivery_can_be_committed_at_once() -> None:
    acks: AckTracker[str] = AckTracker()
    acks.boundary("start")
    assert acks.committable == "start"


def test_a_delivery_behind_what_is_done_is_not_done() -> None:
    acks: AckTracker[str] = AckTracker()
    acks.deliver(3)
    acks.done(1)
    assert [acks.is_done(number) for number in range(4)] == [False, True, False, False]
