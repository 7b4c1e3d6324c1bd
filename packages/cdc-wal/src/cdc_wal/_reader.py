"""Feeds a transport with a broker: reads the slot, publishes, and confirms what every receipt has settled."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from typing import Final, final

import anyio
import msgspec
from cdc_core import (
    UNKNOWN,
    Cause,
    CdcError,
    ChangeIdentity,
    Check,
    CheckState,
    Epoch,
    ErrorRouter,
    Event,
    FailedEvent,
    Health,
    Lane,
    Operation,
    OutgoingEvent,
    Partition,
    PartitionLag,
    Provisioner,
    Receipt,
    Rejected,
    TableId,
    Transport,
    WalPublisher,
)
from cdc_pgoutput import Lsn

from ._config import WalConfig
from ._connection import PasswordProvider
from ._dead_letters import open_error_router
from ._monitor import open_monitor
from ._provisioner import open_provisioner
from ._reconnect import Reconnects
from ._session import Resume, SchemaChangeHook, SlotSession, open_session
from ._source import SlotPosition
from ._tasks import open_task_group, wait_any

_logger = logging.getLogger("cdc_wal")

_MONITOR_INTERVAL_SECONDS: Final = 5.0


@final
class WalReader:
    """Reads a slot and publishes its events through a transport; nothing is confirmed before it is durable there.

    - `to`: the transport; its publisher is opened anew after a terminal error, from the confirmed LSN.
    - `name`: in logs, health and the dead letters of what the publisher rejects; default: the slot's name.
    - `password`: called on every connection; `on_schema_change`: awaited before the first row of a new shape.
    - `drain_timeout_seconds`: how long leaving waits for receipts.

    A frozen value: each `running()` or `run()` is a new run.
    """

    def __init__(
        self,
        config: WalConfig,
        *,
        to: Transport,
        name: str | None = None,
        password: PasswordProvider | None = None,
        on_schema_change: SchemaChangeHook | None = None,
        drain_timeout_seconds: float = 20.0,
    ) -> None:
        self.config = config
        self.name = name or config.slot_name
        self._to = to
        self._password = password
        self._on_schema_change = on_schema_change
        self._drain_timeout_seconds = drain_timeout_seconds

    def __repr__(self) -> str:
        return f"WalReader({self.name!r}, {self.config!r})"

    def provisioner(self) -> AbstractAsyncContextManager[Provisioner]:
        """Open the provisioner of the publication, the slot and the dead-letter table."""
        return open_provisioner(self.config, password=self._password)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[RunningReader]:
        """Run beside the body; leaving drains for a bounded time, confirms and disconnects.

        Raises:
            CdcError: what ended the reader, alone; the body is cancelled then.
        """
        live = RunningReader(
            self.config, self.name, self._to, self._password, self._on_schema_change, self._drain_timeout_seconds
        )
        async with open_task_group() as tasks:
            with anyio.CancelScope() as body:
                tasks.start_soon(live._run, body)  # noqa: SLF001
                tasks.start_soon(live._sample)  # noqa: SLF001
                try:
                    yield live
                finally:
                    live.stop()
                    with anyio.move_on_after(self._drain_timeout_seconds + 10.0, shield=True):
                        await live.ended.wait()
        if live.failure is not None:
            raise live.failure

    async def run(self) -> None:
        """Run until an error ends it, or it is cancelled.

        Raises:
            CdcError: what ended the reader.
        """
        async with self.running() as live:
            await live.ended.wait()


@final
class RunningReader:
    """A run of a `WalReader`; received from `running()`."""

    def __init__(
        self,
        config: WalConfig,
        name: str,
        to: Transport,
        password: PasswordProvider | None,
        on_schema_change: SchemaChangeHook | None,
        drain_timeout_seconds: float,
    ) -> None:
        self.ended = anyio.Event()
        self.failure: CdcError | None = None
        self.published = 0
        self.rejected = 0
        self._config = config
        self._name = name
        self._to = to
        self._password = password
        self._on_schema_change = on_schema_change
        self._drain_timeout_seconds = drain_timeout_seconds
        self._reconnects = Reconnects(config)
        self._resume: Resume | None = None
        self._session: SlotSession[OutgoingEvent] | None = None
        self._stopping = anyio.Event()
        self._trouble: CdcError | None = None
        self._health = Health(checks=(), sampled_at=0.0)
        self._lag: Sequence[PartitionLag] = ()

    @property
    def confirmed_lsn(self) -> Lsn | None:
        """The LSN up to which all is durable; None before the first connection."""
        if self._session is not None:
            return self._session.confirmed_lsn
        return self._resume.confirmed_lsn if self._resume else None

    @property
    def health(self) -> Health:
        """The last sample of the slot's health, with the reader's own state in front."""
        return Health(checks=(self._own_check(), *self._health.checks), sampled_at=self._health.sampled_at)

    @property
    def lag(self) -> Sequence[PartitionLag]:
        """The last sample of the slot's lag; UNKNOWN before the first."""
        return self._lag or (
            PartitionLag(partition=Partition(source="", id=self._config.slot_name), lag_bytes=UNKNOWN),
        )

    def stop(self) -> None:
        """Take nothing more, drain, confirm and leave; `ended` is set when that is done."""
        self._stopping.set()

    async def _run(self, body: anyio.CancelScope) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    await self._hold()
                except CdcError as error:
                    self._trouble = error
                    delay = self._reconnects.delay_seconds(error, now=anyio.current_time())
                    _logger.warning(
                        "reader failed, trying again",
                        extra={"reader": self._name, "error": type(error).__name__, "delay_seconds": delay},
                    )
                    with anyio.move_on_after(delay):
                        await self._stopping.wait()
        except CdcError as error:
            self.failure = error
            body.cancel()
        finally:
            self.ended.set()

    async def _hold(self) -> None:
        async with (
            open_session(
                self._config,
                password=self._password,
                resume=self._resume,
                make=_MakeOutgoing,
                mark_end=_mark_end,
                on_schema_change=self._on_schema_change,
            ) as session,
            self._to.publisher(_SessionFence(session, self._config)) as publisher,
            open_error_router(self._config, password=self._password) as router,
        ):
            self._session = session
            flow = _Flow(session, publisher, router, self._name, self._config.max_buffered_bytes)
            try:
                await self._flow(flow, session)
            finally:
                self.published += flow.published
                self.rejected += flow.rejected
                self._resume = Resume(epoch=session.epoch, confirmed_lsn=session.confirmed_lsn)
                self._session = None
        if session.failure is not None:
            raise session.failure

    async def _flow(self, flow: _Flow, session: SlotSession[OutgoingEvent]) -> None:
        async with open_task_group() as tasks:
            tasks.start_soon(flow.publish)
            tasks.start_soon(flow.settle)
            self._reconnects.healthy()
            self._trouble = None
            await wait_any(session.ended, session.server_stopping, self._stopping, flow.failed)
            session.close_intake()
            timeout = self._drain_timeout_seconds
            if session.server_stopping.is_set():
                timeout = min(timeout, self._config.drain_timeout_seconds)
            # Also after a lost connection: what is in flight is resolved before the log is read again (rule 19).
            with anyio.move_on_after(timeout, shield=True):
                await flow.drained()
        if flow.failure is not None:
            raise flow.failure

    async def _sample(self) -> None:
        while True:
            try:
                with anyio.move_on_after(_MONITOR_INTERVAL_SECONDS):
                    async with open_monitor(self._config, password=self._password) as monitor:
                        while True:
                            self._lag = await monitor.lag()
                            self._health = await monitor.health()
                            await anyio.sleep(_MONITOR_INTERVAL_SECONDS)
            except CdcError as error:
                check = Check(name="monitor", state=CheckState.UNKNOWN, why=error.message, remedy=error.remedy)
                self._health, self._lag = Health.of(check), ()
            await anyio.sleep(_MONITOR_INTERVAL_SECONDS)

    def _own_check(self) -> Check:
        name = f"reader {self._name}"
        if self.ended.is_set():
            why = str(self.failure) if self.failure else "the reader was stopped"
            return Check(name=name, state=CheckState.FAIL, why=why)
        if self._trouble is not None:
            return Check(
                name=name, state=CheckState.FAIL, why=self._trouble.message, remedy=self._trouble.remedy
            )
        if self._session is None:
            return Check(name=name, state=CheckState.WARN, why="not connected yet")
        return Check(name=name, state=CheckState.OK)


@final
class _Flow:
    """One connection's way from batches over receipts to confirmations."""

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
        self._in_flight: deque[tuple[Receipt, list[OutgoingEvent], int]] = deque()
        self._in_flight_bytes = 0
        self._published_all = False
        self._moved = anyio.Event()

    async def publish(self) -> None:
        """Publish batch after batch; the publisher's acceptance and the bytes in flight are the backpressure."""
        first = 0
        try:
            while (batch := await self._session.next_batch()) is not None:
                await self._until(lambda: self._in_flight_bytes < self._max_in_flight_bytes)
                receipt = await self._publisher.publish(batch)
                self._in_flight.append((receipt, batch, first))
                self._in_flight_bytes += _size(batch)
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
                receipt, batch, first = self._in_flight[0]
                rejected = await receipt
                if rejected:
                    await self._router.route([self._failed(batch[entry.index], entry) for entry in rejected])
                    self.rejected += len(rejected)
                if self._session.failure is None:
                    self._session.done(first, len(batch))
                self.published += len(batch) - len(rejected)
                self._in_flight.popleft()
                self._in_flight_bytes -= _size(batch)
                self._move()
        except CdcError as error:
            self._fail(error)

    async def drained(self) -> None:
        """Wait until every accepted batch is settled, or something failed."""
        await self._until(lambda: self.failed.is_set() or (self._published_all and not self._in_flight))

    def _failed(self, event: OutgoingEvent, entry: Rejected) -> FailedEvent:
        identity = event.identity
        assert isinstance(identity, ChangeIdentity)
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
class _SessionFence:
    """Rule 19: a reader may send while the server answered within half of `wal_sender_timeout`."""

    def __init__(self, session: SlotSession[OutgoingEvent], config: WalConfig) -> None:
        self._session = session
        self._allowance = config.wal_sender_timeout_seconds / 2

    def remaining_seconds(self) -> float:
        """Return the seconds for which a request may still run."""
        if self._session.failure is not None:
            return 0.0
        return self._session.heard_at + self._allowance - time.monotonic()


@final
class _MakeOutgoing:
    """Makes the events of one connection; the epoch stands in their identities."""

    def __init__(self, epoch: Epoch) -> None:
        self._epoch = epoch

    def __call__(
        self,
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


def _mark_end(event: OutgoingEvent) -> OutgoingEvent:
    return msgspec.structs.replace(event, ends_transaction=True)


def _size(batch: list[OutgoingEvent]) -> int:
    return sum(len(event.value or b"") + len(event.key or b"") for event in batch)
