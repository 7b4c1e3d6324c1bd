"""Reads a slot as a worker would, one step at a time, for tests."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Self, final

import anyio

from cdc_core import Event, PartitionStream, provision
from cdc_wal import PostgresTransport, WalConfig
from cdc_wal._connection import Connection
from cdc_wal._source import SlotSource

DEADLINE_SECONDS = 20.0


@final
class Reading:
    """One opened source; `take` returns the next events one by one across batches and streams."""

    def __init__(self, source: SlotSource) -> None:
        self._source = source
        self._stack = AsyncExitStack()
        self._pending: list[Event] = []
        self.streams = 0

    async def __aenter__(self) -> Self:
        self._partitions = await self._stack.enter_async_context(self._source.open(drain_timeout_seconds=5.0))
        return self

    async def __aexit__(self, *details: object) -> None:
        # The worker leaves its stream first: leaving the source waits for it.
        await self.leave_stream()
        await self._stack.aclose()

    @property
    def stream(self) -> PartitionStream:
        return self._stream

    async def next_stream(self) -> PartitionStream:
        with anyio.fail_after(DEADLINE_SECONDS):
            self._stream = await anext(aiter(self._partitions))
        self._iterator = aiter(self._stream)
        self._worker = AsyncExitStack()
        # not inside of another scope: the worker's is left on its own
        await self._worker.enter_async_context(self._stream)
        self.streams += 1
        return self._stream

    async def leave_stream(self) -> None:
        if self.streams:
            await self._worker.aclose()

    async def take(self, count: int) -> list[Event]:
        """Take exactly `count` events, from the present stream."""
        if not self.streams:
            await self.next_stream()
        with anyio.fail_after(DEADLINE_SECONDS):
            while len(self._pending) < count:
                self._pending += await anext(self._iterator)
        taken, self._pending = self._pending[:count], self._pending[count:]
        return taken


async def provisioned(config: WalConfig) -> PostgresTransport:
    transport = PostgresTransport(config)
    await provision(transport)
    return transport


@asynccontextmanager
async def reading(config: WalConfig) -> AsyncGenerator[Reading]:
    async with Reading(SlotSource(config)) as opened:
        yield opened


async def eventually(condition: Callable[[], Awaitable[bool]], *, why: str) -> None:
    """Wait until a condition holds; it is looked at every few milliseconds until the deadline."""
    with anyio.move_on_after(DEADLINE_SECONDS):
        while not await condition():  # noqa: ASYNC110 - a condition of the server, which sets no event of ours
            await anyio.sleep(0.01)
        return
    raise AssertionError(f"it never came to hold: {why}")


async def confirmed_lsn(sql: Connection, slot_name: str) -> int:
    """Return what the server has of the slot's confirmation."""
    row = await sql.fetch_one(
        "SELECT confirmed_flush_lsn - '0/0'::pg_lsn FROM pg_replication_slots WHERE slot_name = $1",
        [slot_name],
    )
    assert row is not None
    assert row[0] is not None
    return int(row[0])


def keys(events: Sequence[Event]) -> list[bytes | None]:
    return [event.key for event in events]
