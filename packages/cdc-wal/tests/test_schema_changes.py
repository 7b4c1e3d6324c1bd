"""Rule 8: columns come from the Relation message in force, the rest from the catalog (DESIGN.md)."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import psycopg
import pytest
from wal_reading import Reading, confirmed_lsn, keys, provisioned, reading

from cdc_core import Event, Operation, SourceError, TableId
from cdc_testing.plugin import PostgresDatabase
from cdc_wal import SchemaChange, WalConfig
from cdc_wal._connection import Connection, open_connection
from cdc_wal._source import SlotSource

pytestmark = pytest.mark.anyio

TABLE = "CREATE TABLE t (id int PRIMARY KEY, a text)"


def rows(events: Sequence[Event]) -> list[dict[str, object]]:
    """Return the new row of each event, or the old one of a delete."""
    bodies = [json.loads(event.value or b"") for event in events]
    return [body["before"] if body["op"] == "d" else body["after"] for body in bodies]


@asynccontextmanager
async def watched(config: WalConfig) -> AsyncGenerator[tuple[Reading, list[SchemaChange]]]:
    """Read, and note each new shape that was announced."""
    changes: list[SchemaChange] = []

    async def note(change: SchemaChange) -> None:
        changes.append(change)

    async with Reading(SlotSource(config, on_schema_change=note)) as reader:
        yield reader, changes


def shapes(changes: Sequence[SchemaChange]) -> list[tuple[list[str], list[str]]]:
    return [([name for name, _ in change.old], [name for name, _ in change.new]) for change in changes]


ALTERATIONS: list[tuple[str, str, dict[str, object]]] = [
    ("ADD b int DEFAULT 7", "(2, 'y', 8)", {"id": 2, "a": "y", "b": 8}),
    ("RENAME a TO b", "(2, 'y')", {"id": 2, "b": "y"}),
    ("DROP a", "(2)", {"id": 2}),
    ("ALTER a TYPE int USING length(a)", "(2, 5)", {"id": 2, "a": 5}),
    ("ALTER a TYPE mood USING 'sad'", "(2, 'sad')", {"id": 2, "a": "sad"}),
    ("ALTER a TYPE numeric(6,2) USING 1", "(2, 5)", {"id": 2, "a": "5.00"}),
    ("ALTER a TYPE varchar(3)", "(2, 'abc')", {"id": 2, "a": "abc"}),
    ("ALTER id TYPE bigint", "(9007199254740993, 'y')", {"id": 9007199254740993, "a": "y"}),
]


@pytest.mark.parametrize("where", ["inside a transaction", "while streaming", "before reading"])
async def test_rule_8_rows_have_the_columns_of_their_time(
    sql: Connection, config: WalConfig, where: str
) -> None:
    await sql.simple("CREATE TYPE mood AS ENUM ('sad')")
    for number in range(len(ALTERATIONS)):
        await sql.simple(TABLE.replace(" t ", f" t{number} "))
    await provisioned(config)
    async with watched(config) as (reader, changes):
        for number, (alteration, values, row) in enumerate(ALTERATIONS):
            first = f"INSERT INTO t{number} VALUES (1, 'x')"
            second = f"INSERT INTO t{number} VALUES {values}; UPDATE t{number} SET id = id WHERE id > 1"
            alter = f"ALTER TABLE t{number} {alteration}"
            taken: list[Event] = []
            if where == "inside a transaction":
                await sql.simple(f"BEGIN; {first}; {alter}; {second}; COMMIT")
            else:
                await sql.simple(first)
                if where == "while streaming":
                    taken = await reader.take(1)
                await sql.simple(alter)
                await sql.simple(second)
            events = [*taken, *await reader.take(3 - len(taken))]
            found = rows(events)
            assert found == [{"id": 1, "a": "x"}, row, row]
            assert [list(one) for one in found[1:]] == [list(row), list(row)], "in table order"
            assert shapes(changes) == [(["id", "a"], list(row))]
            (change,) = changes
            assert change.table == TableId("public", f"t{number}")
            assert change.old != change.new
            changes.clear()


async def test_rule_8_a_new_shape_is_announced_before_its_first_row_and_can_stop_the_reader(
    sql: Connection, config: WalConfig
) -> None:
    await sql.simple(TABLE)
    await provisioned(config)

    async def refuse(change: SchemaChange) -> None:
        raise SourceError("the sink has no such column", where={"table": change.table})

    await sql.simple("INSERT INTO t VALUES (1, 'x')")
    async with Reading(SlotSource(config, on_schema_change=refuse)) as reader:
        (event,) = await reader.take(1)
        await reader.stream.ack([event])
        await reader.stream.flush()
        # Not awaited: the reader that stops cancels its worker, which is this task.
        with psycopg.connect(config.dsn, autocommit=True) as writer:
            writer.execute("ALTER TABLE t ADD b int; INSERT INTO t VALUES (2, 'y', 3)")
        with pytest.raises(StopAsyncIteration):
            await reader.take(1)
        await reader.leave_stream()
        with pytest.raises(SourceError, match="no such column"):
            await reader.next_stream()
    assert await confirmed_lsn(sql, config.slot_name) > 0
    async with reading(config) as reader:
        assert rows(await reader.take(1)) == [{"id": 2, "a": "y", "b": 3}], (
            "nothing of the new shape was lost"
        )


async def test_rule_8_a_table_that_is_renamed_or_moved_has_its_new_name_from_then_on(
    sql: Connection, config: WalConfig
) -> None:
    await sql.simple(f"{TABLE}; CREATE SCHEMA attic")
    await provisioned(config)
    await sql.simple(
        "BEGIN; INSERT INTO t VALUES (1, 'x'); ALTER TABLE t RENAME TO u; INSERT INTO u VALUES (2, 'y'); COMMIT"
    )
    await sql.simple("ALTER TABLE u SET SCHEMA attic; INSERT INTO attic.u VALUES (3, 'z')")
    await sql.simple("CREATE TABLE t (id int PRIMARY KEY, other bool); INSERT INTO t VALUES (4, true)")
    async with watched(config) as (reader, changes):
        events = await reader.take(4)
    assert [str(event.table) for event in events] == ["public.t", "public.u", "attic.u", "public.t"]
    names = [json.loads(event.value or b"")["source"] for event in events]
    assert [f"{source['schema']}.{source['table']}" for source in names] == [
        str(event.table) for event in events
    ]
    assert rows(events)[-1] == {"id": 4, "other": True}
    assert changes == [], "no columns changed: a new table under an old name is another table"


async def test_rule_8_the_key_follows_the_primary_key_that_is_changed(
    sql: Connection, config: WalConfig
) -> None:
    await sql.simple("CREATE TABLE t (a int, b int, c int NOT NULL, PRIMARY KEY (a, b))")
    await provisioned(config)
    async with reading(config) as reader:
        seen: list[bytes | None] = []
        for number, primary_key in enumerate(["", "(b, a)", "(c)", "(c, a)"]):
            if primary_key:
                await sql.simple(
                    f"BEGIN; ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY {primary_key}; COMMIT"
                )
            await sql.simple(f"INSERT INTO t VALUES ({number}, 20, {number})")
            await sql.simple(f"DELETE FROM t WHERE a = {number}")
            inserted, deleted = await reader.take(2)
            assert inserted.key == deleted.key
            seen.append(inserted.key)
        await sql.simple(
            "BEGIN; INSERT INTO t VALUES (5, 6, 7); ALTER TABLE t DROP CONSTRAINT t_pkey;"
            " ALTER TABLE t ADD PRIMARY KEY (b); DELETE FROM t; COMMIT"
        )
        # In which order the columns stand depends on whether the server repeats the relation before the first row.
        last = [json.loads(event.key or b"") for event in await reader.take(2)]
        assert last == [{"a": 5, "c": 7}, {"b": 6}], "as marked when each was written"
    assert seen == [b'{"a":0,"b":20}', b'{"b":20,"a":1}', b'{"c":2}', b'{"c":3,"a":3}']


async def test_rule_8_types_made_and_values_added_while_running_are_read(
    sql: Connection, config: WalConfig
) -> None:
    await sql.simple(
        "CREATE TYPE mood AS ENUM ('sad'); CREATE TABLE t (id int PRIMARY KEY, m mood, ms mood[])"
    )
    await provisioned(config)
    async with reading(config) as reader:
        await sql.simple("INSERT INTO t VALUES (1, 'sad', '{sad}')")
        first = await reader.take(1)
        await sql.simple("ALTER TYPE mood ADD VALUE 'so \"so\"'")
        await sql.simple("INSERT INTO t VALUES (2, 'so \"so\"', ARRAY['so \"so\"', NULL]::mood[])")
        await sql.simple(
            "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'; INSERT INTO t VALUES (3, 'blue', '{}')"
        )
        await sql.simple("CREATE DOMAIN moods AS mood[]; CREATE TABLE s (id int PRIMARY KEY, m moods)")
        await sql.simple("INSERT INTO s VALUES (4, '{blue}')")
        events = [*first, *await reader.take(3)]
    assert rows(events) == [
        {"id": 1, "m": "sad", "ms": ["sad"]},
        {"id": 2, "m": 'so "so"', "ms": ['so "so"', None]},
        {"id": 3, "m": "blue", "ms": []},
        {"id": 4, "m": ["blue"]},
    ]


async def test_rule_8_a_replay_across_ddl_takes_what_the_catalog_knows_now(
    sql: Connection, config: WalConfig
) -> None:
    """A type that is gone falls back to base64 of its text, and the columns stay those of their time."""
    await sql.simple(
        "CREATE TYPE mood AS ENUM ('sad'); CREATE DOMAIN cents AS int; CREATE DOMAIN kept AS int"
    )
    await sql.simple("CREATE TABLE t (id int PRIMARY KEY, m mood, ms mood[], n cents, k kept)")
    await sql.simple("CREATE TABLE gone (id int PRIMARY KEY, x text)")
    await provisioned(config)
    await sql.simple(
        "INSERT INTO t VALUES (1, 'sad', '{sad}', 7, 8); INSERT INTO gone VALUES (1, 'x'); DELETE FROM gone"
    )
    async with reading(config) as reader:
        before = await reader.take(3)
    await sql.simple(
        "ALTER TABLE t DROP m, DROP ms, DROP n; DROP TYPE mood; DROP DOMAIN cents; DROP TABLE gone"
    )
    await sql.simple("INSERT INTO t VALUES (2, 9)")
    async with reading(config) as reader:
        after = await reader.take(4)
    assert rows(before)[0] == {"id": 1, "m": "sad", "ms": ["sad"], "n": 7, "k": 8}
    assert rows(after)[0] == {"id": 1, "m": "c2Fk", "ms": "e3NhZH0=", "n": "Nw==", "k": 8}
    assert rows(after)[3] == {"id": 2, "k": 9}
    assert [event.identity for event in after[:3]] == [event.identity for event in before]
    assert keys(before) == [b'{"id":1}'] * 3
    # Of a table that is gone the stream still says which columns were its key.
    assert keys(after)[:3] == [b'{"id":1}'] * 3
    assert rows(after)[1] == rows(before)[1] == {"id": 1, "x": "x"}


async def test_several_tables_in_one_transaction_keep_their_order_and_are_counted(
    sql: Connection, config: WalConfig
) -> None:
    await sql.simple("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY REFERENCES a)")
    await provisioned(config)
    await sql.simple(
        "BEGIN; INSERT INTO a VALUES (1); INSERT INTO b VALUES (1); INSERT INTO a VALUES (2);"
        " DELETE FROM b; TRUNCATE a, b; INSERT INTO b SELECT 3 WHERE false; COMMIT"
    )
    async with reading(config) as reader:
        events = await reader.take(6)
    assert [(event.op, str(event.table)) for event in events[:4]] == [
        (Operation.CREATE, "public.a"),
        (Operation.CREATE, "public.b"),
        (Operation.CREATE, "public.a"),
        (Operation.DELETE, "public.b"),
    ]
    assert {(event.op, str(event.table)) for event in events[4:]} == {
        (Operation.TRUNCATE, "public.a"),
        (Operation.TRUNCATE, "public.b"),
    }
    orders = [json.loads(event.value or b"")["transaction"] for event in events]
    assert [order["total_order"] for order in orders] == [1, 2, 3, 4, 5, 6]
    assert [order["data_collection_order"] for order in orders] == [1, 1, 2, 2, 3, 3]
    assert len({order["id"] for order in orders}) == 1


@pytest.mark.parametrize("via_root", [True, False])
async def test_rows_of_partitions_come_under_the_root_or_the_leaf_as_the_publication_says(
    sql: Connection, config: WalConfig, via_root: bool
) -> None:
    await sql.simple(
        "CREATE TABLE p (id int PRIMARY KEY, a text) PARTITION BY RANGE (id);"
        "CREATE TABLE p_low PARTITION OF p FOR VALUES FROM (0) TO (10);"
        "CREATE TABLE p_high (a text, gone int, id int PRIMARY KEY); ALTER TABLE p_high DROP gone;"
        "ALTER TABLE p ATTACH PARTITION p_high FOR VALUES FROM (10) TO (20);"
        f"CREATE PUBLICATION mine FOR TABLE p WITH (publish_via_partition_root = {via_root})"
    )
    await provisioned(replace(config, publication_name="mine", all_tables=False))
    await sql.simple("INSERT INTO p VALUES (1, 'low'), (11, 'high')")
    await sql.simple("UPDATE p SET id = 12 WHERE id = 1")  # from one partition to the other
    async with reading(replace(config, publication_name="mine", all_tables=False)) as reader:
        events = await reader.take(4)
    low, high = ("public.p", "public.p") if via_root else ("public.p_low", "public.p_high")
    assert [str(event.table) for event in events] == [low, high, low, high]
    assert [event.op for event in events] == [*map(Operation, "ccdc")]
    assert keys(events) == [b'{"id":1}', b'{"id":11}', b'{"id":1}', b'{"id":12}']
    assert [list(row) for row in rows(events)[:2]] == [
        ["id", "a"],
        ["id", "a"] if via_root else ["a", "id"],
    ]


async def test_column_lists_and_row_filters_of_the_users_publication_stay_as_they_are(
    sql: Connection, config: WalConfig, postgres_database: PostgresDatabase
) -> None:
    await sql.simple(
        "CREATE TABLE t (id int PRIMARY KEY, secret text, a text);"
        "CREATE PUBLICATION mine FOR TABLE t (id, a) WHERE (id < 10) WITH (publish = 'insert, update, delete')"
    )
    mine = replace(
        config, publication_name="mine", all_tables=False, tables=("public.t",), operations=("insert",)
    )
    made = "SELECT pg_get_expr(prqual, prrelid), prattrs::text FROM pg_publication_rel"
    before = await sql.fetch(made)
    await provisioned(mine)
    await provisioned(replace(mine, tables=()))
    assert await sql.fetch(made) == before
    await sql.simple("INSERT INTO t VALUES (1, 's', 'in'), (11, 's', 'out'), (2, 's', 'in')")
    # Out of the filter is a delete for whoever reads, into it an insert: the server makes them.
    await sql.simple("UPDATE t SET id = 12 WHERE id = 1; UPDATE t SET id = 3 WHERE id = 11")
    await sql.simple("UPDATE t SET secret = 'changed' WHERE id = 2")
    async with reading(mine) as reader:
        events = await reader.take(5)
    assert [event.op for event in events] == [*map(Operation, "ccdcu")]
    assert keys(events) == [b'{"id":1}', b'{"id":2}', b'{"id":1}', b'{"id":3}', b'{"id":2}']
    assert [row for row in rows(events) if row != {"id": 1, "a": None}] == [
        {"id": 1, "a": "in"},
        {"id": 2, "a": "in"},
        {"id": 3, "a": "out"},
        {"id": 2, "a": "in"},
    ]
    assert b"secret" not in b"".join(event.value or b"" for event in events)


async def test_a_key_that_a_column_list_cuts_is_no_key(sql: Connection, config: WalConfig) -> None:
    await sql.simple(
        "CREATE TABLE t (id int, part int, a text, PRIMARY KEY (id, part));"
        "CREATE PUBLICATION mine FOR TABLE t (id, a) WITH (publish = 'insert')"
    )
    mine = replace(config, publication_name="mine", all_tables=False)
    await provisioned(mine)
    async with open_connection(config.dsn) as writer, reading(mine) as reader:
        await writer.simple("INSERT INTO public.t VALUES (1, 1, 'x')")
        (event,) = await reader.take(1)
    assert event.key is None, "half a key would name many rows"
    assert rows([event]) == [{"id": 1, "a": "x"}]
