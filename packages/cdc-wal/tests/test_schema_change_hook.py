"""A table's new shape is told before its first row, whatever happens to the connection meanwhile (rule 8)."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import pytest
from wal_reading import eventually, provisioned

from cdc_core import AccessError, Event, Fence, OutgoingEvent, Pipeline, Receipt, SourceError, WalPublisher
from cdc_testing.memory import MemoryTransport
from cdc_wal import PostgresTransport, SchemaChange, WalConfig, WalReader
from cdc_wal._connection import Connection

pytestmark = pytest.mark.anyio

TABLE = "CREATE TABLE t (id bigint PRIMARY KEY, note text)"
NEW_SHAPE = "INSERT INTO t VALUES (1, 'x'); ALTER TABLE t ADD more int; INSERT INTO t VALUES (2, 'x')"


class GatedTransport:
    """The in-memory transport, whose publisher accepts nothing before the gate opens and notes what it accepts."""

    def __init__(self) -> None:
        self.gate = anyio.Event()
        self.log: list[object] = []
        self._memory = MemoryTransport()

    def __getattr__(self, name: str) -> object:
        return getattr(self._memory, name)

    @asynccontextmanager
    async def publisher(self, fence: Fence) -> AsyncGenerator[GatedPublisher]:
        async with self._memory.publisher(fence) as publisher:
            yield GatedPublisher(self, publisher)


class GatedPublisher:
    def __init__(self, transport: GatedTransport, publisher: WalPublisher) -> None:
        self._transport, self._publisher = transport, publisher

    async def publish(self, batch: Sequence[OutgoingEvent]) -> Receipt:
        self._transport.log.append("offered")
        await self._transport.gate.wait()
        receipt = await self._publisher.publish(batch)
        self._transport.log += [json.loads(event.key or b"")["id"] for event in batch]
        return receipt


@pytest.mark.parametrize("max_batch_events", [1, 1000])
@pytest.mark.parametrize("sql_of_change", [NEW_SHAPE, f"BEGIN; {NEW_SHAPE}; COMMIT"], ids=["apart", "in one"])
async def test_a_reader_tells_of_a_new_shape_between_the_acceptance_of_what_is_before_and_what_is_behind(
    sql: Connection, config: WalConfig, max_batch_events: int, sql_of_change: str
) -> None:
    await sql.simple(TABLE)
    chosen = replace(config, max_batch_events=max_batch_events)
    await provisioned(chosen)
    transport = GatedTransport()

    async def tell(change: SchemaChange) -> None:
        transport.log.append("told")
        await anyio.sleep(0.05)  # whoever publishes meanwhile is caught
        transport.log.append("has been told")

    async def two_came() -> bool:
        return 2 in transport.log

    async def one_is_offered() -> bool:
        return "offered" in transport.log

    await sql.simple(sql_of_change)
    reader = WalReader(chosen, to=transport, on_schema_change=tell)  # type: ignore[arg-type]
    async with reader.running():
        await eventually(one_is_offered, why="the row of the old shape is offered")
        await anyio.wait_all_tasks_blocked()
        assert transport.log == ["offered"], "the row of the old shape is not accepted yet"
        transport.gate.set()
        await eventually(two_came, why="the row of the new shape is accepted")
    assert transport.log == ["offered", 1, "told", "has been told", "offered", 2]


async def ignore(events: Sequence[Event]) -> None:
    """Handle whatever comes."""


def has(items: Sequence[object], count: int) -> Callable[[], Awaitable[bool]]:
    async def enough() -> bool:
        return len(items) == count

    return enough


async def test_a_shape_that_changes_between_two_connections_is_told(
    sql: Connection, config: WalConfig
) -> None:
    await sql.simple(TABLE)
    await provisioned(config)
    changes: list[SchemaChange] = []
    told_before: list[int] = []

    async def tell(change: SchemaChange) -> None:
        changes.append(change)

    async def handle(events: Sequence[Event]) -> None:
        told_before.extend(len(changes) for _ in events)

    transport = PostgresTransport(config, on_schema_change=tell)
    async with Pipeline(name="shapes", transport=transport, handler=handle).running():
        await sql.simple("INSERT INTO t VALUES (1, 'x')")
        await eventually(has(told_before, 1), why="the first row is handled")
        await sql.simple(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = current_database()"
        )
        await sql.simple("ALTER TABLE t ADD more int; INSERT INTO t VALUES (2, 'x')")
        await eventually(has(told_before, 2), why="the row of the new shape is handled")
    assert told_before == [0, 1]
    assert [name for name, _ in changes[0].old] == ["id", "note"]
    assert [name for name, _ in changes[0].new] == ["id", "note", "more"]


async def test_a_hook_that_takes_longer_than_the_server_s_timeout_keeps_the_connection(
    sql: Connection, config: WalConfig
) -> None:
    await sql.simple(TABLE)
    await provisioned(config)
    calls = 0
    handled: list[bytes | None] = []

    async def tell(change: SchemaChange) -> None:
        nonlocal calls
        calls += 1
        await anyio.sleep(3 * config.wal_sender_timeout_seconds)

    async def handle(events: Sequence[Event]) -> None:
        handled.extend(event.key for event in events)

    transport = PostgresTransport(config, on_schema_change=tell)
    async with Pipeline(name="shapes", transport=transport, handler=handle).running():
        await sql.simple(NEW_SHAPE)
        await eventually(has(handled, 2), why="both rows are handled")
    assert calls == 1
    assert handled == [b'{"id":1}', b'{"id":2}']


@pytest.mark.parametrize("raised", [ValueError("a row's value"), AccessError("the warehouse says no")])
async def test_a_hook_that_fails_ends_the_pipeline_with_one_error(
    sql: Connection, config: WalConfig, raised: Exception
) -> None:
    await sql.simple(TABLE)
    await provisioned(config)

    async def tell(change: SchemaChange) -> None:
        raise raised

    transport = PostgresTransport(config, on_schema_change=tell)
    await sql.simple(NEW_SHAPE)
    with pytest.raises((SourceError, AccessError)) as caught, anyio.fail_after(60):
        await Pipeline(name="shapes", transport=transport, handler=ignore).run()
    assert raised in (caught.value, caught.value.__cause__)
    assert "a row's value" not in str(caught.value)


async def test_a_hook_that_fails_ends_the_reader_with_one_error(sql: Connection, config: WalConfig) -> None:
    await sql.simple(TABLE)
    await provisioned(config)

    async def tell(change: SchemaChange) -> None:
        raise ValueError("no")

    reader = WalReader(config, to=MemoryTransport(), on_schema_change=tell)
    await sql.simple(NEW_SHAPE)
    with pytest.raises(SourceError, match="on_schema_change raised ValueError"), anyio.fail_after(60):
        await reader.run()
