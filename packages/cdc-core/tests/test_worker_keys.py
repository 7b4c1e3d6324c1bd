"""Several keys of a partition at a time, in a running pipeline."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import anyio
import anyio.lowlevel
import pytest
from pipeline_source import ScriptedTransport, event, numbers

from cdc_core import Event, HandlerFailing, Operation, Pipeline, RetryPolicy, Transient
from cdc_core._keys import keys_of
from cdc_core._worker import MAX_BATCHES_IN_HAND

pytestmark = pytest.mark.anyio


class Sink:
    """Remembers what runs beside what; a call of certain events waits until it is let go, others may fail."""

    def __init__(self, *held: int, failing: Callable[[Sequence[Event]], bool] = lambda events: False) -> None:
        self.held = set(held)
        self.failing = failing
        self.started: list[int] = []
        self.handled: list[int] = []
        self.running: list[Sequence[Event]] = []
        self.most_running = 0
        self.overlaps: list[tuple[list[int], list[int]]] = []
        self.changed = anyio.Event()

    async def __call__(self, events: Sequence[Event]) -> None:
        self.overlaps += [(numbers(other), numbers(events)) for other in self.running if clash(other, events)]
        self.running.append(events)
        self.most_running = max(self.most_running, len(self.running))
        self.started += numbers(events)
        self.notify()
        try:
            for _ in range(random.Random(events[0].delivery).randrange(4)):
                await anyio.lowlevel.checkpoint()
            while self.held & set(numbers(events)):
                await self.wait()
            if self.failing(events):
                raise ValueError("bad row")
            self.handled += numbers(events)
        finally:
            self.running.remove(events)
            self.notify()

    def notify(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()

    async def wait(self) -> None:
        await self.changed.wait()

    async def until_started(self, *wanted: int) -> None:
        with anyio.fail_after(5):
            while not set(wanted) <= set(self.started):
                await self.wait()

    def let_go(self) -> None:
        self.held.clear()
        self.notify()


def clash(left: Sequence[Event], right: Sequence[Event]) -> bool:
    keys = {key for one in left for key in keys_of(one)}
    return any(one.is_barrier for one in (*left, *right)) or any(set(keys_of(one)) & keys for one in right)


def many(transport: ScriptedTransport, sink: Sink, concurrency: int = 4, *, park: bool = False) -> Pipeline:
    return Pipeline(
        name="t",
        transport=transport,
        handler=sink,
        concurrency_per_partition=concurrency,
        retry=RetryPolicy(max_attempts=2, initial_delay_seconds=0.001, max_delay_seconds=0.001),
        poisoned_keys="park" if park else "proceed",
    )


async def until_all_blocked() -> None:
    """Let everything run that can: nothing here waits for a clock."""
    for _ in range(200):
        await anyio.lowlevel.checkpoint()


async def test_another_key_goes_on_while_one_is_slow() -> None:
    transport, sink = ScriptedTransport(), Sink(0)
    transport.stream.send(event(0, "slow"), event(1, "a"), event(2, "slow"), event(3, "b"))
    async with many(transport, sink).running():
        await transport.stream.until_acked(1, 3)
        assert sorted(sink.handled) == [1, 3]
        sink.let_go()
        await transport.stream.until_acked(0, 2)


async def test_no_more_than_n_calls_run_at_once() -> None:
    transport, sink = ScriptedTransport(), Sink(*range(10))
    transport.stream.send(*(event(number, str(number)) for number in range(10)))
    async with many(transport, sink, 3).running():
        await sink.until_started(0, 1, 2)
        await until_all_blocked()
        assert sink.most_running == 3
        sink.let_go()
        await transport.stream.until_acked(*range(10))
    assert sink.most_running == 3


async def test_a_key_of_a_later_batch_goes_on_while_an_earlier_batch_is_unfinished() -> None:
    transport, sink = ScriptedTransport(), Sink(0)
    transport.stream.send(event(0, "slow"))
    transport.stream.send(event(1, "a"), event(2, "slow"))
    async with many(transport, sink).running():
        await transport.stream.until_acked(1)
        await until_all_blocked()
        assert 2 not in sink.started
        sink.let_go()
        await transport.stream.until_acked(0, 2)


async def test_a_slow_key_bounds_the_batches_in_hand() -> None:
    transport, sink = ScriptedTransport(), Sink(0)
    transport.stream.send(event(0, "slow"))
    for number in range(1, 20):
        transport.stream.send(event(number, str(number)))
    async with many(transport, sink).running():
        await transport.stream.until_acked(*range(1, MAX_BATCHES_IN_HAND))
        await until_all_blocked()
        assert len(sink.started) == MAX_BATCHES_IN_HAND
        sink.let_go()
        await transport.stream.until_acked(*range(20))


@pytest.mark.parametrize("op", [Operation.TRUNCATE, Operation.MESSAGE])
async def test_a_barrier_waits_for_all_before_it_and_all_behind_wait_for_it(op: Operation) -> None:
    transport, sink = ScriptedTransport(), Sink(0, 2)
    transport.stream.send(event(0, "a"), event(1, "b"), event(2, "c", op=op), event(3, "d"))
    async with many(transport, sink).running():
        await transport.stream.until_acked(1)
        await until_all_blocked()
        assert 2 not in sink.started
        sink.held.remove(0)
        sink.notify()
        await sink.until_started(2)
        await until_all_blocked()
        assert 3 not in sink.started
        sink.let_go()
        await transport.stream.until_acked(*range(4))


@pytest.mark.parametrize("seed", range(10))
async def test_no_two_events_of_a_key_overlap_or_change_their_order(seed: int) -> None:
    chance = random.Random(seed)
    transport, sink = ScriptedTransport(), Sink()
    sent: list[Event] = []
    for _ in range(12):
        batch = [
            event(
                len(sent) + i,
                chance.choice(["a", "b", "c", "d", None]),
                related_key=chance.choice(["a", "b", None, None, None, None]),
                op=chance.choice([Operation.UPDATE] * 15 + [Operation.TRUNCATE]),
            )
            for i in range(chance.randrange(1, 30))
        ]
        transport.stream.send(*batch)
        sent += batch
    async with many(transport, sink).running():
        await transport.stream.until_acked(*range(len(sent)))
    assert sink.overlaps == []
    assert sorted(sink.handled) == list(range(len(sent)))
    place = {number: i for i, number in enumerate(sink.handled)}
    for later, one in enumerate(sent):
        for earlier in range(later):
            if clash([sent[earlier]], [one]):
                assert place[earlier] < place[later]


async def test_poison_of_one_key_leaves_the_others_alone() -> None:
    transport = ScriptedTransport()
    sink = Sink(failing=lambda events: 2 in numbers(events))
    transport.stream.send(*(event(number, str(number % 3)) for number in range(9)))
    async with many(transport, sink).running():
        await transport.stream.until_acked(*range(9))
    assert [letter.value for letter in transport.letters] == [b"2"]
    assert sorted(sink.handled) == [0, 1, 3, 4, 5, 6, 7, 8]


async def test_failures_are_counted_in_the_order_of_the_stream_and_not_of_the_calls() -> None:
    transport = ScriptedTransport()
    bad = {1, 3, 5, 7}
    sink = Sink(failing=lambda events: bool(bad & set(numbers(events))))
    transport.stream.send(*(event(number, str(number)) for number in range(9)))
    async with many(
        transport, sink, 9
    ).running():  # the good ones succeed at once, the bad ones are decided after
        await transport.stream.until_acked(*range(9))
    assert {letter.value for letter in transport.letters} == {b"1", b"3", b"5", b"7"}


async def test_three_neighbours_that_fail_end_the_pipeline_with_many_keys_too() -> None:
    transport = ScriptedTransport()
    bad = {1, 2, 3}
    sink = Sink(failing=lambda events: bool(bad & set(numbers(events))))
    transport.stream.send(*(event(number, str(number)) for number in range(6)))
    with pytest.raises(HandlerFailing):
        await many(transport, sink).run()
    assert transport.letters == []
    assert not bad & set(transport.stream.acked)


async def test_a_broken_handler_ends_the_pipeline_after_three_keys_and_not_after_the_batch() -> None:
    transport, sink = ScriptedTransport(), Sink(failing=lambda events: True)
    transport.stream.send(*(event(number, str(number)) for number in range(200)))
    with pytest.raises(HandlerFailing):
        await many(transport, sink, 2).run()
    assert transport.letters == []
    assert transport.stream.acked == []
    assert len(set(sink.started)) < 100


async def test_a_key_whose_sink_is_down_does_not_stop_the_others() -> None:
    transport, sink = ScriptedTransport(), Sink()
    down = True

    async def handle(events: Sequence[Event]) -> None:
        if down and 0 in numbers(events):
            raise Transient
        await sink(events)

    transport.stream.send(event(0, "a"), event(1, "b"), event(2, "a"))
    value = Pipeline(
        name="t",
        transport=transport,
        handler=handle,
        concurrency_per_partition=2,
        retry=RetryPolicy(initial_delay_seconds=0.001, max_delay_seconds=0.001),
    )
    async with value.running() as live:
        await transport.stream.until_acked(1)
        assert not live.health.ready
        down = False
        await transport.stream.until_acked(0, 2)
    assert sink.handled == [1, 0, 2]


async def test_draining_finishes_what_is_in_hand_of_all_keys() -> None:
    transport, sink = ScriptedTransport(), Sink(0, 1, 2, 3)
    transport.stream.send(*(event(number, str(number)) for number in range(4)))
    async with many(transport, sink, 2).running() as live:
        await sink.until_started(0, 1)
        live.stop()
        sink.let_go()
    assert sorted(transport.stream.acked) == [0, 1, 2, 3]


async def test_losing_the_partition_cancels_the_calls_of_all_keys() -> None:
    transport, sink = ScriptedTransport(), Sink(0, 1)
    transport.stream.send(event(0, "a"), event(1, "b"))
    async with many(transport, sink).running() as live:
        await sink.until_started(0, 1)
        transport.stream.lose()
        await transport.stream.scope.finished.wait()
        assert sink.running == []
        await until_all_blocked()
        assert live.counters.partitions_lost == 1
        assert live.health.ready


async def test_a_late_acknowledgement_ends_the_calls_of_the_other_keys() -> None:
    transport, sink = ScriptedTransport(), Sink(0, 1)
    transport.stream.send(event(0, "a"), event(1, "b"))
    async with many(transport, sink).running() as live:
        await sink.until_started(0, 1)
        transport.stream.lost = True
        sink.held.remove(0)
        sink.notify()
        await transport.stream.scope.finished.wait()
        assert sink.handled == [0]
        await until_all_blocked()
        assert live.counters.partitions_lost == 1
