"""Watches beside a running pipeline: the source's own figures, and whether a handler blocks the event loop."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, final

import anyio

from ._health import UNKNOWN, Check, CheckState, PartitionLag
from ._partition_work import logger
from ._progress import Tally
from ._protocols import SourceMonitor

_TICK_SECONDS: Final = 0.5


@final
class MonitorSampler:
    """Asks a transport's monitor at intervals, and keeps the last answer; never makes anybody wait.

    What hangs, fails or is not there yields UNKNOWN: a stale figure is not shown as if it were known.
    """

    def __init__(
        self,
        open_monitor: Callable[[], AbstractAsyncContextManager[SourceMonitor]],
        *,
        interval_seconds: float,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._open_monitor = open_monitor
        self._interval_seconds = interval_seconds
        self._sleep = sleep
        self.lag: Sequence[PartitionLag] = ()
        self.sampled_at: float | None = None
        self.checks: Sequence[Check] = ()

    async def run(self) -> None:
        """Sample until cancelled; a monitor that failed is opened anew."""
        while True:
            try:
                await self._sample_while_it_works()
            # An observer must not end what it observes, whatever it raises; what it raised is its check.
            except Exception as error:  # noqa: BLE001
                self._know_nothing(f"the monitor failed with {type(error).__qualname__}")
            await self._sleep(self._interval_seconds)

    async def _sample_while_it_works(self) -> None:
        opened = False
        with anyio.move_on_after(self._interval_seconds) as opening:
            async with self._open_monitor() as monitor:
                opened = True
                opening.deadline = float("inf")
                while await self._sample(monitor):
                    await self._sleep(self._interval_seconds)
        if not opened:
            self._know_nothing(f"the monitor did not open within {self._interval_seconds:g} seconds")

    async def _sample(self, monitor: SourceMonitor) -> bool:
        with anyio.move_on_after(self._interval_seconds):
            lag, health = await monitor.lag(), await monitor.health()
            self.lag, self.checks, self.sampled_at = tuple(lag), health.checks, time.time()
            return True
        self._know_nothing(f"the monitor did not answer within {self._interval_seconds:g} seconds")
        return False

    def _know_nothing(self, why: str) -> None:
        logger.warning("the source could not be measured", extra={"why": why})
        self.lag = tuple(PartitionLag(partition=lag.partition) for lag in self.lag)
        self.sampled_at = time.time()
        known = [check for check in self.checks if check.name != "monitor"]
        self.checks = (
            Check(name="monitor", state=CheckState.UNKNOWN, why=why, since=self.sampled_at),
            *(Check(name=check.name, state=CheckState.UNKNOWN, why=why) for check in known),
        )


def is_waiting(lag: PartitionLag, *, longer_than_seconds: float) -> bool:
    """Say whether a lag tells for sure that events wait; UNKNOWN does not."""
    if lag.lag_events is not UNKNOWN:
        return lag.lag_events > 0
    return lag.lag_seconds is not UNKNOWN and lag.lag_seconds > longer_than_seconds


@final
class LoopWatch:
    """Notices that the event loop stood still while a handler was at work.

    A handler that blocks the loop stops everything on it: heartbeats, leases, a reader in the same process. Nobody
    can cancel it (nor a thread that it started): this can only tell, afterwards.
    """

    def __init__(self, tally: Tally, *, warn_after_seconds: float) -> None:
        self._tally = tally
        self._warn_after_seconds = warn_after_seconds
        self._longest_seconds = 0.0
        self._last_at: float | None = None

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            due_at = anyio.current_time() + _TICK_SECONDS
            await anyio.sleep(_TICK_SECONDS)
            self.observe(
                due_at=due_at, now=anyio.current_time(), last_call_ended_at=self._last_call_ended_at()
            )

    def observe(self, *, due_at: float, now: float, last_call_ended_at: float) -> None:
        """Take note of a tick that was due at one time and came at another."""
        late = now - due_at
        if late < self._warn_after_seconds or last_call_ended_at < due_at:
            return
        self._longest_seconds = max(self._longest_seconds, late)
        self._last_at = time.time()
        logger.warning(
            "the event loop was blocked while a handler ran", extra={"blocked_seconds": round(late, 3)}
        )

    def check(self) -> Check:
        """Return the finding."""
        if self._last_at is None:
            return Check(name="event_loop", state=CheckState.OK, why="no handler blocked the event loop")
        return Check(
            name="event_loop",
            state=CheckState.WARN,
            why=f"blocked for up to {self._longest_seconds:.1f} seconds while a handler ran",
            remedy="await instead of blocking, or move the work to a thread with anyio.to_thread.run_sync",
            since=self._last_at,
        )

    def _last_call_ended_at(self) -> float:
        return float("inf") if self._tally.calls_running else self._tally.last_call_ended_at
