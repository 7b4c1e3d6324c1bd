from __future__ import annotations

import gc
import secrets
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, suppress

import anyio
import anyio.abc
import pytest
from psycopg import pq
from psycopg.conninfo import make_conninfo
from wal_database import Database, until

from cdc_core import AccessError, ConfigError, ContractError
from cdc_testing.servers import ServerUnavailableError
from cdc_testing.servers.postgres import EmbeddedPostgres, start_postgres
from cdc_wal._connection import Connection, open_connection
from cdc_wal._errors import (
    ConnectionLost,
    EncodingUnsupported,
    MissingPrivilege,
    ServerStopping,
    StatementFailed,
    sqlstate_of,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def guarded_server() -> Iterator[EmbeddedPostgres]:
    """TLS only, and passwords by SCRAM."""
    try:
        with start_postgres(
            15, source="system", tls=True, auth="scram-sha-256", use_existing=False
        ) as server:
            yield server
    except ServerUnavailableError as error:
        pytest.skip(str(error))


async def test_parameters_and_results_are_text_and_bytes_are_bytea(database: Database) -> None:
    async with open_connection(database.dsn) as connection:
        rows = await connection.fetch(
            "SELECT $1::text, $2::bytea, $3::int8, $4::text", ["é\U0001f600", b"\x00\xff", 2**63 - 1, None]
        )
    assert rows == [("é\U0001f600", "\\x00ff", str(2**63 - 1), None)]


async def test_no_setting_of_a_database_or_role_changes_how_a_value_is_printed(
    any_database: Database,
) -> None:
    hostile = {
        "timezone": "'Asia/Kolkata'",
        "datestyle": "'German, DMY'",
        "intervalstyle": "'iso_8601'",
        "bytea_output": "'escape'",
        "extra_float_digits": "'-5'",
        "search_path": "'shop'",
        "quote_all_identifiers": "on",
        "standard_conforming_strings": "off",
    }
    await any_database.run("CREATE SCHEMA shop; CREATE TABLE shop.orders (id int)")
    for name, value in hostile.items():
        await any_database.run(f"ALTER DATABASE {any_database.name} SET {name} = {value}")
        await any_database.run(f"ALTER ROLE postgres IN DATABASE {any_database.name} SET {name} = {value}")
    for replication in (False, True):
        async with open_connection(any_database.dsn, replication=replication) as connection:
            row = await connection.fetch_one(
                "SELECT '2024-02-29 12:00+00'::timestamptz, '1 day 2 hours'::interval, '\\x00ff'::bytea,"
                " 0.1::float8 + 0.2::float8, 'shop.orders'::regclass, 1234.5::numeric::money, '\\'"
            )
        assert row == (
            "2024-02-29 12:00:00+00",
            "1 day 02:00:00",
            "\\x00ff",
            "0.30000000000000004",
            "shop.orders",
            "$1,234.50",
            "\\",
        )


async def test_options_of_the_user_are_kept_and_ours_come_behind_them(any_database: Database) -> None:
    dsn = make_conninfo(any_database.dsn, options="-c work_mem=5MB -c timezone=Asia/Tokyo")
    async with open_connection(dsn, session={"wal_sender_timeout": "3s"}, replication=True) as connection:
        shown = [
            await connection.fetch_one(f"SHOW {name}")
            for name in ("work_mem", "timezone", "wal_sender_timeout")
        ]
    assert shown == [("5MB",), ("UTC",), ("3s",)]


async def test_a_sql_ascii_database_is_refused(database: Database) -> None:
    name = f"ascii_{secrets.token_hex(4)}"
    await database.run(
        f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    try:
        with pytest.raises(EncodingUnsupported, match="SQL_ASCII"):
            async with open_connection(database.server.dsn(name)):
                pass
    finally:
        await database.run(f"DROP DATABASE {name} WITH (FORCE)")


async def test_an_error_of_the_server_has_its_sqlstate_and_leaves_the_session_usable(
    database: Database,
) -> None:
    async with open_connection(database.dsn) as connection:
        with pytest.raises(StatementFailed) as caught:
            await connection.fetch("SELECT 1/0")
        assert sqlstate_of(caught.value) == "22012"
        assert not caught.value.retryable
        assert await connection.fetch("SELECT 1") == [("1",)]


async def test_an_error_does_not_repeat_the_row_that_the_server_quotes(database: Database) -> None:
    async with open_connection(database.dsn) as connection:
        await connection.execute("CREATE TABLE public.t (id text PRIMARY KEY)")
        await connection.execute("INSERT INTO public.t VALUES ($1)", ["secret value"])
        with pytest.raises(StatementFailed) as caught:
            await connection.execute("INSERT INTO public.t VALUES ($1)", ["secret value"])
    assert "secret value" not in str(caught.value)


async def test_a_cancelled_statement_is_stopped_on_the_server_and_closes_its_session(
    database: Database,
) -> None:
    async with database.admin() as other, open_connection(database.dsn) as connection:
        pid = connection.backend_pid
        with anyio.move_on_after(0.2) as scope:
            await connection.fetch("SELECT pg_sleep(600)")
        assert scope.cancelled_caught
        assert connection.closed
        with pytest.raises(ConnectionLost):
            await connection.fetch("SELECT 1")

        async def gone() -> bool:
            return not await other.fetch("SELECT FROM pg_stat_activity WHERE pid = $1::int", [pid])

        await until(gone)


async def test_cancel_stops_the_statement_and_leaves_the_session_usable(database: Database) -> None:
    async with open_connection(database.dsn) as connection, database.admin() as other:

        async def cancel_it() -> None:
            await until(
                lambda: other.fetch(
                    "SELECT FROM pg_stat_activity WHERE pid = $1::int AND query LIKE '%pg_sleep%'",
                    [connection.backend_pid],
                )
            )
            await connection.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel_it)
            with pytest.raises(StatementFailed, match="57014"):
                await connection.fetch("SELECT pg_sleep(600)")
        assert await connection.fetch("SELECT 1") == [("1",)]


async def test_a_session_that_is_terminated_is_a_server_that_stops_and_is_seen_without_waiting(
    database: Database,
) -> None:
    async with open_connection(database.dsn) as connection, database.admin() as other:
        assert connection.alive()
        await other.fetch("SELECT pg_terminate_backend($1::int)", [connection.backend_pid])

        async def gone() -> bool:
            return not connection.alive()

        await until(gone)
        with pytest.raises(ServerStopping):
            await connection.fetch("SELECT 1")


async def test_an_idle_session_hears_of_its_end_from_the_server(any_database: Database) -> None:
    async with open_connection(any_database.dsn) as connection, any_database.admin() as other:

        async def end() -> None:
            await other.fetch("SELECT pg_terminate_backend($1::int)", [connection.backend_pid])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(end)
            with anyio.fail_after(5), pytest.raises(ServerStopping, match="57P01"):
                await connection.watch()


async def test_a_transaction_commits_at_its_end_and_rolls_back_when_it_raises_or_is_cancelled(
    database: Database,
) -> None:
    async with open_connection(database.dsn) as connection:
        await connection.execute("CREATE TABLE public.t (id int)")
        async with connection.transaction():
            await connection.execute("INSERT INTO public.t VALUES (1)")
        with pytest.raises(StatementFailed):
            async with connection.transaction():
                await connection.fetch("INSERT INTO public.t VALUES (2) RETURNING 1 / (id - 2)")
        with anyio.CancelScope() as scope:
            async with connection.transaction():
                await connection.execute("INSERT INTO public.t VALUES (3)")
                scope.cancel()
                await anyio.sleep(60)
        assert await connection.fetch("SELECT id FROM public.t") == [("1",)]


async def test_a_swallowed_error_in_a_transaction_is_not_taken_for_a_commit(database: Database) -> None:
    async with open_connection(database.dsn) as connection:
        with pytest.raises(ContractError, match="swallowed"):  # noqa: PT012 - the block is the statement
            async with connection.transaction():
                with suppress(StatementFailed):
                    await connection.execute("SELECT 1/0")


async def test_two_tasks_cannot_use_one_session_at_once(database: Database) -> None:
    async with open_connection(database.dsn) as connection, anyio.create_task_group() as tasks:
        tasks.start_soon(connection.fetch, "SELECT pg_sleep(0.3)")
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(ContractError):
            await connection.fetch("SELECT 1")


async def test_a_statement_larger_than_the_socket_buffers_is_sent_while_answers_are_read(
    database: Database,
) -> None:
    async with open_connection(database.dsn) as connection:
        rows = await connection.fetch("SELECT length($1::text), $1::text", ["x" * (32 << 20)])
    assert rows[0][0] == str(32 << 20)
    assert len(rows[0][1] or "") == 32 << 20


async def test_the_password_provider_is_asked_for_every_connection(
    guarded_server: EmbeddedPostgres,
) -> None:
    role = f"role_{secrets.token_hex(4)}"
    asked: list[str] = []

    async def current() -> str:
        await anyio.lowlevel.checkpoint()
        asked.append(password)
        return password

    dsn = guarded_server.dsn(user=role)
    async with open_connection(guarded_server.dsn()) as admin:
        await admin.execute(f"CREATE ROLE {role} LOGIN")
        for password in ("first", "s'econd \\pass"):
            quoted = password.replace("'", "''")
            await admin.execute(f"ALTER ROLE {role} PASSWORD '{quoted}'")
            async with open_connection(dsn, password=current) as connection:
                assert connection.pgconn.ssl_in_use
                assert await connection.fetch("SELECT current_user::text") == [(role,)]
        with pytest.raises(AccessError) as caught:
            async with open_connection(dsn, password=lambda: "stale"):
                pass
    assert asked == ["first", "s'econd \\pass"]
    assert not caught.value.retryable
    assert "stale" not in str(caught.value)


async def test_a_login_without_a_password_says_that_one_is_missing(guarded_server: EmbeddedPostgres) -> None:
    dsn = guarded_server.dsn(user="postgres")
    with pytest.raises(AccessError, match="password"):
        async with open_connection(dsn, password=lambda: ""):
            pass


async def test_tls_verifies_the_name_that_the_user_gave_although_we_resolve_it(
    guarded_server: EmbeddedPostgres,
) -> None:
    dsn = guarded_server.dsn(host="localhost")
    async with open_connection(dsn) as connection:
        assert connection.pgconn.ssl_in_use
        assert connection.pgconn.host == b"localhost"


async def test_a_host_of_the_wrong_kind_is_no_fault_of_the_password(guarded_server: EmbeddedPostgres) -> None:
    with pytest.raises(ConnectionLost) as caught:
        async with open_connection(f"{guarded_server.dsn()}&target_session_attrs=standby"):
            pass
    assert caught.value.retryable


@pytest.mark.parametrize("cut_after", [1, 60, 700, 1500])
async def test_a_connection_that_breaks_while_it_logs_in_is_retryable(
    guarded_server: EmbeddedPostgres, cut_after: int
) -> None:
    async with _cutting_proxy(guarded_server.port, cut_after) as port:
        with pytest.raises(ConnectionLost) as caught:
            async with open_connection(guarded_server.dsn(port=port)):
                pass
    assert caught.value.retryable


async def test_closing_a_session_wakes_the_task_that_waits_for_it(database: Database) -> None:
    async with open_connection(database.dsn) as connection, anyio.create_task_group() as tasks:

        async def wait() -> None:
            with anyio.fail_after(5), pytest.raises(ConnectionLost):
                await connection.wait_readable()

        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        connection.close()


async def test_a_host_that_says_why_is_heard_although_another_one_refuses(
    database: Database,
) -> None:
    dsn = f"host=127.0.0.1,127.0.0.1 port=1,{database.server.port} user=postgres dbname={database.name}"
    await database.run(f"ALTER DATABASE {database.name} CONNECTION LIMIT 0")
    role, _ = await database.role()
    try:
        with pytest.raises(ConnectionLost, match="too many connections"):
            async with open_connection(dsn.replace("postgres", role, 1)):
                pass
    finally:
        async with open_connection(database.server.dsn()) as admin:
            await admin.execute(f"ALTER DATABASE {database.name} CONNECTION LIMIT -1")


async def test_a_server_certificate_that_nobody_vouches_for_is_refused(
    guarded_server: EmbeddedPostgres, tmp_path: object
) -> None:
    dsn = guarded_server.dsn().split("?")[0] + f"?sslmode=verify-full&sslrootcert={tmp_path}/none.crt"
    with pytest.raises(AccessError):
        async with open_connection(dsn):
            pass


async def test_a_provider_that_fails_is_an_access_error(database: Database) -> None:
    def broken() -> str:
        raise OSError("no route to the token service")

    with pytest.raises(AccessError) as caught:
        async with open_connection(database.dsn, password=broken):
            pass
    assert caught.value.retryable
    assert isinstance(caught.value.__cause__, OSError)


async def test_the_next_host_is_tried_when_one_refuses(database: Database) -> None:
    port = database.server.port
    dsn = f"host=127.0.0.1,no-such-host.invalid,localhost port=1,{port},{port} user=postgres dbname={database.name}"
    async with open_connection(dsn) as connection:
        assert connection.pgconn.host == b"localhost"
        assert await connection.fetch("SELECT 1") == [("1",)]


async def test_a_host_that_accepts_and_never_answers_costs_its_timeout_only(database: Database) -> None:
    async with _silent_server() as silent:
        port = database.server.port
        dsn = f"host=127.0.0.1,127.0.0.1 port={silent},{port} user=postgres dbname={database.name}"
        started = time.monotonic()
        async with open_connection(dsn, connect_timeout_seconds=0.3) as connection:
            assert await connection.fetch("SELECT 1") == [("1",)]
        assert time.monotonic() - started < 5


async def test_a_primary_is_asked_for_by_target_session_attrs(any_database: Database) -> None:
    for wanted in ("primary", "prefer-standby"):
        dsn = make_conninfo(any_database.dsn, target_session_attrs=wanted)
        async with open_connection(dsn) as connection:
            assert await connection.fetch("SELECT 1") == [("1",)]
    with pytest.raises(ConnectionLost):
        async with open_connection(make_conninfo(any_database.dsn, target_session_attrs="standby")):
            pass


@pytest.mark.parametrize("option", ["port=many", "sslmode=perhaps", "target_session_attrs=odd"])
async def test_a_value_that_libpq_does_not_take_is_a_fault_of_the_configuration(
    database: Database, option: str
) -> None:
    name, value = option.split("=")
    with pytest.raises(ConfigError):
        async with open_connection(make_conninfo(database.dsn, **{name: value})):
            pass


async def test_a_name_that_nobody_resolves_is_retryable() -> None:
    with pytest.raises(ConnectionLost, match="no-such-host") as caught:
        async with open_connection("host=no-such-host.invalid dbname=x"):
            pass
    assert caught.value.retryable


async def test_a_database_that_does_not_exist_is_a_fault_of_the_configuration(database: Database) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        async with open_connection(database.server.dsn("no_such_database")):
            pass


async def test_a_role_that_does_not_exist_is_refused(database: Database) -> None:
    with pytest.raises(AccessError):
        async with open_connection(database.server.dsn(user="nobody_at_all")):
            pass


async def test_a_role_without_replication_is_told_and_the_remedy_mends_it(any_database: Database) -> None:
    role, dsn = await any_database.role()
    with pytest.raises(MissingPrivilege) as caught:
        async with open_connection(dsn, replication=True):
            pass
    assert not caught.value.retryable
    await any_database.run(caught.value.remedy.split(" (")[0].replace("...", role))
    async with open_connection(dsn, replication=True) as connection:
        assert await connection.simple("IDENTIFY_SYSTEM")


async def test_a_connection_string_that_is_none_is_not_quoted() -> None:
    with pytest.raises(ConfigError) as caught:
        async with open_connection("host=x password my-secret-word"):
            pass
    assert "my-secret-word" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_a_connection_that_is_never_closed_warns(database: Database) -> None:
    forgotten = Connection(pq.PGconn.connect(database.dsn.encode()))
    assert not forgotten.closed
    with pytest.warns(ResourceWarning, match="never closed"):  # noqa: PT031 - the collector may be needed too
        del forgotten
        gc.collect()


async def test_several_statements_return_the_rows_of_each(any_database: Database) -> None:
    async with open_connection(any_database.dsn) as connection:
        assert await connection.simple("SELECT 1; CREATE TABLE public.t (id int); SELECT 2") == [
            [("1",)],
            [("2",)],
        ]


@asynccontextmanager
async def _cutting_proxy(port: int, after_bytes: int) -> AsyncGenerator[int, None]:
    """Pass so many bytes of the server's answers on, then reset the connection."""

    async def serve(client: anyio.abc.SocketStream) -> None:
        async def upstream() -> None:
            async for data in client:
                await server.send(data)

        async with (
            client,
            await anyio.connect_tcp("127.0.0.1", port) as server,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(upstream)
            left = after_bytes
            async for data in server:
                await client.send(data[:left])
                if (left := left - len(data)) <= 0:
                    break
            tasks.cancel_scope.cancel()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield int(listener.extra(anyio.abc.SocketAttribute.local_port))
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def _silent_server() -> AsyncGenerator[int, None]:
    async def hold(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await anyio.sleep_forever()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, hold)
        yield int(listener.extra(anyio.abc.SocketAttribute.local_port))
        tasks.cancel_scope.cancel()
    await listener.aclose()
