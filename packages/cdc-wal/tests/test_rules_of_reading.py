"""The rules of reading (DESIGN.md, 1 to 6, 11 to 13, 17), each against a real server."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import anyio
import anyio.to_thread
import pytest
from psycopg.conninfo import make_conninfo
from wal_reading import Reading, confirmed_lsn, eventually, keys, provisioned, reading

from cdc_core import (
    ChangeIdentity,
    Epoch,
    Event,
    Handler,
    Operation,
    PartitionLost,
    Pipeline,
    RetryPolicy,
    TableId,
    Transient,
)
from cdc_testing.plugin import PostgresDatabase
from cdc_testing.servers.tcp_proxy import ProxyFactory
from cdc_wal import PostgresTransport, SlotInUse, WalConfig
from cdc_wal._changes import MakeEvent
from cdc_wal._connection import Connection, open_connection
from cdc_wal._opening import open_session
from cdc_wal._source import SlotSource

pytestmark = pytest.mark.anyio

TABLE = "CREATE TABLE t (id bigint PRIMARY KEY, note text)"


def change_identity(event: Event) -> ChangeIdentity:
    assert isinstance(event.identity, ChangeIdentity)
    return event.identity


async def test_rule_1_rows_that_share_an_lsn_have_identities_of_their_own(
    sql: Connection, config: WalConfig
) -> None:
    await sql.simple(TABLE)
    await provisioned(config)
    # one INSERT of many rows is written as a few multi-insert records only by COPY
    await sql.simple("COPY t FROM PROGRAM 'seq 1 1000 | sed s/$/,x/' WITH (FORMAT csv)")
    async with reading(config) as reader:
        events = await reader.take(1000)
    lsns = {_source_lsn(event) for event in events}
    identities = [change_identity(event) for event in events]
    assert len(lsns) < 100
    assert len(set(identities)) == 1000
    assert identities == sorted(identities)
    assert [identity.ordinal for identity in identities] == list(range(1000))


async def test_rule_1_a_repeat_has_the_same_identity_and_the_same_bytes_but_for_the_time(
    sql: Connection, config: WalConfig
) -> None:
    await sql.simple(TABLE)
    await provisioned(config)
    await sql.simple("INSERT INTO t SELECT g, 'n' FROM generate_series(1, 20) g")
    await sql.simple("UPDATE t SET id = -id WHERE id = 7; TRUNCATE t; INSERT INTO t VALUES (1, 'again')")
    async with reading(config) as reader:
        first = await reader.take(24)
    async with reading(config) as reader:
        second = await reader.take(24)
    assert [event.identity for event in first] == [event.identity for event in second]
    assert keys(first) == keys(second)
    before_time = [(event.value or b"").partition(b',"op":')[0] for event in first]
    assert before_time == [(event.value or b"").partition(b',"op":')[0] for event in second]
    changed = [change_identity(event) for event in first if event.related_key is not None]
    assert [identity.sub_index for identity in changed] == [0, 2]


async def test_rule_1_a_message_outside_of_transactions_shares_no_identity_with_the_next_commit(
    sql: Connection, config: WalConfig
) -> None:
    await provisioned(config)
    await sql.fetch(
        "SELECT pg_logical_emit_message(true, 'inside', '1'), pg_logical_emit_message(false, 'outside', '2')"
    )
    async with reading(config) as reader:
        outside, inside = await reader.take(2)
    assert (outside.op, inside.op) == (Operation.MESSAGE, Operation.MESSAGE)
    assert change_identity(outside) < change_identity(inside)


@pytest.mark.parametrize("stop_after", [1, 2])
async def test_rule_2_interleaved_sessions_that_commit_back_to_back_lose_nothing(
    sql: Connection, config: WalConfig, stop_after: int
) -> None:
    await sql.simple(TABLE)
    await provisioned(config)
    async with open_connection(config.dsn) as other:
        for session, number in ((sql, 1), (other, 2)):
            await session.simple(f"BEGIN; INSERT INTO public.t VALUES ({number}, 'first')")
        for session, number in ((sql, 3), (other, 4)):
            await session.simple(f"INSERT INTO public.t VALUES ({number}, 'second')")
        # nothing between the two commit records: the end of the first is the beginning of the second
        await sql.simple("COMMIT")
        await other.simple("COMMIT")
    async with reading(config) as reader:
        taken = await reader.take(4)
        assert keys(taken) == [b'{"id":1}', b'{"id":3}', b'{"id":2}', b'{"id":4}']
        assert _source_lsn(taken[2]) < _source_lsn(taken[1]), "row LSNs run backwards across transactions"
        await reader.stream.ack(taken[: 2 * stop_after])
    await sql.simple("INSERT INTO t VALUES (5, 'last')")
    async with reading(config) as reader:
        rest = await reader.take(5 - 2 * stop_after)
    assert keys(rest) == [b'{"id":2}', b'{"id":4}', b'{"id":5}'][2 * (stop_after - 1) :]
    assert [event.identity for event in rest[:-1]] == [event.identity for event in taken[2 * stop_after :]]


async def test_rule_2_half_a_transaction_acknowledged_is_not_confirmed(
    sql: Connection, config: WalConfig
) -> None:
    await sql.simple(TABLE)
    await provisioned(config)
    await sql.simple("INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    async with reading(config) as reader:
        events = await reader.take(3)
        await reader.stream.ack([events[0], events[2]])
        await reader.stream.flush()
    async with reading(config) as reader:
        assert keys(await reader.take(3)) == keys(events)


async def test_rule_3_an_idle_database_confirms_while_another_one_writes(
    sql: Connection, config: WalConfig
) -> None:
    await sql.simple(TABLE)
    await provisioned(config)
    other = config.dsn and make_conninfo(config.dsn, dbname="postgres")
    async with reading(config) as reader, open_connection(other) as busy:
        await reader.next_stream()
        before = await confirmed_lsn(sql, config.slot_name)
        await busy.simple("CREATE TABLE public.elsewhere (x int); DROP TABLE public.elsewhere")

        async def it_moved() -> bool:
            return await confirmed_lsn(sql, config.slot_name) > before

        await eventually(it_moved, why="the confirmed LSN follows the log of the cluster")


async def test_rule_3_nothing_is_confirmed_past_an_event_that_is_not_done(
    sql: Connection, config: WalConfig
) -> None:
    await sql.simple(TABLE)
    await provisioned(config)
    async with reading(config) as reader:
        await sql.simple("INSERT INTO t VALUES (1, 'waits')")
        (event,) = await reader.take(1)
        lsn = change_identity(event).commit_lsn
        for number in range(3):
            await sql.fetch("SELECT pg_logical_emit_message(false, 'x', 'y')")
            await reader.take(1)
            assert await confirmed_lsn(sql, config.slot_name) <= lsn, number
        await anyio.sleep(1.2 * config.wal_sender_timeout_seconds)  # keepalives come, and change nothing
        assert await confirmed_lsn(sql, config.slot_name) <= lsn


async def test_rule_20_a_clean_leave_confirms_a_transaction_whose_commit_is_still_on_its_way(
    sql: Connection, config: WalConfig, postgres_database: PostgresDatabase, tcp_proxy: ProxyFactory
) -> None:
    """Rows are handed on as they come: the last one may be done before the Commit behind it was read."""
    await sql.simple(TABLE)
    await provisioned(config)
    server = postgres_database.server
    async with tcp_proxy(server.host, server.port) as proxy:
        proxied = replace(config, dsn=make_conninfo(config.dsn, host=proxy.host, port=proxy.port))
        async with reading(proxied) as reader:
            await sql.simple("INSERT INTO t VALUES (1, 'first')")
            await reader.next_stream()
            await reader.stream.ack(await reader.take(1))  # the relation is known from here on
            proxy.throttle(100, "to_client")
            await sql.simple("INSERT INTO t VALUES (2, 'last')")
            (event,) = await reader.take(1)
            await reader.stream.ack([event])
            proxy.throttle(None)
    lsn = change_identity(event).commit_lsn
    assert event.key == b'{"id":2}'
    assert await confirmed_lsn(sql, config.slot_name) > lsn
    async with reading(config) as reader:
        await sql.simple("INSERT INTO t VALUES (3, 'next')")
        assert keys(await reader.take(1)) == [b'{"id":3}']


@pytest.mark.parametrize("kind", ["awaits", "works in a thread"])
async def test_rule_4_a_handler_that_takes_three_timeouts_keeps_the_connection(
    sql: Connection, config: WalConfig, kind: str
) -> None:
    await sql.simple(TABLE)
    transport = await provisioned(config)
    await sql.simple("INSERT INTO t VALUES (1, 'slow')")
    done = anyio.Event()
    pids: list[int] = []
    seconds = 3 * config.wal_sender_timeout_seconds

    async def handle(events: object) -> None:
        pids.append(await _active_pid(sql, config))
        if kind == "awaits":
            await anyio.sleep(seconds)
        else:
            await anyio.to_thread.run_sync(_busy_thread, seconds)
        pids.append(await _active_pid(sql, config))
        done.set()

    async with Pipeline(name="slow", transport=transport, handler=handle).running():
        with anyio.fail_after(20):
            await done.wait()
    assert len(pids) == 2
    assert pids[0] == pids[1]
    assert pids[0] > 0


async def test_rule_4_a_silent_peer_is_detected_within_the_timeout_and_its_worker_cancelled(
    sql: Connection, config: WalConfig, postgres_database: PostgresDatabase, tcp_proxy: ProxyFactory
) -> None:
    await sql.simple(TABLE)
    await provisioned(config)
    server = postgres_database.server
    async with tcp_proxy(server.host, server.port) as proxy:
        proxied = replace(config, dsn=make_conninfo(config.dsn, host=proxy.host, port=proxy.port))
        async with reading(proxied) as reader:
            stream = await reader.next_stream()
            await sql.simple("INSERT INTO t VALUES (1, 'x')")
            (event,) = await reader.take(1)
            proxy.stall()
            started = anyio.current_time()
            with pytest.raises(StopAsyncIteration), anyio.fail_after(10):
                await anext(aiter(stream))
            assert anyio.current_time() - started < 2.5 * config.wal_sender_timeout_seconds
            assert not stream.current(event)
            with pytest.raises(PartitionLost):
                await stream.ack([event])
            proxy.resume()
            await reader.leave_stream()
            await reader.next_stream()
            (again,) = await reader.take(1)
            assert again.identity == event.identity


async def test_rule_6_a_transaction_larger_than_the_buffer_stays_within_it(
    sql: Connection, config: WalConfig
) -> None:
    await sql.simple(TABLE)
    bounded = replace(config, max_buffered_bytes=1 << 20, max_batch_bytes=1 << 18)
    await provisioned(bounded)
    await sql.simple("INSERT INTO t SELECT g, repeat('x', 200) FROM generate_series(1, 20000) g")
    async with reading(bounded) as reader:
        await reader.next_stream()
        session = cast("Any", reader.stream)._session

        async def it_paused() -> bool:
            return bool(session._paused)

        await eventually(it_paused, why="the buffer fills and pauses the socket")
        assert session._buffered_bytes < (1 << 20) + (1 << 18) + 1024, (
            "the bound, and the batch that reached it"
        )
        events = await reader.take(20000)
    assert keys(events) == [b'{"id":%d}' % number for number in range(1, 20001)]


async def test_rule_11_a_terminated_walsender_is_replaced_and_nothing_is_lost(
    sql: Connection, config: WalConfig
) -> None:
    await sql.simple(TABLE)
    passwords = 0

    def password() -> str:
        nonlocal passwords
        passwords += 1
        return "secret"

    await provisioned(config)
    async with Reading(SlotSource(config, password=password)) as reader:
        first = await reader.next_stream()
        await sql.simple("INSERT INTO t VALUES (1, 'a')")
        (event,) = await reader.take(1)
        asked = passwords
        # this task is the worker: the loss may be seen before the answer
        with anyio.CancelScope(shield=True):
            await sql.fetch(f"SELECT pg_terminate_backend({await _active_pid(sql, config)})")
        with pytest.raises(StopAsyncIteration), anyio.fail_after(10):
            await anext(aiter(first))
        await reader.leave_stream()
        second = await reader.next_stream()
        (again,) = await reader.take(1)
        assert again.identity == event.identity
        assert passwords > asked, "the provider is called on every connection"
        assert second is not first
        await second.ack([again])


async def test_rule_11_a_fast_shutdown_is_not_held_up_by_a_busy_handler_beyond_its_deadline(
    sql: Connection, config: WalConfig, postgres_database: PostgresDatabase
) -> None:
    await sql.simple(TABLE)
    bounded = replace(config, drain_timeout_seconds=1.0)
    transport = await provisioned(bounded)
    await sql.simple("INSERT INTO t VALUES (1, 'slow')")
    started, handled = anyio.Event(), anyio.Event()
    calls = 0

    async def handle(events: object) -> None:
        nonlocal calls
        calls += 1
        started.set()
        if calls == 1:
            await anyio.sleep_forever()
        handled.set()

    async with Pipeline(name="busy", transport=transport, handler=handle).running():
        with anyio.fail_after(60):
            await started.wait()
            began = anyio.current_time()
            await postgres_database.server.stop_async("fast")
            took = anyio.current_time() - began
            await postgres_database.server.start_async()
            await handled.wait()
    assert took < 5.0


async def test_rule_12_two_readers_in_one_process_are_independent(sql: Connection, config: WalConfig) -> None:
    await sql.simple(TABLE)
    second = replace(config, slot_name=config.slot_name + "_b")
    first_transport, second_transport = await provisioned(config), await provisioned(second)
    await sql.simple("INSERT INTO t VALUES (1, 'a')")
    seen: dict[str, Event] = {}
    holding, both = anyio.Event(), anyio.Event()

    async def handle_and_hold(events: Sequence[Event]) -> None:
        seen["held"] = events[0]
        holding.set()
        await both.wait()

    async def handle(events: Sequence[Event]) -> None:
        seen["done"] = events[0]

    async with (
        Pipeline(name="one", transport=first_transport, handler=handle_and_hold).running(),
        Pipeline(name="two", transport=second_transport, handler=handle).running(),
    ):
        lsn = change_identity

        async def only_the_second_is_confirmed() -> bool:
            if len(seen) < 2:
                return False
            return await confirmed_lsn(sql, second.slot_name) > lsn(seen["done"]).commit_lsn

        await eventually(only_the_second_is_confirmed, why="one reader goes on while the other is busy")
        assert await confirmed_lsn(sql, config.slot_name) <= lsn(seen["held"]).commit_lsn
        assert seen["held"].identity != seen["done"].identity, "another slot is another epoch"
        both.set()


async def test_rule_12_a_slot_in_use_is_its_own_error_and_a_standby_waits_for_it(
    sql: Connection, config: WalConfig
) -> None:
    await sql.simple(TABLE)
    transport = await provisioned(config)
    standby = PostgresTransport(replace(config, wait_for_slot=True))
    handled: dict[str, set[bytes | None]] = {"owner": set(), "standby": set()}

    def handler(name: str) -> Handler:
        async def handle(events: Sequence[Event]) -> None:
            handled[name].update(event.key for event in events)

        return handle

    async with Pipeline(name="standby", transport=standby, handler=handler("standby")).running():
        async with Pipeline(name="owner", transport=transport, handler=handler("owner")).running():
            # whoever of the two was first: the other one waits, and no event comes twice
            await sql.simple("INSERT INTO t VALUES (1, 'a')")

            async def it_was_handled() -> bool:
                return bool(handled["owner"] or handled["standby"])

            await eventually(it_was_handled, why="one of the two handles the row")
            pid = await _active_pid(sql, config)
            with pytest.raises(SlotInUse) as refused:
                async with open_session(config, password=None, resume=None, make=_no_events):
                    pass
            assert f"pg_terminate_backend({pid})" in refused.value.remedy
            await sql.simple("INSERT INTO t VALUES (2, 'b')")
        await sql.simple("INSERT INTO t VALUES (3, 'c')")

        async def the_standby_took_over() -> bool:
            return b'{"id":3}' in handled["standby"]

        await eventually(the_standby_took_over, why="the standby reads on when the owner has left")
    assert handled["owner"] | handled["standby"] == {b'{"id":1}', b'{"id":2}', b'{"id":3}'}
    assert not handled["owner"] & handled["standby"]


async def test_rule_13_a_poison_row_under_for_all_tables_makes_one_dead_letter_and_no_event(
    sql: Connection, config: WalConfig
) -> None:
    await sql.simple(TABLE)
    transport = await provisioned(config)
    seen: list[Event] = []
    last = anyio.Event()

    async def handle(events: Sequence[Event]) -> None:
        for event in events:
            assert event.table == TableId("public", "t")
            if event.key == b'{"id":1}':
                raise ValueError("poison")
            seen.append(event)
            if event.key == b'{"id":3}':
                last.set()

    policy = RetryPolicy(max_attempts=1, initial_delay_seconds=0.001, max_delay_seconds=0.001)
    async with Pipeline(name="p", transport=transport, handler=handle, retry=policy).running() as live:
        await sql.simple("INSERT INTO t VALUES (1, 'poison'), (2, 'fine')")

        async def it_is_stored() -> bool:
            return live.counters.dead_lettered == 1

        await eventually(it_is_stored, why="the poison row becomes a dead letter")
        await sql.simple("INSERT INTO t VALUES (3, 'last')")
        with anyio.fail_after(20):
            await last.wait()
        # the row of the dead-letter table has been read by now, and confirmed
        assert {event.key for event in seen} == {b'{"id":2}', b'{"id":3}'}
    rows = await sql.fetch("SELECT key FROM cdc.dead_letters")
    assert len(rows) == 1


async def test_rule_13_our_own_rows_make_no_event_but_count_in_the_ordinals(
    sql: Connection, config: WalConfig
) -> None:
    await sql.simple(TABLE)
    await provisioned(config)
    await sql.simple("CREATE TABLE cdc.mine (id int PRIMARY KEY)")
    await sql.simple("BEGIN; INSERT INTO t VALUES (1, 'a'); INSERT INTO cdc.mine VALUES (1), (2)")
    await sql.simple("INSERT INTO t VALUES (2, 'b'); COMMIT")
    async with reading(config) as reader:
        events = await reader.take(2)
    assert [change_identity(event).ordinal for event in events] == [0, 3]


async def test_rule_2_after_a_crash_of_the_server_nothing_confirmed_comes_again_to_the_same_reader(
    sql: Connection, config: WalConfig, postgres_database: PostgresDatabase
) -> None:
    """The server keeps a slot's LSN lazily: after a crash its own one stands before what was confirmed."""
    await sql.simple(TABLE)
    transport = await provisioned(config)
    keys_seen: list[bytes | None] = []

    async def handle(events: Sequence[Event]) -> None:
        keys_seen.extend(event.key for event in events)

    async with Pipeline(name="p", transport=transport, handler=handle).running():
        await sql.simple("INSERT INTO t SELECT g, 'x' FROM generate_series(1, 20) g")
        (row,) = await sql.fetch("SELECT (pg_current_wal_lsn() - '0/0')::bigint")

        async def all_is_confirmed() -> bool:
            return await confirmed_lsn(sql, config.slot_name) >= int(row[0] or 0)

        await eventually(all_is_confirmed, why="twenty rows are confirmed")
        await postgres_database.server.restart_async("immediate")
        async with open_connection(config.dsn) as after:
            await after.simple("INSERT INTO public.t VALUES (21, 'after')")

        async def the_next_came() -> bool:
            return b'{"id":21}' in keys_seen

        await eventually(the_next_came, why="the reader comes back")
    assert keys_seen == [b'{"id":%d}' % number for number in range(1, 22)]


async def test_rule_17_a_worker_that_cannot_be_cancelled_never_has_a_second_one_beside_it(
    sql: Connection, config: WalConfig
) -> None:
    await sql.simple(TABLE)
    transport = await provisioned(config)
    await sql.simple("INSERT INTO t VALUES (1, 'slow')")
    at_work = most_at_work = calls = 0
    started, second = anyio.Event(), anyio.Event()

    async def handle(events: Sequence[Event]) -> None:
        nonlocal at_work, most_at_work, calls
        calls, at_work = calls + 1, at_work + 1
        most_at_work = max(most_at_work, at_work)
        try:
            if calls > 1:
                second.set()
                return
            started.set()
            await anyio.to_thread.run_sync(_busy_thread, 3.0)
        finally:
            at_work -= 1

    async with Pipeline(name="p", transport=transport, handler=handle).running():
        with anyio.fail_after(20):
            await started.wait()
            await sql.fetch(f"SELECT pg_terminate_backend({await _active_pid(sql, config)})")
            await second.wait()
    assert most_at_work == 1


async def test_rule_17_acknowledged_out_of_order_only_the_done_prefix_is_confirmed(
    sql: Connection, config: WalConfig
) -> None:
    await sql.simple(TABLE)
    await provisioned(config)
    for number in range(1, 4):
        await sql.simple(f"INSERT INTO t VALUES ({number}, 'x')")
    async with reading(config) as reader:
        one, two, three = await reader.take(3)
        await reader.stream.ack([three])
        await reader.stream.ack([one])
        await reader.stream.flush()

        async def the_first_is_confirmed() -> bool:
            return await confirmed_lsn(sql, config.slot_name) > change_identity(one).commit_lsn

        await eventually(the_first_is_confirmed, why="the server reads the status that the flush sent")
        assert await confirmed_lsn(sql, config.slot_name) <= change_identity(two).commit_lsn
        await reader.stream.ack([two])
    async with reading(config) as reader:
        await sql.simple("INSERT INTO t VALUES (4, 'x')")
        assert keys(await reader.take(1)) == [b'{"id":4}']


async def test_a_sink_that_is_down_puts_nothing_into_the_dead_letters(
    sql: Connection, config: WalConfig
) -> None:
    await sql.simple(TABLE)
    transport = await provisioned(config)
    await sql.simple("INSERT INTO t SELECT g, 'x' FROM generate_series(1, 50) g")
    failures = 0
    handled = anyio.Event()

    async def handle(events: object) -> None:
        nonlocal failures
        if failures < 60:
            failures += 1
            raise Transient from ConnectionRefusedError("down")
        handled.set()

    policy = RetryPolicy(initial_delay_seconds=0.01, max_delay_seconds=0.02)
    async with Pipeline(name="down", transport=transport, handler=handle, retry=policy).running() as live:

        async def it_is_bad() -> bool:
            return failures > 3 and not live.health.ready

        await eventually(it_is_bad, why="health is bad while the sink is down")
        with anyio.fail_after(20):
            await handled.wait()
    assert await sql.fetch("SELECT FROM cdc.dead_letters") == []


async def _active_pid(sql: Connection, config: WalConfig) -> int:
    row = await sql.fetch_one(
        "SELECT coalesce(active_pid, 0) FROM pg_replication_slots WHERE slot_name = $1", [config.slot_name]
    )
    assert row is not None
    return int(row[0] or 0)


def _busy_thread(seconds: float) -> None:
    time.sleep(seconds)


def _source_lsn(event: Event) -> int:
    lsn = event.change().source.lsn
    assert isinstance(lsn, int)
    return lsn


def _no_events(epoch: Epoch) -> MakeEvent[None]:
    def make(*parts: object) -> None:
        raise AssertionError("nothing is read through this session")

    return make
