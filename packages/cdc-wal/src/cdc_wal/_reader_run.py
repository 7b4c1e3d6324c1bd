"""One run of a reader: one connection after the other, until it is stopped or an error is final."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, final

import anyio

from cdc_core import (
    CdcError,
    Check,
    CheckState,
    Health,
    OutgoingEvent,
    Partition,
    PartitionLag,
    one_error,
    open_task_group,
    wait_any,
)
from cdc_pgoutput import Lsn

from ._dead_letters import open_error_router
from ._flow import Flow, SessionFence, mark_end, outgoing_event_maker
from ._monitor import open_monitor
from ._opening import open_session
from ._reconnect import Reconnects
from ._session import Resume, SlotSession

if TYPE_CHECKING:
    from ._reader import WalReader

_logger = logging.getLogger("cdc_wal")

_MONITOR_INTERVAL_SECONDS: Final = 5.0


@final
class ReaderRun:
    """Runs a reader once; `main` keeps its failure, and cancels `body`, the scope of whoever runs beside it."""

    def __init__(self, reader: WalReader) -> None:
        self.body: anyio.CancelScope = anyio.CancelScope()
        self.ended: anyio.Event = anyio.Event()
        self.failure: BaseException | None = None
        self.published: int = 0
        self.rejected: int = 0
        self._reader = reader
        self._config = reader.config
        self._reconnects = Reconnects(reader.config)
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
        """The reader's own state, then the last sample of the slot's health."""
        return Health(checks=(self._own_check(), *self._health.checks), sampled_at=self._health.sampled_at)

    @property
    def lag(self) -> Sequence[PartitionLag]:
        """The last sample of the slot's lag; all UNKNOWN before the first."""
        return self._lag or (PartitionLag(partition=Partition("", self._config.slot_name)),)

    def stop(self) -> None:
        """Take nothing more, drain, confirm and leave."""
        self._stopping.set()

    async def main(self) -> None:
        """Run until stopped, cancelled or failed."""
        try:
            async with open_task_group() as tasks:
                tasks.start_soon(self._sample)
                while not self._stopping.is_set():
                    try:
                        await self._hold()
                    except CdcError as error:
                        await self._pause(error)
        except Exception as error:  # noqa: BLE001 - kept for whoever runs beside it, who raises it
            where = {"reader": self._reader.name}
            self.failure = one_error(error, out_of="the publisher or the reader", where=where)
            self.body.cancel()
        finally:
            self.ended.set()

    async def _pause(self, error: CdcError) -> None:
        self._trouble = error
        delay = self._reconnects.delay_seconds(error, now=anyio.current_time())
        _logger.warning(
            "reader failed, trying again",
            extra={
                "reader": self._reader.name,
                "error": type(error).__name__,
                "reason": error.message,
                "delay_seconds": delay,
            },
        )
        with anyio.move_on_after(delay):
            await self._stopping.wait()

    async def _hold(self) -> None:
        """Hold one connection and one publisher until one of them fails, the server stops, or the run does."""
        password = self._reader.password
        async with (
            open_session(
                self._config,
                password=password,
                resume=self._resume,
                make=outgoing_event_maker,
                mark_end=mark_end,
                on_schema_change=self._reader.on_schema_change,
            ) as session,
            self._reader.to.publisher(SessionFence(session, self._config)) as publisher,
            open_error_router(self._config, password=password) as router,
        ):
            flow = Flow(session, publisher, router, self._reader.name, self._config)
            self._session = session
            connected_at = anyio.current_time()
            try:
                await self._run_flow(flow, session)
            finally:
                self.published += flow.published
                self.rejected += flow.rejected
                self._resume = session.resume()
                held_for = anyio.current_time() - connected_at
                self._reconnects.ended(seconds=held_for, is_progress=session.is_progress)
                self._session = None
        if session.failure is not None:
            raise session.failure

    async def _run_flow(self, flow: Flow, session: SlotSession[OutgoingEvent]) -> None:
        async with open_task_group() as tasks:
            tasks.start_soon(flow.publish)
            tasks.start_soon(flow.settle)
            self._reconnects.connected()
            self._trouble = None
            await wait_any(session.ended, session.server_stopping, self._stopping, flow.failed)
            session.close_intake()
            timeout = self._reader.drain_timeout_seconds
            if session.server_stopping.is_set():
                timeout = min(timeout, self._config.drain_timeout_seconds)
            # Also after a lost connection: what is in flight is resolved before the log is read again (rule 19).
            with anyio.move_on_after(timeout):
                await flow.drained()
        if flow.failure is not None:
            raise flow.failure

    async def _sample(self) -> None:
        async with open_monitor(self._config, password=self._reader.password) as monitor:
            while True:
                try:
                    with anyio.fail_after(_MONITOR_INTERVAL_SECONDS):
                        self._lag = await monitor.lag()
                        self._health = await monitor.health()
                except (CdcError, TimeoutError) as error:
                    remedy = error.remedy if isinstance(error, CdcError) else ""
                    why = f"could not look: {type(error).__name__}"
                    unknown = Check(name="monitor", state=CheckState.UNKNOWN, why=why, remedy=remedy)
                    self._health, self._lag = Health.of(unknown), ()
                await anyio.sleep(_MONITOR_INTERVAL_SECONDS)

    def _own_check(self) -> Check:
        name = f"reader {self._reader.name}"
        if self.ended.is_set():
            why = str(self.failure) if self.failure else "the reader was stopped"
            return Check(name=name, state=CheckState.FAIL, why=why)
        if (trouble := self._trouble) is not None:
            return Check(name=name, state=CheckState.FAIL, why=trouble.message, remedy=trouble.remedy)
        if self._session is None:
            return Check(name=name, state=CheckState.WARN, why="not connected yet")
        return Check(name=name, state=CheckState.OK)
