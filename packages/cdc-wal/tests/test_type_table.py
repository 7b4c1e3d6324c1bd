"""Every family of PostgreSQL's types, inserted into a server and read back through a slot (DESIGN.md, section 6)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pytest
from cdc_core import Event, Operation
from cdc_wal import WalConfig
from cdc_wal._connection import Connection, open_connection
from type_table import SETUP, Case, Family, comparable, exactly, families, literal, server_prints, server_reads
from wal_database import Database
from wal_reading import provisioned, reading

pytestmark = pytest.mark.anyio


def config_of(database: Database) -> WalConfig:
    return WalConfig(
        dsn=database.dsn, slot_name=database.slot_name, publication_name="everything", all_tables=True
    )


def envelope(event: Event) -> Mapping[str, object]:
    assert event.value is not None
    decoded: Mapping[str, object] = json.loads(event.value)
    return decoded


def row_of(event: Event, side: str) -> Mapping[str, object]:
    row = envelope(event)[side]
    assert isinstance(row, dict)
    return row


async def test_each_value_is_as_the_type_table_says_when_inserted_updated_and_deleted(any_database: Database) -> None:
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
    read = (await sql.fetch(server_reads(family.cases, family.columns), texts))[0]
    return {
        f"{case.type} {case.sql[:40]}": (found, due)
        for case, found, due in zip(family.cases, read, printed, strict=True)
        if comparable(case.type, found) != comparable(case.type, due)
    }
