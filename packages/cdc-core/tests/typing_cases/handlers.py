"""Checked by mypy and pyright, never run: each line marked `expect-error` must be refused, every other accepted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_type

from cdc_core import (
    UNCHANGED,
    BatchHandler,
    Change,
    EachHandler,
    Event,
    Handler,
    KeyOnly,
    LogicalMessage,
    MessagePrefix,
    Row,
    Table,
    Unchanged,
    dispatch,
    drop_repeats,
    ignore,
)


@dataclass(frozen=True)
class Order:
    id: int
    note: str | None | Unchanged  # noqa: RUF036


@dataclass(frozen=True)
class Customer:
    id: int


ORDERS, CUSTOMERS, PLACED = (
    Table("shop.orders", Order),
    Table("shop.customers", Customer),
    MessagePrefix("placed", Order),
)


@ORDERS.each
async def on_order(change: Change[Order]) -> None:
    assert_type(change.after, Order | None)
    assert_type(change.before, Order | KeyOnly | None)
    assert_type(change.key_as(int), int)
    assert_type(change.key_as(tuple[int, str]), tuple[int, str])
    match change:
        case Change(after=Order() as order):
            assert_type(order, Order)
            if order.note is not UNCHANGED:
                assert_type(order.note, str | None)
        case _:
            pass


@ORDERS.batch
async def on_orders(changes: Sequence[Change[Order]]) -> None:
    assert_type(changes[0].after, Order | None)


@PLACED.each
async def on_placed(message: LogicalMessage[Order]) -> None:
    assert_type(message.content, Order)


@ORDERS.each
async def on_anything(change: Change[object]) -> None: ...


async def on_customer(change: Change[Customer]) -> None: ...


async def on_customers(changes: Sequence[Change[Customer]]) -> None: ...


async def on_other_message(message: LogicalMessage[Customer]) -> None: ...


def not_async(change: Change[Order]) -> None: ...


async def handle(events: Sequence[Event]) -> None:
    for event in events:
        if (change := ORDERS.of(event)) is not None:
            assert_type(change, Change[Order])
        assert_type(event.change(), Change[Row])


assert_type(on_order, EachHandler[Change[Order]])
assert_type(on_orders, BatchHandler[Change[Order]])
plain: Handler = handle
single: Handler = on_order
batch: Handler = on_orders
composed: Handler = dispatch(on_order, on_placed, others=ignore)
once: Handler = drop_repeats(dispatch(on_order))

ORDERS.each(on_customer)  # expect-error
ORDERS.batch(on_customers)  # expect-error
ORDERS.batch(on_customer)  # expect-error
ORDERS.each(on_customers)  # expect-error
ORDERS.each(not_async)  # expect-error
PLACED.each(on_other_message)  # expect-error
PLACED.each(on_customer)  # expect-error
dispatch(on_customer)  # expect-error
dispatch(handle)  # expect-error
dispatch(on_order, others=not_async)  # expect-error
wrong: Handler = on_customer  # expect-error
Table("shop.orders", Order(1, None))  # expect-error
