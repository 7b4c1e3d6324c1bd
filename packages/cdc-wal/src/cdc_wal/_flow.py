"""One connection's way from batches over receipts to confirmations."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import final

import anyio
import msgspec

from cdc_core import (
    Cause,
    CdcError,
    ChangeIdentity,
    Epoch,
    ErrorRouter,
    Event,
    FailedEvent,
    Lane,
    Operation,
    OutgoingEvent,
    Receipt,
    Rejected,
    TableId,
    WalPublisher,
)

from ._changes import MakeEvent
from ._config import WalConfig
from ._errors import TruncateNotPublished
from ._session import SlotSession
from ._source import SlotPosition


@final
class Flow:
    """Publishes, settles, records as done: two tasks, so that many receipts are open at once."""

    def __init__(
        self,
        session: SlotSession[OutgoingEvent],
        publisher: WalPublisher,
        router: ErrorRouter,
        name: str,
        config: WalConfig,
    ) -> None:
        self.failed = anyio.Event()
        self.failure: CdcError | None = None
        self.published = 0
        self.rejected = 0
        self._session = session
        self._publisher = publisher
        self._router = router
        self._name = name
        self._max_in_flight_bytes = config.max_buffered_bytes
        self._truncate = config.truncate or "error"
        self._truncates = 0  # how many were taken from the session
        self._in_flight: deque[tuple[Receipt, list[OutgoingEvent], int, int]] = deque()
        self._in_flight_bytes = 0
        self._published_all = False
        self._moved = anyio.Event()

    async def publish(self) -> None:
        """Publish batch after batch; the publisher's acceptance and the bytes in flight are the backpressure."""
        first = 0
        try:
            while (batch := await self._session.next_batch()) is not None:
                size = self._session.taken_bytes
                await self._until(lambda: self._in_flight_bytes < self._max_in_flight_bytes)
                self._in_flight_bytes += size
                parts = self._parts(batch)
                for part in parts:
                    is_last = part is parts[-1]
                    receipt = await self._accepted(part, is_last=is_last)
                    # the bytes are free again when the last part is settled
                    self._in_flight.append((receipt, part, first, size if is_last else 0))
                    first += len(part)
                    self._move()
        except CdcError as error:
            if self._session.failure is None:
                self._fail(error)
        finally:
            self._published_all = True
            self._move()

    async def settle(self) -> None:
        """Await receipt after receipt, store what was rejected, and record the batch as done."""
        try:
            while True:
                await self._until(lambda: bool(self._in_flight))
                receipt, batch, first, size = self._in_flight[0]
                rejected = await receipt
                if rejected:
                    await self._router.route([self._failed(batch[entry.index], entry) for entry in rejected])
                    self.rejected += len(rejected)
                if self._session.failure is None:
                    self._session.done(first, len(batch))
                self.published += len(batch) - len(rejected)
                self._in_flight.popleft()
                self._in_flight_bytes -= size
                self._move()
        except CdcError as error:
            self._fail(error)

    async def drained(self) -> None:
        """Wait until every accepted batch is settled, or something failed."""
        await self._until(lambda: self.failed.is_set() or (self._published_all and not self._in_flight))

    def _parts(self, batch: list[OutgoingEvent]) -> list[list[OutgoingEvent]]:
        """Return the batch in order, its TRUNCATEs apart from its rows; as one where it has none, as nearly always."""
        if self._truncate == "deliver" or self._truncates == self._session.truncates:
            return [batch]
        parts = [list(part) for _, part in groupby(batch, key=_truncated_at)]
        self._truncates += sum(len(part) for part in parts if _truncated_at(part[0]) is not None)
        return parts

    async def _accepted(self, part: list[OutgoingEvent], *, is_last: bool) -> Receipt:
        """Publish a part of a batch; with TRUNCATEs do what the policy says.

        Raises:
            TruncateNotPublished: the policy is to stop; all before it is settled.
        """
        commit_lsn = _truncated_at(part[0])
        if self._truncate == "deliver" or commit_lsn is None:
            return await self._publisher.publish(part)
        if self._truncate == "error":
            await self._until(lambda: not self._in_flight)
            raise self._refusal(await self._with_rest(part, commit_lsn) if is_last else part, commit_lsn)
        return _NothingStored(
            [Rejected(index, self._refusal([event], commit_lsn)) for index, event in enumerate(part)]
        )

    async def _with_rest(self, part: list[OutgoingEvent], commit_lsn: int) -> list[OutgoingEvent]:
        """Return a TRUNCATE with those of its tables that come with the next batch; nothing else is taken any more."""
        events = list(part)
        while _truncated_at(events[-1]) == commit_lsn and not events[-1].ends_transaction:
            if (batch := await self._session.next_batch()) is None:
                break
            events += batch
        return [event for event in events if _truncated_at(event) == commit_lsn]

    def _refusal(self, events: Sequence[OutgoingEvent], commit_lsn: int) -> TruncateNotPublished:
        tables = tuple(dict.fromkeys(event.table for event in events if event.table is not None))
        return TruncateNotPublished(tables=tables, commit_lsn=commit_lsn, slot_name=self._session.epoch.slot)

    def _failed(self, event: OutgoingEvent, entry: Rejected) -> FailedEvent:
        identity = event.identity
        if not isinstance(identity, ChangeIdentity):  # a reader of the log makes no other
            raise TypeError(f"an event of the log has a {type(identity).__name__}")
        position = SlotPosition(0, 0, identity.commit_lsn, identity.ordinal, identity.sub_index)
        return FailedEvent(
            event=Event(
                key=event.key,
                value=event.value,
                op=event.op,
                table=event.table,
                position=position,
                identity=identity,
                lane=Lane(identity.epoch.slot),
                headers=event.headers,
                related_key=event.related_key,
                committed_at=event.committed_at,
            ),
            cause=Cause.of(entry.cause),
            pipeline=self._name,
            attempts=1,
            failed_at=datetime.now(UTC),
        )

    def _fail(self, error: CdcError) -> None:
        if self.failure is None:
            self.failure = error
        self.failed.set()
        self._move()

    def _move(self) -> None:
        self._moved.set()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._moved = anyio.Event() if self._moved.is_set() else self._moved
            await self._moved.wait()


@final
class _NothingStored:
    """The receipt of events that were not given to the publisher: all are rejected."""

    def __init__(self, rejected: Sequence[Rejected]) -> None:
        self._rejected = rejected

    def __await__(self) -> Generator[object, object, Sequence[Rejected]]:
        return self._rejected
        yield


def _truncated_at(event: OutgoingEvent) -> int | None:
    """Return the commit LSN of a TRUNCATE's event, None for any other."""
    if event.op is not Operation.TRUNCATE or not isinstance(event.identity, ChangeIdentity):
        return None
    return event.identity.commit_lsn


@final
class SessionFence:
    """Rule 19: a reader may send while the server answered within half of `wal_sender_timeout`."""

    def __init__(self, session: SlotSession[OutgoingEvent], config: WalConfig) -> None:
        self._session = session
        self._allowance = config.wal_sender_timeout_seconds / 2

    def remaining_seconds(self) -> float:
        """Return the seconds for which a request may still run."""
        if self._session.failure is not None:
            return 0.0
        return self._session.heard_at + self._allowance - time.monotonic()


def outgoing_event_maker(epoch: Epoch) -> MakeEvent[OutgoingEvent]:
    """Return what makes the events of one connection; the epoch stands in their identities."""

    def make(
        key: bytes | None,
        value: bytes,
        op: Operation,
        table: TableId | None,
        identity: ChangeIdentity,
        related_key: bytes | None,
        committed_at: float,
        delivery: int,
        /,
    ) -> OutgoingEvent:
        return OutgoingEvent(
            key=key,
            value=value,
            op=op,
            table=table,
            identity=identity,
            related_key=related_key,
            committed_at=committed_at,
        )

    return make


def mark_end(event: OutgoingEvent) -> OutgoingEvent:
    # in place although it is frozen: nobody has seen it yet, and a copy for each transaction costs 1 us
    msgspec.structs.force_setattr(event, "ends_transaction", True)
    return event
