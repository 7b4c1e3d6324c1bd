"""A user's own test of a handler: crash, duplicate and poison in ten lines, on both event loops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import anyio
import pytest

from cdc_core import (
    Change,
    ConfigError,
    Event,
    Granularity,
    Handler,
    HandlerFailing,
    Operation,
    Pipeline,
    Table,
    Transient,
    Unchanged,
    dispatch,
    ignore,
)
from cdc_testing import Crash, Duplicate, Fault, MemoryTransport, PoisonRow, run_until_idle

pytestmark = pytest.mark.anyio


@dataclass(frozen=True, kw_only=True)
class Order:
    id: int
    total: Decimal
    note: str | Unchanged | None


ORDERS = Table("shop.orders", Order)


def make_handler(totals: dict[int, Decimal]) -> Handler:
    @ORDERS.each
    async def on_order(change: Change[Order]) -> None:
        match change:
            case Change(after=Order() as order):
                totals[order.id] = order.total
            case Change(op=Operation.DELETE):
                totals.pop(change.key_as(int), None)
            case _:
                pass

    return dispatch(on_order, others=ignore)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("fault", [Crash(before="ack", at=2), Duplicate(at=2), PoisonRow(at=2)])
async def test_every_order_is_counted_or_set_aside(fault: Fault) -> None:
    totals: dict[int, Decimal] = {}
    transport = MemoryTransport(faults=[fault])
    for number in (1, 2, 3):
        transport.insert(ORDERS, Order(id=number, total=Decimal(10), note=None))
    await run_until_idle(Pipeline(name="t", transport=transport, handler=make_handler(totals)))
    assert totals.keys() | {letter.event.change().key_as(int) for letter in transport.letters} == {1, 2, 3}
    assert len(transport.letters) == isinstance(fault, PoisonRow)


class Calls:
    """A handler that notes what it was given, and fails as it is told to."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.keys: list[bytes | None] = []

    async def __call__(self, events: Sequence[Event]) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.keys += [event.key for event in events]


@pytest.mark.parametrize("granularity", list(Granularity))
@pytest.mark.parametrize("before", ["handler", "ack", "commit"])
async def test_after_a_crash_at_any_point_nothing_is_missing(before: str, granularity: Granularity) -> None:
    handler = Calls()
    transport = MemoryTransport(faults=[Crash(before, at=3)], granularity=granularity, partitions=2)
    for pair in ((b"a", b"b"), (b"c", b"d"), (b"e", b"f")):
        with transport.transaction():
            for key in pair:
                transport.put(key, b"{}")
    await run_until_idle(Pipeline(name="t", transport=transport, handler=handler))
    assert set(handler.keys) == {b"a", b"b", b"c", b"d", b"e", b"f"}


async def test_a_crash_before_the_letter_is_stored_still_leaves_one_letter() -> None:
    transport = MemoryTransport(faults=[PoisonRow(at=2), Crash(before="route", at=2)])
    for number in (1, 2, 3):
        transport.insert(ORDERS, Order(id=number, total=Decimal(10), note=None))
    await run_until_idle(Pipeline(name="t", transport=transport, handler=make_handler({})))
    assert len(transport.letters) == 1


async def test_retries_with_backoff_take_none_of_the_tests_time() -> None:
    handler = Calls(*(Transient() for _ in range(12)))  # 0.1 s doubled up to 30 s: over two minutes
    transport = MemoryTransport()
    transport.put(b"a", b"{}")
    with anyio.fail_after(5):
        await run_until_idle(Pipeline(name="t", transport=transport, handler=handler))
    assert handler.keys == [b"a"]


async def test_a_pipeline_that_never_gets_idle_fails_with_a_timeline() -> None:
    async def stuck(events: Sequence[Event]) -> None:
        await anyio.sleep_forever()

    transport = MemoryTransport()
    transport.put(b"a", b"{}")
    with pytest.raises(AssertionError, match=r"1 events are not acknowledged\n(.|\n)*handler called"):
        await run_until_idle(Pipeline(name="t", transport=transport, handler=stuck), timeout_seconds=0.2)


async def test_a_fault_that_never_happens_fails_the_test() -> None:
    transport = MemoryTransport(faults=[Crash(before="ack", at=7)])
    transport.put(b"a", b"{}")
    with pytest.raises(AssertionError, match="never happened: Crash"):
        await run_until_idle(Pipeline(name="t", transport=transport, handler=Calls()))


async def test_an_error_of_the_pipeline_itself_is_raised() -> None:
    async def broken(events: Sequence[Event]) -> None:
        raise KeyError("no such column")

    transport = MemoryTransport()
    for key in (b"a", b"b", b"c", b"d"):
        transport.put(key, b"{}")
    with pytest.raises(HandlerFailing):
        await run_until_idle(Pipeline(name="t", transport=transport, handler=broken))


async def test_what_the_handler_itself_writes_is_handled_too() -> None:
    transport = MemoryTransport()
    seen: list[bytes | None] = []

    async def handler(events: Sequence[Event]) -> None:
        seen.extend(event.key for event in events)
        if len(seen) == 1:
            transport.put(b"second", b"{}")

    transport.put(b"first", b"{}")
    await run_until_idle(Pipeline(name="t", transport=transport, handler=handler))
    assert seen == [b"first", b"second"]


async def test_another_transport_is_refused() -> None:
    class Other:
        pass

    pipeline = Pipeline(name="t", transport=Other(), handler=Calls())  # type: ignore[arg-type] # pyright: ignore
    with pytest.raises(ConfigError, match="MemoryTransport"):
        await run_until_idle(pipeline)
