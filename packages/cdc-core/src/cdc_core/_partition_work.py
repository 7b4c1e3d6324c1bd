"""What the worker of one partition shares with the parts that carry out its policy."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar, cast, final

import anyio

from ._errors import CdcError, HandlerFailing, PartitionLost, RoutingError
from ._events import Event
from ._progress import PartitionProgress, Tally
from ._repeats import FollowsDeliveries
from ._retry import Backoff, Verdict
from ._streams import PartitionStream
from ._telemetry import PartitionTelemetry
from ._transport import CommitPrefix

if TYPE_CHECKING:
    from ._pipeline import Pipeline

T = TypeVar("T")

_LOOK_SECONDS: Final = 0.05

logger: Final = logging.getLogger("cdc_core")


class LeavePartition(Exception):
    """The worker has to leave its stream: its deadline is near, or (`lost`) the partition is no longer ours."""

    def __init__(self, *, lost: bool) -> None:
        super().__init__()
        self.lost = lost


@final
class PartitionWork:
    """One partition stream with the pipeline's settings: calls, waits and acknowledgements, counted and watched."""

    def __init__(
        self,
        pipeline: Pipeline,
        stream: PartitionStream,
        *,
        tally: Tally,
        progress: PartitionProgress,
        telemetry: PartitionTelemetry,
    ) -> None:
        self.pipeline = pipeline
        self.stream = stream
        self.tally = tally
        self.progress = progress
        self.telemetry = telemetry
        self.fields = {"pipeline": pipeline.name, "partition": str(stream.partition)}
        self._each_is_asked = pipeline.transport.traits.commit_prefix is CommitPrefix.LANE
        self._last_call_seconds = 0.0
        handler = pipeline.handler
        follows = hasattr(handler, "delivered") and hasattr(handler, "settled")
        self._following_handler = cast("FollowsDeliveries", handler) if follows else None

    def delivered(self, events: Sequence[Event]) -> None:
        """Tell a handler that follows deliveries of a batch, before any of its events is handled."""
        if (handler := self._following_handler) is not None:
            handler.delivered(events)

    def settled(self, events: Sequence[Event]) -> None:
        """Tell a handler that follows deliveries of events that stand in the dead letters."""
        if (handler := self._following_handler) is not None:
            handler.settled(events)

    def backoff(self) -> Backoff:
        """Return a fresh backoff of the pipeline's retry policy."""
        return Backoff(self.pipeline.retry, random_number=self.pipeline.random_number)

    def require_time(self, seconds: float | None = None) -> None:
        """Leave the partition if so much time (default: as the last call took) would pass its deadline."""
        deadline = self.stream.revoking_at
        if deadline is None:
            return
        needed = self._last_call_seconds if seconds is None else seconds
        if anyio.current_time() + needed >= deadline:
            raise LeavePartition(lost=False)

    def current(self, events: Sequence[Event]) -> Sequence[Event]:
        """Return the events that are still ours.

        Where a partition is owned as a whole, its events cease to be ours together, so that the first and the last
        speak for all; 4,096 questions would cost more than the rest of the runner. Where ownership goes by lane
        (Pub/Sub's ordering keys have a deadline each), every event is asked for.
        """
        is_current = self.stream.current
        if not self._each_is_asked and is_current(events[0]) and is_current(events[-1]):
            return events
        ours = [event for event in events if is_current(event)]
        if len(ours) == len(events):
            return events
        self.tally.not_current += len(events) - len(ours)
        logger.warning("events are no longer ours", extra=self.fields | {"count": len(events) - len(ours)})
        return ours

    async def call(self, events: Sequence[Event]) -> Exception | None:
        """Call the handler once; return what it raised."""
        tally, clock = self.tally, self.pipeline.clock
        tally.calls += 1
        tally.calls_running += 1
        started = clock()
        try:
            with self.telemetry.span(events):
                await self.pipeline.handler(events)
        except anyio.get_cancelled_exc_class() as error:
            if anyio.current_effective_deadline() == -math.inf:
                raise
            # asyncio: something the handler awaited was cancelled, not this task. Passed on, it would end the
            # worker without a word, and its partition would stand still.
            raise HandlerFailing(
                "the handler raised a cancellation that did not come from here",
                where=self.fields,
                remedy="let the handler raise an error where what it awaits is cancelled",
            ) from error
        except Exception as error:  # noqa: BLE001 - the retry policy judges it, and nothing is swallowed
            return error
        finally:
            tally.calls_running -= 1
            tally.last_call_ended_at = ended = clock()
            self._last_call_seconds = ended - started
            self.telemetry.called(ended - started)
        return None

    async def pause(
        self, who: object, backoff: Backoff, error: BaseException, doing: str, *, endless: bool
    ) -> None:
        """Wait before the next attempt, or leave the partition where there is no time for one."""
        delay = backoff.next_delay_seconds()
        cause_type = type(error).__qualname__
        if endless:
            self.progress.retry(who, doing, cause_type)
        self.tally.retries += 1
        self.telemetry.retried()
        logger.warning(
            "an attempt failed and is made again",
            extra=self.fields
            | {
                "doing": doing,
                "cause_type": cause_type,
                "failures": backoff.failures,
                "delay_seconds": delay,
                "endless": endless,
            },
        )
        self.require_time(delay)
        if endless:
            await self._sleep_unless_leaving(delay)
        else:
            await self.pipeline.sleep(delay)

    async def _sleep_unless_leaving(self, seconds: float) -> None:
        """Sleep, or leave the partition once it is revoked or the pipeline drains.

        What is down now may be down because of what we hold up: a database that shuts down waits for its reader,
        whose handler cannot write to it. The events come again.
        """
        async with anyio.create_task_group() as tasks:

            async def sleep() -> None:
                await self.pipeline.sleep(seconds)
                tasks.cancel_scope.cancel()

            tasks.start_soon(sleep)
            while self.stream.revoking_at is None:  # noqa: ASYNC110 - a number of the protocol, which no event tells
                await anyio.sleep(_LOOK_SECONDS)
            tasks.cancel_scope.cancel()
        if self.stream.revoking_at is not None:
            raise LeavePartition(lost=False)

    async def ack(self, events: Sequence[Event]) -> None:
        """Acknowledge events; leave the partition if none of them is ours any more."""
        try:
            await self.stream.ack(events)
        except PartitionLost:
            logger.warning("late acknowledgement: the partition is lost", extra=self.fields)
            raise LeavePartition(lost=True) from None
        self.progress.moved()

    async def insist(self, doing: str, action: Callable[[], Awaitable[T]]) -> T:
        """Do something with the dead letters, again without end while its error is transient.

        Raises:
            CdcError: it failed for good.
        """
        backoff = self.backoff()
        try:
            while True:
                try:
                    return await action()
                except Exception as error:
                    if self.pipeline.retry.judge(error) is not Verdict.TRANSIENT:
                        if isinstance(error, CdcError):
                            raise
                        raise RoutingError(
                            f"{doing} failed with {type(error).__qualname__}",
                            where=self.fields,
                            remedy="see the cause; nothing behind it was acknowledged",
                        ) from error
                    await self.pause(action, backoff, error, doing, endless=True)
        finally:
            self.progress.recovered(action)
