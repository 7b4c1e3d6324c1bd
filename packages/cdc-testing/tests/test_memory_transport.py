"""The in-memory transport by itself: what the contract suite does not ask, because it is only this one's."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import pytest

from cdc_core import Event, Granularity, PartitionStream, TableId, TransportEntry
from cdc_testing import Crash, Duplicate, InjectedCrash, Limits, MemoryTransport

if TYPE_CHECKING:
    from cdc_core import Transport

    _: type[Transport] = MemoryTransport

pytestmark = pytest.mark.anyio
TABLE = TableId("shop", "orders")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def write(transport: MemoryTransport, *keys: str) -> None:
    for key in keys:
        transport.put(key.encode(), key.encode(), table=TABLE)


@asynccontextmanager
async def first_stream(transport: MemoryTransport) -> AsyncGenerator[PartitionStream, None]:
    """Open the source and enter the one stream that is assigned."""
    async with transport.source().open(drain_timeout_seconds=1) as streams:
        async for stream in streams:
            async with stream:
                yield stream
            break


async def take(stream: PartitionStream, count: int) -> list[Event]:
    events: list[Event] = []
    with anyio.fail_after(5):
        async for batch in stream:
            events += batch
            if len(events) >= count:
                break
    return events


def keys(events: Sequence[Event]) -> list[str]:
    return [(event.key or b"").decode() for event in events]


async def test_what_was_written_before_and_after_opening_is_delivered() -> None:
    transport = MemoryTransport()
    write(transport, "a")
    async with first_stream(transport) as stream:
        assert keys(await take(stream, 1)) == ["a"]
        write(transport, "b")
        assert keys(await take(stream, 1)) == ["b"]


async def test_what_was_not_committed_before_a_crash_comes_again_with_the_same_identities() -> None:
    transport = MemoryTransport()
    write(transport, "a", "b", "c")
    async with first_stream(transport) as stream:
        before = await take(stream, 3)
        await stream.ack(before[:1])
        await stream.flush()
        await stream.ack(before[1:2])
        transport.crash()
        with pytest.raises(InjectedCrash):
            await stream.ack(before[2:])
    transport.restart()
    async with first_stream(transport) as stream:
        after = await take(stream, 2)
    assert [event.identity for event in after] == [event.identity for event in before[1:]]


async def test_a_crash_before_the_ack_forgets_the_whole_ack() -> None:
    transport = MemoryTransport(faults=[Crash(before="ack", at=2)])
    write(transport, "a", "b")
    async with first_stream(transport) as stream:
        events = await take(stream, 2)
        with pytest.raises(InjectedCrash):
            await stream.ack(events)
    assert sum(transport.confirmed.values()) == 0
    transport.restart()
    async with first_stream(transport) as stream:
        await stream.ack(await take(stream, 2))
    assert transport.is_idle


async def test_a_duplicate_comes_in_a_batch_that_goes_back_to_it() -> None:
    transport = MemoryTransport(faults=[Duplicate(at=2)])
    write(transport, "a", "b", "c")
    async with first_stream(transport) as stream:
        events = await take(stream, 4)
        await stream.ack(events)
    assert keys(events) == ["a", "b", "b", "c"]
    assert events[1].identity == events[2].identity
    assert transport.is_idle


async def test_a_batch_stays_within_its_bounds_and_a_larger_event_comes_alone() -> None:
    transport = MemoryTransport(limits=Limits(max_batch_events=2, max_batch_bytes=10))
    for value in (b"1", b"2", b"3", b"x" * 20, b"4"):
        transport.put(b"k", value, table=TABLE)
    sizes: list[int] = []
    async with first_stream(transport) as stream:
        async for batch in stream:
            sizes.append(len(batch))
            if sum(sizes) == 5:
                break
    assert sizes == [2, 1, 1, 1]


async def test_a_transaction_is_visible_only_once_it_is_complete_and_not_at_all_when_rolled_back() -> None:
    transport = MemoryTransport(granularity=Granularity.TRANSACTION)

    def fail_inside() -> None:
        with transport.transaction():
            write(transport, "a")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    with transport.transaction():
        write(transport, "b", "c")
        assert transport.is_idle
    async with first_stream(transport) as stream:
        events = await take(stream, 2)
        await stream.ack(events[:1])
        await stream.flush()
        assert sum(transport.confirmed.values()) == 0
    assert keys(events) == ["b", "c"]


async def test_the_same_object_serves_one_event_loop_after_another() -> None:
    transport = MemoryTransport()
    for loop in ("asyncio", "trio"):
        write(transport, loop)

        async def wait_and_read() -> None:
            with anyio.move_on_after(0.01):
                await transport.wait_for_change()
            async with first_stream(transport) as stream:
                await stream.ack(await take(stream, 1))

        await anyio.to_thread.run_sync(lambda loop=loop: anyio.run(wait_and_read, backend=loop))  # type: ignore[misc]
    assert transport.is_idle


def test_it_can_be_made_from_a_config_as_an_entry_point_makes_it() -> None:
    entry = TransportEntry(config=Limits, make=lambda limits: MemoryTransport(limits=limits))
    assert entry.make(Limits()).traits.publishes
