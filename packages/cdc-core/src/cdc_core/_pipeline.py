"""The pipeline: a value that says what is handled how, and a running one as its host sees it."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal, final

import anyio
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from ._errors import ConfigError
from ._handlers import Handler
from ._health import Health, PartitionLag
from ._pipeline_run import PipelineRun
from ._progress import Counters
from ._retry import RetryPolicy
from ._tasks import run_beside
from ._transport import Transport


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """Takes events from a transport to a handler, and acknowledges what was handled. A value: it can be run again.

    - `name`: names it in logs, metrics and dead letters.
    - `handler`: called with neighbouring events in order; it may be called again with the same events. It runs on
      the event loop: one that blocks it stops everything else there, and neither it nor a thread it waits for can
      be cancelled.
    - `concurrency_per_partition`: how many calls of the handler run at once for each partition. Above 1, the order
      per key is kept, and truncates and messages are handled alone.
    - `drain_timeout_seconds`: how long handlers may finish what they have in hand when the pipeline stops.
    - `retry`: what a failure means, and how it is retried.
    - `poisoned_keys`: what becomes of later events of a key whose event was set aside: they `proceed`, or they
      `park` behind it in the dead letters, in order, until no letter of that key is left.
    - `drop_repeats`: whether the handler is wrapped with `drop_repeats`; None for as the transport's traits say.
    - `monitor_interval_seconds`: how often, and for how long at most, the transport's monitor is asked.
    - `stalled_after_seconds`: events that wait so long without any being acknowledged make the health bad.
    - `blocked_loop_warning_seconds`: a handler that blocks the event loop for so long is warned about.
    - `clock` (monotonic seconds), `sleep`, `random_number` (from [0, 1)): for tests.
    - `meter_provider`, `tracer_provider`: OpenTelemetry's; None for those that the process has set up.
    """

    name: str
    transport: Transport
    handler: Handler
    concurrency_per_partition: int = 1
    drain_timeout_seconds: float = 20.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    poisoned_keys: Literal["proceed", "park"] = "proceed"
    drop_repeats: bool | None = None
    monitor_interval_seconds: float = 10.0
    stalled_after_seconds: float = 60.0
    blocked_loop_warning_seconds: float = 1.0
    clock: Callable[[], float] = field(default=anyio.current_time, repr=False)
    sleep: Callable[[float], Awaitable[None]] = field(default=anyio.sleep, repr=False)
    random_number: Callable[[], float] = field(default=random.random, repr=False)
    meter_provider: MeterProvider | None = field(default=None, repr=False)
    tracer_provider: TracerProvider | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("a pipeline has no name", remedy="give it one: it names its dead letters")
        if self.concurrency_per_partition < 1:
            raise ConfigError(
                f"concurrency_per_partition is {self.concurrency_per_partition}", remedy="1 or more"
            )
        if self.poisoned_keys not in ("proceed", "park"):
            raise ConfigError(f"poisoned_keys is {self.poisoned_keys!r}", remedy="'proceed' or 'park'")
        if self.drain_timeout_seconds < 0:
            raise ConfigError(f"drain_timeout_seconds is {self.drain_timeout_seconds}", remedy="0 or more")
        for name in ("monitor_interval_seconds", "stalled_after_seconds", "blocked_loop_warning_seconds"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}", remedy="more than 0")

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[RunningPipeline]:
        """Run beside the body of an `async with`.

        Leaving the body drains: nothing new is taken, what is in hand may finish within `drain_timeout_seconds`,
        what was handled is acknowledged. Cancelling it abandons. If the pipeline fails, the body is cancelled.

        Raises:
            CdcError: what the pipeline failed with; one error, never a group. An exception of the body's own passes
                unchanged, and goes before it.
        """
        run = PipelineRun(self)
        async with run_beside(run):
            yield RunningPipeline(run)

    async def run(self) -> None:
        """Run until cancelled, until the source ends, or until it fails.

        Raises:
            CdcError: what the pipeline failed with; one error, never a group.
        """
        async with self.running() as live:
            await live.wait()


@final
class RunningPipeline:
    """A running pipeline, as its host sees it; what it tells is in memory, so that asking never waits."""

    def __init__(self, run: PipelineRun) -> None:
        self._run = run

    @property
    def health(self) -> Health:
        """How it is: the pipeline, each partition, and the source as last sampled; not ready once it has ended."""
        return self._run.health()

    @property
    def lag(self) -> Sequence[PartitionLag]:
        """The lag of each partition as last sampled, at `lag_sampled_at`; empty before the first sample."""
        return self._run.sampler.lag

    @property
    def lag_sampled_at(self) -> float | None:
        """When the lag was sampled, in seconds since 1970; None before the first sample."""
        return self._run.sampler.sampled_at

    @property
    def counters(self) -> Counters:
        """What it did so far."""
        return self._run.counters()

    def stop(self) -> None:
        """Ask it to drain; returns at once. `wait` tells when it is done."""
        self._run.stop()

    async def wait(self) -> None:
        """Wait until it has ended."""
        await self._run.ended.wait()
