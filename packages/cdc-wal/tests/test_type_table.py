"""Every family of PostgreSQL's types, inserted into a server and read back through a slot (DESIGN.md, section 6)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from type_literals import comparable, literal, server_prints, server_reads
from type_table import SETUP, Family, exactly, families, key_families
from wal_database import Database
from wal_reading import provisioned, reading

from cdc_core import Event, Operation
from cdc_wal import WalConfig
from cdc_wal._connection import Connection, open_connection

pytestmark = [pytest.mark.anyio, pytest.mark.slow]  # SQL, whatever Python sends it


def config_of(database: Database) -> WalConfig:
    return WalConfig(
        dsn=database.dsn, slot_name=database.slot_name, publication_name="everything", all_tables=True
    )


def envelope(event: Event) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(event.value or b"")
    return decoded


def row_of(event: Event, side: str) -> Mapping[str, object]:
    row: Mapping[str, object] = envelope(event)[side]
    return row


async def test_each_value_is_as_the_type_table_says_when_inserted_updated_and_deleted(
    any_database: Database,
) -> None:
    major = int(any_database.server.version.split(".")[0])
    chosen = families(major)
    config = config_of(any_database)
    async with open_connection(any_database.dsn) as sql:
        await sql.simple(f"SET search_path = public; {SETUP}")
        for family in chosen:
            await sql.simple(f"{family.table_sql}; ALTER TABLE {family.name} REPLICA IDENTITY FULL")
        await provisioned(config)
        await sql.simple("; ".join(["BEGIN", *(family.insert_sql for family in chosen), "COMMIT"]))
        oracles = {family.name: (await sql.fetch(server_prints(family)))[0] for family in chosen}
        # Only `touched` changes: whatever is stored out of line is then not sent again, and filled from the old row.
        for statement in ("UPDATE {} SET touched = 1", "DELETE FROM {}"):
            await sql.simple("; ".join(statement.format(family.name) for family in chosen))
        async with reading(config) as reader:
            inserts, updates, deletes = [await reader.take(len(chosen)) for _ in range(3)]
        for family, insert, update, delete in zip(chosen, inserts, updates, deletes, strict=True):
            after = row_of(insert, "after")
            assert family.differences(after) == {}
            assert list(after) == ["id", "touched", *family.columns], "in table order"
            assert exactly(row_of(update, "before")) == exactly(after)
            assert exactly({**row_of(update, "after"), "touched": 0}) == exactly(after)
            assert exactly(row_of(delete, "before")) == exactly({**after, "touched": 1})
            assert [event.op for event in (insert, update, delete)] == [*map(Operation, "cud")]
            assert await differences_by_the_server(sql, family, after, oracles[family.name]) == {}


async def differences_by_the_server(
    sql: Connection, family: Family, row: Mapping[str, object], printed: Sequence[str | None]
) -> dict[str, tuple[str | None, str | None]]:
    """Have the server read each value of the JSON and compare what it then prints with what it stores."""
    texts = [
        None if (value := row[column]) is None else literal(case.type, value)
        for case, column in zip(family.cases, family.columns, strict=True)
    ]
    read = (await sql.fetch(server_reads(family.cases), texts))[0]
    return {
        f"{case.type} {case.sql[:40]}": (found, due)
        for case, found, due in zip(family.cases, read, printed, strict=True)
        if comparable(case.type, found) != comparable(case.type, due)
    }


async def test_each_value_is_the_same_in_the_key_of_an_insert_and_of_a_delete(database: Database) -> None:
    chosen = key_families(families(18), columns_each=20)
    config = config_of(database)
    async with open_connection(database.dsn) as sql:
        await sql.simple(f"SET search_path = public; {SETUP}")
        for family in chosen:
            # The last column first: a key has the order of its index, which is not the table's.
            key = ", ".join(reversed(family.columns))
            sql_of_table = family.table_sql.replace("id int PRIMARY KEY", "id int")
            await sql.simple(f"{sql_of_table}; ALTER TABLE {family.name} ADD PRIMARY KEY ({key})")
        await provisioned(config)
        for statement in ("INSERT", "UPDATE {} SET touched = 1", "DELETE FROM {}"):
            statements = [
                family.insert_sql if statement == "INSERT" else statement.format(family.name)
                for family in chosen
            ]
            await sql.simple("; ".join(statements))
        async with reading(config) as reader:
            inserts, updates, deletes = [await reader.take(len(chosen)) for _ in range(3)]
    for family, insert, update, delete in zip(chosen, inserts, updates, deletes, strict=True):
        assert insert.key == update.key == delete.key is not None
        key = json.loads(insert.key or b"")
        assert family.differences(key) == {}
        assert list(key) == [*reversed(family.columns)]
        assert family.differences(row_of(delete, "before")) == {}
        assert row_of(delete, "before")["touched"] is None, (
            "not sent: null, never a zero that looks like data"
        )
        assert envelope(update)["before"] is None


DATABASE_SETTINGS = {
    "TimeZone": "America/New_York",
    "DateStyle": "German, DMY",
    "IntervalStyle": "sql_standard",
    "extra_float_digits": "-5",
    "bytea_output": "escape",
    "lc_monetary": "de_DE.UTF-8",
    "search_path": "elsewhere, pg_catalog, public",
    "client_encoding": "LATIN1",
    "quote_all_identifiers": "on",
    "xmloption": "document",
}


@pytest.mark.parametrize("scope", ["DATABASE", "ROLE"])
async def test_rule_14_no_setting_of_a_database_or_role_changes_a_value(
    any_database: Database, scope: str
) -> None:
    """Nor what is read from the catalog: relations of the user's are found before the server's own."""
    major = int(any_database.server.version.split(".")[0])
    role, dsn = await any_database.role("SUPERUSER")
    target = f"DATABASE {any_database.name}" if scope == "DATABASE" else f"ROLE {role}"
    config = replace(config_of(any_database), dsn=dsn)
    chosen = families(major)
    async with open_connection(any_database.dsn) as sql:
        await sql.simple(f"SET search_path = public; {SETUP}; CREATE SCHEMA elsewhere")
        for shadow in ("pg_type", "pg_index", "pg_class", "pg_range"):
            await sql.simple(f"CREATE VIEW elsewhere.{shadow} AS SELECT 1 AS oid WHERE false")
        for family in chosen:
            await sql.simple(f"{family.table_sql}; ALTER TABLE {family.name} REPLICA IDENTITY FULL")
        installed = {row[0] for row in await sql.fetch("SELECT collname || '.UTF-8' FROM pg_collation")}
        for name, value in DATABASE_SETTINGS.items():
            usable = value if name != "lc_monetary" or value in installed else "C.UTF-8"
            await sql.simple(
                f"ALTER {target} SET {name} = {usable if name == 'search_path' else repr(usable)}"
            )
        await provisioned(config)
        await sql.simple("; ".join(family.insert_sql for family in chosen))
    async with reading(config) as reader:
        events = await reader.take(len(chosen))
    for family, event in zip(chosen, events, strict=True):
        assert family.differences(row_of(event, "after")) == {}
        assert event.key == b'{"id":1}'


async def test_a_stored_generated_column_is_there_only_where_the_publication_sends_it(
    any_database: Database,
) -> None:
    major = int(any_database.server.version.split(".")[0])
    config = config_of(any_database)
    async with open_connection(any_database.dsn) as sql:
        table = "(id int PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 2) STORED, last text)"
        await sql.simple(f"CREATE TABLE public.g {table}")
        await provisioned(config)
        shapes = [["id", "n", "last"]]
        await sql.simple("INSERT INTO public.g (id, n, last) VALUES (1, 21, 'x')")
        if major >= 18:
            await sql.simple("ALTER PUBLICATION everything SET (publish_generated_columns = stored)")
            await sql.simple("INSERT INTO public.g (id, n, last) VALUES (2, 21, 'y')")
            shapes.append(["id", "n", "twice", "last"])
        async with reading(config) as reader:
            events = await reader.take(len(shapes))
    assert [[*row_of(event, "after")] for event in events] == shapes
    assert [row_of(event, "after").get("twice", "absent") for event in events] == ["absent", 42][
        : len(shapes)
    ]


async def test_a_table_of_200_columns_comes_whole(database: Database) -> None:
    kinds = ["int", "text", "numeric(10,2)", "timestamptz", "bool"]
    values = ["7", "'seven'", "7.5", "'2024-02-29 12:34:56+00'", "true"]
    wire = [7, "seven", "7.50", "2024-02-29T12:34:56.000000Z", True]
    config = config_of(database)
    async with open_connection(database.dsn) as sql:
        columns = ", ".join(f'"Column {n}" {kinds[n % 5]}' for n in range(199))
        await sql.simple(f"CREATE TABLE public.w (id int PRIMARY KEY, {columns})")
        await provisioned(config)
        # each eleventh is NULL
        row = ", ".join("NULL" if n % 11 == 0 else values[n % 5] for n in range(199))
        await sql.simple(f"INSERT INTO public.w VALUES (1, {row})")
        await sql.simple('UPDATE public.w SET "Column 198" = NULL; DELETE FROM public.w')
        async with reading(config) as reader:
            insert, update, delete = await reader.take(3)
    expected = {"id": 1} | {f"Column {n}": None if n % 11 == 0 else wire[n % 5] for n in range(199)}
    assert list(row_of(insert, "after").items()) == list(expected.items())
    assert row_of(update, "after") == expected | {"Column 198": None}
    assert row_of(delete, "before") == {name: 1 if name == "id" else None for name in expected}
