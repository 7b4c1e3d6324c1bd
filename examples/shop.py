"""Rows and handlers of a shop, used unchanged by the programs beside this file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from cdc_core import Change, Handler, Operation, Table, Unchanged, dispatch, ignore


@dataclass(frozen=True, kw_only=True)
class Order:
    id: int
    total: Decimal
    # A long text that an update did not touch is not sent: `note is UNCHANGED` then. A field whose type does not
    # allow that, as `total`, makes such a row a RowError.
    note: str | Unchanged | None


@dataclass(frozen=True, kw_only=True)
class Customer:
    id: int
    email: str


ORDERS = Table("shop.orders", Order)
CUSTOMERS = Table("shop.customers", Customer)


class Mailer(Protocol):
    """Where customers are copied to."""

    async def sync(self, customers: Sequence[Customer]) -> None: ...


class PrintingMailer:
    """A mailer for demonstration."""

    async def sync(self, customers: Sequence[Customer]) -> None:
        print(f"mailing list: {len(customers)} customers", flush=True)


def make_handler(totals: dict[int, Decimal], mails: Mailer) -> Handler:
    """Make the handler; what it needs comes by closure, and two pipelines share nothing."""

    @ORDERS.each  # one event at a time; a function of Change[Customer] here is a type error
    async def on_order(change: Change[Order]) -> None:
        match change:
            case Change(after=Order() as order):  # created, updated, or read by a snapshot
                totals[order.id] = order.total
            case Change(op=Operation.DELETE):
                totals.pop(change.key_as(int), None)  # of a composite key: key_as(tuple[int, str])
            case _:  # truncated
                totals.clear()

    @CUSTOMERS.batch  # neighbouring events of this table, in order
    async def on_customers(changes: Sequence[Change[Customer]]) -> None:
        await mails.sync([change.after for change in changes if change.after is not None])

    return dispatch(
        on_order, on_customers, others=ignore
    )  # without `others`, a table nobody handles is an error
