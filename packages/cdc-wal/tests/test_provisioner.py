from __future__ import annotations

import secrets

import anyio
import pytest
from wal_database import Database, until

from cdc_core import Action, CheckState, ConfigError, Plan, PlanOutdated, PlanRefused, Provisioner
from cdc_testing.servers.postgres import start_postgres
from cdc_wal._config import WalConfig
from cdc_wal._connection import open_connection
from cdc_wal._errors import SlotCreationBlocked, SlotInUse
from cdc_wal._provisioner import PostgresProvisioner, open_provisioner
from cdc_wal._publications import inspect_publication
from cdc_wal._slots import inspect_slot

pytestmark = [pytest.mark.anyio, pytest.mark.slow]  # SQL, whatever Python sends it

_: type[Provisioner] = PostgresProvisioner

SHOP = """CREATE SCHEMA shop;
CREATE TABLE shop.orders (id int PRIMARY KEY, note text);
CREATE TABLE shop.bare (id int, note text)"""


async def plan_for(config: WalConfig) -> Plan:
    async with open_provisioner(config) as provisioner:
        return await provisioner.plan()


async def provision(config: WalConfig) -> Plan:
    async with open_provisioner(config) as provisioner:
        plan = await provisioner.plan()
        await provisioner.apply(plan)
        return plan


async def teardown(config: WalConfig) -> dict[str, Action]:
    async with open_provisioner(config) as provisioner:
        return {
            step.name: step.action for step in (await provisioner.teardown(confirm=config.slot_name)).steps
        }


async def objects(database: Database) -> set[str]:
    rows = await database.run(
        "SELECT nspname FROM pg_namespace WHERE nspname IN ('cdc', 'own') UNION"
        " SELECT pubname FROM pg_publication UNION"
        f" SELECT slot_name FROM pg_replication_slots WHERE database = '{database.name}'"
    )
    return {name or "" for (name,) in rows[0]}


async def test_a_plan_changes_nothing_and_applying_it_creates_the_publication_before_the_slot(
    any_database: Database,
) -> None:
    await any_database.run(SHOP)
    config = any_database.config()
    plan = await plan_for(config)
    assert await objects(any_database) == set()
    assert [(step.action, step.kind) for step in plan.steps] == [
        (Action.CREATE, "schema"),
        (Action.CREATE, "table"),
        (Action.CREATE, "table"),
        (Action.CREATE, "publication"),
        (Action.CREATE, "replication slot"),
    ]
    await provision(config)
    assert await objects(any_database) == {"cdc", "shop", any_database.slot_name}
    again = await plan_for(config)
    assert again.is_done
    assert not again.is_refused


async def test_applying_a_plan_twice_is_done_once(any_database: Database) -> None:
    await any_database.run(SHOP)
    async with open_provisioner(any_database.config()) as provisioner:
        plan = await provisioner.plan()
        await provisioner.apply(plan)
        await provisioner.apply(plan)


async def test_two_replicas_that_provision_at_once_both_succeed(any_database: Database) -> None:
    await any_database.run(SHOP)
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(provision, any_database.config())
    assert await objects(any_database) == {"cdc", "shop", any_database.slot_name}


async def test_teardown_drops_what_was_created_and_nothing_else(any_database: Database) -> None:
    await any_database.run(SHOP)
    config = any_database.config()
    await provision(config)
    async with open_provisioner(config) as provisioner:
        with pytest.raises(ConfigError, match="other"):
            await provisioner.teardown(confirm="other")
    assert set((await teardown(config)).values()) == {Action.DROP}
    assert await objects(any_database) == set()
    assert await teardown(config) == {"shop": Action.KEEP}
    assert (await any_database.run("SELECT count(*) FROM pg_tables WHERE schemaname = 'shop'"))[0] == [("2",)]


async def test_teardown_keeps_what_the_user_made(any_database: Database) -> None:
    name = any_database.slot_name
    await any_database.run(SHOP)
    await any_database.run("CREATE SCHEMA cdc; CREATE PUBLICATION shop FOR TABLE shop.orders")
    await any_database.run(f"SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')")
    config = any_database.config()
    plan = await provision(config)
    assert [step.action for step in plan.steps] == [
        Action.KEEP,
        Action.CREATE,
        Action.CREATE,
        Action.KEEP,
        Action.KEEP,
    ]
    await teardown(config)
    assert await objects(any_database) >= {"cdc", "shop", name}


async def test_a_publication_that_somebody_made_anew_is_not_ours_any_more(any_database: Database) -> None:
    await any_database.run(SHOP)
    config = any_database.config()
    await provision(config)
    await any_database.run("DROP PUBLICATION shop; CREATE PUBLICATION shop FOR TABLE shop.orders")
    assert (await teardown(config))["shop"] is Action.KEEP
    assert await objects(any_database) == {"shop"}


async def test_what_another_slot_uses_too_stays_until_that_one_goes(any_database: Database) -> None:
    await any_database.run(SHOP)
    first, second = any_database.config(), any_database.config(slot_name=f"{any_database.slot_name}_2")
    await provision(first)
    await provision(second)
    gone = await teardown(first)
    assert gone[first.slot_name] is Action.DROP
    assert gone["shop"] is Action.KEEP
    assert await objects(any_database) == {"cdc", "shop", second.slot_name}
    assert set((await teardown(second)).values()) == {Action.DROP}
    assert await objects(any_database) == set()


async def test_teardown_keeps_dead_letters(database: Database) -> None:
    await database.run(SHOP)
    config = database.config()
    await provision(config)
    await database.run(
        "INSERT INTO cdc.dead_letters (pipeline, dedup, position, headers, delivery, cause_type, cause_message,"
        " attempts, failed_at, parked) VALUES ('p', 'd', 'x', '[]', 0, 't', 'm', 1, now(), false)"
    )
    steps = await teardown(config)
    assert steps["cdc.dead_letters"] is Action.KEEP
    assert await objects(database) == {"cdc"}
    await database.run("DELETE FROM cdc.dead_letters")
    assert set((await teardown(config)).values()) >= {Action.DROP}
    assert await objects(database) == set()


async def test_teardown_of_a_slot_that_is_read_drops_nothing(any_database: Database) -> None:
    await any_database.run(SHOP)
    config = any_database.config()
    await provision(config)
    before = await objects(any_database)
    async with open_connection(any_database.dsn, replication=True) as reader:
        await reader.start_copy_both(
            f"START_REPLICATION SLOT {config.slot_name} LOGICAL 0/0 (proto_version '1', publication_names 'shop')"
        )
        with pytest.raises(SlotInUse):
            await teardown(config)
        assert await objects(any_database) == before


async def test_when_the_slot_cannot_be_created_nothing_stays_behind(any_database: Database) -> None:
    await any_database.run(SHOP)
    config = any_database.config(lock_timeout_seconds=0.2)
    async with any_database.admin() as writer:
        await writer.execute("BEGIN")
        await writer.execute("INSERT INTO shop.orders VALUES (1, 'not committed')")
        with pytest.raises(SlotCreationBlocked):
            await provision(config)
    assert await objects(any_database) == set()
    await provision(config)


async def test_a_cancelled_apply_leaves_nothing_behind(any_database: Database) -> None:
    await any_database.run(SHOP)
    config = any_database.config()
    async with any_database.admin() as writer, any_database.admin() as other:
        await writer.execute("BEGIN")
        await writer.execute("INSERT INTO shop.orders VALUES (1, 'not committed')")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(provision, config)
            await until(lambda: inspect_slot(other, config.slot_name))
            tasks.cancel_scope.cancel()
    assert await objects(any_database) == set()


async def test_a_publication_dropped_after_the_plan_makes_the_plan_outdated(database: Database) -> None:
    await database.run(SHOP)
    config = database.config()
    await provision(config)
    async with open_provisioner(config) as provisioner:
        plan = await provisioner.plan()
        await database.run("DROP PUBLICATION shop")
        with pytest.raises(PlanOutdated, match="publication shop"):
            await provisioner.apply(plan)


async def test_a_table_without_replica_identity_is_refused_before_the_publication_exists(
    any_database: Database,
) -> None:
    await any_database.run(SHOP)
    selections: list[dict[str, object]] = [
        {"tables": (), "all_tables": True},
        {"tables": ("shop.bare",)},
    ]
    if any_database.major >= 15:
        selections.append({"tables": (), "schemas": ("shop",)})
    for selection in selections:
        config = any_database.config(**selection)
        plan = await plan_for(config)
        (step,) = plan.refused_steps
        assert "shop.bare" in step.detail
        async with open_provisioner(config) as provisioner:
            with pytest.raises(PlanRefused, match="REPLICA IDENTITY"):
                await provisioner.apply(plan)
        assert await objects(any_database) == set()
        insert_only = await plan_for(any_database.config(**selection, operations=("insert", "truncate")))
        assert not insert_only.is_refused
    config = any_database.config(tables=("shop.bare", "shop.orders"))
    (step,) = (await plan_for(config)).refused_steps
    await any_database.run(step.remedy.split(" (")[0])
    await provision(config)
    await any_database.run("UPDATE shop.bare SET note = 'works'; DELETE FROM shop.orders")


async def test_partitions_and_odd_identities_are_judged_as_the_server_would(any_database: Database) -> None:
    await any_database.run(
        """CREATE SCHEMA s;
        CREATE TABLE s.good (id int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
        CREATE TABLE s.good_1 PARTITION OF s.good FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (id);
        CREATE TABLE s.good_1_1 PARTITION OF s.good_1 FOR VALUES FROM (0) TO (10);
        CREATE TABLE s.half (id int) PARTITION BY RANGE (id);
        CREATE TABLE s.half_1 PARTITION OF s.half (PRIMARY KEY (id)) FOR VALUES FROM (0) TO (10);
        CREATE TABLE s.half_2 PARTITION OF s.half FOR VALUES FROM (10) TO (20);
        CREATE TABLE s.deferrable (id int PRIMARY KEY DEFERRABLE);
        CREATE TABLE s.nothing (id int PRIMARY KEY);
        ALTER TABLE s.nothing REPLICA IDENTITY NOTHING;
        CREATE TABLE s.by_index (id int NOT NULL);
        CREATE UNIQUE INDEX u ON s.by_index (id);
        ALTER TABLE s.by_index REPLICA IDENTITY USING INDEX u;
        CREATE UNLOGGED TABLE s.unlogged (id int);
        CREATE VIEW s.view AS SELECT 1 AS id;"""
    )
    tables = ("good", "half", "deferrable", "nothing", "by_index")
    plan = await plan_for(any_database.config(tables=tuple(f"s.{name}" for name in tables)))
    (step,) = plan.refused_steps
    for bad in ("s.half_2", "s.deferrable", "s.nothing"):
        assert bad in step.detail
    for good in ("s.good", "s.half_1", "s.by_index"):
        assert good not in step.detail
    for unpublishable in ("s.unlogged", "s.view", "s.absent"):
        (step,) = (await plan_for(any_database.config(tables=(unpublishable,)))).refused_steps
        assert unpublishable in step.detail


async def test_our_own_tables_never_break_a_statement_under_for_all_tables(database: Database) -> None:
    await database.run("CREATE TABLE public.t (id int PRIMARY KEY)")
    await provision(database.config(tables=(), all_tables=True))
    await database.run(
        "INSERT INTO cdc.dead_letters (pipeline, dedup, position, headers, delivery, cause_type, cause_message,"
        " attempts, failed_at, parked) VALUES ('p', 'd', 'x', '[]', 0, 't', 'm', 1, now(), false);"
        " UPDATE cdc.dead_letters SET attempts = 2; DELETE FROM cdc.dead_letters;"
        " UPDATE cdc.created_objects SET created_at = now(); DELETE FROM cdc.created_objects"
    )


async def test_a_publication_of_ours_gets_what_the_config_adds_and_loses_nothing(
    any_database: Database,
) -> None:
    await any_database.run(f"{SHOP}; CREATE TABLE shop.customers (id int PRIMARY KEY)")
    await provision(any_database.config(operations=("insert",)))
    wider = any_database.config(tables=("shop.customers",), operations=("update",))
    plan = await provision(wider)
    changed = next(step for step in plan.steps if step.action is Action.CHANGE)
    assert "shop.customers" in changed.detail
    async with any_database.admin() as connection:
        state = await inspect_publication(connection, "shop")
    assert state is not None
    assert {table.name for table in state.tables} == {"orders", "customers"}
    assert state.operations == {"insert", "update"}
    assert (await plan_for(wider)).is_done


async def test_a_publication_of_the_user_stays_as_it_is_and_its_owner_is_told_what_it_lacks(
    any_database: Database,
) -> None:
    await any_database.run(f"{SHOP}; CREATE TABLE shop.customers (id int PRIMARY KEY, name text)")
    narrowed = any_database.major >= 15
    columns = " (id) WHERE (id > 5)" if narrowed else ""
    await any_database.run(
        f"CREATE PUBLICATION shop FOR TABLE shop.orders{columns} WITH (publish = 'insert')"
    )
    config = any_database.config(tables=("shop.orders", "shop.customers"))
    (step,) = (await plan_for(config)).refused_steps
    assert "shop.customers" in step.detail
    await any_database.run(step.remedy)
    plan = await provision(config)
    kept = next(step for step in plan.steps if step.kind == "publication")
    assert kept.action is Action.KEEP
    assert ("shop.orders with its column list or row filter" in kept.detail) is narrowed


async def test_a_config_without_tables_takes_an_existing_publication_only(database: Database) -> None:
    await database.run(SHOP)
    config = database.config(tables=())
    (step,) = (await plan_for(config)).refused_steps
    assert "does not exist" in step.detail
    await database.run("CREATE PUBLICATION shop FOR TABLE shop.orders")
    await provision(config)


async def test_rows_of_a_partitioned_table_come_under_its_own_name(database: Database) -> None:
    await database.run(
        "CREATE SCHEMA shop; CREATE TABLE shop.orders (id int PRIMARY KEY) PARTITION BY RANGE (id);"
        "CREATE TABLE shop.orders_1 PARTITION OF shop.orders FOR VALUES FROM (0) TO (10)"
    )
    await provision(database.config())
    rows = await database.run(
        "SELECT schemaname, tablename FROM pg_publication_tables WHERE pubname = 'shop'"
    )
    assert rows[0] == [("shop", "orders")]


async def test_each_missing_privilege_is_found_and_its_remedy_mends_it(any_database: Database) -> None:
    await any_database.run(SHOP)
    role, dsn = await any_database.role()
    config = any_database.config(dsn=dsn)
    plan = await plan_for(config)
    failed = {check.name: check for check in plan.failed_checks}
    assert set(failed) == {"replication_privilege", "create_privilege"}
    for check in failed.values():
        await any_database.run(check.remedy.split(" (on")[0])
    (step,) = (await plan_for(config)).refused_steps
    assert "does not own shop.orders" in step.detail
    await any_database.run(step.remedy.split(", or")[0])
    (step,) = (await plan_for(config)).refused_steps
    assert step.detail == f"{role} may not use the schema shop"
    await any_database.run(step.remedy)
    await provision(config)

    reader, reader_dsn = await any_database.role("REPLICATION")
    as_reader = any_database.config(dsn=reader_dsn)
    (step,) = (await plan_for(as_reader)).refused_steps
    assert step.name == "cdc.dead_letters"
    assert reader in step.detail
    await any_database.run(step.remedy)
    assert not (await plan_for(as_reader)).is_refused


async def test_a_schema_that_we_may_not_create_in_is_refused_with_the_grant(database: Database) -> None:
    await database.run(f"{SHOP}; CREATE SCHEMA cdc")
    role, dsn = await database.role("REPLICATION")
    await database.run(
        f"GRANT CREATE ON DATABASE {database.name} TO {role}; ALTER TABLE shop.orders OWNER TO {role};"
        f" GRANT USAGE ON SCHEMA shop TO {role}"
    )
    plan = await plan_for(database.config(dsn=dsn))
    assert {step.name for step in plan.refused_steps} == {"cdc.created_objects", "cdc.dead_letters"}
    await database.run(plan.refused_steps[0].remedy)
    await provision(database.config(dsn=dsn))


async def test_the_doctor_finds_a_server_that_is_not_set_up_and_its_remedies_mend_it() -> None:
    settings: dict[str, str | int] = {
        "wal_level": "replica",
        "max_replication_slots": 1,
        "max_wal_senders": 1,
    }
    with start_postgres(18, settings=settings, use_existing=False) as server:
        database = Database(server, "doctor", server.create_database("doctor"))
        await database.run(SHOP)
        await database.run("SELECT pg_create_physical_replication_slot('standby')")
        plan = await plan_for(database.config())
        checks = {check.name: check for check in plan.checks}
        assert checks["wal_level"].state is CheckState.FAIL
        assert checks["max_replication_slots"].state is CheckState.FAIL
        assert checks["max_slot_wal_keep_size"].state is CheckState.WARN
        for name in ("wal_level", "max_replication_slots"):
            await database.run(checks[name].remedy.split(",")[0])
        for statement in checks["max_slot_wal_keep_size"].remedy.split("; "):
            await database.run(statement.split(" (less")[0])
        server.restart()
        plan = await provision(database.config())
        assert {check.state for check in plan.checks} == {CheckState.OK}


async def test_a_dead_letter_table_of_another_layout_is_refused(database: Database) -> None:
    await database.run(f"{SHOP}; CREATE SCHEMA cdc; CREATE TABLE cdc.dead_letters (id int)")
    (step,) = (await plan_for(database.config())).refused_steps
    assert "cause_message" in step.detail
    await database.run(step.remedy.split(",")[0])
    await provision(database.config())


async def test_names_with_quotes_are_no_way_into_a_statement(database: Database) -> None:
    odd = f'odd"; DROP TABLE shop.orders; --{secrets.token_hex(2)}'
    await database.run(SHOP)
    await database.run(f'CREATE TABLE shop."{odd.replace(chr(34), chr(34) * 2)}" (id int PRIMARY KEY)')
    config = database.config(
        cdc_schema=f"own'{odd[:40]}",
        publication_name=f"p'{odd[:40]}",
        tables=("shop.orders", f'shop."{odd.replace(chr(34), chr(34) * 2)}"'),
    )
    await provision(config)
    assert set((await teardown(config)).values()) == {Action.DROP}
    assert (await database.run("SELECT count(*) FROM shop.orders"))[0] == [("0",)]


async def test_a_plan_holds_no_password(database: Database) -> None:
    await database.run(SHOP)
    dsn = database.server.dsn(database.name, user="postgres", password="s3cr3t")
    assert "s3cr3t" not in repr(await plan_for(database.config(dsn=dsn)))
