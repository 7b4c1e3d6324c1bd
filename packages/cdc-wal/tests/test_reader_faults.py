"""A `WalReader` that feeds a transport which rejects, fails, holds, is slow, or is cut off (rules 15, 16, 18, 19)."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import pytest
from wal_reading import confirmed_lsn, eventually, provisioned

from cdc_core import ContractError, DeadLetter, Event, Fence, OutgoingEvent, Pipeline, Receipt, RoutingError
from cdc_testing.faults import Delay, FailAfterStore, Fault, Hold, Reject
from cdc_testing.memory import MemoryTransport
from cdc_wal import WalConfig, WalReader
from cdc_wal._connection import Connection
from cdc_wal._dead_letters import open_dead_letters

pytestmark = pytest.mark.anyio

ROWS = 6


@pytest.fixture
async def rows(sql: Connection, config: WalConfig) -> None:
    """A provisioned slot with six transactions of one row behind it."""
    await sql.simple("CREATE TABLE t (id bigint PRIMARY KEY)")
    await provisioned(config)
    for number in range(ROWS):
        await sql.simple(f"INSERT INTO t VALUES ({number})")


@pytest.mark.usefixtures("rows")
async def test_rule_16_a_rejected_event_goes_to_the_dead_letters_and_only_then_is_confirmed(
    sql: Connection, config: WalConfig
) -> None:
    transport = MemoryTransport(faults=[Reject(3)])
    end = await _log_end(sql)
    async with WalReader(config, to=transport, name="feeder").running() as live:
        events = await consume(transport, ROWS - 1)

        async def confirmed() -> bool:
            return await confirmed_lsn(sql, config.slot_name) >= end

        await eventually(confirmed, why="all is settled and confirmed")
    (letter,) = await letters(config)
    assert (letter.pipeline, letter.event.key) == ("feeder", b'{"id":2}')
    assert letter.event.identity is not None
    assert ids(events) == [0, 1, 3, 4, 5]
    assert (live.published, live.rejected) == (ROWS - 1, 1)


@pytest.mark.usefixtures("rows")
async def test_rule_16_a_reader_that_cannot_store_a_rejected_event_stops_and_confirms_nothing_past_it(
    sql: Connection, config: WalConfig
) -> None:
    transport = MemoryTransport(faults=[Reject(3)])
    await sql.simple("DROP TABLE cdc.dead_letters")
    with pytest.raises(RoutingError) as caught, anyio.fail_after(20):
        await WalReader(config, to=transport).run()
    assert "provision" in caught.value.remedy
    await sql.simple("SELECT 1")  # the session was not the reader's
    again = MemoryTransport()
    async with WalReader(config, to=again).running():
        assert ids(await consume(again, 1))[0] <= 2


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("fault", [FailAfterStore(3), Delay(3, 2.0)], ids=["store then fail", "slow"])
async def test_rule_18_what_a_failing_publisher_has_stored_comes_again_with_the_same_identity(
    config: WalConfig, fault: Fault
) -> None:
    transport = MemoryTransport(faults=[fault])
    async with WalReader(config, to=transport).running():
        events = await consume(transport, ROWS)
    assert sorted(set(ids(events))) == list(range(ROWS))
    assert len({event.identity for event in events}) == ROWS
    assert list(dict.fromkeys(ids(events))) == list(range(ROWS)), "first deliveries are in order"


@pytest.mark.usefixtures("rows")
async def test_leaving_while_receipts_are_held_is_bounded_and_confirms_none_of_them(
    sql: Connection, config: WalConfig
) -> None:
    transport = MemoryTransport(faults=[Hold(3)])
    reader = WalReader(config, to=transport, drain_timeout_seconds=0.5)
    before = await confirmed_lsn(sql, config.slot_name)
    with anyio.fail_after(20):
        async with reader.running():

            async def accepted() -> bool:
                return not transport._store.faults.pending  # pyright: ignore[reportPrivateUsage]

            await eventually(accepted, why="the publisher holds")
            began = anyio.current_time()
    assert anyio.current_time() - began < 10.0, "the receipts are held for ever"
    transport.release()
    async with reader.running():
        assert sorted(set(ids(await consume(transport, ROWS)))) == list(range(ROWS))
    assert await confirmed_lsn(sql, config.slot_name) > before


@pytest.mark.usefixtures("rows")
async def test_rule_19_a_cut_connection_resolves_what_is_in_flight_before_the_log_is_read_again(
    sql: Connection, config: WalConfig
) -> None:
    transport = MemoryTransport(faults=[Hold(1)])
    async with WalReader(config, to=transport, drain_timeout_seconds=5.0).running():

        async def held() -> bool:
            return not transport.pending_faults

        # a release before the publisher stands at the hold would be nobody's
        await eventually(held, why="the publisher holds the first event")

        async def reading() -> bool:
            row = await sql.fetch_one(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
                " WHERE slot_name = $1 AND active_pid IS NOT NULL",
                [config.slot_name],
            )
            return row is not None

        await eventually(reading, why="the reader is connected, and its walsender ended")
        transport.release()
        events = await consume(transport, ROWS)
    assert list(dict.fromkeys(ids(events))) == list(range(ROWS))
    assert len({event.identity for event in events}) == ROWS


@pytest.mark.usefixtures("rows")
async def test_rule_19_a_reader_that_has_read_all_knows_of_its_slot_while_the_receipts_settle_one_by_one(
    config: WalConfig, caplog: pytest.LogCaptureFixture
) -> None:
    # Half of the timeout of a second is over long before the last receipt. Each confirmation is progress to report,
    # sooner than the server is asked for lack of any, and the server has nothing more to send by itself.
    transport = MemoryTransport(faults=[Delay(number, 0.2) for number in range(1, ROWS + 1)])
    reader = WalReader(replace(config, max_batch_events=1), to=transport)
    async with reader.running():

        async def all_are_stored() -> bool:
            return sum(len(log.records) for log in transport.logs) >= ROWS

        await eventually(all_are_stored, why="all are stored")
    assert not [record for record in caplog.records if record.name == "cdc_wal"], "the fence ran out"


@pytest.mark.usefixtures("rows")
async def test_a_publisher_that_raises_what_it_must_not_ends_the_reader_with_one_error(
    config: WalConfig,
) -> None:
    class Broken:
        async def publish(self, batch: Sequence[OutgoingEvent]) -> Receipt:
            raise KeyError("a row's value")

    class BrokenTransport:
        def __getattr__(self, name: str) -> object:
            return getattr(MemoryTransport(), name)

        @asynccontextmanager
        async def publisher(self, fence: Fence) -> AsyncGenerator[Broken]:
            yield Broken()

    reader = WalReader(config, to=BrokenTransport())  # type: ignore[arg-type]
    with pytest.raises(ContractError) as caught, anyio.fail_after(20):
        await reader.run()
    assert isinstance(caught.value.__cause__, KeyError)
    assert "a row's value" not in str(caught.value)


async def consume(transport: MemoryTransport, count: int) -> list[Event]:
    """Take events until so many different ones came."""
    events: list[Event] = []

    async def handle(batch: Sequence[Event]) -> None:
        events.extend(batch)

    async def came() -> bool:
        return len({event.identity for event in events}) >= count

    async with Pipeline(name="consumer", transport=transport, handler=handle).running():
        await eventually(came, why=f"{count} events come")
    return events


async def letters(config: WalConfig) -> list[DeadLetter]:
    async with open_dead_letters(config) as found:
        return [letter async for letter in found.list()]


def ids(events: Sequence[Event]) -> list[int]:
    return [json.loads(event.key or b"{}")["id"] for event in events]


async def _log_end(sql: Connection) -> int:
    row = await sql.fetch_one("SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint")
    assert row is not None
    return int(row[0] or 0)
