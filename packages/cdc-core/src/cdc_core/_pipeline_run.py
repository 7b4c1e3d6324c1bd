"""One run of a pipeline: its parts opened, one worker per partition stream, its end and its health."""

from __future__ import annotations

import enum
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, cast, final

import anyio

from ._errors import CdcError
from ._health import Check, CheckState, Health
from ._iteration import iterating
from ._parking import ParkedKeys
from ._partition_work import PartitionWork, logger
from ._progress import Counters, PartitionProgress, Tally
from ._protocols import ErrorRouter
from ._repeats import DropRepeats, drop_repeats
from ._sampling import LoopWatch, MonitorSampler, is_waiting
from ._streams import PartitionStream
from ._tasks import one_error
from ._telemetry import PipelineTelemetry
from ._worker import PartitionWorker

if TYPE_CHECKING:
    from ._pipeline import Pipeline


class _State(enum.StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    ENDED = "ended"


@final
class PipelineRun:
    """Runs a pipeline once: nothing of it is shared with another run.

    `main` never raises: a failure is kept in `failure`, and cancels `body`, the scope of whoever runs beside it.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        pipeline, self._repeats = _dropping_repeats(pipeline)
        self._pipeline = pipeline
        self._state = _State.STARTING
        self._since = time.time()
        self._scope = anyio.CancelScope()
        self._intake = anyio.CancelScope()
        self._progress: set[PartitionProgress] = set()
        self.body: anyio.CancelScope = anyio.CancelScope()
        self.ended: anyio.Event = anyio.Event()
        self.failure: BaseException | None = None
        self.tally: Tally = Tally()
        self.sampler: MonitorSampler = MonitorSampler(
            pipeline.transport.monitor,
            interval_seconds=pipeline.monitor_interval_seconds,
            sleep=pipeline.sleep,
        )
        self._telemetry = PipelineTelemetry(
            pipeline.name,
            lag=lambda: self.sampler.lag,
            meter_provider=pipeline.meter_provider,
            tracer_provider=pipeline.tracer_provider,
        )
        self._loop_watch = LoopWatch(self.tally, warn_after_seconds=pipeline.blocked_loop_warning_seconds)

    async def main(self) -> None:
        """Run until stopped, cancelled or failed."""
        try:
            with self._scope:
                await self._work_with_watches()
        except BaseException as error:  # noqa: BLE001 - kept for whoever runs beside it, who raises it
            cancelled, failures = _split(error)
            if failures is not None:
                where = {"pipeline": self._pipeline.name}
                self.failure = one_error(failures, out_of="the transport", where=where)
            if cancelled is not None:
                raise cancelled from None
        finally:
            self._enter(_State.ENDED)
            self._telemetry.close()
            self.ended.set()
            if self.failure is not None:
                logger.error(
                    "pipeline failed",
                    extra={"pipeline": self._pipeline.name, "cause_type": type(self.failure).__qualname__},
                )
                self.body.cancel()

    def stop(self) -> None:
        """Drain: take nothing more, finish what is in hand, leave."""
        if self._state is _State.STARTING:
            self._scope.cancel()  # nothing was taken, so there is nothing to drain
        self._intake.cancel()

    def counters(self) -> Counters:
        """Return what it did so far."""
        if self._repeats is not None:
            self.tally.repeats = self._repeats.dropped
        return self.tally.snapshot()

    def health(self) -> Health:
        """Say how it is, from memory alone."""
        stalled_after = self._pipeline.stalled_after_seconds
        if self._state is _State.ENDED:
            return Health.of(self._state_check())
        progress = [
            each.check(stalled_after_seconds=stalled_after)
            for each in sorted(self._progress, key=lambda each: str(each.partition))
        ]
        return Health.of(
            self._state_check(),
            *progress,
            *self._intake_checks(),
            self._dead_letters_check(),
            self._loop_watch.check(),
            *self.sampler.checks,
        )

    async def _work_with_watches(self) -> None:
        async with anyio.create_task_group() as watches:
            watches.start_soon(self.sampler.run)
            watches.start_soon(self._loop_watch.run)
            async with AsyncExitStack() as stack:
                transport, parked = self._pipeline.transport, None
                router = await stack.enter_async_context(transport.error_router())
                if self._pipeline.poisoned_keys == "park":
                    letters = await stack.enter_async_context(transport.dead_letters())
                    parked = ParkedKeys(letters, pipeline=self._pipeline.name)
                await self._work(router, parked)
            watches.cancel_scope.cancel()

    async def _work(self, router: ErrorRouter, parked: ParkedKeys | None) -> None:
        # The workers' task group is outside of the source: leaving the source is what ends their streams and waits
        # for them, so they must still be alive then.
        async with anyio.create_task_group() as workers:
            source = self._pipeline.transport.source()
            async with source.open(drain_timeout_seconds=self._pipeline.drain_timeout_seconds) as streams:
                self._enter(_State.RUNNING)
                with self._intake:
                    async with iterating(streams) as assigned:
                        async for stream in assigned:
                            workers.start_soon(self._work_on, stream, router, parked)
                self._enter(_State.DRAINING)

    async def _work_on(self, stream: PartitionStream, router: ErrorRouter, parked: ParkedKeys | None) -> None:
        progress = PartitionProgress(stream.partition, self._pipeline.clock)
        work = PartitionWork(
            self._pipeline,
            stream,
            tally=self.tally,
            progress=progress,
            telemetry=self._telemetry.of(stream.partition),
        )
        self._progress.add(progress)
        try:
            await PartitionWorker(work, router, parked).run()
        finally:
            self._progress.discard(progress)

    def _enter(self, state: _State) -> None:
        self._state, self._since = state, time.time()
        logger.info(
            "pipeline changed its state", extra={"pipeline": self._pipeline.name, "state": state.value}
        )

    def _state_check(self) -> Check:
        match self._state, self.failure:
            case _State.RUNNING, _:
                return Check(name="pipeline", state=CheckState.OK, why="running", since=self._since)
            case _, CdcError() as failure:
                why, remedy = f"ended with {type(failure).__name__}: {failure.message}", failure.remedy
            case _, BaseException() as failure:
                why, remedy = f"ended with {type(failure).__name__}", "see the log of the process"
            case state, _:
                why, remedy = state.value, ""
        return Check(name="pipeline", state=CheckState.FAIL, why=why, remedy=remedy, since=self._since)

    def _intake_checks(self) -> list[Check]:
        """Fail where the source says that events of our partitions wait, and nothing moved for long."""
        stalled_after, now = self._pipeline.stalled_after_seconds, self._pipeline.clock()
        moved_at = {each.partition: each.moved_at for each in self._progress}
        return [
            Check(
                name=f"intake {lag.partition}",
                state=CheckState.FAIL,
                why="the source says that events wait, and none was acknowledged for a long time",
                remedy="see whether the source delivers",
            )
            for lag in self.sampler.lag
            if now - moved_at.get(lag.partition, now) > stalled_after
            and is_waiting(lag, longer_than_seconds=stalled_after)
        ]

    def _dead_letters_check(self) -> Check:
        count, since = self.tally.dead_lettered, self.tally.first_dead_letter_at
        if not count:
            return Check(name="dead_letters", state=CheckState.OK, why="no event was set aside in this run")
        return Check(
            name="dead_letters",
            state=CheckState.WARN,
            why=f"{count} events were set aside in this run, the last for {self.tally.last_cause_type}",
            remedy="list them, mend their cause, and replay or discard them",
            since=since,
        )


def _dropping_repeats(pipeline: Pipeline) -> tuple[Pipeline, DropRepeats | None]:
    """Return the pipeline with its handler wrapped where it is to be, and what wraps it, if anything does."""
    wanted = pipeline.drop_repeats
    if wanted is None:
        wanted = pipeline.transport.traits.drops_repeats
    if wanted and not isinstance(pipeline.handler, DropRepeats):
        pipeline = replace(pipeline, handler=drop_repeats(pipeline.handler))
    return pipeline, pipeline.handler if isinstance(pipeline.handler, DropRepeats) else None


def _split(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """Part an exception into its cancellations and the rest."""
    cancelled = anyio.get_cancelled_exc_class()
    if isinstance(error, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", error).split(cancelled)
    return (error, None) if isinstance(error, cancelled) else (None, error)
