from __future__ import annotations

import secrets

import anyio
import pytest
from wal_database import Database, until

from cdc_core import ConfigError, TableId
from cdc_testing.servers.postgres import start_postgres
from cdc_wal._connection import open_connection
from cdc_wal._errors import (
    MissingPrivilege,
    NoFreeSlot,
    NoFreeWalSender,
    PublicationMissing,
    SlotCreationBlocked,
    SlotInUse,
    SlotLost,
    SlotMissing,
    WalLevelTooLow,
    WrongPlugin,
)
from cdc_wal._slots import (
    create_slot,
    drop_slot,
    identify_system,
    inspect_slot,
    stream_error,
    verify_slot,
)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]  # SQL, whatever Python sends it

_TABLE = "CREATE SCHEMA shop; CREATE TABLE shop.orders (id int PRIMARY KEY, note text)"


async def publish(database: Database) -> None:
    await database.run(f"{_TABLE}; CREATE PUBLICATION shop FOR TABLE shop.orders")


async def test_a_created_slot_delivers_from_the_lsn_that_creating_it_returned(any_database: Database) -> None:
    await publish(any_database)
    config = any_database.config()
    async with any_database.admin() as side:
        start = await create_slot(config, side=side)
        state = verify_slot(
            await inspect_slot(side, config.slot_name), config=config, database=any_database.name
        )
    assert state.confirmed_flush_lsn == start
    assert (state.plugin, state.slot_type, state.active, state.wal_status) == (
        "pgoutput",
        "logical",
        False,
        "reserved",
    )
    assert state.failover is (False if any_database.major >= 17 else None)


async def test_a_failover_slot_is_made_where_the_server_knows_them_and_refused_elsewhere(
    any_database: Database,
) -> None:
    await publish(any_database)
    config = any_database.config(failover=True)
    async with any_database.admin() as side:
        if any_database.major >= 17:
            await create_slot(config, side=side)
            state = await inspect_slot(side, config.slot_name)
            assert state is not None
            assert state.failover
        else:
            with pytest.raises(ConfigError, match="17"):
                await create_slot(config, side=side)


async def test_no_slot_is_made_before_its_publication(database: Database) -> None:
    async with database.admin() as side:
        with pytest.raises(PublicationMissing):
            await create_slot(database.config(), side=side)
        assert await inspect_slot(side, database.slot_name) is None


@pytest.mark.parametrize("limits", [(0.2, 60.0), (60.0, 0.3)], ids=["lock timeout", "deadline"])
async def test_a_creation_that_waits_names_the_open_transaction_and_leaves_no_slot(
    any_database: Database, limits: tuple[float, float]
) -> None:
    await publish(any_database)
    config = any_database.config(lock_timeout_seconds=limits[0], slot_timeout_seconds=limits[1])
    async with any_database.admin() as side:
        async with open_connection(any_database.dsn, application_name="nightly report") as writer:
            await writer.execute("BEGIN")
            await writer.execute("INSERT INTO shop.orders VALUES (1, 'not committed')")
            with pytest.raises(SlotCreationBlocked) as caught:
                await create_slot(config, side=side)
            blocker = caught.value.blockers[0]
            assert (blocker["pid"], blocker["application_name"]) == (writer.backend_pid, "nightly report")
            assert f"pid {writer.backend_pid}" in str(caught.value)
            assert "nightly report" in str(caught.value)
            assert caught.value.retryable
            assert await inspect_slot(side, config.slot_name) is None
            await side.simple(caught.value.remedy.split(": ")[1])
        await create_slot(config, side=side)


async def test_a_prepared_transaction_in_the_way_is_named_too(any_database: Database) -> None:
    await publish(any_database)
    config = any_database.config(lock_timeout_seconds=0.2)
    gid = f"two_phase_{secrets.token_hex(4)}"
    async with any_database.admin() as side:
        await side.execute("BEGIN")
        await side.execute("INSERT INTO shop.orders VALUES (1, 'prepared')")
        await side.execute(f"PREPARE TRANSACTION '{gid}'")
        with pytest.raises(SlotCreationBlocked, match=gid):
            await create_slot(config, side=side)
        await side.execute(f"ROLLBACK PREPARED '{gid}'")


async def test_a_cancelled_creation_leaves_no_slot_and_no_walsender(any_database: Database) -> None:
    await publish(any_database)
    config = any_database.config()
    async with any_database.admin() as side, any_database.admin() as writer, any_database.admin() as other:
        await writer.execute("BEGIN")
        await writer.execute("INSERT INTO shop.orders VALUES (1, 'not committed')")
        async with anyio.create_task_group() as tasks:

            async def create() -> None:
                await create_slot(config, side=side)

            tasks.start_soon(create)
            await until(lambda: inspect_slot(other, config.slot_name))
            tasks.cancel_scope.cancel()
        assert await inspect_slot(other, config.slot_name) is None
        assert not await other.fetch(
            "SELECT FROM pg_stat_activity WHERE backend_type = 'walsender' AND datname = $1",
            [any_database.name],
        )
        assert side.alive()


async def test_a_missing_slot_and_slots_of_another_kind_each_have_their_error(any_database: Database) -> None:
    name = any_database.slot_name
    config = any_database.config()
    async with any_database.admin() as side:
        with pytest.raises(SlotMissing):
            verify_slot(await inspect_slot(side, name), config=config, database=any_database.name)
        await side.fetch("SELECT pg_create_physical_replication_slot($1)", [name])
        with pytest.raises(WrongPlugin, match="physical") as caught:
            verify_slot(await inspect_slot(side, name), config=config, database=any_database.name)
        await side.simple(caught.value.remedy.split(", ")[-1])
        assert await inspect_slot(side, name) is None
        await side.fetch("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", [name])
        state = await inspect_slot(side, name)
        with pytest.raises(WrongPlugin, match=any_database.name):
            verify_slot(state, config=config, database="another")


async def test_an_invalidated_slot_is_lost_with_a_gap_from_what_it_had_confirmed() -> None:
    settings = {"max_slot_wal_keep_size": "1MB", "max_wal_size": "32MB", "min_wal_size": "32MB"}
    with start_postgres(18, settings=settings, use_existing=False) as server:
        database = Database(server, "lost", server.create_database("lost"))
        await publish(database)
        config = database.config()
        async with database.admin() as side:
            start = await create_slot(config, side=side)
            for _ in range(4):
                await side.fetch("SELECT pg_logical_emit_message(true, 'filler', 'x')")
                await side.fetch("SELECT pg_switch_wal()")
            await side.execute("CHECKPOINT")
            with pytest.raises(SlotLost) as caught:
                verify_slot(await inspect_slot(side, config.slot_name), config=config, database="lost")
            assert caught.value.gap.from_lsn == start
            assert caught.value.gap.tables == (TableId("shop", "orders"),)
            await side.simple(caught.value.remedy.split("; ")[0])
            assert await inspect_slot(side, config.slot_name) is None


async def test_a_slot_that_is_read_is_dropped_only_on_demand(any_database: Database) -> None:
    await publish(any_database)
    config = any_database.config()
    async with any_database.admin() as side:
        await create_slot(config, side=side)
        async with open_connection(any_database.dsn, replication=True) as reader:
            await reader.start_copy_both(
                f"START_REPLICATION SLOT {config.slot_name} LOGICAL 0/0 (proto_version '1', publication_names 'shop')"
            )
            with pytest.raises(SlotInUse) as caught:
                await drop_slot(side, config.slot_name)
            assert str(reader.backend_pid) in caught.value.remedy
            assert await drop_slot(side, config.slot_name, terminate=True)
        assert not await drop_slot(side, config.slot_name)


async def test_only_the_slot_of_exactly_that_name_is_dropped(database: Database) -> None:
    name = database.slot_name[:-1] + "_"
    sibling = database.slot_name[:-1] + "x"
    async with database.admin() as side:
        for slot in (name, sibling):
            await side.fetch("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", [slot])
        assert await drop_slot(side, name)
        assert await inspect_slot(side, sibling) is not None


async def test_errors_of_starting_to_stream_have_their_types(any_database: Database) -> None:
    await publish(any_database)
    config = any_database.config()
    command = (
        f"START_REPLICATION SLOT {config.slot_name} LOGICAL 0/0 (proto_version '1', publication_names 'shop')"
    )
    async with any_database.admin() as side, open_connection(any_database.dsn, replication=True) as reader:
        with pytest.raises(Exception, match="does not exist") as missing:
            await reader.start_copy_both(command)
        assert isinstance(stream_error(missing.value, config=config, streaming=False), SlotMissing)  # type: ignore[arg-type]
        await create_slot(config, side=side)
        await reader.start_copy_both(command)
        async with open_connection(any_database.dsn, replication=True) as second:
            with pytest.raises(Exception, match="active") as busy:
                await second.start_copy_both(command)
        assert isinstance(stream_error(busy.value, config=config, streaming=False), SlotInUse)  # type: ignore[arg-type]


async def test_a_replication_connection_says_which_cluster_and_timeline_it_is(any_database: Database) -> None:
    async with any_database.admin() as side, open_connection(any_database.dsn, replication=True) as reader:
        identity = await identify_system(reader)
        row = await side.fetch_one("SELECT system_identifier FROM pg_control_system()")
    assert row == (identity.system_id,)
    assert (identity.timeline, identity.database) == (1, any_database.name)
    assert identity.flush_lsn > 0


async def test_all_slots_taken_and_a_low_wal_level_each_have_their_error() -> None:
    with start_postgres(
        18, settings={"max_replication_slots": 1, "max_wal_senders": 2}, use_existing=False
    ) as server:
        database = Database(server, "full", server.create_database("full"))
        await publish(database)
        config = database.config(slot_name="second")
        async with database.admin() as side:
            await side.fetch("SELECT pg_create_logical_replication_slot('first', 'pgoutput')")
            with pytest.raises(NoFreeSlot) as full:
                await create_slot(config, side=side)
            assert "pg_replication_slots" in full.value.remedy
            await drop_slot(side, "first")
            await side.simple("ALTER SYSTEM SET wal_level = 'replica'")
        server.restart()
        async with database.admin() as side:
            with pytest.raises(WalLevelTooLow) as low:
                await create_slot(config, side=side)
            await side.simple(low.value.remedy.split(",")[0])
        server.restart()
        async with database.admin() as side:
            await create_slot(config, side=side)


async def test_a_role_that_may_not_replicate_is_told_so_and_the_remedy_mends_it(database: Database) -> None:
    await publish(database)
    role, dsn = await database.role()
    config = database.config(dsn=dsn)
    async with database.admin() as side:
        with pytest.raises(MissingPrivilege) as caught:
            await create_slot(config, side=side)
        await side.execute(caught.value.remedy.split(" (")[0].replace("...", role))
        await create_slot(config, side=side)


async def test_all_wal_senders_taken_is_retryable_and_the_remedy_mends_it() -> None:
    with start_postgres(
        18, settings={"max_wal_senders": 1, "max_replication_slots": 1}, use_existing=False
    ) as server:
        async with open_connection(server.dsn(), replication=True):
            with pytest.raises(NoFreeWalSender) as caught:
                async with open_connection(server.dsn(), replication=True):
                    pass
            assert caught.value.retryable
        async with open_connection(server.dsn()) as admin:
            await admin.execute(caught.value.remedy.split(",")[0])
        server.restart()
        async with (
            open_connection(server.dsn(), replication=True),
            open_connection(server.dsn(), replication=True) as second,
        ):
            assert await second.simple("IDENTIFY_SYSTEM")
