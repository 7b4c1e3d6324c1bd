from __future__ import annotations

import pytest
from wal_database import Database

from cdc_core import UNKNOWN, CheckState, Health, Partition, PartitionLag, SourceMonitor
from cdc_testing.servers.postgres import start_postgres
from cdc_wal._config import WalConfig
from cdc_wal._connection import open_connection
from cdc_wal._monitor import PostgresMonitor, open_monitor
from cdc_wal._slots import create_slot

pytestmark = [pytest.mark.anyio, pytest.mark.slow]  # SQL, whatever Python sends it

_: type[SourceMonitor] = PostgresMonitor


async def prepared(database: Database, **changes: object) -> WalConfig:
    config = database.config(**changes)
    await database.run(
        "CREATE SCHEMA shop; CREATE TABLE shop.orders (id int PRIMARY KEY); CREATE PUBLICATION shop FOR ALL TABLES"
    )
    async with database.admin() as side:
        await create_slot(config, side=side)
    return config


def states(health: Health) -> dict[str, CheckState]:
    return {check.name: check.state for check in health.checks}


async def test_lag_is_the_log_behind_the_slot_and_nothing_waits_when_it_is_none(
    any_database: Database,
) -> None:
    config = await prepared(any_database)
    async with open_monitor(config) as monitor, any_database.admin() as side:
        (before,) = await monitor.lag()
        await side.fetch("SELECT pg_logical_emit_message(true, 'filler', repeat('x', 100000))")
        (after,) = await monitor.lag()
        assert after.partition == Partition(any_database.name, config.slot_name)
        assert isinstance(before.lag_bytes, int)
        assert isinstance(after.lag_bytes, int)
        assert after.lag_bytes >= before.lag_bytes + 100000
        assert after.lag_seconds is UNKNOWN
        assert after.lag_events is UNKNOWN
        retained = await monitor.retained()
        assert isinstance(retained.retained_bytes, int)
        assert retained.retained_bytes >= after.lag_bytes
        assert retained.bytes_until_lost is UNKNOWN
        await side.fetch("SELECT pg_replication_slot_advance($1, pg_current_wal_lsn())", [config.slot_name])
        (done,) = await monitor.lag()
        assert isinstance(done.lag_bytes, int)
        assert done.lag_bytes < 100000


async def test_what_cannot_be_measured_is_unknown(any_database: Database) -> None:
    config = any_database.config()
    partition = Partition(any_database.name, config.slot_name)
    async with open_monitor(config) as monitor:
        assert await monitor.lag() == [PartitionLag(partition=partition)]
        assert (await monitor.retained()).retained_bytes is UNKNOWN
    async with open_monitor(
        any_database.config(dsn=any_database.server.dsn(any_database.name, port=1))
    ) as monitor:
        assert await monitor.lag() == [PartitionLag(partition=partition)]
        health = await monitor.health()
    assert not health.ready
    assert states(health) == {
        "server": CheckState.FAIL,
        "publication": CheckState.UNKNOWN,
        "slot": CheckState.UNKNOWN,
        "reader": CheckState.UNKNOWN,
        "retained_wal": CheckState.UNKNOWN,
    }


async def test_health_tells_a_slot_that_is_read_from_one_that_nobody_reads(any_database: Database) -> None:
    config = await prepared(any_database)
    async with open_monitor(config) as monitor:
        assert states(await monitor.health()) == {
            "server": CheckState.OK,
            "publication": CheckState.OK,
            "slot": CheckState.OK,
            "reader": CheckState.WARN,
            "retained_wal": CheckState.OK,
        }
        async with open_connection(any_database.dsn, replication=True) as reader:
            await reader.start_copy_both(
                f"START_REPLICATION SLOT {config.slot_name} LOGICAL 0/0 (proto_version '1', publication_names 'shop')"
            )
            assert states(await monitor.health())["reader"] is CheckState.OK


async def test_a_missing_slot_and_publication_fail(any_database: Database) -> None:
    async with open_monitor(any_database.config()) as monitor:
        health = await monitor.health()
    assert not health.ready
    assert states(health)["publication"] is CheckState.FAIL
    assert states(health)["slot"] is CheckState.FAIL
    assert all(check.remedy for check in health.checks if check.state is CheckState.FAIL)


async def test_a_check_says_since_when_it_has_been_so(database: Database) -> None:
    now = [100.0]
    async with open_monitor(database.config(), clock=lambda: now[0]) as monitor:
        await monitor.health()
        now[0] = 200.0
        await database.run("CREATE PUBLICATION shop")
        health = await monitor.health()
    since = {check.name: check.since for check in health.checks}
    assert (since["slot"], since["publication"], health.sampled_at) == (100.0, 200.0, 200.0)


async def test_more_retained_log_than_allowed_fails(database: Database) -> None:
    config = await prepared(database, max_retained_bytes=1_000_000)
    async with open_monitor(config) as monitor, database.admin() as side:
        assert states(await monitor.health())["retained_wal"] is CheckState.OK
        await side.fetch("SELECT pg_logical_emit_message(true, 'filler', repeat('x', 2000000))")
        assert states(await monitor.health())["retained_wal"] is CheckState.FAIL


async def test_the_room_left_before_a_slot_is_lost_is_told_and_a_lost_one_fails() -> None:
    settings = {"max_slot_wal_keep_size": "16MB", "max_wal_size": "32MB", "min_wal_size": "32MB"}
    with start_postgres(18, settings=settings, use_existing=False) as server:
        database = Database(server, "room", server.create_database("room"))
        config = await prepared(database)
        async with open_monitor(config) as monitor, database.admin() as side:
            room = (await monitor.retained()).bytes_until_lost
            assert isinstance(room, int)
            assert room > 0
            for _ in range(3):  # a segment of 16 MB each, nearly empty
                await side.fetch("SELECT pg_logical_emit_message(true, 'filler', 'x')")
                await side.fetch("SELECT pg_switch_wal()")
            await side.execute("CHECKPOINT")
            health = await monitor.health()
            assert states(health)["slot"] is CheckState.FAIL
            assert (await monitor.lag())[0].lag_bytes is UNKNOWN


async def test_a_monitor_asks_again_after_its_session_was_ended(database: Database) -> None:
    config = await prepared(database)
    async with open_monitor(config) as monitor:
        assert (await monitor.health()).ready
        await database.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'cdc:%'"
        )
        await monitor.health()  # it may still find the session that is gone
        assert (await monitor.health()).ready
