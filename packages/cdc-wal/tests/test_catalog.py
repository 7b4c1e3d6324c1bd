from __future__ import annotations

import pytest
from wal_database import Database

from cdc_pgoutput import TypeInfo, TypeKind, TypeRegistry
from cdc_wal._catalog import relation_key, type_infos
from cdc_wal._connection import Connection

pytestmark = [pytest.mark.anyio, pytest.mark.slow]  # SQL, whatever Python sends it


async def oid_of(connection: Connection, kind: str, name: str) -> int:
    row = await connection.fetch_one(f"SELECT '{name}'::{kind}::oid")
    assert row is not None
    return int(row[0] or 0)


@pytest.mark.parametrize(
    ("definition", "columns", "is_primary"),
    [
        ("(a int, b int, c int, PRIMARY KEY (c, a))", ("c", "a"), True),
        ("(a int, b int, PRIMARY KEY (b) INCLUDE (a))", ("b",), True),
        (
            "(a int, b int); CREATE UNIQUE INDEX z ON t (a); CREATE UNIQUE INDEX y ON t (b, a)",
            ("b", "a"),
            False,
        ),
        (
            "(a int, b text); CREATE UNIQUE INDEX a ON t (lower(b)); CREATE UNIQUE INDEX z ON t (a)",
            ("a",),
            False,
        ),
        ("(a int, b text); CREATE UNIQUE INDEX p ON t (b) WHERE a > 1", ("b",), False),
        (
            "(a int NOT NULL, b int NOT NULL); CREATE UNIQUE INDEX y ON t (a); CREATE UNIQUE INDEX z ON t (b);"
            " ALTER TABLE t REPLICA IDENTITY USING INDEX z",
            ("b",),
            False,
        ),
        ('("sélect" int, """q" int, PRIMARY KEY ("""q", "sélect"))', ('"q', "sélect"), True),
        ("(a int); CREATE INDEX i ON t (a)", (), False),
        ("(a int); ALTER TABLE t REPLICA IDENTITY FULL", (), False),
        ("(a int, b int, PRIMARY KEY (b, a)) PARTITION BY RANGE (a)", ("b", "a"), True),
    ],
)
async def test_the_key_of_a_table(
    database: Database, definition: str, columns: tuple[str, ...], is_primary: bool
) -> None:
    await database.run(f"SET search_path = public; CREATE TABLE t {definition}")
    async with database.admin() as connection:
        key = await relation_key(connection, await oid_of(connection, "regclass", "public.t"))
    assert (key.columns, key.is_primary_key) == (columns, is_primary)


async def test_a_table_that_is_gone_has_no_key(database: Database) -> None:
    async with database.admin() as connection:
        assert (await relation_key(connection, 4_000_000_000)).columns == ()


async def test_types_are_read_with_all_that_they_are_made_of(any_database: Database) -> None:
    await any_database.run(
        """SET search_path = public;
        CREATE TYPE mood AS ENUM ('sad', 'ok');
        CREATE TYPE pair AS (a int, b text);
        CREATE DOMAIN price AS numeric(10, 2);
        CREATE DOMAIN low_price AS price CHECK (value < 10);
        CREATE TYPE span AS RANGE (subtype = float8);
        CREATE TYPE mood_span AS RANGE (subtype = low_price);"""
    )
    names = ["mood[]", "pair", "low_price[]", "span", "mood_span", "span_multirange", "int4", "text[]"]
    async with any_database.admin() as connection:
        await connection.simple("SET search_path = public, pg_catalog")
        oids = {name: await oid_of(connection, "regtype", name) for name in names}
        found = {info.name: info for info in await type_infos(connection, [*oids.values(), 4_000_000_000])}
        kinds = {name: info.kind for name, info in found.items()}
        low = found["low_price"]
        price = await oid_of(connection, "regtype", "price")
    assert kinds == {
        "mood": TypeKind.ENUM,
        "_mood": TypeKind.ARRAY,
        "pair": TypeKind.COMPOSITE,
        "price": TypeKind.DOMAIN,
        "low_price": TypeKind.DOMAIN,
        "_low_price": TypeKind.ARRAY,
        "span": TypeKind.RANGE,
        "mood_span": TypeKind.RANGE,
        "span_multirange": TypeKind.MULTIRANGE,
    }
    assert low.base_oid == price
    assert found["price"] == TypeInfo(
        oid=price,
        name="price",
        kind=TypeKind.DOMAIN,
        schema="public",
        base_oid=1700,
        base_type_modifier=(10 << 16 | 2) + 4,
    )
    assert found["_mood"].element_oid == found["mood"].oid
    registry = TypeRegistry(found.values())
    assert all(registry.unknown(oid) == () for oid in oids.values())


async def test_extension_types_and_those_of_the_information_schema_are_read(any_database: Database) -> None:
    async with any_database.admin() as connection:
        available = await connection.fetch(
            "SELECT name FROM pg_available_extensions WHERE name IN ('hstore', 'ltree', 'citext') ORDER BY 1"
        )
        names = [name or "" for (name,) in available]
        for name in names:
            await connection.execute(f"CREATE EXTENSION {name} SCHEMA public")
        oids = [await oid_of(connection, "regtype", f"public.{name}") for name in names]
        oids.append(await oid_of(connection, "regtype", "information_schema.cardinal_number"))
        found = await type_infos(connection, oids)
    assert sorted(info.name for info in found) == sorted([*names, "cardinal_number"])
    if any_database.major == 15:
        assert names == ["citext", "hstore", "ltree"]
