"""Repeats are dropped per epoch and lane; none that is not surely done, and none that waits is overtaken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import anyio
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cdc_core import (
    Admission,
    ChangeIdentity,
    DropRepeats,
    Epoch,
    Event,
    Identity,
    Lane,
    OpaqueIdentity,
    Operation,
    RepeatFilter,
    SnapshotIdentity,
    drop_repeats,
    split_runs,
)

EPOCH = Epoch("1", 1, "shop", "f")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@dataclass(frozen=True)
class At:
    number: int = 0


def make_event(
    number: int = 0,
    *,
    lane: str | None = "lane",
    epoch: Epoch = EPOCH,
    identity: Identity | None = None,
    replayed: bool = False,
) -> Event:
    return Event(
        key=None,
        value=b"",
        op=Operation.CREATE,
        table=None,
        position=At(number),
        identity=identity or ChangeIdentity(epoch, number // 3, number % 3),
        lane=None if lane is None else Lane(lane),
        replayed=replayed,
    )


def test_a_repeat_of_a_done_event_is_done_and_of_an_open_one_is_open() -> None:
    repeats = RepeatFilter()
    assert repeats.admit(make_event(1)) is Admission.NEW
    assert repeats.admit(make_event(1)) is Admission.OPEN
    repeats.done(make_event(1))
    assert repeats.admit(make_event(1)) is Admission.DONE


def test_the_mark_does_not_pass_an_event_that_was_given_up() -> None:
    repeats = RepeatFilter()
    for number in (1, 2, 3):
        repeats.deliver(make_event(number))
        repeats.admit(make_event(number))
    repeats.done(make_event(2))
    repeats.abandon(make_event(1))
    repeats.done(make_event(3))
    found = [repeats.admit(make_event(number)) for number in (1, 2, 3)]
    assert found == [Admission.NEW, Admission.DONE, Admission.DONE]


def test_an_event_done_before_its_predecessor_was_looked_at_does_not_hide_it() -> None:
    told, untold = RepeatFilter(), RepeatFilter()
    for number in (1, 2):
        told.deliver(make_event(number))
    for repeats in (told, untold):
        repeats.admit(make_event(2))
        repeats.done(make_event(2))
        assert repeats.admit(make_event(1)) is Admission.NEW


def test_in_order_only_a_mark_is_remembered() -> None:
    repeats = RepeatFilter()
    for number in range(1000):
        repeats.deliver(make_event(number))
        repeats.admit(make_event(number))
        repeats.done(make_event(number))
    assert repeats.known == 0
    assert repeats.admit(make_event(0)) is Admission.DONE


@pytest.mark.parametrize(
    "event",
    [
        make_event(lane=None),
        make_event(identity=OpaqueIdentity("x")),
        make_event(identity=SnapshotIdentity("run", "shop.orders", 0, 0)),
        make_event(replayed=True),
    ],
)
def test_an_event_without_a_lane_or_a_comparable_identity_is_never_a_repeat(event: Event) -> None:
    repeats = RepeatFilter()
    for _ in range(3):
        assert repeats.admit(event) is Admission.NEW
        repeats.done(event)


def test_epochs_and_lanes_are_apart() -> None:
    repeats = RepeatFilter()
    others = [make_event(5, lane="other"), make_event(5, epoch=Epoch("1", 2, "shop", "f"))]
    repeats.admit(make_event(5))
    repeats.done(make_event(5))
    assert [repeats.admit(event) for event in others] == [Admission.NEW] * 2


def test_an_event_in_the_dead_letters_is_done_whether_or_not_it_was_admitted() -> None:
    repeats = RepeatFilter()
    repeats.done(make_event(4))
    assert repeats.admit(make_event(4)) is Admission.DONE
    assert repeats.admit(make_event(3)) is Admission.NEW
    assert repeats.admit(make_event(5)) is Admission.NEW


def test_what_is_remembered_is_bounded_and_forgetting_only_lets_repeats_pass() -> None:
    repeats = RepeatFilter(max_lanes=2, max_known=10)
    for number in range(100):
        repeats.deliver(make_event(number))
        repeats.admit(make_event(number))
        if number:
            repeats.done(make_event(number))
        assert repeats.known <= 10
    assert repeats.admit(make_event(0)) is Admission.OPEN
    assert repeats.admit(make_event(1)) is Admission.NEW
    assert repeats.admit(make_event(99)) is Admission.DONE
    for lane in ("a", "b", "c"):
        repeats.admit(make_event(1, lane=lane))
        repeats.done(make_event(1, lane=lane))
    assert repeats.admit(make_event(1, lane="a")) is Admission.NEW
    assert repeats.admit(make_event(0)) is Admission.OPEN, "a lane with something open is not forgotten"


@pytest.mark.parametrize("limits", [{"max_lanes": 1}, {"max_known": 4}])
def test_forgetting_never_hides_an_event_that_was_delivered_and_not_handled(limits: dict[str, int]) -> None:
    repeats = RepeatFilter(**limits)
    for number in range(10):
        repeats.deliver(make_event(number))
    repeats.deliver(make_event(0, lane="other"))
    for number in range(5, 20):
        repeats.deliver(make_event(number))
        repeats.admit(make_event(number))
        repeats.done(make_event(number))
    assert repeats.known <= 20
    assert [repeats.admit(make_event(number)) for number in range(5)] == [Admission.NEW] * 5


class RepeatFilterAgainstModel(RuleBasedStateMachine):
    """A source that replays from anywhere at or before the first event that is not done, handled in any order."""

    tells_deliveries = True

    def __init__(self) -> None:
        super().__init__()
        self.repeats = RepeatFilter()
        self.next = 0
        self.delivered = 0
        self.waiting: list[int] = []  # delivered, and in no call yet
        self.open: set[int] = set()
        self.done: set[int] = set()

    def first_not_done(self) -> int:
        return next(number for number in range(self.delivered + 1) if number not in self.done)

    @rule()
    def deliver(self) -> None:
        number, self.next = self.next, self.next + 1
        self.delivered = max(self.delivered, self.next)
        self.waiting.append(number)
        if self.tells_deliveries:
            self.repeats.deliver(make_event(number))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def admit(self, data: st.DataObject) -> None:
        number = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        expected = (
            Admission.DONE
            if number in self.done
            else Admission.OPEN
            if number in self.open
            else Admission.NEW
        )
        assert self.repeats.admit(make_event(number)) is expected
        if expected is Admission.NEW:
            self.open.add(number)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), handled=st.booleans())
    def settle(self, data: st.DataObject, handled: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.open)))
        self.open.discard(number)
        if handled:
            self.repeats.done(make_event(number))
            self.done.add(number)
        else:
            self.repeats.abandon(make_event(number))

    @rule(data=st.data(), lost=st.booleans())
    def replay(self, data: st.DataObject, lost: bool) -> None:
        self.next = data.draw(st.integers(0, self.first_not_done()))
        if lost:
            self.waiting.clear()

    @rule(data=st.data())
    def dead_letter(self, data: st.DataObject) -> None:
        given_up = [number for number in range(self.delivered) if number not in self.open | self.done]
        if given_up:
            number = data.draw(st.sampled_from(given_up))
            self.repeats.done(make_event(number))
            self.done.add(number)

    @invariant()
    def nothing_below_the_first_that_is_not_done_is_remembered(self) -> None:
        if self.tells_deliveries:
            assert self.repeats.known == self.delivered - min(self.first_not_done(), self.delivered)


class UntoldRepeatFilterAgainstModel(RepeatFilterAgainstModel):
    tells_deliveries = False


TestUntoldRepeatFilterAgainstModel = UntoldRepeatFilterAgainstModel.TestCase
TestUntoldRepeatFilterAgainstModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestRepeatFilterAgainstModel = RepeatFilterAgainstModel.TestCase
TestRepeatFilterAgainstModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


class Sink:
    """A handler that holds an event until told, fails on demand, and notes what it was given."""

    def __init__(self) -> None:
        self.handled: list[int] = []
        self.started: list[int] = []
        self.holding: dict[int, anyio.Event] = {}
        self.failing: set[int] = set()

    async def __call__(self, events: Sequence[Event]) -> None:
        numbers = [event.position.number for event in events if isinstance(event.position, At)]
        self.started += numbers
        for number in numbers:
            if number in self.holding:
                await self.holding[number].wait()
            if number in self.failing:
                raise ValueError("on demand")
        self.handled += numbers


async def until_all_wait() -> None:
    await anyio.wait_all_tasks_blocked()


@pytest.mark.anyio
async def test_a_handler_gets_each_event_once() -> None:
    sink = Sink()
    handler = drop_repeats(sink)
    await handler([make_event(1), make_event(2), make_event(1)])
    await handler([make_event(2), make_event(3)])
    await handler([make_event(1)])
    assert sink.handled == [1, 2, 3]


@pytest.mark.anyio
async def test_a_repeat_of_an_open_event_waits_for_it_and_nothing_overtakes_the_wait() -> None:
    sink = Sink()
    sink.holding[2] = anyio.Event()
    handler = drop_repeats(sink)
    ended: list[str] = []

    async def repeat() -> None:
        await handler([make_event(1), make_event(2), make_event(3)])
        ended.append("repeat")

    async with anyio.create_task_group() as group:
        group.start_soon(handler, [make_event(2)])
        await until_all_wait()
        group.start_soon(repeat)
        await until_all_wait()
        assert (sink.handled, ended) == ([1], [])
        sink.holding[2].set()
    assert (sink.handled, ended) == ([1, 2, 3], ["repeat"])


@pytest.mark.anyio
async def test_a_repeat_of_an_event_that_failed_is_handled_instead() -> None:
    sink = Sink()
    handler = drop_repeats(sink)
    sink.holding[1] = anyio.Event()

    async def original() -> None:
        with pytest.raises(ValueError, match="on demand"):
            await handler([make_event(1)])
        sink.failing.clear()

    async with anyio.create_task_group() as group:
        sink.failing.add(1)
        group.start_soon(original)
        await until_all_wait()
        group.start_soon(handler, [make_event(1), make_event(2)])
        await until_all_wait()
        assert sink.started == [1]
        sink.failing.add(1)
        sink.holding[1].set()
    assert sink.handled == [1, 2]


@pytest.mark.anyio
async def test_a_repeat_of_an_event_whose_call_was_cancelled_is_handled_instead() -> None:
    sink = Sink()
    handler = drop_repeats(sink)
    sink.holding[1] = anyio.Event()
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(handler, [make_event(1)])
            await until_all_wait()
            scope.cancel()
    sink.holding[1].set()
    await handler([make_event(1)])
    assert sink.handled == [1]


@pytest.mark.anyio
async def test_two_calls_with_each_others_events_do_not_wait_for_each_other() -> None:
    sink = Sink()
    handler = drop_repeats(sink)
    sink.holding = {1: anyio.Event(), 2: anyio.Event()}
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(handler, [make_event(1), make_event(2)])
            group.start_soon(handler, [make_event(2), make_event(1)])
            await until_all_wait()
            sink.holding[1].set()
            sink.holding[2].set()
    assert sorted(sink.handled) == [1, 2]


@pytest.mark.anyio
async def test_a_failed_call_is_retried_whole_and_a_dead_letter_is_not_handled_again() -> None:
    sink = Sink()
    handler = drop_repeats(sink)
    sink.failing.add(2)
    with pytest.raises(ValueError, match="on demand"):
        await handler([make_event(1), make_event(2), make_event(3)])
    sink.failing.clear()
    for number in (1, 3):
        await handler([make_event(number)])
    handler.settled([make_event(2)])
    await handler([make_event(number) for number in (1, 2, 3, 4)])
    assert sink.handled == [1, 3, 4]


def test_the_runs_are_those_of_the_wrapped_handler() -> None:
    class Pairs:
        async def __call__(self, events: Sequence[Event]) -> None: ...

        def runs(self, events: Sequence[Event]):  # type: ignore[no-untyped-def]
            yield events[:2]
            yield events[2:]

    events = [make_event(number) for number in range(3)]
    assert [len(run) for run in split_runs(drop_repeats(Pairs()), events)] == [2, 1]
    handler: DropRepeats = drop_repeats(Sink())
    assert [len(run) for run in split_runs(handler, events)] == [3]
