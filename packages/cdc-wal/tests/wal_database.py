"""A database of its own for each test, and what tests do to it as its superuser."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio

from cdc_testing.servers.postgres import EmbeddedPostgres
from cdc_wal._config import WalConfig
from cdc_wal._connection import Connection, open_connection


@dataclass(frozen=True, slots=True)
class Database:
    """A fresh database, a slot name of its own, and roles that are gone with it."""

    server: EmbeddedPostgres
    name: str
    dsn: str

    @property
    def major(self) -> int:
        return int(self.server.version.split(".")[0])

    @property
    def slot_name(self) -> str:
        return self.name

    def config(self, **changes: object) -> WalConfig:
        values: dict[str, object] = {
            "dsn": self.dsn,
            "slot_name": self.slot_name,
            "publication_name": "shop",
            "tables": ("shop.orders",),
            **changes,
        }
        return WalConfig(**values)  # type: ignore[arg-type]

    @asynccontextmanager
    async def admin(self) -> AsyncGenerator[Connection, None]:
        async with open_connection(self.dsn) as connection:
            yield connection

    async def run(self, sql: str) -> list[list[tuple[str | None, ...]]]:
        async with self.admin() as connection:
            return await connection.simple(sql)

    async def role(self, attributes: str = "") -> tuple[str, str]:
        """Make a role that may log in, and return its name and a connection string for it."""
        role = f"role_{secrets.token_hex(6)}"
        await self.run(f"CREATE ROLE {role} LOGIN {attributes}")
        return role, self.server.dsn(self.name, user=role)


async def until(condition: Callable[[], Awaitable[object]], *, timeout_seconds: float = 10.0) -> None:
    """Wait until a condition holds, asking again every 10 ms."""
    with anyio.fail_after(timeout_seconds):
        while not await condition():  # noqa: ASYNC110 - what it waits for happens in another process
            await anyio.sleep(0.01)
