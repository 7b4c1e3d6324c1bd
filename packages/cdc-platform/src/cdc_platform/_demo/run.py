"""One run: a database, the plan, the pipeline beside the writers, and the proof at the end."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Final, cast, final

import anyio
import psycopg
from anyio.abc import TaskStatus
from rich.console import Console

from cdc_core import CdcError, DeadLetter, Pipeline, RetryPolicy
from cdc_testing.servers.postgres import EmbeddedPostgres, open_postgres
from cdc_wal import RunningReader

from . import faults, view
from .handler import DemoHandler, Tamper
from .options import PIPELINE, SLOT, DemoFailed, DemoOptions, TransportName
from .proof import Mark, Proof, prove, read_mark, store
from .route import Route, log_of, open_route
from .rows import delivery_of
from .schema import create_schema, discard_letters, drop_schema
from .session import Connection, Session, until
from .status import NoteWarnings, Status
from .workload import writing

_FAULT_AT: Final = 0.4
_FAULT_AFTER_SECONDS: Final = 5.0
_SLOT_FREE_SECONDS: Final = 5.0
_COMPARE_SECONDS: Final = 0.5


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a run ended with.

    - `proof`: None where the database could not be asked; `error`: what went wrong, empty where nothing did.
    - `seconds`: how long the writers wrote; `drain_seconds`: how long the rest then took to arrive.
    - `written_before`: changes of earlier runs; `rolled_back`: transactions that the writers rolled back;
      `unanswered`: commits whose answer was lost.
    - `fault_seconds`: how long the fault took; None where there was none.
    """

    proof: Proof | None
    seconds: float
    drain_seconds: float
    written_before: int
    rolled_back: int
    unanswered: int
    server_version: str
    fault_seconds: float | None = None
    error: str = ""

    @property
    def good(self) -> bool:
        """Whether the run went as it should, and the proof holds."""
        return not self.error and self.proof is not None and self.proof.holds


async def run_demo(options: DemoOptions, console: Console, *, tamper: Tamper | None = None) -> Result:
    """Run the demo; the first SIGINT or SIGTERM ends it early, a second one abandons it.

    - `console`: where everything for people goes; `tamper`: see `handler.Tamper`.

    Raises:
        DemoFailed, CdcError, psycopg.Error, cdc_testing.servers.ServerError: it could not be started.
    """
    faults.check_fault(options.fault, own_server=options.dsn is None)
    _check_transport(options)
    result: Result | None = None
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        stopping = anyio.Event()
        await tasks.start(_watch_signals, stopping, tasks.cancel_scope)
        try:
            async with (
                _database(options, console) as (dsn, server),
                open_route(options, dsn) as route,
                Session(dsn, "observer") as session,
            ):
                result = await _Run(options, console, dsn, server, route, session, stopping, tamper).run()
        except Exception as error:  # noqa: BLE001 - raised again below, outside of the task group
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise _first(failure)
    if result is None:
        raise DemoFailed("abandoned by a second signal: nothing was proved", remedy="run the demo again")
    return result


async def drop_demo(dsn: str, console: Console) -> None:
    """Take away what runs of the demo have made in a database.

    Raises:
        CdcError: e.g. a run goes on, and holds the slot.
    """
    async with log_of(dsn).provisioner() as provisioner, Session(dsn, "drop") as session:
        await session.call(discard_letters)  # teardown keeps a table that holds some
        plan = await provisioner.teardown(confirm=SLOT)
        view.print_plan(console, plan, title="Dropped")
        await session.call(drop_schema)
    console.print("The demo's schemas are gone.")


@final
class _Run:
    def __init__(
        self,
        options: DemoOptions,
        console: Console,
        dsn: str,
        server: EmbeddedPostgres | None,
        route: Route,
        session: Session,
        stopping: anyio.Event,
        tamper: Tamper | None,
    ) -> None:
        self._options = options
        self._console = console
        self._dsn = dsn
        self._server = server
        self._route = route
        self._session = session
        self._stopping = stopping
        self._tamper = tamper
        self._fault_seconds: float | None = None
        self._wrote_seconds = 0.0
        self._mark: Mark | None = None

    async def run(self) -> Result:
        version = await self._prepare()
        before = (await self._session.call(read_mark)).written
        if before:
            self._console.print(f"{before:,} changes of earlier runs are proved together with this run's.")
        place = f"PostgreSQL {version}, {'yours' if self._server is None else 'embedded'}, slot {SLOT}"
        if self._route.between:
            place += f", {self._route.between}"
        status = Status(place=place, seconds=self._options.seconds)
        error = ""
        try:
            await self._run_pipeline(status)
        except Exception as failure:
            if not isinstance(first := _first(failure), (CdcError, DemoFailed)):
                raise
            # what was written until then is proved all the same: what is missing is lost
            error = f"{type(first).__name__}: {first}"
        drain_seconds = status.elapsed_seconds - self._wrote_seconds
        proof = await self._prove()
        return Result(
            proof=proof,
            seconds=self._wrote_seconds,
            drain_seconds=drain_seconds,
            written_before=before,
            rolled_back=status.tally.rolled_back,
            unanswered=status.tally.unanswered,
            server_version=version,
            fault_seconds=self._fault_seconds,
            error=error or self._what_is_missing(proof, before),
        )

    async def _prepare(self) -> str:
        """Make the schema, and provision; what a refused plan was made for is taken away again."""
        created = await self._session.call(create_schema)
        try:
            for title, opening in self._route.provisioners():
                async with opening as provisioner:
                    plan = await provisioner.plan()
                    view.print_plan(self._console, plan, title=title)
                    await provisioner.apply(plan)
        except BaseException:
            if created:
                with anyio.move_on_after(10.0, shield=True):
                    await self._session.call(drop_schema)
            raise
        await self._wait_until_free()
        row = await self._session.call(lambda each: each.execute("SHOW server_version").fetchone())
        return str(row[0]).split()[0] if row else "?"

    async def _wait_until_free(self) -> None:
        # the session of a run that was killed ends soon
        if not await until(lambda: self._session.call(_slot_is_free), timeout_seconds=_SLOT_FREE_SECONDS):
            raise DemoFailed(
                f"another session reads the slot {SLOT}",
                remedy="end the demo that runs, or wait for its end",
            )

    async def _run_pipeline(self, status: Status) -> None:
        live_view = self._console.is_terminal
        async with Session(self._dsn, "handler") as sink:
            pipeline = Pipeline(
                name=PIPELINE,
                transport=self._route.transport,
                handler=DemoHandler(sink, status.seen, self._tamper),
                retry=RetryPolicy(
                    max_attempts=2,
                    initial_delay_seconds=0.05,
                    max_delay_seconds=1.0,
                    transient=(psycopg.OperationalError,),
                ),
                monitor_interval_seconds=1.0,
            )
            async with (
                _noting_warnings(status),
                view.showing(self._console, status, live=live_view),
                pipeline.running() as status.live,
                self._reading() as status.reading,
                anyio.create_task_group() as watches,
            ):
                watches.start_soon(status.sample, self._route.transport, self._session)
                await self._write(status)
                status.phase = "the writers have stopped, the rest arrives"
                await self._wait_until_arrived(status)
                watches.cancel_scope.cancel()
            status.phase = "done"

    async def _write(self, status: Status) -> None:
        status.started_at = time.monotonic()
        status.phase = "running"
        try:
            async with writing(self._dsn, self._options) as status.tally:
                with anyio.move_on_after(self._options.seconds or float("inf")):
                    if self._options.fault is not None:
                        await self._cause_fault(status)
                    await self._stopping.wait()
        finally:
            self._wrote_seconds = status.elapsed_seconds

    async def _cause_fault(self, status: Status) -> None:
        fault = self._options.fault
        assert fault is not None
        with anyio.move_on_after(self._options.seconds * _FAULT_AT or _FAULT_AFTER_SECONDS):
            await self._stopping.wait()
            return
        status.note(f"fault: {fault.value}")
        started_at = time.monotonic()
        with anyio.CancelScope(
            shield=True
        ):  # every part of it is bounded; a server that is down proves nothing
            await faults.cause(fault, self._server, self._session)
        self._fault_seconds = time.monotonic() - started_at
        status.note(f"fault: {fault.value} took {self._fault_seconds:.1f} seconds")

    def _reading(self) -> AbstractAsyncContextManager[RunningReader | None]:
        reader = self._route.reader
        return nullcontext() if reader is None else reader.running()

    async def _wait_until_arrived(self, status: Status) -> None:
        """Wait until all is done that was committed until now.

        The slot's confirmation says it where the pipeline reads the log itself. Where a reader does, it says what
        the broker has stored: then the ledger is asked, as for the proof.
        """
        deadline = anyio.current_time() + self._options.drain_seconds
        await until(self._is_confirmed, timeout_seconds=self._options.drain_seconds)
        if self._route.broker is not None:
            left = deadline - anyio.current_time()
            await until(lambda: self._is_handled(status), timeout_seconds=left, poll_seconds=_COMPARE_SECONDS)

    async def _is_confirmed(self) -> bool:
        mark = await self._marked()
        return await self._session.call(lambda connection: _has_confirmed(connection, mark.lsn))

    async def _is_handled(self, status: Status) -> bool:
        mark = await self._marked()
        proof = await self._session.call(lambda each: prove(each, mark))
        # what is missing may be in the dead letters; reading those of a stream takes seconds, so not for the rest
        if proof.lost > status.dead_lettered:
            return False
        try:
            return (await self._compared(mark))[0].lost == 0
        except CdcError as error:
            if error.retryable:  # a store of dead letters is away
                return False
            raise

    async def _marked(self) -> Mark:
        """Return the mark, set when it is first asked for."""
        if self._mark is None:
            self._mark = await self._session.call(read_mark)
        return self._mark

    async def _prove(self) -> Proof | None:
        try:
            proof, found = await self._compared(await self._marked())
        except (CdcError, psycopg.OperationalError) as error:
            self._console.print(f"The database cannot be asked: {error}", markup=False)
            return None
        if found:
            self._console.print(view.letters_table(found[-10:], title=f"Dead letters: {len(found)}"))
        view.print_proof(self._console, proof)
        return proof

    async def _compared(self, mark: Mark) -> tuple[Proof, list[DeadLetter]]:
        found: list[DeadLetter] = []
        for opening in self._route.dead_letters():
            async with opening as letters:
                found += [letter async for letter in letters.list(pipeline=PIPELINE)]
        deliveries = [delivery_of(letter.event) for letter in found]
        await self._session.call(lambda each: store(each, deliveries, outcome="dead letter"))
        return await self._session.call(lambda each: prove(each, mark)), found

    def _what_is_missing(self, proof: Proof | None, before: int) -> str:
        """Say why a run without an error still proves nothing."""
        if self._stopping.is_set():
            return ""
        if self._options.fault is not None and self._fault_seconds is None:
            return f"the fault {self._options.fault.value} did not take place"
        if proof is not None and proof.written <= before:
            return "nothing was written"
        return ""


def _check_transport(options: DemoOptions) -> None:
    if options.transport is not TransportName.POSTGRES and options.dsn is not None:
        raise DemoFailed(
            f"--transport {options.transport} has an embedded broker, and your slot would outlive what is in it",
            remedy="leave --dsn out: the embedded database goes with the broker",
        )


@asynccontextmanager
async def _database(
    options: DemoOptions, console: Console
) -> AsyncGenerator[tuple[str, EmbeddedPostgres | None]]:
    if options.dsn is not None:
        view.print_drop_statements(console)
        yield options.dsn, None
        return
    console.print("Starting an embedded PostgreSQL; it is gone when the demo ends.")
    async with open_postgres(use_existing=False) as server:
        yield await server.create_database_async("shop"), server


@asynccontextmanager
async def _noting_warnings(status: Status) -> AsyncGenerator[None]:
    handler = NoteWarnings(status)
    loggers = [logging.getLogger(name) for name in ("cdc_core", "cdc_wal", "cdc_kinesis")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


async def _watch_signals(
    stopping: anyio.Event, everything: anyio.CancelScope, *, task_status: TaskStatus[None]
) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            if stopping.is_set():
                everything.cancel()
                return
            stopping.set()


def _slot_is_free(connection: Connection) -> bool:
    row = connection.execute(
        "SELECT active FROM pg_replication_slots WHERE slot_name = %s", [SLOT]
    ).fetchone()
    return row is not None and row[0] is False


def _has_confirmed(connection: Connection, lsn: str) -> bool:
    row = connection.execute(
        "SELECT confirmed_flush_lsn >= %s::pg_lsn FROM pg_replication_slots WHERE slot_name = %s", [lsn, SLOT]
    ).fetchone()
    return row is not None and row[0] is True


def _first(error: Exception) -> Exception:
    """Return the one error that is reported: task groups may have wrapped it."""
    while isinstance(error, ExceptionGroup):
        error = cast("ExceptionGroup[Exception]", error).exceptions[0]
    return error
