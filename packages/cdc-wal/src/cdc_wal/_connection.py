"""A PostgreSQL connection over libpq's non-blocking calls, on asyncio and on trio, whose session fixes all values."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import NoReturn, final

import anyio
import psycopg
from anyio.lowlevel import checkpoint
from psycopg import pq
from psycopg.conninfo import make_conninfo

from cdc_core import CdcError, ContractError

from ._conninfo import SESSION_SETTINGS, attempts, parse_dsn, with_options
from ._errors import ConnectionLost, server_error
from ._libpq import Parameter as Parameter
from ._libpq import Readiness, encode_parameters, field_of, one_line, poll_connection, request_cancel, rows_of
from ._libpq import Row as Row
from ._login import PasswordProvider as PasswordProvider
from ._login import call_provider, check_server, login_error

# How long a cancel request may take when its query is given up: the server closes the cancel connection at once.
_CANCEL_TIMEOUT_SECONDS = 2.0
_ROLLBACK_TIMEOUT_SECONDS = 2.0


@asynccontextmanager
async def open_connection(
    conninfo: str,
    *,
    password: PasswordProvider | None = None,
    replication: bool = False,
    application_name: str = "cdc-wal",
    connect_timeout_seconds: float = 10.0,
    session: Mapping[str, str] | None = None,
) -> AsyncGenerator[Connection, None]:
    """Open a connection whose session prints every value the same way, whatever the database's settings.

    - `conninfo`: libpq's connection string or URI; several hosts are tried in order, each address by itself.
    - `password`: called now; what it returns replaces a password in `conninfo`.
    - `replication`: open a walsender of the database (only `simple` and `start_copy_both` work on it, as the
      protocol has it: https://www.postgresql.org/docs/current/protocol-replication.html).
    - `connect_timeout_seconds`: for each address, TLS and authentication included.
    - `session`: further settings for this session, such as `wal_sender_timeout`.

    Raises:
        ConfigError: the connection string is none, or the database or server cannot be used.
        AccessError: the server refused the role or its password.
        ConnectionLost: no server could be reached, or it is starting or stopping; retryable.
    """
    params = {"application_name": application_name, **parse_dsn(conninfo), "client_encoding": "UTF8"}
    params = with_options(params, {**SESSION_SETTINGS, **(session or {})})
    if replication:
        params["replication"] = "database"
    if password is not None:
        params["password"] = await call_provider(password)
    connection = await _connect(params, connect_timeout_seconds)
    try:
        check_server(connection.server_version, connection.setting("server_encoding"))
        yield connection
    finally:
        connection.close()


@final
class Connection:
    """One session, for one task at a time; received from `open_connection`, never built.

    A call that is cancelled or loses its connection leaves nothing half-read behind: the session is closed, the
    server is asked to stop the statement, and every later call raises `ConnectionLost`.
    """

    def __init__(self, pgconn: pq.abc.PGconn) -> None:
        self.pgconn = pgconn
        self._busy = False
        self._closed = False
        self._farewell: tuple[str | None, str] | None = None
        self._readable = Readiness(lambda: anyio.wait_readable(pgconn.socket))
        self._writable = Readiness(lambda: anyio.wait_writable(pgconn.socket))
        pgconn.nonblocking = 1
        # weak, since psycopg's compiled PGconn is out of the garbage collector's sight: a cycle would never be freed
        on_notice = weakref.WeakMethod(self._on_notice)
        pgconn.notice_handler = lambda result: found(result) if (found := on_notice()) is not None else None

    @property
    def backend_pid(self) -> int:
        """The server process of this session."""
        return self.pgconn.backend_pid

    @property
    def server_version(self) -> int:
        """The server's version as libpq has it, e.g. 150018."""
        return self.pgconn.server_version

    @property
    def database(self) -> str:
        """The name of the database."""
        return self.pgconn.db.decode()

    @property
    def closed(self) -> bool:
        """Whether the session is over."""
        return self._closed

    def alive(self) -> bool:
        """Look, without waiting, whether an idle session is still there; one that the server ended is closed."""
        if not self._closed:
            with suppress(CdcError):
                self.consume_input()
                self.pgconn.is_busy()  # makes libpq parse what has come, a farewell among it
        if not self._closed and (self._farewell is not None or self.pgconn.status == pq.ConnStatus.BAD):
            self.close()
        return not self._closed

    def setting(self, name: str) -> str | None:
        """Return a setting that the server reports to clients (`TimeZone`, `in_hot_standby`), None if it does not."""
        value = None if self._closed else self.pgconn.parameter_status(name.encode())
        return None if value is None else value.decode(errors="replace")

    async def fetch(self, sql: str, params: Sequence[Parameter] = ()) -> list[Row]:
        """Run one statement and return its rows in text.

        Raises:
            CdcError: by SQLSTATE; `ConnectionLost` when the connection broke.
        """
        return rows_of(await self._run(sql, params))

    async def fetch_one(self, sql: str, params: Sequence[Parameter] = ()) -> Row | None:
        """Run one statement and return its first row, None where there is none."""
        rows = await self.fetch(sql, params)
        return rows[0] if rows else None

    async def execute(self, sql: str, params: Sequence[Parameter] = ()) -> int:
        """Run one statement and return how many rows it touched, 0 where that means nothing."""
        return (await self._run(sql, params)).command_tuples or 0

    async def simple(self, sql: str) -> list[list[Row]]:
        """Run replication commands, or several statements; return the rows of each that has some."""
        results = await self._statement(lambda: self.pgconn.send_query(sql.encode()))
        return [rows_of(result) for result in results if result.status == pq.ExecStatus.TUPLES_OK]

    async def start_copy_both(self, command: str) -> None:
        """Send START_REPLICATION; from then on the session is the stream's: use `pgconn`, `flush`, `wait_readable`.

        Raises:
            CdcError: the server refused, by SQLSTATE.
        """
        results = await self._statement(lambda: self.pgconn.send_query(command.encode()), until_copy=True)
        if not results or results[-1].status != pq.ExecStatus.COPY_BOTH:
            raise ContractError(f"{command.split(' ', 1)[0]} did not start a COPY BOTH")
        self._busy = True

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[None, None]:
        """Run a block in one transaction: committed at its end, rolled back when it raises or is cancelled.

        Raises:
            ConnectionLost: also when the answer to COMMIT was lost, and with it whether it was carried out.
        """
        await self._run("BEGIN", ())
        try:
            yield
        except BaseException:
            if not self._closed:
                with anyio.move_on_after(_ROLLBACK_TIMEOUT_SECONDS, shield=True), suppress(ConnectionLost):
                    await self._run("ROLLBACK", ())  # a lost connection rolls back by itself
            raise
        result = await self._run("COMMIT", ())
        if (
            result.command_status != b"COMMIT"
        ):  # the server answers ROLLBACK to the COMMIT of a failed transaction
            raise ContractError("a statement of the transaction failed and its error was swallowed")

    async def cancel(self) -> None:
        """Ask the server to stop the running statement, on a connection of its own; the statement then fails itself.

        Raises:
            ConnectionLost: the request could not be delivered.
        """
        try:
            await request_cancel(self.pgconn)
        except psycopg.Error as error:
            raise ConnectionLost("a cancel request was not delivered") from error

    async def watch(self) -> NoReturn:
        """Wait on an idle session until the server ends it.

        An ordinary session hears of a shutdown within 0.1 s, a walsender nothing at all (measured on 15). The same
        message comes from `pg_terminate_backend`: whether the server goes down shows when connecting again.

        Raises:
            ServerStopping: the server said so; ConnectionLost: the connection broke without a word.
        """
        while True:
            await self.wait_readable()
            self.consume_input()
            self.pgconn.is_busy()  # makes libpq parse what has come, an error of an idle session among it
            if self._farewell is not None:
                raise self._lost(None)

    async def wait_readable(self) -> None:
        """Wait until the socket may have something to read; several tasks may wait, and any may wake in vain."""
        if self._closed:
            raise self._lost(None)
        try:
            await self._readable.wait()
        except anyio.ClosedResourceError as error:
            raise self._lost(None) from error

    def consume_input(self) -> None:
        """Let libpq read what has come, at most 16 kB a call; never waits.

        Raises:
            ConnectionLost: the connection broke; ServerStopping: the server had said why.
        """
        try:
            self.pgconn.consume_input()
        except psycopg.Error as error:
            raise self._lost(error) from error

    async def flush(self) -> None:
        """Send what libpq holds. While the socket is full it is also read, as libpq demands: else both ends may wait.

        Raises:
            ConnectionLost: the connection broke.
        """
        try:
            while self.pgconn.flush():
                await self._wait_writable_or_read()
        except psycopg.Error as error:
            raise self._lost(error) from error

    def close(self) -> None:
        """End the session; never waits. A task that waits for its socket is woken, and raises `ConnectionLost`."""
        if self._closed:
            return
        self._closed = True
        with suppress(psycopg.Error):  # a connection that broke has no socket any more
            # without it the event loop would go on watching the number, which the next socket may get
            anyio.notify_closing(self.pgconn.socket)
        self.pgconn.finish()

    def __del__(self) -> None:
        if not self._closed:
            warnings.warn("a connection was never closed", ResourceWarning, stacklevel=1, source=self)
            self.pgconn.finish()

    async def _run(self, sql: str, params: Sequence[Parameter]) -> pq.abc.PGresult:
        if not params:  # a walsender knows the simple protocol only
            return (await self._statement(lambda: self.pgconn.send_query(sql.encode())))[-1]
        values, types, formats = encode_parameters(params)
        results = await self._statement(
            lambda: self.pgconn.send_query_params(sql.encode(), values, types, formats)
        )
        return results[-1]

    async def _statement(
        self, send: Callable[[], None], *, until_copy: bool = False
    ) -> list[pq.abc.PGresult]:
        if self._closed:
            raise self._lost(None)
        if self._busy:
            raise ContractError("a connection was used by two tasks at once, or while it streams")
        self._busy = True
        try:
            send()
            results = await self._results(until_copy=until_copy)
        except psycopg.Error as error:
            raise self._lost(error) from error
        except BaseException:
            await self._abort()
            raise
        finally:
            self._busy = False
        for result in results:
            if result.status == pq.ExecStatus.FATAL_ERROR:
                self._raise_server_error(result)
        return results

    async def _results(self, *, until_copy: bool) -> list[pq.abc.PGresult]:
        results: list[pq.abc.PGresult] = []
        await self.flush()
        while True:
            while self.pgconn.is_busy():
                await self.wait_readable()
                self.consume_input()
            result = self.pgconn.get_result()
            if result is None:
                await checkpoint()
                return results
            results.append(result)
            if until_copy and result.status == pq.ExecStatus.COPY_BOTH:
                return results  # get_result would only repeat it until the stream ends

    async def _abort(self) -> None:
        if self._closed:
            return
        with anyio.move_on_after(_CANCEL_TIMEOUT_SECONDS, shield=True):
            with suppress(CdcError):  # the socket is closed next anyhow, and the caller's exception says more
                await self.cancel()
        self.close()

    def _raise_server_error(self, result: pq.abc.PGresult) -> NoReturn:
        state = field_of(result, pq.DiagnosticField.SQLSTATE)
        message = field_of(result, pq.DiagnosticField.MESSAGE_PRIMARY) or result.get_error_message("utf-8")
        if self.pgconn.status == pq.ConnStatus.BAD:
            if state is None:
                raise self._lost(None)
            self.close()
        raise server_error(state, message)

    def _on_notice(self, result: pq.abc.PGresult) -> None:
        # An idle session gets its FATAL error as a notice; ordinary notices are of no use here.
        state = field_of(result, pq.DiagnosticField.SQLSTATE)
        if field_of(result, pq.DiagnosticField.SEVERITY_NONLOCALIZED) == "FATAL":
            self._farewell = (state, field_of(result, pq.DiagnosticField.MESSAGE_PRIMARY) or "")

    def _lost(self, error: psycopg.Error | None) -> CdcError:
        if not self._closed:
            self.close()
        if self._farewell is not None:
            state, message = self._farewell
            found = server_error(state, message)
            return (
                found
                if isinstance(found, ConnectionLost)
                else ConnectionLost(found.message, where=found.where)
            )
        return ConnectionLost(
            "the connection to the server is closed" if error is None else one_line(str(error))
        )

    async def _wait_writable_or_read(self) -> None:
        async with anyio.create_task_group() as tasks:

            async def wait_readable() -> None:
                with suppress(
                    ConnectionLost
                ):  # whoever closed the session meanwhile; consume_input says so below
                    await self.wait_readable()
                tasks.cancel_scope.cancel()

            async def wait_writable() -> None:
                with suppress(anyio.ClosedResourceError):
                    await self._writable.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(wait_readable)
            tasks.start_soon(wait_writable)
        self.consume_input()


async def _connect(params: Mapping[str, str], timeout_seconds: float) -> Connection:
    failures: list[CdcError] = []
    for attempt in await attempts(params):
        try:
            return await _connect_once(attempt, timeout_seconds)
        except CdcError as error:
            if not error.retryable:
                raise  # as libpq: where authentication fails, the other hosts are not tried
            failures.append(error)
    # one that says why (a server that starts, no free sender) tells more than all that nobody answered
    telling = [error for error in failures if type(error) is not ConnectionLost]
    if telling or len(failures) == 1:
        raise (telling or failures)[0]
    raise ConnectionLost(
        "no host accepted the connection: " + "; ".join(error.message for error in failures)
    ) from failures[-1]


async def _connect_once(params: Mapping[str, str], timeout_seconds: float) -> Connection:
    where = {
        "host": params.get("host") or params.get("hostaddr") or "local",
        "port": params.get("port", "5432"),
    }
    pgconn = pq.PGconn.connect_start(make_conninfo("", **params).encode())
    try:
        with anyio.fail_after(timeout_seconds):
            await poll_connection(pgconn)
    except TimeoutError:
        pgconn.finish()
        raise ConnectionLost(f"no connection within {timeout_seconds:g} s", where=where) from None
    except psycopg.Error:
        error = login_error(pgconn, where)
        pgconn.finish()
        raise error from None
    except BaseException:
        pgconn.finish()
        raise
    return Connection(pgconn)
