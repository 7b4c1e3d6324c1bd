"""Health, lag, monitor, blocked loops, metrics and spans."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest
from pipeline_source import ScriptedTransport, event

from cdc_core import (
    UNKNOWN,
    Check,
    CheckState,
    Event,
    Health,
    Partition,
    PartitionLag,
    Pipeline,
    RetryPolicy,
    RunningPipeline,
)
from cdc_core._progress import Tally
from cdc_core._sampling import LoopWatch

pytestmark = pytest.mark.anyio
LAG = PartitionLag(partition=Partition("test", "p"), lag_events=3, lag_bytes=UNKNOWN, lag_seconds=1.5)


async def handle(events: Sequence[Event]) -> None:
    await anyio.lowlevel.checkpoint()


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def check_of(live: RunningPipeline, name: str) -> Check:
    return next(check for check in live.health.checks if check.name == name)


async def until(live: RunningPipeline, name: str, state: CheckState) -> Check:
    with anyio.fail_after(5):
        while not any(check.name == name and check.state is state for check in live.health.checks):  # noqa: ASYNC110
            await anyio.sleep(0.001)
    return check_of(live, name)


class Monitored(ScriptedTransport):
    """A transport with a monitor of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.lags: Sequence[PartitionLag] = (LAG,)
        self.hanging = False
        self.error: Exception | None = None

    async def lag(self) -> Sequence[PartitionLag]:
        if self.hanging:
            await anyio.sleep_forever()
        if self.error is not None:
            raise self.error
        return self.lags

    async def health(self) -> Health:
        return Health.of(Check(name="slot", state=CheckState.OK))


async def test_lag_and_checks_are_the_last_sample_of_the_source() -> None:
    transport = Monitored()
    async with Pipeline(name="t", transport=transport, handler=handle).running() as live:
        assert not live.lag
        assert live.lag_sampled_at is None
        await until(live, "slot", CheckState.OK)
        assert live.lag == (LAG,)
        assert live.lag_sampled_at == pytest.approx(time.time(), abs=5)


@pytest.mark.parametrize("wrong", ["hangs", "fails"])
async def test_a_monitor_that_hangs_or_fails_yields_unknown_and_stops_nothing(wrong: str) -> None:
    transport = Monitored()
    value = Pipeline(name="t", transport=transport, handler=handle, monitor_interval_seconds=0.01)
    async with value.running() as live:
        await until(live, "slot", CheckState.OK)
        transport.hanging = wrong == "hangs"
        transport.error = RuntimeError("password=hunter2")
        check = await until(live, "monitor", CheckState.UNKNOWN)
        assert "hunter2" not in check.why
        assert check_of(live, "slot").state is CheckState.UNKNOWN
        assert [lag.lag_events for lag in live.lag] == [UNKNOWN]
        assert live.health.ready
        transport.stream.send(event(0))
        await transport.stream.until_acked(0)
        transport.hanging, transport.error = False, None
        await until(live, "slot", CheckState.OK)
        assert live.lag == (LAG,)
        assert all(check.name != "monitor" for check in live.health.checks)


async def test_a_monitor_that_does_not_open_yields_unknown() -> None:
    class Closed(ScriptedTransport):
        @asynccontextmanager
        async def monitor(self) -> AsyncGenerator[ScriptedTransport]:
            await anyio.sleep_forever()
            yield self

    value = Pipeline(name="t", transport=Closed(), handler=handle, monitor_interval_seconds=0.01)
    async with value.running() as live:
        assert "did not open" in (await until(live, "monitor", CheckState.UNKNOWN)).why


async def test_health_turns_bad_when_work_waits_and_nothing_moves() -> None:
    transport, clock = ScriptedTransport(), Clock()
    called, released = anyio.Event(), anyio.Event()

    async def slow(events: Sequence[Event]) -> None:
        called.set()
        await released.wait()

    value = Pipeline(name="t", transport=transport, handler=slow, clock=clock, stalled_after_seconds=60)
    transport.stream.send(event(0))
    async with value.running() as live:
        await called.wait()
        clock.now = 60.0
        assert live.health.ready
        clock.now = 60.1
        assert not live.health.ready
        assert check_of(live, "progress test/p").remedy
        released.set()
        await transport.stream.until_acked(0)
        assert live.health.ready
        clock.now = 600.0
        assert live.health.ready, "there is nothing to do"


async def test_health_turns_bad_when_the_source_has_events_and_delivers_none() -> None:
    transport, clock = Monitored(), Clock()
    value = Pipeline(name="t", transport=transport, handler=handle, clock=clock, stalled_after_seconds=60)
    async with value.running() as live:
        await until(live, "slot", CheckState.OK)
        assert live.health.ready
        clock.now = 61.0
        assert check_of(live, "intake test/p").state is CheckState.FAIL
        assert not live.health.ready


async def test_an_unknown_lag_is_no_proof_that_events_wait() -> None:
    transport, clock = Monitored(), Clock()
    transport.lags = (PartitionLag(partition=Partition("test", "p")),)
    value = Pipeline(name="t", transport=transport, handler=handle, clock=clock, stalled_after_seconds=60)
    async with value.running() as live:
        await until(live, "slot", CheckState.OK)
        clock.now = 61.0
        assert live.health.ready


async def test_a_dead_letter_is_a_warning_with_its_cause() -> None:
    transport = ScriptedTransport()

    async def fail(events: Sequence[Event]) -> None:
        raise ValueError

    value = Pipeline(name="t", transport=transport, handler=fail, retry=RetryPolicy(max_attempts=1))
    transport.stream.send(event(0))
    async with value.running() as live:
        await transport.stream.until_acked(0)
        check = check_of(live, "dead_letters")
        assert check.state is CheckState.WARN
        assert "ValueError" in check.why
        assert live.health.ready


async def test_a_handler_that_blocks_the_event_loop_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    transport = ScriptedTransport()

    async def block(events: Sequence[Event]) -> None:
        until = time.monotonic() + 0.7  # longer than a tick of the watch
        while time.monotonic() < until:
            pass

    value = Pipeline(name="t", transport=transport, handler=block, blocked_loop_warning_seconds=0.1)
    transport.stream.send(event(0))
    async with value.running() as live:
        check = await until(live, "event_loop", CheckState.WARN)
        assert "to_thread" in check.remedy
    assert "the event loop was blocked while a handler ran" in caplog.messages


def test_a_loop_that_is_late_while_no_handler_ran_is_not_the_handlers_fault() -> None:
    watch = LoopWatch(Tally(), warn_after_seconds=1.0)
    watch.observe(due_at=10.0, now=15.0, last_call_ended_at=9.0)
    assert watch.check().state is CheckState.OK
    watch.observe(due_at=10.0, now=15.0, last_call_ended_at=15.0)
    assert watch.check().state is CheckState.WARN
