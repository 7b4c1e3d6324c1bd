"""The shop's rows as the handler sees them, and what is kept of each delivery for the proof."""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Final

from cdc_core import Change, Event, Operation, Table

from .options import SCHEMA, DemoFailed

DELIVER_BY: Final = "deliver by "
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class OrderStatus(enum.StrEnum):
    """The enum `order_status`."""

    NEW = "new"
    PAID = "paid"
    PACKED = "packed"
    SHIPPED = "shipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """The content of a jsonb column."""

    newsletter: bool
    language: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    """A row of `customers`."""

    id: int
    name: str
    email: str
    preferences: Preferences
    joined_at: datetime
    version: int

    @property
    def checksum(self) -> str:
        """As the database computes it."""
        newsletter = str(self.preferences.newsletter).lower()
        return _checksum(
            self.id,
            _digest(self.name),
            _digest(self.email),
            newsletter,
            self.preferences.language,
            _micros(self.joined_at),
            self.version,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A row of `orders`."""

    id: int
    customer_id: int
    status: OrderStatus
    total: Decimal
    note: str | None
    placed_at: datetime
    version: int

    @property
    def checksum(self) -> str:
        """As the database computes it."""
        note = "null" if self.note is None else _digest(self.note)
        return _checksum(
            self.id, self.customer_id, self.status, self.total, note, _micros(self.placed_at), self.version
        )

    @property
    def deliver_by(self) -> date | None:
        """The day that the note asks for; what stands there is the customer's, and may be none.

        Raises:
            ValueError: it is no date.
        """
        if self.note is None or not self.note.startswith(DELIVER_BY):
            return None
        return date.fromisoformat(self.note.removeprefix(DELIVER_BY))


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderLine:
    """A row of `order_lines`."""

    order_id: int
    line: int
    sku: str
    quantity: int
    price: Decimal
    version: int

    @property
    def checksum(self) -> str:
        """As the database computes it."""
        return _checksum(self.order_id, self.line, _digest(self.sku), self.quantity, self.price, self.version)


CUSTOMERS: Final = Table(f"{SCHEMA}.customers", Customer)
ORDERS: Final = Table(f"{SCHEMA}.orders", Order)
ORDER_LINES: Final = Table(f"{SCHEMA}.order_lines", OrderLine)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What is kept of an event: its identity, and what the ledger has of its change.

    - `version`, `checksum`: of the new row; 0 and empty for a delete, which has none.
    """

    identity: str
    table: str
    key: str
    op: str
    version: int
    checksum: str


def delivery_of(event: Event) -> Delivery:
    """Decode an event of one of the three tables.

    Raises:
        EnvelopeError: the bytes are not what they should be.
        DemoFailed: it is another table's.
    """
    if (order := ORDERS.of(event)) is not None:
        return _delivery(order, str(order.key_as(int)))
    if (customer := CUSTOMERS.of(event)) is not None:
        return _delivery(customer, str(customer.key_as(int)))
    if (line := ORDER_LINES.of(event)) is not None:
        return _delivery(line, "/".join(map(str, line.key_as(tuple[int, int]))))
    raise DemoFailed(f"an event of {event.table} came, which the demo does not publish")


def take_in(event: Event) -> Delivery:
    """Do what a sink of orders would: read the row, and the day that an order's note asks for.

    Raises:
        ValueError: the note asks for a day that there is not; the poison of this demo.
    """
    if (change := ORDERS.of(event)) is not None and change.after is not None:
        _ = change.after.deliver_by
    return delivery_of(event)


def _delivery(change: Change[Order] | Change[Customer] | Change[OrderLine], key: str) -> Delivery:
    after = None if change.op is Operation.DELETE else change.after
    return Delivery(
        identity=str(change.identity),
        table=change.table.name,
        key=key,
        op=change.op.value,
        version=0 if after is None else after.version,
        checksum="" if after is None else after.checksum,
    )


def _micros(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _checksum(*columns: object) -> str:
    return _digest("|".join(map(str, columns)))
