"""The rows of the type table that the wheel's server has no types for, on builds that have them; and the others too."""

from __future__ import annotations

import json
import os
import runpy
import secrets
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest

from cdc_core import Event, Operation, Pipeline, provision
from cdc_testing.servers import ServerUnavailableError
from cdc_testing.servers.postgres import EmbeddedPostgres, start_postgres
from cdc_wal import PostgresTransport, WalConfig

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from emulators.postgres import choose_build

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).resolve().parent.parent

# The table stands with the tests of cdc-wal, which run it on the servers that pip installs.
TABLE = runpy.run_path(str(ROOT / "packages" / "cdc-wal" / "tests" / "type_table.py"), run_name="type_table")
EXTENSIONS = ("hstore", "ltree", "citext")
MAJORS = (14, 15, 18)
TIMEOUT_SECONDS = 30.0

# Arrays of extension types, domains over them, a collation of ICU's, and what only these builds can hold.
MORE_COLUMNS: dict[str, tuple[str, str, object]] = {
    "citexts": ("citext[]", "'{Ab,NULL}'", ["Ab", None]),
    "ltrees": ("ltree[]", "'{Top.A,NULL}'", ["Top.A", None]),
    "hstores": ("hstore[]", "ARRAY['a=>NULL'::hstore, NULL]", ['{"a":null}', None]),
    "xmls": ("xml[]", "ARRAY['<a/>'::xml, NULL]", ["<a/>", None]),
    "xml_empty": ("xml", "''", ""),
    # the server itself leaves a declaration out that says nothing
    "xml_declared": ("xml", "'<?xml version=\"1.0\"?><a b=\"1\">&lt;é</a>'", '<a b="1">&lt;é</a>'),
    "xml_alone": (
        "xml",
        "'<?xml version=\"1.0\" standalone=\"yes\"?><a/>'",
        '<?xml version="1.0" standalone="yes"?><a/>',
    ),
    "tags": ("tags", "'b=>1'", '{"b":"1"}'),
    "label": ("label", "'ÀB'", "ÀB"),
    "root": ("root", "'Top'", "Top"),
    "hstore_odd": ("hstore", "hstore(ARRAY['', 'a b'], ARRAY['', NULL])", '{"":"","a b":null}'),
    "queries": ("lquery[]", "ARRAY['Top.*'::lquery]", ["VG9wLio="]),
    "collated": ("text COLLATE icu_german", "'Straße'", "Straße"),
    "loose": ("text COLLATE icu_loose", "'ÀÉ'", "ÀÉ"),
    "loose_range": ("icu_range", "'[a,ä]'", "W2Esw6Rd"),
}  # fmt: skip
MORE_SETUP = """
CREATE COLLATION icu_german (provider = icu, locale = 'de-u-co-phonebk');
CREATE COLLATION icu_loose (provider = icu, locale = 'und-u-ks-level1', deterministic = false);
CREATE DOMAIN tags AS hstore;
CREATE DOMAIN label AS citext;
CREATE DOMAIN root AS ltree;
CREATE TYPE icu_range AS RANGE (subtype = text, collation = icu_german);
"""


@pytest.fixture(scope="module", params=MAJORS)
def server(request: pytest.FixtureRequest) -> Generator[EmbeddedPostgres]:
    with ExitStack() as stack:
        try:
            build = choose_build(request.param)
            started = stack.enter_context(start_postgres(build=build, use_existing=False))
        except ServerUnavailableError as error:
            if os.environ.get("CI", "").lower() == "true":
                pytest.fail(f"CI=true and no server to test with: {error}", pytrace=False)
            pytest.skip(str(error))
        assert build.has_xml
        assert build.has_icu
        yield started


async def take(config: WalConfig, count: int) -> list[Event]:
    """Run the pipeline until a handler was given this many events."""
    taken: list[Event] = []
    enough = anyio.Event()

    async def handle(events: Sequence[Event]) -> None:
        taken.extend(events)
        if len(taken) >= count:
            enough.set()

    async with Pipeline(name="types", transport=PostgresTransport(config), handler=handle).running():
        with anyio.fail_after(TIMEOUT_SECONDS):
            await enough.wait()
    return taken


def row_of(event: Event, side: str) -> Mapping[str, object]:
    row: Mapping[str, object] = json.loads(event.value or b"")[side]
    return row


async def test_each_value_is_as_the_type_table_says_on_every_version(server: EmbeddedPostgres) -> None:
    major = int(server.version.split(".")[0])
    name = f"cdc_test_{secrets.token_hex(6)}"
    config = WalConfig(
        dsn=server.create_database(name), slot_name=name, publication_name="everything", all_tables=True
    )
    families: list[Any] = TABLE["families"](major, features=(*EXTENSIONS, "xml"))
    assert {case.needs for family in families for case in family.cases} == {"", "xml", *EXTENSIONS}
    with psycopg.connect(config.dsn, autocommit=True, options="-c timezone=UTC -c lc_monetary=C") as sql:
        for extension in EXTENSIONS:
            sql.execute(f"CREATE EXTENSION {extension}".encode())
        sql.execute(f"{TABLE['SETUP']}{MORE_SETUP}".encode())
        for family in families:
            sql.execute(f"{family.table_sql}; ALTER TABLE {family.name} REPLICA IDENTITY FULL".encode())
        columns = ", ".join(f"{column} {kind}" for column, (kind, _, _) in MORE_COLUMNS.items())
        sql.execute(f"CREATE TABLE others (id int PRIMARY KEY, touched int, {columns})".encode())
        await provision(PostgresTransport(config))
        tables = [*(family.name for family in families), "others"]
        values = ", ".join(f"({value})::{kind.partition(' ')[0]}" for kind, value, _ in MORE_COLUMNS.values())
        for statement in (
            *(family.insert_sql for family in families),
            f"INSERT INTO others SELECT 1, 0, {values}",
        ):
            sql.execute(statement.encode())
        for table in tables:
            sql.execute(f"UPDATE {table} SET touched = 1".encode())
        for table in tables:
            sql.execute(f"DELETE FROM {table}".encode())
        events = await take(config, 3 * len(tables))
    size = len(tables)
    inserts, updates, deletes = events[:size], events[size : 2 * size], events[2 * size :]
    for family, insert, update, delete in zip(families, inserts, updates, deletes, strict=False):
        assert family.differences(row_of(insert, "after")) == {}
        assert family.differences(row_of(update, "before")) == {}
        assert family.differences(row_of(update, "after")) == {}
        assert family.differences(row_of(delete, "before")) == {}
    expected = {column: due for column, (_, _, due) in MORE_COLUMNS.items()}
    assert row_of(inserts[-1], "after") == {"id": 1, "touched": 0, **expected}
    assert row_of(updates[-1], "after") == {"id": 1, "touched": 1, **expected}
    assert [event.op for event in events] == [*map(Operation, "c" * size + "u" * size + "d" * size)]
    server.drop_database(name)


async def test_an_extension_type_as_a_key_and_stored_out_of_line(server: EmbeddedPostgres) -> None:
    name = f"cdc_test_{secrets.token_hex(6)}"
    config = WalConfig(
        dsn=server.create_database(name), slot_name=name, publication_name="everything", tables=("public.k",)
    )
    columns = ("label", "map", "path", "doc")
    with psycopg.connect(config.dsn, autocommit=True) as sql:
        for extension in EXTENSIONS:
            sql.execute(f"CREATE EXTENSION {extension}".encode())
        sql.execute(
            "CREATE TABLE k (word citext, place ltree, n int, label citext, map hstore, path ltree, doc xml,"
            " PRIMARY KEY (place, word))"
        )
        sql.execute(
            f"ALTER TABLE k {', '.join(f'ALTER {column} SET STORAGE EXTERNAL' for column in columns)}"
        )
        await provision(PostgresTransport(config))
        sql.execute(
            "INSERT INTO k SELECT 'Ab', 'Top.A', 0, repeat('x', 9000), hstore('k', repeat('x', 9000)),"
            " (SELECT string_agg(repeat('y', 200), '.') FROM generate_series(1, 50))::ltree,"
            " xmlelement(name a, repeat('x', 9000))"
        )
        sql.execute("UPDATE k SET n = 1")
        sql.execute("UPDATE k SET word = 'aB'")  # equal to citext, and another key all the same
        _, update, deleted, created = await take(config, 4)
    placeholder = "__debezium_unavailable_value"
    unsent = row_of(update, "after")
    assert {column: unsent[column] for column in columns} == {
        "label": placeholder,
        "map": json.dumps({placeholder: placeholder}, separators=(",", ":")),
        "path": placeholder,
        "doc": placeholder,
    }
    assert update.key == deleted.key == b'{"place":"Top.A","word":"Ab"}'
    assert created.key == b'{"place":"Top.A","word":"aB"}'
    server.drop_database(name)
