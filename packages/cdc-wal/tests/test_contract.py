"""The postgres transport keeps the promises of the contract suite, on a real server behind a TCP proxy."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import final

import anyio
import pytest
from psycopg.conninfo import make_conninfo

from cdc_core import Event, OutgoingEvent, Transport
from cdc_testing.checks import SeedRow, read_row
from cdc_testing.contracts import Harness, TransportContract
from cdc_testing.servers.postgres import EmbeddedPostgres
from cdc_testing.servers.tcp_proxy import TcpProxy, open_tcp_proxy
from cdc_wal import PostgresTransport, WalConfig
from cdc_wal._connection import Connection, open_connection

PASSWORD = "correct-horse-battery"


@final
class PostgresHarness:
    """One database with a table `rows`; each transport reaches the server through a proxy of its own."""

    patience_seconds = 20.0
    quiet_seconds = 0.2
    max_batch = (5, 8192)
    secrets: Sequence[str] = (PASSWORD,)

    def __init__(
        self, server: EmbeddedPostgres, name: str, slot_name: str, sql: Connection, stack: AsyncExitStack
    ) -> None:
        self.slot_name = self.teardown_name = slot_name
        self._server = server
        self._name = name
        self._sql = sql
        self._stack = stack
        self._proxies: dict[int, TcpProxy] = {}
        self._written: list[
            tuple[int, int]
        ] = []  # the log's end before each commit, and how many rows it had
        self._spare: list[TcpProxy] = []

    async def prepare(self, proxies: int = 6) -> None:
        """Create the table, and open proxies ahead: `transport()` cannot wait for one."""
        await self._sql.simple("CREATE TABLE public.rows (key text PRIMARY KEY, number bigint NOT NULL)")
        for _ in range(proxies):
            proxy = open_tcp_proxy(self._server.host, self._server.port)
            self._spare.append(await self._stack.enter_async_context(proxy))

    def transport(self) -> Transport:
        proxy = self._spare.pop() if self._spare else None
        dsn = self._server.dsn(self._name)
        if proxy is not None:
            dsn = make_conninfo(dsn, host=proxy.host, port=proxy.port)
        config = WalConfig(
            dsn=make_conninfo(dsn, password=PASSWORD),
            slot_name=self.slot_name,
            publication_name="contract",
            tables=("public.rows",),
            max_batch_events=self.max_batch[0],
            max_batch_bytes=self.max_batch[1],
            max_buffered_bytes=1 << 20,
            wal_sender_timeout_seconds=2.0,
            commit_interval_seconds=3600.0,
        )
        transport = PostgresTransport(config)
        if proxy is not None:
            self._proxies[id(transport)] = proxy
        return transport

    @asynccontextmanager
    async def another(self) -> AsyncGenerator[Harness]:
        async with fresh_harness(self._server, slot_name="another") as harness:
            yield harness

    async def write(self, *rows: SeedRow) -> None:
        await self._sql.execute("BEGIN")
        for key, number in rows:
            await self._sql.execute(
                "INSERT INTO public.rows VALUES ($1, $2::bigint)"
                " ON CONFLICT (key) DO UPDATE SET number = excluded.number",
                [key, number],
            )
        row = await self._sql.fetch_one("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")
        await self._sql.execute("COMMIT")
        assert row is not None
        self._written.append((int(row[0] or 0), len(rows)))

    def read(self, event: Event) -> SeedRow:
        return read_row(event)

    async def committed(self) -> int:
        row = await self._sql.fetch_one(
            "SELECT (confirmed_flush_lsn - '0/0')::bigint FROM pg_replication_slots WHERE slot_name = $1",
            [self.slot_name],
        )
        confirmed = int((row[0] if row else None) or 0)
        return sum(count for before_commit, count in self._written if confirmed > before_commit)

    async def objects(self) -> frozenset[str]:
        rows = await self._sql.fetch(
            "SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE database = current_database()"
            " UNION ALL SELECT 'publication ' || pubname FROM pg_publication"
            " UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname NOT LIKE 'pg%'"
            " UNION ALL SELECT 'table ' || schemaname || '.' || tablename FROM pg_tables"
            " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        )
        return frozenset(name or "" for (name,) in rows)

    async def crash(self, transport: Transport) -> None:
        proxy = self._proxies[id(transport)]
        proxy.refuse()
        await proxy.cut()
        await self._until_free()

    async def cut(self, transport: Transport) -> None:
        await self._proxies[id(transport)].cut()

    async def lose(self, transport: Transport) -> None:
        await self._sql.fetch(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
            " WHERE slot_name = $1 AND active",
            [self.slot_name],
        )

    def oversized(self, event: OutgoingEvent) -> OutgoingEvent:
        raise AssertionError("nothing is published through this transport")

    async def _until_free(self) -> None:
        with anyio.fail_after(self.patience_seconds):
            sql = "SELECT 1 FROM pg_replication_slots WHERE slot_name = $1 AND active"
            while await self._sql.fetch_one(sql, [self.slot_name]):  # noqa: ASYNC110 - an event of the server
                await anyio.sleep(0.005)


@asynccontextmanager
async def fresh_harness(
    server: EmbeddedPostgres, slot_name: str = "contract"
) -> AsyncGenerator[PostgresHarness]:
    name = f"contract_{secrets.token_hex(4)}"
    await server.create_database_async(name)
    try:
        async with AsyncExitStack() as stack:
            sql = await stack.enter_async_context(open_connection(server.dsn(name)))
            harness = PostgresHarness(server, name, slot_name, sql, stack)
            await harness.prepare()
            yield harness
    finally:
        await server.drop_database_async(name)


class TestPostgres(TransportContract):
    @pytest.fixture
    async def harness(
        self, embedded_postgres: EmbeddedPostgres, anyio_backend: str
    ) -> AsyncGenerator[Harness]:
        async with fresh_harness(embedded_postgres) as harness:
            yield harness
