"""Which events may be handled side by side: the plan against a model, in any order of completion."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from pipeline_source import event, numbers

from cdc_core import Event, Operation, TableId
from cdc_core._keys import KeyPlan, Work, keys_of

TABLES = (TableId("shop", "a"), TableId("shop", "b"))


class PlanMachine(RuleBasedStateMachine):
    """Adds batches, takes and finishes work in any order, and checks each taken event against all before it."""

    @initialize(concurrency=st.integers(1, 3))
    def start(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self.plan = KeyPlan(concurrency)
        self.events: list[Event] = []
        self.batches: list[set[int]] = []
        self.under_way: list[Work] = []
        self.taken: set[int] = set()
        self.done: set[int] = set()

    @rule(
        batch=st.lists(
            st.tuples(
                st.sampled_from(["x", "y", "z", None]),
                st.sampled_from(["x", "y", "z", None, None, None]),
                st.sampled_from(TABLES),
                st.sampled_from([Operation.UPDATE] * 8 + [Operation.TRUNCATE, Operation.MESSAGE]),
            ),
            min_size=1,
            max_size=12,
        )
    )
    def add(self, batch: list[tuple[str | None, str | None, TableId, Operation]]) -> None:
        first = len(self.events)
        made = [
            event(first + i, key, related_key=related, table=table, op=op)
            for i, (key, related, table, op) in enumerate(batch)
        ]
        assert self.plan.add(made) == len(self.batches)
        self.events += made
        self.batches.append(set(numbers(made)))

    @precondition(lambda self: self.plan.has_ready and len(self.under_way) < self.concurrency)
    @rule()
    def take(self) -> None:
        work = self.plan.take()
        assert work is not None
        taken = numbers(work.events)
        assert taken == sorted(taken), "in the order of the stream"
        assert set(taken) <= self.batches[work.batch]
        for number in taken:
            for earlier in range(number):
                if earlier not in self.done and must_wait(self.events[earlier], self.events[number]):
                    assert earlier in taken, f"{number} overtakes {earlier}"
                    assert not self.events[number].is_barrier
        assert not self.taken & set(taken), "taken once"
        self.taken |= set(taken)
        self.under_way.append(work)

    @precondition(lambda self: bool(self.under_way))
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        work = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        self.done |= set(numbers(work.events))
        assert self.plan.finish(work) == (self.batches[work.batch] <= self.done)

    @invariant()
    def something_can_go_on(self) -> None:
        if len(self.done) < len(self.events):
            assert self.under_way or self.plan.has_ready

    @invariant()
    def only_unfinished_batches_are_kept(self) -> None:
        assert self.plan.unfinished_batches == sum(not batch <= self.done for batch in self.batches)


def must_wait(earlier: Event, later: Event) -> bool:
    return earlier.is_barrier or later.is_barrier or bool(set(keys_of(earlier)) & set(keys_of(later)))


TestPlan = pytest.mark.slow(PlanMachine.TestCase)
TestPlan.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def take_all(plan: KeyPlan) -> list[list[int]]:
    taken: list[list[int]] = []
    while (work := plan.take()) is not None:
        taken.append(numbers(work.events))
    return taken


def plan_of(events: Sequence[Event], *, concurrency: int = 8) -> KeyPlan:
    plan = KeyPlan(concurrency)
    plan.add(events)
    return plan


def test_different_keys_go_side_by_side_and_one_key_stays_in_order() -> None:
    plan = plan_of([event(0, "a"), event(1, "b"), event(2, "a")])
    assert take_all(plan) == [[0, 2], [1]]


def test_events_without_a_key_are_one_key_per_table() -> None:
    a, b = TABLES
    plan = plan_of([event(0, None, table=a), event(1, None, table=b), event(2, None, table=a)])
    assert take_all(plan) == [[0, 2], [1]]


def test_the_same_key_of_two_tables_is_two_keys() -> None:
    a, b = TABLES
    assert take_all(plan_of([event(0, "k", table=a), event(1, "k", table=b)])) == [[0], [1]]


def test_an_update_of_the_key_occupies_both() -> None:
    plan = plan_of([event(0, "a"), event(1, "b"), event(2, "b", related_key="a"), event(3, "c")])
    assert take_all(plan) == [[0, 1, 2], [3]]


@pytest.mark.parametrize("op", [Operation.TRUNCATE, Operation.MESSAGE])
def test_a_barrier_is_taken_when_all_before_it_is_done_and_nothing_passes_it(op: Operation) -> None:
    plan = plan_of([event(0, "a"), event(1, "b"), event(2, "c", op=op), event(3, "d")])
    first, second = plan.take(), plan.take()
    assert first is not None
    assert second is not None
    assert plan.take() is None
    plan.finish(first)
    assert plan.take() is None
    plan.finish(second)
    barrier = plan.take()
    assert barrier is not None
    assert numbers(barrier.events) == [2]
    assert plan.take() is None
    plan.finish(barrier)
    assert take_all(plan) == [[3]]


def test_a_key_waits_for_its_events_of_an_earlier_batch() -> None:
    plan = KeyPlan(8)
    plan.add([event(0, "a")])
    plan.add([event(1, "a"), event(2, "b")])
    first = plan.take()
    assert first is not None
    assert take_all(plan) == [[2]]
    plan.finish(first)
    assert take_all(plan) == [[1]]


def test_far_more_keys_than_calls_are_not_called_one_by_one() -> None:
    plan = plan_of([event(number, str(number)) for number in range(4096)], concurrency=8)
    pieces = take_all(plan)
    assert sorted(number for piece in pieces for number in piece) == list(range(4096))
    assert len(pieces) < 250
    assert max(map(len, pieces)) <= 4096 // 32
