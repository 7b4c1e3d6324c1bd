"""A TRUNCATE that is to go through a broker: it stops the reader, or is set aside, or is published (`truncate`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import anyio
import pytest
from wal_reading import confirmed_lsn, eventually, provisioned

from cdc_core import ConfigError, Operation, OutgoingEvent, RoutingError, TableId
from cdc_pgoutput import Lsn
from cdc_testing import Delay, Hold, MemoryTransport
from cdc_wal import PostgresTransport, TruncateNotPublished, TruncatePolicy, WalConfig, WalReader
from cdc_wal._connection import Connection

pytestmark = pytest.mark.anyio

TABLES = (
    "CREATE TABLE a (id bigint PRIMARY KEY); CREATE TABLE b (id bigint PRIMARY KEY);"
    "CREATE TABLE c (id bigint PRIMARY KEY, b bigint REFERENCES b)"
)
# b takes c with it; rows stand before, between and behind, and another transaction behind it all
TRANSACTION = (
    "BEGIN; INSERT INTO a VALUES (1), (2); TRUNCATE a, b CASCADE; INSERT INTO a VALUES (3); TRUNCATE a;"
    "INSERT INTO a VALUES (4); COMMIT"
)
ROW_BEHIND = "INSERT INTO a VALUES (5)"


def published(memory: MemoryTransport) -> list[OutgoingEvent]:
    return [record.event for log in memory.logs for record in log.records]


def ids(events: Sequence[OutgoingEvent]) -> list[int]:
    return [json.loads(event.key or b"")["id"] for event in events if event.op is Operation.CREATE]


async def log_end(sql: Connection) -> int:
    (row,) = await sql.fetch("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")
    return int(row[0] or 0)


async def until_confirmed(sql: Connection, config: WalConfig, lsn: int) -> None:
    async def is_confirmed() -> bool:
        return await confirmed_lsn(sql, config.slot_name) >= lsn

    await eventually(is_confirmed, why=f"{Lsn(lsn)} is confirmed")


async def prepared(sql: Connection, config: WalConfig, policy: TruncatePolicy | None) -> WalConfig:
    chosen = replace(config, truncate=policy)
    await sql.simple(TABLES)
    await provisioned(chosen)
    return chosen


@pytest.mark.parametrize("policy", ["error", None])
@pytest.mark.parametrize("max_batch_events", [1, 1000])
async def test_a_reader_stops_in_front_of_a_truncate_and_confirms_what_stands_before_its_transaction(
    sql: Connection, config: WalConfig, policy: TruncatePolicy | None, max_batch_events: int
) -> None:
    chosen = replace(await prepared(sql, config, policy), max_batch_events=max_batch_events)
    await sql.simple("INSERT INTO a VALUES (0)")
    before = await log_end(sql)
    await sql.simple(TRANSACTION)
    await sql.simple(ROW_BEHIND)
    memory = MemoryTransport(faults=[Delay(at=1, seconds=0.2)])
    with pytest.raises(TruncateNotPublished) as stopped, anyio.fail_after(20):
        await WalReader(chosen, to=memory).run()
    error = stopped.value
    assert set(error.tables) == {TableId("public", name) for name in "abc"}
    assert before < error.commit_lsn
    assert str(Lsn(error.commit_lsn)) in str(error)
    assert all(str(table) in str(error) for table in error.tables)
    assert "truncate=" in error.remedy
    assert ids(published(memory)) == [0, 1, 2], "all before it is published, and nothing behind it"
    assert before <= await confirmed_lsn(sql, config.slot_name) < error.commit_lsn


async def test_a_reader_that_stopped_goes_on_behind_the_truncate_with_another_policy(
    sql: Connection, config: WalConfig
) -> None:
    chosen = await prepared(sql, config, "error")
    await sql.simple(TRANSACTION)
    await sql.simple(ROW_BEHIND)
    end = await log_end(sql)
    memory = MemoryTransport()
    for _ in range(2):
        with pytest.raises(TruncateNotPublished), anyio.fail_after(20):
            await WalReader(chosen, to=memory).run()
    async with WalReader(replace(chosen, truncate="dead_letter"), to=memory).running():
        await until_confirmed(sql, chosen, end)
    assert list(dict.fromkeys(ids(published(memory)))) == [1, 2, 3, 4, 5]
    assert len({event.identity for event in published(memory)}) == 5, (
        "a repeat has the identity of its first delivery"
    )


@pytest.mark.parametrize("max_batch_events", [1, 1000])
async def test_a_truncate_is_set_aside_while_the_rows_around_it_are_published(
    sql: Connection, config: WalConfig, max_batch_events: int
) -> None:
    chosen = replace(await prepared(sql, config, "dead_letter"), max_batch_events=max_batch_events)
    await sql.simple(TRANSACTION)
    await sql.simple(ROW_BEHIND)
    end = await log_end(sql)
    memory = MemoryTransport()
    async with WalReader(chosen, to=memory, name="feeder").running() as live:
        await until_confirmed(sql, chosen, end)
    assert ids(published(memory)) == [1, 2, 3, 4, 5]
    assert all(event.op is Operation.CREATE for event in published(memory))
    assert (live.published, live.rejected) == (5, 4)
    async with PostgresTransport(chosen).dead_letters() as found:
        letters = [letter async for letter in found.list(pipeline="feeder")]
    assert [str(letter.event.table) for letter in letters[-1:]] == ["public.a"]
    assert {str(letter.event.table) for letter in letters[:3]} == {"public.a", "public.b", "public.c"}
    for letter in letters:
        assert letter.event.op is Operation.TRUNCATE
        assert json.loads(letter.value or b"")["op"] == "t"
        assert letter.cause.type.endswith("TruncateNotPublished")
        assert letter.event.identity is not None
    assert len({letter.event.identity for letter in letters}) == 4


async def test_a_truncate_that_cannot_be_set_aside_stops_the_reader_unconfirmed(
    sql: Connection, config: WalConfig
) -> None:
    chosen = await prepared(sql, config, "dead_letter")
    await sql.simple("ALTER TABLE cdc.dead_letters RENAME TO elsewhere")
    before = await log_end(sql)
    await sql.simple(TRANSACTION)
    with pytest.raises(RoutingError), anyio.fail_after(20):
        await WalReader(chosen, to=MemoryTransport()).run()
    assert await confirmed_lsn(sql, chosen.slot_name) <= before
    await sql.simple("ALTER TABLE cdc.elsewhere RENAME TO dead_letters")
    end = await log_end(sql)
    async with WalReader(chosen, to=MemoryTransport()).running():
        await until_confirmed(sql, chosen, end)
    (row,) = await sql.fetch("SELECT count(*) FROM cdc.dead_letters")
    assert row[0] == "4"


async def test_a_truncate_that_was_set_aside_is_confirmed_only_behind_the_rows_before_it(
    sql: Connection, config: WalConfig
) -> None:
    chosen = await prepared(sql, config, "dead_letter")
    before = await log_end(sql)
    await sql.simple("INSERT INTO a VALUES (1)")
    await sql.simple("TRUNCATE a")
    end = await log_end(sql)
    memory = MemoryTransport(faults=[Hold(at=1)])
    async with WalReader(chosen, to=memory).running():

        async def is_held() -> bool:
            return not memory.pending_faults

        await eventually(is_held, why="the publisher holds the row")
        assert await confirmed_lsn(sql, chosen.slot_name) <= before
        memory.release()
        await until_confirmed(sql, chosen, end)


async def test_a_truncate_is_published_with_its_identity_where_any_order_will_do(
    sql: Connection, config: WalConfig
) -> None:
    chosen = await prepared(sql, config, "deliver")
    await sql.simple(TRANSACTION)
    end = await log_end(sql)
    memory = MemoryTransport()
    async with WalReader(chosen, to=memory).running():
        await until_confirmed(sql, chosen, end)
    truncates = [event for event in published(memory) if event.op is Operation.TRUNCATE]
    assert sorted(str(event.table) for event in truncates) == ["public.a", "public.a", "public.b", "public.c"]
    assert {event.key for event in truncates} == {None}
    assert len({event.identity for event in published(memory)}) == 8


@pytest.mark.parametrize("policy", ["error", "dead_letter"])
async def test_the_postgres_transport_refuses_a_policy_that_it_does_not_have(
    config: WalConfig, policy: TruncatePolicy
) -> None:
    transport = PostgresTransport(replace(config, truncate=policy))
    with pytest.raises(ConfigError, match="truncate") as refused:
        transport.source()
    assert refused.value.remedy
    assert PostgresTransport(replace(config, truncate="deliver")).source()


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ConfigError, match="truncate is 'skip'") as refused:
        WalConfig(dsn="", slot_name="s", publication_name="p", truncate="skip")  # type: ignore[arg-type]
    assert "dead_letter" in refused.value.remedy
