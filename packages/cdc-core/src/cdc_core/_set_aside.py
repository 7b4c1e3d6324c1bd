"""Failed events on their way into the dead letters: held until it is sure that the data is to blame."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, final

from ._dead_letters import Cause, FailedEvent
from ._errors import HandlerFailing
from ._events import Event
from ._parking import ParkedKeys
from ._partition_work import PartitionWork, logger
from ._protocols import ErrorRouter

_PARKED: Final = Cause(type="parked", message="waits behind an earlier event of its key")


@final
@dataclass(slots=True)
class Batch:
    """A batch in hand: its events, those of them that failed and are not stored yet, and those never tried."""

    events: Sequence[Event]
    held: list[FailedEvent] = field(default_factory=list[FailedEvent])
    untried: set[int] = field(
        default_factory=set[int]
    )  # by id(); only filled where events are kept in a list


@final
class SetAside:
    """The failed events of one partition.

    One run at a time (`in_order`): a failed event is held until a success shows that the handler works, or until
    its batch ends; then it is routed. Failed events in a row, with no success between, are counted across batches;
    at `RetryPolicy.max_consecutive_poison` the pipeline ends, and what is held is neither routed nor acknowledged.

    With several keys at a time the order of calls says nothing about what is "in a row", so failed events are held
    until their batch has ended, when all is known, and are counted in the order of the stream. So that a broken
    sink does not cost a whole batch of attempts, so many failures in a row end the pipeline at once where no
    success anywhere overlapped with any of them.
    """

    def __init__(
        self, work: PartitionWork, router: ErrorRouter, parked: ParkedKeys | None, *, in_order: bool
    ) -> None:
        self._work = work
        self._router = router
        self._parked = parked
        self._in_order = in_order
        self._limit = work.pipeline.retry.max_consecutive_poison
        self._in_a_row = 0
        self._without_success = 0
        self.successes = 0

    async def handled(self, events: Sequence[Event], batch: Batch) -> None:
        """Acknowledge events that the handler took."""
        self.successes += 1
        self._without_success = 0
        self._work.tally.handled += len(events)
        self._work.telemetry.done("handled", len(events))
        await self._work.ack(events)
        if self._in_order:
            self._in_a_row = 0
            if batch.held:
                await self._store(batch)

    def failed(
        self, event: Event, error: Exception, batch: Batch, *, attempts: int, successes_before: int
    ) -> None:
        """Hold an event that failed by itself.

        Raises:
            HandlerFailing: too many failed in a row.
        """
        self._hold(event, Cause.of(error), batch, attempts=attempts, parked=False)
        if self._in_order:
            self._in_a_row += 1
            self._require_success(self._in_a_row, error)
        elif self.successes == successes_before:
            self._without_success += 1
            self._require_success(self._without_success, error)

    def park(self, event: Event, batch: Batch) -> None:
        """Hold an event that waits behind a poisoned one of its key."""
        self._hold(event, _PARKED, batch, attempts=0, parked=True)

    async def batch_ended(self, batch: Batch) -> None:
        """Route what is held of a batch, all of whose events are decided.

        Raises:
            HandlerFailing: too many failed in a row.
            RoutingError: they could not be stored.
        """
        if not self._in_order:
            self._count_in_stream_order(batch)
        if batch.held:
            await self._store(batch)

    def _hold(self, event: Event, cause: Cause, batch: Batch, *, attempts: int, parked: bool) -> None:
        if self._parked is not None:
            self._parked.hold(event)
        if parked:
            batch.untried.add(id(event))
        batch.held.append(
            FailedEvent(
                event=event,
                cause=cause,
                pipeline=self._work.pipeline.name,
                attempts=attempts,
                failed_at=datetime.now(UTC),
                parked=parked,
            )
        )

    def _count_in_stream_order(self, batch: Batch) -> None:
        failed = {id(held.event): held for held in batch.held if not held.parked}
        if not failed:
            if len(batch.untried) < len(batch.events):
                self._in_a_row = 0
            return
        for event in batch.events:
            if id(event) in failed:
                self._in_a_row += 1
                self._require_success(self._in_a_row, None)
            elif id(event) not in batch.untried:
                self._in_a_row = 0

    def _require_success(self, failed_in_a_row: int, error: Exception | None) -> None:
        if failed_in_a_row < self._limit:
            return
        raise HandlerFailing(
            f"{failed_in_a_row} events in a row failed, with no success between",
            where=self._work.fields,
            remedy="mend the handler or its sink, and run again; if the data is to blame, raise"
            " RetryPolicy.max_consecutive_poison",
        ) from error

    async def _store(self, batch: Batch) -> None:
        failed, batch.held = batch.held, []

        async def route() -> None:
            await self._router.route(failed)

        await self._work.insist("storing dead letters", route)
        self._work.settled([held.event for held in failed])
        tally, telemetry = self._work.tally, self._work.telemetry
        parked = sum(held.parked for held in failed)
        tally.dead_lettered += len(failed)
        tally.parked += parked
        tally.last_cause_type = failed[-1].cause.type
        tally.first_dead_letter_at = tally.first_dead_letter_at or time.time()
        telemetry.done("dead_lettered", len(failed) - parked)
        telemetry.done("parked", parked)
        logger.warning(
            "events were stored in the dead letters",
            extra=self._work.fields
            | {"count": len(failed), "parked": parked, "cause_type": failed[0].cause.type},
        )
        if self._parked is not None:
            for held in failed:
                self._parked.stored(held.event)
        await self._work.ack([held.event for held in failed])
