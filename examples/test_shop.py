"""A user's own test of their handler: a crash, a duplicate and a poison row, on both event loops."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import pytest
from shop import ORDERS, Customer, Order, make_handler

from cdc_core import Pipeline
from cdc_testing import Crash, Duplicate, Fault, MemoryTransport, PoisonRow, run_until_idle


class NoMails:
    async def sync(self, customers: Sequence[Customer]) -> None: ...


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.anyio
@pytest.mark.parametrize("fault", [Crash(before="ack", at=2), Duplicate(at=2), PoisonRow(at=2)], ids=str)
async def test_every_order_is_counted_or_set_aside(fault: Fault) -> None:
    totals: dict[int, Decimal] = {}
    transport = MemoryTransport(faults=[fault])
    for number in (1, 2, 3):
        transport.insert(ORDERS, Order(id=number, total=Decimal(10), note=None))
    await run_until_idle(Pipeline(name="shop", transport=transport, handler=make_handler(totals, NoMails())))
    assert totals.keys() | {letter.event.change().key_as(int) for letter in transport.letters} == {1, 2, 3}
    assert set(totals.values()) == {Decimal(10)}
