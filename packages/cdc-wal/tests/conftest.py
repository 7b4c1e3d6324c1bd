"""Servers of this package's tests: the wheel's PostgreSQL 18, and the machine's own 15 where it has one."""

from __future__ import annotations

import secrets
import sys
from collections.abc import AsyncIterator, Generator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cdc_testing.plugin import PostgresDatabase
from cdc_testing.servers import ServerUnavailableError
from cdc_testing.servers.postgres import EmbeddedPostgres, start_postgres
from cdc_wal import WalConfig
from cdc_wal._connection import Connection, open_connection

# the modules beside this file are shared by its tests; --import-mode=importlib adds no path of its own
sys.path.insert(0, str(Path(__file__).parent))

from wal_database import Database


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def system_postgres() -> Generator[EmbeddedPostgres]:
    """PostgreSQL 15 with TLS and the contrib extensions, as Debian has it."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(start_postgres(15, source="system", use_existing=False))
        except ServerUnavailableError as error:
            pytest.skip(str(error))
        yield server


@pytest.fixture
def database(embedded_postgres: EmbeddedPostgres) -> Generator[Database]:
    """A fresh database of PostgreSQL 18."""
    yield from _fresh(embedded_postgres)


@pytest.fixture(params=["18", "15"])
def any_database(request: pytest.FixtureRequest) -> Generator[Database]:
    """A fresh database of each server, where the version may matter."""
    name = "embedded_postgres" if request.param == "18" else "system_postgres"
    yield from _fresh(request.getfixturevalue(name))


def _fresh(server: EmbeddedPostgres) -> Generator[Database]:
    name = f"cdc_test_{secrets.token_hex(6)}"
    dsn = server.create_database(name)
    try:
        yield Database(server, name, dsn)
    finally:
        if not server.running:
            server.start()
        server.drop_database(name)


@pytest.fixture
async def sql(postgres_database: PostgresDatabase, anyio_backend: str) -> AsyncIterator[Connection]:
    """A session in a fresh database; names without a schema are those of `public`."""
    async with open_connection(postgres_database.dsn) as connection:
        await connection.simple("SET search_path = public")
        yield connection


@pytest.fixture
def config(postgres_database: PostgresDatabase) -> WalConfig:
    """All tables of the fresh database, with timeouts of a second."""
    return WalConfig(
        dsn=postgres_database.dsn,
        slot_name=postgres_database.name,
        publication_name="everything",
        all_tables=True,
        wal_sender_timeout_seconds=1.0,
        commit_interval_seconds=0.01,
    )
