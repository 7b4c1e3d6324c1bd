"""One connection's way from batches over receipts to confirmations."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
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
        max_in_flight_bytes: int,
    ) -> None:
        self.failed = anyio.Event()
        self.failure: CdcError | None = None
        self.published = 0
        self.rejected = 0
        self._session = session
        self._publisher = publisher
        self._router = router
        self._name = name
        self._max_in_flight_bytes = max_in_flight_bytes
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
                receipt = await self._publisher.publish(batch)
                self._in_flight.append((receipt, batch, first, size))
                self._in_flight_bytes += size
                first += len(batch)
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
