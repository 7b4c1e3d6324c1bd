"""Rule 7: a value that is stored out of line and was not sent is neither NULL nor a string (DESIGN.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from wal_reading import provisioned, reading

from cdc_core import UNCHANGED, Change, Event, KeyOnly, Operation, RowError, Table, Unchanged
from cdc_wal import WalConfig
from cdc_wal._connection import Connection

pytestmark = [pytest.mark.anyio, pytest.mark.slow]  # SQL, whatever Python sends it

PLACEHOLDER = "__debezium_unavailable_value"
CODES = list(PLACEHOLDER.encode())
BIG = "x" * 9000
TABLE = """
CREATE TABLE t (id int PRIMARY KEY, code text NOT NULL UNIQUE, big text, n int);
ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
"""
IDENTITIES = {"DEFAULT": "DEFAULT", "FULL": "FULL", "INDEX": "USING INDEX t_code_key"}


@dataclass(frozen=True, kw_only=True)
class Note:
    id: int
    code: str
    big: str | None | Unchanged
    n: int


@dataclass(frozen=True, kw_only=True)
class StrictNote:
    id: int
    big: str | None


NOTES, STRICT_NOTES = Table("public.t", Note), Table("public.t", StrictNote)


def note(event: Event) -> Change[Note]:
    change = NOTES.of(event)
    assert change is not None
    return change


def wire(event: Event, side: str = "after") -> Mapping[str, object]:
    row: Mapping[str, object] = json.loads(event.value or b"")[side]
    return row


@pytest.mark.parametrize("identity", IDENTITIES)
async def test_rule_7_a_value_unchanged_changed_and_nulled_under_each_replica_identity(
    sql: Connection, config: WalConfig, identity: str
) -> None:
    await sql.simple(f"{TABLE} ALTER TABLE t REPLICA IDENTITY {IDENTITIES[identity]}")
    await provisioned(config)
    await sql.simple(f"INSERT INTO t VALUES (1, 'c', repeat('x', {len(BIG)}), 0)")
    for change in ("n = 1", "big = repeat('y', 9000)", "big = NULL", f"big = '{BIG}'", "n = 2"):
        await sql.simple(f"UPDATE t SET {change}")
    await sql.simple("DELETE FROM t")
    async with reading(config) as reader:
        events = await reader.take(7)
    unsent = BIG if identity == "FULL" else UNCHANGED
    afters = [note(event).after for event in events]
    seen = [after.big for after in afters[:-1] if after is not None]
    assert seen == [BIG, unsent, "y" * 9000, None, BIG, unsent]
    assert wire(events[1])["big"] == (BIG if identity == "FULL" else PLACEHOLDER)
    assert [event.change().after for event in events][-1] is None

    befores = [note(event).before for event in events]
    if identity == "FULL":
        old = [before.big for before in befores if isinstance(before, Note)]
        assert old == [BIG, BIG, "y" * 9000, None, BIG, BIG], "filled in the old row too"
        return
    # The identity's columns did not change: no old row came with the updates, and a key with the delete.
    columns = {"id": 1} if identity == "DEFAULT" else {"code": "c"}
    assert befores == [None] * 6 + [KeyOnly(columns)]
    assert wire(events[-1], "before")["big"] is None
    strict = STRICT_NOTES.of(events[0])
    assert strict is not None
    with pytest.raises(RowError, match="UNCHANGED") as caught:
        STRICT_NOTES.of(events[1])
    assert "REPLICA IDENTITY FULL" in caught.value.remedy


@pytest.mark.parametrize("identity", ["DEFAULT", "INDEX"])
async def test_rule_7_a_value_stays_unsent_when_the_key_changes(
    sql: Connection, config: WalConfig, identity: str
) -> None:
    await sql.simple(f"{TABLE} ALTER TABLE t REPLICA IDENTITY {IDENTITIES[identity]}")
    await provisioned(config)
    await sql.simple(f"INSERT INTO t VALUES (1, 'c', '{BIG}', 0); UPDATE t SET id = 2, code = 'd'")
    async with reading(config) as reader:
        _, deleted, created = await reader.take(3)
    key = ("id", 1, 2) if identity == "DEFAULT" else ("code", "c", "d")
    assert (deleted.op, created.op) == (Operation.DELETE, Operation.CREATE)
    assert json.loads(deleted.key or b"") == {key[0]: key[1]}
    assert json.loads(created.key or b"") == {key[0]: key[2]}
    after = note(created).after
    assert after == Note(id=2, code="d", big=UNCHANGED, n=0), (
        "the new key never had the value: it must be told so"
    )
    assert note(deleted).before == KeyOnly({key[0]: key[1]})


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL", "USING INDEX k_pkey"])
async def test_rule_7_a_key_that_is_stored_out_of_line_is_whole_in_every_event(
    sql: Connection, config: WalConfig, identity: str
) -> None:
    await sql.simple("CREATE TABLE k (id text PRIMARY KEY, other text, n int)")
    await sql.simple("ALTER TABLE k ALTER id SET STORAGE EXTERNAL, ALTER other SET STORAGE EXTERNAL")
    await sql.simple(f"ALTER TABLE k REPLICA IDENTITY {identity}")
    await provisioned(config)
    key, new_key = "k" * 2400, "l" * 2400
    await sql.simple(f"INSERT INTO k VALUES ('{key}', '{BIG}', 0)")
    (stored,) = await sql.fetch(
        "SELECT pg_relation_size(reltoastrelid) > 12000 FROM pg_class WHERE relname = 'k'"
    )
    assert stored == ("t",), "both values are out of line"
    await sql.simple("UPDATE k SET n = 1")
    await sql.simple(f"UPDATE k SET id = '{new_key}'; DELETE FROM k")
    async with reading(config) as reader:
        events = await reader.take(5)
    assert [event.op for event in events] == [*map(Operation, "cudcd")]
    keys = [json.loads(event.key or b"")["id"] for event in events]
    assert keys == [key, key, key, new_key, new_key]
    assert [wire(event)["id"] for event in (events[0], events[1], events[3])] == [key, key, new_key]
    other = BIG if identity == "FULL" else PLACEHOLDER
    assert [wire(event)["other"] for event in (events[0], events[1], events[3])] == [BIG, other, other]


BIG_VALUES: dict[str, tuple[str, str, object]] = {
    "text": ("text", "repeat('x', 9000)", PLACEHOLDER),
    "varchar": ("varchar", "repeat('x', 9000)", PLACEHOLDER),
    "bpchar": ("char(9000)", "'x'", PLACEHOLDER),
    "json": ("json", "to_json(repeat('x', 9000))", PLACEHOLDER),
    "jsonb": ("jsonb", "to_jsonb(repeat('x', 9000))", PLACEHOLDER),
    "number": ("numeric", "repeat('123456789', 1000)::numeric", PLACEHOLDER),
    "tsv": ("tsvector", "(SELECT string_agg('w' || g, ' ') FROM generate_series(1, 900) g)::tsvector", PLACEHOLDER),
    "nrange": ("numrange", "numrange(repeat('123456789', 1000)::numeric, NULL)", PLACEHOLDER),
    "bits": ("varbit", "repeat('10', 40000)::varbit", PLACEHOLDER),
    "bytes": ("bytea", "decode(repeat('00ff', 4500), 'hex')", PLACEHOLDER),
    "poly": ("polygon", "polygon(600, circle '<(1,2),3>')", PLACEHOLDER),
    "multi": ("int4multirange", "(SELECT range_agg(int4range(g * 4, g * 4 + 2)) FROM generate_series(1, 900) g)",
              PLACEHOLDER),
    "labels": ("mood[]", "array_fill('a'::mood, ARRAY[3000])", PLACEHOLDER),
    "pairs": ("pair", "('(1,' || repeat('x', 9000) || ')')::pair", PLACEHOLDER),
    "texts": ("text[]", "array_fill('abc'::text, ARRAY[3000])", [PLACEHOLDER]),
    "varchars": ("varchar[]", "array_fill('abc'::varchar, ARRAY[3000])", [PLACEHOLDER]),
    "jsonbs": ("jsonb[]", "array_fill('{}'::jsonb, ARRAY[3000])", [PLACEHOLDER]),
    "int4s": ("int[]", "array_fill(1, ARRAY[3000])", CODES),
    "int8s": ("int8[]", "array_fill(1::int8, ARRAY[3000])", CODES),
    "uuids": ("uuid[]", "array_fill(md5('x')::uuid, ARRAY[900])", ["b68a35a7-17ad-35b3-af2a-ae46edb4545a"]),
    "aged": ("age[]", "array_fill(1::age, ARRAY[3000])", PLACEHOLDER),
    "numbers": ("numbers", "array_fill(1, ARRAY[3000])::numbers", CODES),
    **{
        f"array_of_{name}": (f"{name}[]", f"array_fill({value}::{name}, ARRAY[5000])", PLACEHOLDER)
        for name, value in {
            "int2": "1", "numeric": "1.5", "date": "'2024-02-29'", "timestamp": "'2024-02-29'", "bool": "true",
            "timestamptz": "'2024-02-29'", "bytea": "'abc'", "float8": "1.5", "oid": "1", "interval": "'1 day'",
        }.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
async def test_rule_7_each_type_that_can_be_stored_out_of_line_has_its_placeholder_and_is_unchanged_in_the_api(
    sql: Connection, config: WalConfig, identity: str
) -> None:
    await sql.simple(
        "CREATE TYPE mood AS ENUM ('a'); CREATE TYPE pair AS (n int, t text); CREATE DOMAIN age AS int;"
        "CREATE DOMAIN numbers AS int[]"
    )
    columns = ", ".join(f"{name} {kind}" for name, (kind, _, _) in BIG_VALUES.items())
    await sql.simple(f"CREATE TABLE b (id int PRIMARY KEY, n int, {columns})")
    external = ", ".join(f"ALTER {name} SET STORAGE EXTERNAL" for name in BIG_VALUES)
    await sql.simple(f"ALTER TABLE b {external}; ALTER TABLE b REPLICA IDENTITY {identity}")
    await provisioned(config)
    await sql.simple(f"INSERT INTO b SELECT 1, 0, {', '.join(value for _, value, _ in BIG_VALUES.values())}")
    await sql.simple("UPDATE b SET n = 1")
    async with reading(config) as reader:
        insert, update = await reader.take(2)
    assert PLACEHOLDER.encode() not in (insert.value or b"")
    if identity == "FULL":
        assert wire(update) == {**wire(insert), "n": 1}
        assert wire(update, "before") == wire(insert)
        return
    assert wire(update) == {"id": 1, "n": 1} | {name: due for name, (_, _, due) in BIG_VALUES.items()}
    assert update.change().after == {"id": 1, "n": 1} | dict.fromkeys(BIG_VALUES, UNCHANGED)
