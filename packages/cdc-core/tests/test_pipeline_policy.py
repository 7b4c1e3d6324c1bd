"""What a failing handler leads to: retries, isolation, routing, and the end of the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio
import anyio.lowlevel
import pytest
from pipeline_source import ScriptedTransport, event, numbers

from cdc_core import (
    CommitPrefix,
    Event,
    HandlerFailing,
    Pipeline,
    Poison,
    RetryPolicy,
    RoutingError,
    Transient,
)

pytestmark = pytest.mark.anyio

Failing = Callable[[Sequence[Event]], Exception | None]


class Calls:
    """A handler that remembers each call, and fails as it is told."""

    def __init__(self, failing: Failing) -> None:
        self.failing = failing
        self.calls: list[list[int]] = []
        self.handled: list[int] = []

    async def __call__(self, events: Sequence[Event]) -> None:
        await anyio.lowlevel.checkpoint()
        self.calls.append(numbers(events))
        if (error := self.failing(events)) is not None:
            raise error
        self.handled += numbers(events)


def fails_on(*bad: int) -> Failing:
    return lambda events: ValueError("bad row") if set(bad) & set(numbers(events)) else None


def policy(
    transport: ScriptedTransport, handler: Calls, *, max_attempts: int = 2, concurrency: int = 1
) -> Pipeline:
    return Pipeline(
        name="t",
        transport=transport,
        handler=handler,
        retry=RetryPolicy(
            max_attempts=max_attempts,
            initial_delay_seconds=0.001,
            max_delay_seconds=0.001,
            transient=(KeyError,),
        ),
        concurrency_per_partition=concurrency,
    )


async def run_until_acked(pipeline: Pipeline, transport: ScriptedTransport, *wanted: int) -> None:
    with anyio.fail_after(10):
        async with pipeline.running():
            await transport.stream.until_acked(*wanted)


def letters(transport: ScriptedTransport) -> list[int]:
    return [int(letter.value or b"-1") for letter in transport.letters]


@pytest.mark.parametrize("error", [Transient(), ConnectionError(), TimeoutError(), KeyError("by the policy")])
async def test_a_sink_that_is_down_is_waited_for_and_nothing_is_dead_lettered(error: Exception) -> None:
    transport = ScriptedTransport()
    down = [error] * 50
    calls = Calls(lambda events: down.pop() if down else None)
    transport.stream.send(event(0), event(1))
    await run_until_acked(policy(transport, calls, max_attempts=1), transport, 0, 1)
    assert len(calls.calls) == 51
    assert transport.letters == []


async def test_health_is_bad_while_the_sink_is_down_and_good_after() -> None:
    transport = ScriptedTransport()
    is_down = True
    calls = Calls(lambda events: ConnectionError() if is_down else None)
    transport.stream.send(event(0))
    async with policy(transport, calls).running() as live:
        while len(calls.calls) < 2:
            await anyio.lowlevel.checkpoint()
        health = live.health
        assert not health.ready
        failed = next(check for check in health.checks if check.name == "progress test/p")
        assert "ConnectionError" in failed.why
        assert failed.since is not None
        is_down = False
        await transport.stream.until_acked(0)
        assert live.health.ready


async def test_an_error_that_goes_away_within_the_attempts_is_retried_with_the_whole_run() -> None:
    transport = ScriptedTransport()
    errors = [ValueError(), ValueError()]
    calls = Calls(lambda events: errors.pop() if errors else None)
    transport.stream.send(event(0), event(1))
    await run_until_acked(policy(transport, calls, max_attempts=3), transport, 0, 1)
    assert calls.calls == [[0, 1]] * 3
    assert transport.letters == []


@pytest.mark.parametrize("bad", range(5))
async def test_the_one_event_that_fails_is_found_while_its_neighbours_succeed(bad: int) -> None:
    transport = ScriptedTransport()
    calls = Calls(fails_on(bad))
    transport.stream.send(*(event(number) for number in range(5)))
    await run_until_acked(policy(transport, calls), transport, *range(5))
    assert calls.calls[:2] == [[0, 1, 2, 3, 4]] * 2
    subsets = [tuple(call) for call in calls.calls[2:]]
    assert len(subsets) == len(set(subsets)), "one attempt per subset"
    assert calls.handled == [number for number in range(5) if number != bad]
    assert letters(transport) == [bad]


async def test_the_dead_letter_says_why_and_how_often() -> None:
    transport = ScriptedTransport()
    calls = Calls(fails_on(1))
    transport.stream.send(event(0), event(1))
    await run_until_acked(policy(transport, calls), transport, 0, 1)
    letter = transport.letters[0]
    assert (letter.cause.type, letter.cause.message) == ("ValueError", "bad row")
    assert letter.attempts == 3  # twice with its neighbour, once alone
    assert letter.pipeline == "t"
    assert letter.failed_at.tzinfo is not None
    assert not letter.parked


async def test_credentials_in_what_the_sink_said_do_not_reach_the_dead_letter() -> None:
    transport = ScriptedTransport()
    calls = Calls(lambda events: ValueError("postgresql://app:hunter2@db/shop refused"))
    transport.stream.send(event(0))
    await run_until_acked(policy(transport, calls), transport, 0)
    assert "hunter2" not in transport.letters[0].cause.message


async def test_successes_of_a_bisection_are_acknowledged_as_they_come() -> None:
    transport = ScriptedTransport()
    acked: list[list[int]] = []

    def failing(events: Sequence[Event]) -> Exception | None:
        acked.append(list(transport.stream.acked))
        return ValueError() if 3 in numbers(events) else None

    transport.stream.send(*(event(number) for number in range(4)))
    await run_until_acked(policy(transport, Calls(failing)), transport, *range(4))
    assert acked[-1] == [0, 1, 2]


async def test_a_later_event_of_a_key_is_not_handled_before_an_earlier_one_is_decided() -> None:
    transport = ScriptedTransport()
    calls = Calls(fails_on(2, 5))
    transport.stream.send(*(event(number, "same") for number in range(8)))
    await run_until_acked(policy(transport, calls), transport, *range(8))
    decided: list[int] = []
    for call in calls.calls[2:]:
        assert all(number in decided for number in range(call[0]))
        if len(call) == 1 or set(call) <= set(calls.handled):
            decided += call
    assert calls.handled == [0, 1, 3, 4, 6, 7]


async def test_poison_named_by_the_handler_is_set_aside_without_another_attempt() -> None:
    transport = ScriptedTransport()

    def failing(events: Sequence[Event]) -> Exception | None:
        return next((Poison("no such customer", event=one) for one in events if numbers([one]) == [2]), None)

    calls = Calls(failing)
    transport.stream.send(*(event(number) for number in range(5)))
    await run_until_acked(policy(transport, calls, max_attempts=5), transport, *range(5))
    assert calls.calls == [[0, 1, 2, 3, 4], [0, 1], [3, 4]]
    assert letters(transport) == [2]
    assert transport.letters[0].cause.message == "no such customer"
    assert transport.letters[0].attempts == 1


async def test_poison_is_found_in_an_exception_group() -> None:
    transport = ScriptedTransport()

    def failing(events: Sequence[Event]) -> Exception | None:
        bad = [Poison("bad", event=one) for one in events if numbers([one]) == [1]]
        return ExceptionGroup("several", bad) if bad else None

    calls = Calls(failing)
    transport.stream.send(event(0), event(1), event(2))
    await run_until_acked(policy(transport, calls), transport, 0, 1, 2)
    assert calls.calls == [[0, 1, 2], [0], [2]]
    assert letters(transport) == [1]


async def test_poison_that_names_a_foreign_event_counts_as_any_error() -> None:
    transport = ScriptedTransport()
    calls = Calls(lambda events: Poison("?", event=event(99)) if 1 in numbers(events) else None)
    transport.stream.send(event(0), event(1))
    await run_until_acked(policy(transport, calls), transport, 0, 1)
    assert letters(transport) == [1]


async def test_several_poison_events_with_successes_between_are_all_set_aside() -> None:
    transport = ScriptedTransport()
    bad = (1, 3, 5, 7, 9)
    calls = Calls(fails_on(*bad))
    transport.stream.send(*(event(number) for number in range(10)))
    await run_until_acked(policy(transport, calls), transport, *range(10))
    assert letters(transport) == list(bad)


async def test_three_failing_events_in_a_row_end_the_pipeline_and_none_is_routed_or_acknowledged() -> None:
    transport = ScriptedTransport()
    calls = Calls(fails_on(1, 2, 3))
    transport.stream.send(*(event(number) for number in range(8)))
    with pytest.raises(HandlerFailing) as caught:
        await policy(transport, calls).run()
    assert isinstance(caught.value.__cause__, ValueError)
    assert caught.value.remedy
    assert transport.letters == []
    assert transport.stream.acked == [0]


async def test_two_failing_events_in_a_row_are_set_aside() -> None:
    transport = ScriptedTransport()
    calls = Calls(fails_on(1, 2))
    transport.stream.send(*(event(number) for number in range(4)))
    await run_until_acked(policy(transport, calls), transport, *range(4))
    assert letters(transport) == [1, 2]


async def test_failing_events_are_counted_across_batches() -> None:
    transport = ScriptedTransport()
    calls = Calls(fails_on(1, 2, 3))
    for number in range(4):
        transport.stream.send(event(number))
    with pytest.raises(HandlerFailing):
        await policy(transport, calls).run()
    assert letters(transport) == [1, 2]
    assert transport.stream.acked == [0, 1, 2]


async def test_a_failing_event_is_held_until_a_success_shows_that_it_is_the_data() -> None:
    transport = ScriptedTransport()
    routed: list[tuple[list[int], list[int]]] = []

    def failing(events: Sequence[Event]) -> Exception | None:
        routed.append((numbers(events), letters(transport)))
        return ValueError() if 0 in numbers(events) else None

    transport.stream.send(event(0), event(1), event(2))
    await run_until_acked(policy(transport, Calls(failing), max_attempts=1), transport, 0, 1, 2)
    # 0 alone failed, then 1 and 2 together succeeded: only then was it routed
    assert routed == [([0, 1, 2], []), ([0], []), ([1, 2], [])]
    assert letters(transport) == [0]


async def test_a_handler_that_is_broken_puts_nothing_into_the_dead_letters() -> None:
    transport = ScriptedTransport()
    calls = Calls(lambda events: TypeError())
    transport.stream.send(*(event(number) for number in range(64)))
    with pytest.raises(HandlerFailing):
        await policy(transport, calls).run()
    assert transport.letters == []
    assert transport.stream.acked == []
    assert len(calls.calls) < 16


async def test_a_sink_that_goes_down_during_isolation_is_waited_for() -> None:
    transport = ScriptedTransport()
    down = [ConnectionError()] * 20

    def failing(events: Sequence[Event]) -> Exception | None:
        if len(events) == 1 and down:
            return down.pop()
        return ValueError() if 1 in numbers(events) else None

    transport.stream.send(event(0), event(1))
    await run_until_acked(policy(transport, Calls(failing)), transport, 0, 1)
    assert letters(transport) == [1]
    assert down == []


async def test_routing_is_retried_while_its_error_is_retryable() -> None:
    transport = ScriptedTransport()
    transport.route_errors = [*[RoutingError("later", retryable=True)] * 20, ConnectionError()]
    transport.stream.send(event(0))
    await run_until_acked(policy(transport, Calls(fails_on(0))), transport, 0)
    assert letters(transport) == [0]


async def test_health_is_bad_while_routing_is_retried() -> None:
    transport = ScriptedTransport()
    transport.route_errors = [RoutingError("later", retryable=True)] * 10_000
    transport.stream.send(event(0))
    async with policy(transport, Calls(fails_on(0))).running() as live:
        with anyio.fail_after(5):
            while "storing dead letters fails with RoutingError" not in str(live.health.as_dict()):
                await anyio.lowlevel.checkpoint()
        assert not live.health.ready
        transport.route_errors.clear()
        await transport.stream.until_acked(0)


@pytest.mark.parametrize("wrong", [RoutingError("too large"), ValueError("a bug")])
async def test_a_permanent_routing_error_ends_the_pipeline_and_nothing_behind_it_is_acknowledged(
    wrong: Exception,
) -> None:
    transport = ScriptedTransport()
    transport.route_errors = [wrong]
    transport.stream.send(event(0))
    transport.stream.send(event(1))
    with pytest.raises(RoutingError) as caught:
        await policy(transport, Calls(fails_on(0))).run()
    assert wrong in (caught.value, caught.value.__cause__)
    assert transport.stream.acked == []


async def test_a_poisoned_key_does_not_hold_up_its_later_events_by_default() -> None:
    transport = ScriptedTransport()
    calls = Calls(fails_on(0))
    transport.stream.send(event(0, "k"), event(1, "k"))
    await run_until_acked(policy(transport, calls), transport, 0, 1)
    assert calls.handled == [1]


async def test_events_that_cease_to_be_ours_between_attempts_are_not_tried_again() -> None:
    transport = ScriptedTransport(commit_prefix=CommitPrefix.LANE)

    def failing(events: Sequence[Event]) -> Exception | None:
        if 1 not in transport.stream.stale:
            transport.stream.stale.add(1)
            return ConnectionError()
        return None

    calls = Calls(failing)
    transport.stream.send(event(0), event(1), event(2))
    await run_until_acked(policy(transport, calls), transport, 0, 2)
    assert calls.calls == [[0, 1, 2], [0, 2]]


async def test_where_a_partition_is_owned_as_a_whole_currency_is_asked_once_per_call() -> None:
    transport = ScriptedTransport()
    calls = Calls(lambda events: None)
    transport.stream.send(*(event(number) for number in range(100)))
    await run_until_acked(policy(transport, calls), transport, 99)
    assert transport.stream.asked_current == 2


async def test_a_handlers_runs_are_called_and_acknowledged_one_by_one() -> None:
    transport = ScriptedTransport()

    class Pairs(Calls):
        def runs(self, events: Sequence[Event]) -> Sequence[Sequence[Event]]:
            return [events[i : i + 2] for i in range(0, len(events), 2)]

    acked: list[int] = []

    def failing(events: Sequence[Event]) -> Exception | None:
        acked.append(len(transport.stream.acked))
        return None

    calls = Pairs(failing)
    transport.stream.send(*(event(number) for number in range(6)))
    await run_until_acked(policy(transport, calls), transport, 5)
    assert calls.calls == [[0, 1], [2, 3], [4, 5]]
    assert acked == [0, 2, 4]


async def test_logs_hold_no_values(caplog: pytest.LogCaptureFixture) -> None:
    transport = ScriptedTransport()
    caplog.set_level("DEBUG", "cdc_core")
    transport.stream.send(event(4711, "secretkey"))
    await run_until_acked(policy(transport, Calls(fails_on(4711))), transport, 4711)
    assert caplog.records
    for record in caplog.records:
        assert record.message == record.msg, "constant messages"
        assert not any(word in str(vars(record)) for word in ("4711", "secretkey", "bad row"))
