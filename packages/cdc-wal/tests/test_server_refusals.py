"""Rule 5: publishing a table can break its owner's own statements; the plan says so before it can happen."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import pytest
from wal_database import Database
from wal_reading import provisioned, reading

from cdc_core import Operation, PlanRefused, provision
from cdc_wal import PostgresTransport, WalConfig
from cdc_wal._connection import Connection
from cdc_wal._errors import StatementFailed
from cdc_wal._provisioner import open_provisioner

pytestmark = [pytest.mark.anyio, pytest.mark.slow]  # SQL, whatever Python sends it


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A table, `{}` in its statements, and from which version on the server has such."""

    sql: str
    since: int = 15


KINDS = {
    "primary_key": Kind(sql="(id int PRIMARY KEY, n int)"),
    "no_key": Kind(sql="(id int, n int)"),
    "unique_only": Kind(sql="(id int NOT NULL UNIQUE, n int)"),
    "deferrable_key": Kind(sql="(id int PRIMARY KEY DEFERRABLE, n int)"),
    "identity_nothing": Kind(sql="(id int PRIMARY KEY, n int); ALTER TABLE {} REPLICA IDENTITY NOTHING"),
    "identity_full": Kind(sql="(id int, n int); ALTER TABLE {} REPLICA IDENTITY FULL"),
    "identity_full_without_equality": Kind(sql="(id int, n int, j json); ALTER TABLE {} REPLICA IDENTITY FULL"),
    "identity_index": Kind(
        sql="(id int NOT NULL, n int); CREATE UNIQUE INDEX of_index ON {} (id);"
        " ALTER TABLE {} REPLICA IDENTITY USING INDEX of_index"
    ),
    "identity_index_dropped": Kind(
        sql="(id int NOT NULL, n int); CREATE UNIQUE INDEX dropped ON {} (id);"
        " ALTER TABLE {} REPLICA IDENTITY USING INDEX dropped; DROP INDEX s.dropped"
    ),
    "generated_beside": Kind(sql="(id int PRIMARY KEY, n int, g int GENERATED ALWAYS AS (n * 2) STORED)"),
    "generated_full": Kind(
        sql="(id int, n int, g int GENERATED ALWAYS AS (n * 2) STORED); ALTER TABLE {} REPLICA IDENTITY FULL"
    ),
    "generated_key": Kind(sql="(id int, n int, g int GENERATED ALWAYS AS (id * 2) STORED PRIMARY KEY)"),
    "generated_index": Kind(
        sql="(id int, n int, g int GENERATED ALWAYS AS (id * 2) STORED NOT NULL); CREATE UNIQUE INDEX of_g ON {} (g);"
        " ALTER TABLE {} REPLICA IDENTITY USING INDEX of_g"
    ),
    "virtual_full": Kind(
        sql="(id int, n int, g int GENERATED ALWAYS AS (n * 2) VIRTUAL); ALTER TABLE {} REPLICA IDENTITY FULL", since=18
    ),
    "partition_without": Kind(
        sql="(id int, n int) PARTITION BY RANGE (id); CREATE TABLE s.leaf PARTITION OF {} FOR VALUES FROM (0) TO (9)"
    ),
}  # fmt: skip


async def make_tables(sql: Connection) -> dict[str, str]:
    await sql.simple("CREATE SCHEMA s")
    kinds = {name: kind for name, kind in KINDS.items() if kind.since <= sql.server_version // 10000}
    tables = {name: f"s.{name}" for name in kinds}
    for name, table in tables.items():
        await sql.simple(f"CREATE TABLE {table} {kinds[name].sql.replace('{}', table)}")
    return tables


async def refused_statements(sql: Connection, table: str) -> set[str]:
    """Return which of the owner's statements the server refuses."""
    found: set[str] = set()
    for word, statement in (("update", f"UPDATE {table} SET n = n + 1"), ("delete", f"DELETE FROM {table}")):
        try:
            await sql.simple(statement)
        except StatementFailed:
            found.add(word)
    return found


async def refused_by_the_plan(config: WalConfig) -> set[str]:
    """Return the tables of `s` that the plan refuses; also when it is applied all the same."""
    async with open_provisioner(config) as provisioner:
        plan = await provisioner.plan()
        if not plan.is_refused:
            return set()
        (step,) = plan.refused_steps
        with pytest.raises(PlanRefused):
            await provisioner.apply(plan)
    assert step.remedy
    return set(re.findall(r"\bs\.(\w+)", step.detail))


async def test_rule_5_the_plan_refuses_exactly_the_tables_whose_statements_the_server_would_refuse(
    any_database: Database,
) -> None:
    async with any_database.admin() as sql:
        tables = await make_tables(sql)
        for operation in ("update", "delete", "insert"):
            config = any_database.config(tables=tuple(tables.values()), operations=(operation,))
            judged = await refused_by_the_plan(config)
            assert await sql.fetch("SELECT FROM pg_publication") == [], "a refusal made nothing"
            truth: set[str] = set()
            for name, table in tables.items():
                assert await refused_statements(sql, table) == set(), "nothing is published yet"
                await sql.simple(
                    f"CREATE PUBLICATION by_hand FOR TABLE {table} WITH (publish = '{operation}')"
                )
                if await refused_statements(sql, table):
                    truth.add("leaf" if name == "partition_without" else name)
                await sql.simple("DROP PUBLICATION by_hand")
            assert judged == truth
            assert bool(truth) is (operation != "insert")


async def test_rule_5_the_remedy_of_a_refusal_mends_it(any_database: Database) -> None:
    async with any_database.admin() as sql:
        tables = await make_tables(sql)
        for name, table in tables.items():
            if (
                "generated" in name or "virtual" in name
            ):  # there the remedy needs an index of the owner's choice
                await sql.simple(f"ALTER TABLE {table} ALTER id SET NOT NULL")
                await sql.simple(f"CREATE UNIQUE INDEX mend_{name} ON {table} (id)")
        config = any_database.config(tables=tuple(tables.values()))
        async with open_provisioner(config) as provisioner:
            for step in (await provisioner.plan()).refused_steps:
                for statement in step.remedy.split("; "):
                    name = statement.split('"')[3]
                    await sql.simple(statement.split(" (")[0].replace("INDEX name", f"INDEX mend_{name}"))
            await provisioner.apply(await provisioner.plan())
        for table in tables.values():
            assert await refused_statements(sql, table) == set(), table


async def test_rule_5_an_insert_only_publication_under_nothing_delivers_inserts_and_breaks_no_statement(
    any_database: Database,
) -> None:
    await any_database.run(
        "CREATE TABLE public.log (id int PRIMARY KEY, big text); ALTER TABLE public.log REPLICA IDENTITY NOTHING;"
        "ALTER TABLE public.log ALTER big SET STORAGE EXTERNAL"
    )
    everything = any_database.config(tables=("public.log",), publication_name="everything")
    with pytest.raises(PlanRefused, match=r"public\.log"):
        await provision(PostgresTransport(everything))
    config = any_database.config(tables=("public.log",), operations=("insert", "truncate"))
    await provisioned(config)
    await any_database.run("INSERT INTO public.log VALUES (1, repeat('x', 9000)), (2, NULL)")
    await any_database.run(
        "UPDATE public.log SET big = 'changed'; DELETE FROM public.log; TRUNCATE public.log"
    )
    await any_database.run("INSERT INTO public.log VALUES (3, 'last')")
    async with reading(config) as reader:
        events = await reader.take(4)
    assert [event.op for event in events] == [*map(Operation, "cctc")]
    assert [event.key for event in events] == [b'{"id":1}', b'{"id":2}', None, b'{"id":3}']
    first, last = (json.loads(events[index].value or b"") for index in (0, -1))
    assert first["after"] == {"id": 1, "big": "x" * 9000}
    assert (last["after"], last["source"]["replica_identity"]) == ({"id": 3, "big": "last"}, "nothing")


async def test_rule_5_a_table_that_loses_its_identity_later_is_found_by_the_next_plan(
    any_database: Database,
) -> None:
    await any_database.run("CREATE TABLE public.t (id int PRIMARY KEY, n int)")
    config: WalConfig = any_database.config(tables=("public.t",))
    await provisioned(config)
    await any_database.run("ALTER TABLE public.t DROP CONSTRAINT t_pkey")
    async with any_database.admin() as sql:
        assert await refused_statements(sql, "public.t") == {"update", "delete"}
    async with open_provisioner(config) as provisioner:
        plan = await provisioner.plan()
    (check,) = [check for check in plan.checks if check.name == "replica_identity"]
    assert "public.t" in check.why
    async with any_database.admin() as sql:
        await sql.simple(check.remedy.split(" (")[0])
        assert await refused_statements(sql, "public.t") == set()
