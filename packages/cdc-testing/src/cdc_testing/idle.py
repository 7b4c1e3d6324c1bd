"""Runs a real pipeline over a `MemoryTransport` until nothing is left to do, through every injected crash."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, final

import anyio

from cdc_core import CdcError, ConfigError, Event, Pipeline

from .clock import VirtualClock
from .memory import MemoryTransport
from .recorder import Recorder

_PAUSE_SECONDS: Final = 0.001
_MAX_PAUSE_SECONDS: Final = 0.05


async def run_until_idle(pipeline: Pipeline, *, timeout_seconds: float = 10.0) -> None:
    """Run a pipeline until all that its transport holds is handled and acknowledged, or in the dead letters.

    After an injected crash it is run again, as its next process would. Retries wait in virtual time: they take
    none of the test's. Events that the handler writes while it runs count, too.

    - `pipeline`: its transport is a `MemoryTransport`; its own `clock`, `sleep` and `random_number` are not used.
    - `timeout_seconds`: real time after which it counts as hanging.

    Raises:
        AssertionError: it hangs, or a fault never happened (its event does not exist, or is never acknowledged);
            the message holds a timeline.
        CdcError: what the pipeline failed with, other than an injected crash.
        ConfigError: the transport is another one.
    """
    transport = pipeline.transport
    if not isinstance(transport, MemoryTransport):
        raise ConfigError(
            f"run_until_idle needs a MemoryTransport, not a {type(transport).__name__}",
            remedy="Pipeline(transport=MemoryTransport(...))",
        )
    clock = VirtualClock()
    recorder = Recorder(clock.now)
    watched = dataclasses.replace(
        pipeline,
        handler=_RecordedHandler(pipeline.handler, recorder),
        clock=clock.now,
        sleep=clock.sleep,
        random_number=lambda: 0.5,
    )
    with anyio.move_on_after(timeout_seconds) as patience:
        while not transport.is_idle:
            transport.restart()
            recorder.record("pipeline started", waiting=transport.waiting)
            try:
                await _run_once(watched, transport, clock, recorder)
            except CdcError as error:
                if not transport.crashed:
                    raise
                recorder.record("process died", because=type(error).__name__)
    if patience.cancelled_caught:
        raise AssertionError(
            f"not idle after {timeout_seconds:g} seconds: {transport.waiting} events are not acknowledged\n"
            + recorder.timeline()
        )
    if transport.pending_faults:
        never = ", ".join(map(str, transport.pending_faults))
        raise AssertionError(f"never happened: {never}\n{recorder.timeline()}")


async def _run_once(
    pipeline: Pipeline, transport: MemoryTransport, clock: VirtualClock, recorder: Recorder
) -> None:
    async with pipeline.running():
        pause, seen = _PAUSE_SECONDS, -1
        while not transport.is_idle:
            with anyio.move_on_after(pause):
                await transport.wait_for_change()
                continue
            # Whoever sleeps sleeps in virtual time. While a handler waits for something real, jumping on is of no
            # use (only the monitor's sampler would run), so that the pauses grow.
            pause = _PAUSE_SECONDS if recorder.recorded != seen else min(2 * pause, _MAX_PAUSE_SECONDS)
            seen = recorder.recorded
            clock.jump()


@final
class _RecordedHandler:
    """A handler that notes its calls, and has all else from the real one (`runs`, where it has that)."""

    def __init__(self, handler: Callable[[Sequence[Event]], Awaitable[None]], recorder: Recorder) -> None:
        self._handler = handler
        self._recorder = recorder

    def __getattr__(self, name: str) -> object:
        return getattr(self._handler, name)

    async def __call__(self, events: Sequence[Event]) -> None:
        self._recorder.record("handler called", positions=",".join(str(event.position) for event in events))
        try:
            await self._handler(events)
        except BaseException as error:
            self._recorder.record("handler raised", type=type(error).__name__)
            raise
        self._recorder.record("handler returned")
