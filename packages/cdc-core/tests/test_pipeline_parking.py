"""Parked keys: later events of a poisoned key wait behind it in the dead letters."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import anyio.lowlevel
import pytest
from pipeline_source import ScriptedTransport, event, numbers

from cdc_core import Event, Pipeline, RetryPolicy, RoutingError, TableId

pytestmark = pytest.mark.anyio


class Sink:
    """Fails on what it is told to fail on."""

    def __init__(self, *bad: int) -> None:
        self.bad = set(bad)
        self.handled: list[int] = []

    async def __call__(self, events: Sequence[Event]) -> None:
        await anyio.lowlevel.checkpoint()
        if self.bad & set(numbers(events)):
            raise ValueError("bad row")
        self.handled += numbers(events)


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def parking(
    transport: ScriptedTransport, sink: Sink, *, clock: Clock | None = None, concurrency: int = 1
) -> Pipeline:
    return Pipeline(
        name="t",
        transport=transport,
        handler=sink,
        poisoned_keys="park",
        retry=RetryPolicy(max_attempts=1, initial_delay_seconds=0.001, max_delay_seconds=0.001),
        clock=clock or Clock(),
        concurrency_per_partition=concurrency,
    )


def letters(transport: ScriptedTransport) -> list[tuple[int, bool]]:
    return [(int(letter.value or b"-1"), letter.parked) for letter in transport.letters]


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_later_events_of_a_poisoned_key_wait_behind_it_in_order(concurrency: int) -> None:
    transport, sink = ScriptedTransport(), Sink(0)
    transport.stream.send(event(0, "k"), event(1, "other"), event(2, "k"))
    transport.stream.send(event(3, "k"), event(4, "other"))
    async with parking(transport, sink, concurrency=concurrency).running() as live:
        await transport.stream.until_acked(*range(5))
        assert live.counters.parked == 2
        assert live.counters.dead_lettered == 3
    assert sink.handled == [1, 4]
    assert letters(transport) == [(0, False), (2, True), (3, True)]
    assert transport.letters[1].cause.type == "parked"


async def test_a_parked_key_is_known_again_after_a_restart() -> None:
    transport, sink = ScriptedTransport(), Sink(0)
    transport.stream.send(event(0, "k"))
    value = parking(transport, sink)
    async with value.running():
        await transport.stream.until_acked(0)
    transport.again()
    transport.stream.send(event(1, "k"), event(2, "other"))
    async with value.running():
        await transport.stream.until_acked(1, 2)
    assert letters(transport) == [(0, False), (1, True)]
    assert sink.handled == [2]


async def test_a_key_is_released_when_no_letter_of_it_is_left() -> None:
    transport, sink, clock = ScriptedTransport(), Sink(0), Clock()
    transport.stream.send(event(0, "k"), event(1, "k"))
    async with parking(transport, sink, clock=clock).running():
        await transport.stream.until_acked(0, 1)
        clock.now += 1.0
        transport.stream.send(event(2, "k"))
        await transport.stream.until_acked(2)
        assert letters(transport) == [(0, False), (1, True), (2, True)]
        transport.letters.clear()
        clock.now += 1.0
        transport.stream.send(event(3, "k"))
        await transport.stream.until_acked(3)
    assert sink.handled == [3]


async def test_the_store_is_asked_once_a_batch_for_a_key() -> None:
    transport, sink, clock = ScriptedTransport(), Sink(0), Clock()
    transport.stream.send(event(0, "k"))
    async with parking(transport, sink, clock=clock).running():
        await transport.stream.until_acked(0)
        before = transport.list_calls
        transport.stream.send(*(event(number, "k") for number in range(1, 20)))
        await transport.stream.until_acked(*range(1, 20))
        assert transport.list_calls == before + 1


async def test_a_key_with_a_steady_stream_of_events_is_released_by_a_replay() -> None:
    transport, sink, clock = ScriptedTransport(), Sink(0), Clock()
    transport.stream.send(event(0, "k"))
    async with parking(transport, sink, clock=clock).running():
        await transport.stream.until_acked(0)
        transport.stream.send(event(1, "k"))
        await transport.stream.until_acked(1)
        transport.letters.clear()  # all replayed; no time passes until the next event
        transport.stream.send(event(2, "k"))
        await transport.stream.until_acked(2)
    assert sink.handled == [2]


async def test_a_key_stays_parked_while_its_letter_is_not_stored_yet() -> None:
    transport, sink, clock = ScriptedTransport(), Sink(0), Clock()
    clock.now = 100.0
    transport.stream.send(event(0, "k"), event(1, "k"), event(2, "other"))
    async with parking(transport, sink, clock=clock).running():
        await transport.stream.until_acked(0, 1, 2)
    assert letters(transport) == [(0, False), (1, True)]
    assert sink.handled == [2]


async def test_an_update_of_the_key_is_parked_with_both_keys() -> None:
    transport, sink, clock = ScriptedTransport(), Sink(0), Clock()
    transport.stream.send(event(0, "a"))
    transport.stream.send(event(1, "b", related_key="a"), event(2, "b"), event(3, "c"))
    async with parking(transport, sink, clock=clock).running():
        await transport.stream.until_acked(*range(4))
        assert letters(transport) == [(0, False), (1, True), (2, True)]
        assert sink.handled == [3]
        transport.letters[:] = [letter for letter in transport.letters if letter.id == "1"]
        clock.now += 2.0
        transport.stream.send(event(4, "a"))
        await transport.stream.until_acked(4)
        assert sink.handled == [3], "the update is left, and it occupies a as well"
        transport.letters.clear()
        clock.now += 2.0
        transport.stream.send(event(5, "a"), event(6, "b"))
        await transport.stream.until_acked(5, 6)
        assert sink.handled == [3, 5, 6]


async def test_the_other_key_of_a_stored_update_waits_after_a_restart() -> None:
    transport, sink = ScriptedTransport(), Sink(0)
    transport.stream.send(event(0, "a", related_key="b"))
    value = parking(transport, sink)
    async with value.running():
        await transport.stream.until_acked(0)
    transport.again()
    transport.stream.send(event(1, "b"))
    async with value.running():
        await transport.stream.until_acked(1)
    assert letters(transport) == [(0, False), (1, True)]


async def test_the_same_key_of_another_table_is_not_parked() -> None:
    transport, sink = ScriptedTransport(), Sink(0)
    transport.stream.send(event(0, "k"), event(1, "k", table=TableId("shop", "customers")))
    async with parking(transport, sink).running():
        await transport.stream.until_acked(0, 1)
    assert sink.handled == [1]


async def test_without_a_key_the_table_waits_until_its_letters_without_a_key_are_gone() -> None:
    transport, sink, clock = ScriptedTransport(), Sink(0, 9), Clock()
    transport.stream.send(event(0, None), event(1, "other"), event(2, None))
    transport.stream.send(event(9, "poison"), event(10, "other"))
    async with parking(transport, sink, clock=clock).running():
        await transport.stream.until_acked(0, 1, 2, 9, 10)
        assert sink.handled == [1, 10]
        transport.letters[:] = [letter for letter in transport.letters if letter.key == b"poison"]
        clock.now += 2.0
        transport.stream.send(event(11, None))
        await transport.stream.until_acked(11)
    assert sink.handled == [1, 10, 11]


async def test_parked_events_do_not_count_as_failures_in_a_row() -> None:
    transport, sink = ScriptedTransport(), Sink(0)
    transport.stream.send(*(event(number, "k") for number in range(20)))
    async with parking(transport, sink).running():
        await transport.stream.until_acked(*range(20))
    assert letters(transport) == [(0, False), *((number, True) for number in range(1, 20))]


async def test_parking_waits_for_a_store_that_cannot_be_read() -> None:
    transport, sink = ScriptedTransport(), Sink()
    transport.list_errors = [ConnectionError(), RoutingError("later", retryable=True)]
    transport.stream.send(event(0, "k"))
    async with parking(transport, sink).running():
        await transport.stream.until_acked(0)
    assert transport.list_errors == []
    assert sink.handled == [0]
