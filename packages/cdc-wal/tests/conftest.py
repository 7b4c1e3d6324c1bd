"""Every async test runs on asyncio and on trio; SQL runs on our own connection, which both have."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from cdc_testing.plugin import PostgresDatabase
from cdc_wal import WalConfig
from cdc_wal._connection import Connection, open_connection


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


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
