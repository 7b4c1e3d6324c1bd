"""The reader feeds a transport with a broker (here the in-memory one), and confirms only what is durable there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import anyio
import pytest
from psycopg.conninfo import make_conninfo
from wal_reading import confirmed_lsn, eventually

from cdc_core import ChangeIdentity, Event, OutgoingEvent, Pipeline, RoutingError, Transport, provision
from cdc_testing import Delay, FailAfterStore, Fault, Hold, MemoryTransport, Reject
from cdc_testing.plugin import PostgresDatabase
from cdc_testing.servers.tcp_proxy import ProxyFactory
from cdc_wal import PostgresTransport, WalConfig, WalReader
from cdc_wal._connection import Connection

pytestmark = pytest.mark.anyio

TABLE = "CREATE TABLE t (id bigint PRIMARY KEY, note text)"


async def ready_reader(config: WalConfig, to: Transport) -> WalReader:
    reader = WalReader(config, to=to)
    await provision(reader)
    return reader


def published(memory: MemoryTransport) -> list[OutgoingEvent]:
    return [record.event for log in memory.logs for record in log.records]


def stored(memory: MemoryTransport) -> list[ChangeIdentity]:
    identities = [event.identity for event in published(memory)]
    assert all(isinstance(identity, ChangeIdentity) for identity in identities)
    return [identity for identity in identities if isinstance(identity, ChangeIdentity)]


async def until_stored(memory: MemoryTransport, count: int) -> None:
    async def are_stored() -> bool:
        return len(set(stored(memory))) >= count

    await eventually(are_stored, why=f"{count} events are stored")


async def test_what_is_stored_is_confirmed_and_a_pipeline_consumes_it(
    sql: Connection, config: WalConfig
) -> None:
    await sql.simple(TABLE)
    memory = MemoryTransport(partitions=3)
    reader = await ready_reader(config, memory)
    handled: list[bytes | None] = []

    async def handle(events: Sequence[Event]) -> None:
        handled.extend(event.key for event in events)

    async with (
        Pipeline(name="p", transport=memory, handler=handle).running(),
        reader.running() as live,
    ):
        await sql.simple("INSERT INTO t SELECT g, 'x' FROM generate_series(1, 500) g")
        await sql.simple("UPDATE t SET note = 'y' WHERE id <= 100")

        async def all_were_handled() -> bool:
            return len(handled) == 600

        await eventually(all_were_handled, why="the pipeline handles what the reader publishes")
        last = max(stored(memory)).commit_lsn

        async def all_is_confirmed() -> bool:
            return await confirmed_lsn(sql, config.slot_name) > last

        await eventually(all_is_confirmed, why="what is stored is confirmed")
        assert (live.confirmed_lsn or 0) > last
        assert live.health.ready
    assert not live.health.ready, "a reader that has ended is not ready"


async def test_nothing_is_confirmed_before_its_receipt_settles(sql: Connection, config: WalConfig) -> None:
    await sql.simple(TABLE)
    memory = MemoryTransport(faults=[Hold(at=3)])
    reader = await ready_reader(config, memory)
    async with reader.running():
        await sql.simple("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
        await until_stored(memory, 2)
        first = stored(memory)[0].commit_lsn
        await sql.simple("INSERT INTO t VALUES (3, 'held')")

        async def it_is_held() -> bool:
            return not memory.pending_faults

        await eventually(it_is_held, why="the publisher holds the third event")
        await anyio.sleep(1.5 * config.wal_sender_timeout_seconds)  # keepalives come meanwhile
        held = await confirmed_lsn(sql, config.slot_name)
        assert held > first
        (row,) = await sql.fetch("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")
        assert held < int(row[0] or 0)
        memory.release()
        await until_stored(memory, 3)
        assert stored(memory)[-1].commit_lsn >= held

        async def the_rest_is_confirmed() -> bool:
            return await confirmed_lsn(sql, config.slot_name) > stored(memory)[-1].commit_lsn

        await eventually(the_rest_is_confirmed, why="the held event is confirmed when it is stored")


@pytest.mark.parametrize("fault", [FailAfterStore(at=5), Delay(at=5, seconds=0.3)])
async def test_after_a_terminal_error_a_new_publisher_begins_at_the_confirmed_lsn(
    sql: Connection, config: WalConfig, fault: Fault
) -> None:
    await sql.simple(TABLE)
    memory = MemoryTransport(faults=[fault])
    reader = await ready_reader(replace(config, max_batch_events=2), memory)
    async with reader.running():
        for number in range(1, 11):
            await sql.simple(f"INSERT INTO t VALUES ({number}, 'x')")
        await until_stored(memory, 10)
    keys = [event.key for event in published(memory)]
    first_deliveries = list(dict.fromkeys(keys))
    assert first_deliveries == [b'{"id":%d}' % number for number in range(1, 11)]
    by_identity = {event.identity: event.key for event in published(memory)}
    assert len(by_identity) == 10, "a repeat has the identity of its first delivery"


async def test_a_rejected_event_is_set_aside_in_postgresql_and_then_confirmed(
    sql: Connection, config: WalConfig
) -> None:
    await sql.simple(TABLE)
    memory = MemoryTransport(faults=[Reject(at=2)])
    reader = await ready_reader(config, memory)
    async with reader.running() as live:
        await sql.simple("INSERT INTO t VALUES (1, 'a'), (2, 'rejected'), (3, 'c')")
        await until_stored(memory, 2)
        last = stored(memory)[-1].commit_lsn

        async def all_is_confirmed() -> bool:
            return await confirmed_lsn(sql, config.slot_name) > last

        await eventually(all_is_confirmed, why="the rejected event counts as settled once it is set aside")
    assert live.rejected == 1
    assert [event.key for event in published(memory)] == [b'{"id":1}', b'{"id":3}']
    async with PostgresTransport(config).dead_letters() as letters:
        (letter,) = [letter async for letter in letters.list(pipeline=reader.name)]
    assert letter.key == b'{"id":2}'
    assert b"rejected" in (letter.value or b"")
    assert dict(letter.headers)["cdc-table"] == b"t"


async def test_where_a_rejected_event_cannot_be_set_aside_the_reader_stops_and_confirms_nothing(
    sql: Connection, config: WalConfig
) -> None:
    await sql.simple(TABLE)
    memory = MemoryTransport(faults=[Reject(at=1)])
    reader = await ready_reader(config, memory)
    await sql.simple("ALTER TABLE cdc.dead_letters RENAME TO elsewhere")
    before = await confirmed_lsn(sql, config.slot_name)
    await sql.simple("INSERT INTO t VALUES (1, 'rejected')")
    with pytest.raises(RoutingError) as stopped, anyio.fail_after(20):
        await reader.run()
    assert stopped.value.remedy
    (row,) = await sql.fetch("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")
    assert before <= await confirmed_lsn(sql, config.slot_name) < int(row[0] or 0)
    await sql.simple("ALTER TABLE cdc.elsewhere RENAME TO dead_letters")
    async with reader.running():

        async def it_is_published() -> bool:
            return bool(stored(memory))

        await eventually(it_is_published, why="the event comes again")


async def test_a_cut_connection_repeats_with_the_same_identities_and_loses_nothing(
    sql: Connection, config: WalConfig, postgres_database: PostgresDatabase, tcp_proxy: ProxyFactory
) -> None:
    await sql.simple(TABLE)
    memory = MemoryTransport()
    server = postgres_database.server
    async with tcp_proxy(server.host, server.port) as proxy:
        proxied = replace(config, dsn=make_conninfo(config.dsn, host=proxy.host, port=proxy.port))
        reader = await ready_reader(proxied, memory)
        async with reader.running():
            for number in range(1, 31):
                await sql.simple(f"INSERT INTO t VALUES ({number}, 'x')")
                if number % 10 == 0:
                    await proxy.cut()
            await until_stored(memory, 30)
    first_deliveries = list(dict.fromkeys(event.key for event in published(memory)))
    assert first_deliveries == [b'{"id":%d}' % number for number in range(1, 31)]
    assert len({event.identity for event in published(memory)}) == 30


async def test_the_last_event_of_a_transaction_says_so(sql: Connection, config: WalConfig) -> None:
    await sql.simple(TABLE)
    memory = MemoryTransport()
    reader = await ready_reader(replace(config, max_batch_events=2), memory)
    async with reader.running():
        await sql.simple("INSERT INTO t SELECT g, 'x' FROM generate_series(1, 5) g")
        await sql.simple("INSERT INTO t VALUES (6, 'x')")
        await until_stored(memory, 6)
    assert [event.ends_transaction for event in published(memory)] == [*([False] * 4), True, True]


async def test_a_reader_that_is_left_waits_for_its_receipts_and_confirms_them(
    sql: Connection, config: WalConfig
) -> None:
    await sql.simple(TABLE)
    memory = MemoryTransport(faults=[Delay(at=1, seconds=0.5)])
    # a timeout so long that the fence does not end the publisher meanwhile
    reader = await ready_reader(replace(config, wal_sender_timeout_seconds=10.0), memory)
    async with reader.running():
        await sql.simple("INSERT INTO t VALUES (1, 'x')")
        (row,) = await sql.fetch("SELECT (pg_current_wal_lsn() - '0/0')::bigint")

        async def it_is_being_stored() -> bool:
            return not memory.pending_faults

        await eventually(it_is_being_stored, why="the publisher has the row")
        assert not published(memory)
    assert len(published(memory)) == 1
    assert await confirmed_lsn(sql, config.slot_name) >= int(row[0] or 0)
