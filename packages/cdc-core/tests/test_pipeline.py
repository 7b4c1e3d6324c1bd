"""The life of a pipeline: started, drained, abandoned, failed, run again."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace

import anyio
import anyio.lowlevel
import pytest
from pipeline_source import ScriptedTransport, event, numbers

from cdc_core import (
    CdcError,
    ConfigError,
    ContractError,
    Event,
    HandlerFailing,
    NotProvisioned,
    Pipeline,
    RetryPolicy,
    RunningPipeline,
    SourceError,
    Transient,
)

pytestmark = pytest.mark.anyio

SOON = RetryPolicy(max_attempts=2, initial_delay_seconds=0.001, max_delay_seconds=0.001)


class Sink:
    """A handler that remembers, and can be told to hold its calls."""

    def __init__(self, *, holding: bool = False) -> None:
        self.handled: list[int] = []
        self.called = anyio.Event()
        self.released = anyio.Event()
        if not holding:
            self.released.set()
        self.cancelled = False

    async def __call__(self, events: Sequence[Event]) -> None:
        self.called.set()
        try:
            await self.released.wait()
        except anyio.get_cancelled_exc_class():
            self.cancelled = True
            raise
        self.handled += numbers(events)


def pipeline(transport: ScriptedTransport, handler: Sink, *, drain_timeout_seconds: float = 20.0) -> Pipeline:
    return Pipeline(
        name="t",
        transport=transport,
        handler=handler,
        retry=SOON,
        drain_timeout_seconds=drain_timeout_seconds,
    )


async def test_what_the_handler_took_is_acknowledged() -> None:
    transport, sink = ScriptedTransport(), Sink()
    transport.stream.send(event(0), event(1))
    async with pipeline(transport, sink).running():
        await transport.stream.until_acked(0, 1)
    assert sink.handled == [0, 1]
    assert transport.stream.acked == [0, 1]


async def test_each_partition_has_a_worker_of_its_own() -> None:
    transport, sink = ScriptedTransport("a", "b"), Sink(holding=True)
    transport.streams[0].send(event(0))
    transport.streams[1].send(event(1))
    async with pipeline(transport, sink).running() as live:
        while live.counters.calls < 2:
            await anyio.lowlevel.checkpoint()
        sink.released.set()
        await transport.streams[0].until_acked(0)
        await transport.streams[1].until_acked(1)


async def test_leaving_the_body_drains_what_is_in_hand() -> None:
    transport, sink = ScriptedTransport(), Sink(holding=True)
    transport.stream.send(event(0))
    async with pipeline(transport, sink).running() as live, anyio.create_task_group() as tasks:
        await sink.called.wait()
        live.stop()
        while live.health.checks[0].why != "draining":
            await anyio.lowlevel.checkpoint()
        tasks.start_soon(live.wait)
        sink.released.set()
    assert transport.stream.acked == [0]
    assert not sink.cancelled
    assert transport.left.is_set()


async def test_a_drain_is_bounded_and_what_was_not_handled_is_not_acknowledged() -> None:
    transport, sink = ScriptedTransport(), Sink(holding=True)
    transport.stream.send(event(0))
    async with pipeline(transport, sink, drain_timeout_seconds=0.05).running():
        await sink.called.wait()
    assert sink.cancelled
    assert transport.stream.acked == []


async def test_batches_that_were_not_started_are_left_for_the_next_run() -> None:
    transport, sink = ScriptedTransport(), Sink(holding=True)
    transport.stream.send(event(0))
    transport.stream.send(event(1))
    async with pipeline(transport, sink).running() as live:
        await sink.called.wait()
        live.stop()
        while transport.stream.revoking_at is None:
            await anyio.lowlevel.checkpoint()
        sink.released.set()
        await live.wait()
    assert transport.stream.acked == [0]


async def test_cancelling_the_body_abandons() -> None:
    transport, sink = ScriptedTransport(), Sink(holding=True)
    transport.stream.send(event(0))
    with anyio.CancelScope() as scope:
        async with pipeline(transport, sink, drain_timeout_seconds=math.inf).running():
            await sink.called.wait()
            scope.cancel()
            await anyio.sleep_forever()
    assert sink.cancelled
    assert transport.left.is_set()
    assert transport.stream.acked == []


async def test_a_body_that_is_cancelled_while_it_drains_abandons() -> None:
    transport, sink = ScriptedTransport(), Sink(holding=True)
    transport.stream.send(event(0))
    with anyio.move_on_after(0.05) as scope:
        async with pipeline(transport, sink, drain_timeout_seconds=math.inf).running():
            await sink.called.wait()
    assert scope.cancelled_caught
    assert sink.cancelled


async def test_a_failing_pipeline_cancels_the_body_and_raises_one_error() -> None:
    transport, sink = ScriptedTransport(), Sink()
    wrong = SourceError("the slot is gone")
    seen: list[RunningPipeline] = []

    async def host() -> None:
        async with pipeline(transport, sink).running() as live:
            seen.append(live)
            transport.stream.end(wrong)
            await anyio.sleep_forever()

    with pytest.raises(SourceError) as caught:
        await host()
    assert caught.value is wrong
    assert not seen[0].health.ready
    assert "SourceError" in seen[0].health.checks[0].why


async def test_run_raises_what_opening_the_source_raises() -> None:
    transport, sink = ScriptedTransport(), Sink()
    transport.open_error = NotProvisioned("there is no slot")
    with pytest.raises(NotProvisioned):
        await pipeline(transport, sink).run()


async def test_what_is_no_error_of_ours_is_a_broken_contract_of_the_transport() -> None:
    transport, sink = ScriptedTransport(), Sink()
    transport.stream.end(KeyError("x"))
    with pytest.raises(ContractError) as caught:
        await pipeline(transport, sink).run()
    assert isinstance(caught.value.__cause__, KeyError)


async def test_two_partitions_that_fail_at_once_raise_one_error() -> None:
    transport, sink = ScriptedTransport("a", "b"), Sink()
    transport.streams[0].end(SourceError("a"))
    transport.streams[1].end(SourceError("b"))
    with pytest.raises(CdcError):
        await pipeline(transport, sink).run()


async def test_an_exception_of_the_body_passes_unchanged_and_drains() -> None:
    transport, sink = ScriptedTransport(), Sink(holding=True)
    transport.stream.send(event(0))
    wrong = RuntimeError("mine")

    async def host() -> None:
        async with pipeline(transport, sink).running():
            await sink.called.wait()
            sink.released.set()
            raise wrong

    with pytest.raises(RuntimeError) as caught:
        await host()
    assert caught.value is wrong
    assert transport.stream.acked == [0]


async def test_an_exception_of_the_body_goes_before_the_pipelines() -> None:
    transport, sink = ScriptedTransport(), Sink()
    transport.stream.end(SourceError("the slot is gone"))
    wrong = RuntimeError("mine")

    async def host() -> None:
        async with pipeline(transport, sink).running():
            try:
                await anyio.sleep_forever()
            finally:
                raise wrong

    with pytest.raises(RuntimeError) as caught:
        await host()
    assert caught.value is wrong


async def test_a_pipeline_that_ended_inside_its_host_stays_unhealthy() -> None:
    transport, sink = ScriptedTransport(), Sink()
    async with pipeline(transport, sink).running() as live:
        while not live.health.ready:
            await anyio.lowlevel.checkpoint()
        live.stop()
        await live.wait()
        assert not live.health.ready
        assert live.health.checks[0].why == "ended"


async def test_stopping_before_the_source_has_opened_ends_the_run() -> None:
    transport, sink = ScriptedTransport(), Sink()
    transport.may_open = anyio.Event()
    async with pipeline(transport, sink).running() as live:
        await transport.opening.wait()
        assert not live.health.ready
    assert transport.opened == 0


async def test_a_pipeline_can_be_run_again() -> None:
    transport, sink = ScriptedTransport(), Sink()
    value = pipeline(transport, sink)
    transport.stream.send(event(0))
    async with value.running() as first:
        await transport.stream.until_acked(0)
    transport.again()
    transport.stream.send(event(1), event(2))
    async with value.running() as second:
        await transport.stream.until_acked(1, 2)
    assert (first.counters.handled, second.counters.handled) == (1, 2)


async def test_a_lost_partition_ends_its_worker_and_not_the_pipeline() -> None:
    transport, sink = ScriptedTransport("a", "b"), Sink(holding=True)
    lost, kept = transport.streams
    lost.send(event(0))
    async with pipeline(transport, sink).running() as live:
        await sink.called.wait()
        lost.lose()
        await lost.scope.finished.wait()
        sink.released.set()
        kept.send(event(1))
        await kept.until_acked(1)
        assert live.counters.partitions_lost == 1
        assert live.health.ready
    assert lost.acked == []


async def test_a_late_acknowledgement_of_a_lost_partition_ends_its_worker_quietly() -> None:
    transport = ScriptedTransport("a", "b")
    lost, kept = transport.streams

    async def lose_it(events: Sequence[Event]) -> None:
        lost.lost = events[0].delivery == 0

    lost.send(event(0))
    async with Pipeline(name="t", transport=transport, handler=lose_it).running() as live:
        await lost.scope.finished.wait()
        kept.send(event(1))
        await kept.until_acked(1)
        assert live.counters.partitions_lost == 1


async def test_events_that_are_no_longer_ours_are_neither_handled_nor_acknowledged() -> None:
    transport, sink = ScriptedTransport(), Sink()
    transport.stream.stale = {0, 3}
    transport.stream.send(event(0), event(1), event(2), event(3))
    async with pipeline(transport, sink).running() as live:
        await transport.stream.until_acked(1, 2)
        assert live.counters.not_current == 2
    assert sink.handled == transport.stream.acked == [1, 2]


async def test_an_iteration_that_is_left_early_is_closed_by_then() -> None:
    transport, sink = ScriptedTransport(), Sink(holding=True)
    transport.stream.send(event(0))
    async with pipeline(transport, sink).running():
        await sink.called.wait()
        transport.stream.lose()
        await transport.stream.scope.finished.wait()
    assert not transport.stream.left_while_iterating


async def test_no_call_starts_that_would_outlast_a_revoke() -> None:
    transport = ScriptedTransport()
    calls: list[int] = []
    now = 0.0

    class OneByOne:
        def runs(self, events: Sequence[Event]) -> list[Sequence[Event]]:
            return [events[i : i + 1] for i in range(len(events))]

        async def __call__(self, events: Sequence[Event]) -> None:
            nonlocal now
            calls.extend(numbers(events))
            now += 5.0  # each call takes five seconds of the injected clock
            transport.stream.revoking_at = anyio.current_time() + 4.0

    transport.stream.send(event(0), event(1))
    value = Pipeline(name="t", transport=transport, handler=OneByOne(), clock=lambda: now)
    async with value.running():
        await transport.stream.scope.finished.wait()
    assert calls == [0]
    assert transport.stream.acked == [0]


async def test_what_is_no_exception_but_an_interrupt_passes_as_it_is() -> None:
    class Interrupt(BaseException):
        """As KeyboardInterrupt and SystemExit, which asyncio throws out of the loop by itself."""

    transport = ScriptedTransport()
    wrong = Interrupt()

    async def interrupted(events: Sequence[Event]) -> None:
        raise wrong

    transport.stream.send(event(0))
    with pytest.raises(Interrupt) as caught:
        await Pipeline(name="t", transport=transport, handler=interrupted).run()
    assert caught.value is wrong
    assert transport.stream.acked == []


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_cancellation_that_nobody_asked_for_does_not_end_a_worker_silently() -> None:
    transport = ScriptedTransport()

    async def cancelled_elsewhere(events: Sequence[Event]) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    transport.stream.send(event(0))
    with pytest.raises(HandlerFailing, match="cancellation"):
        await Pipeline(name="t", transport=transport, handler=cancelled_elsewhere).run()
    assert transport.stream.acked == []


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_native_cancellation_of_the_host_abandons_and_arrives() -> None:
    transport, sink = ScriptedTransport(), Sink(holding=True)
    transport.stream.send(event(0))
    task = asyncio.create_task(pipeline(transport, sink, drain_timeout_seconds=math.inf).run())
    await sink.called.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sink.cancelled
    assert transport.left.is_set()


async def test_a_sink_that_stays_down_does_not_prolong_a_drain_beyond_its_bound() -> None:
    transport = ScriptedTransport()
    tried = anyio.Event()

    async def down(events: Sequence[Event]) -> None:
        tried.set()
        raise Transient

    transport.stream.send(event(0))
    value = Pipeline(name="t", transport=transport, handler=down, retry=SOON, drain_timeout_seconds=0.05)
    with anyio.fail_after(5):
        async with value.running():
            await tried.wait()
    assert transport.stream.acked == []
    assert transport.letters == []


async def test_a_retry_that_would_come_too_late_is_not_waited_for() -> None:
    transport = ScriptedTransport()
    slept: list[float] = []

    async def down(events: Sequence[Event]) -> None:
        transport.stream.revoking_at = anyio.current_time() + 5.0
        raise Transient

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await anyio.sleep(0 if seconds < 7200.0 else math.inf)

    transport.stream.send(event(0))
    value = Pipeline(
        name="t",
        transport=transport,
        handler=down,
        sleep=sleep,
        retry=RetryPolicy(initial_delay_seconds=10.0),
        monitor_interval_seconds=7200.0,
    )
    async with value.running():
        await transport.stream.scope.finished.wait()
    assert set(slept) <= {7200.0}, "only the monitor's sampler waits"
    assert transport.stream.acked == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"concurrency_per_partition": 0},
        {"poisoned_keys": "drop"},
        {"drain_timeout_seconds": -1},
        {"monitor_interval_seconds": 0},
    ],
)
async def test_a_setting_that_cannot_work_is_refused_when_it_is_made(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(pipeline(ScriptedTransport(), Sink()), **wrong)  # type: ignore[arg-type]
    assert caught.value.remedy
