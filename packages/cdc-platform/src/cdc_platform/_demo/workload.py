"""Several sessions that write to the shop at once: blocking clients in worker threads, beside any event loop."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, final

import anyio
import anyio.to_thread
import psycopg

from .options import DemoOptions
from .rows import DELIVER_BY, OrderStatus
from .session import Connection, connect

_CUSTOMERS: Final = 20
_RECONNECT_SECONDS: Final = 0.2
_POISON_EVERY: Final = 80
_FIRST_POISON: Final = 8
_POISON: Final = f"{DELIVER_BY}2027-02-30"
_NOTES: Final = (
    None,
    None,
    "leave it with the neighbours",
    "zweiter Hof, links; bitte läuten",
    DELIVER_BY,
)
_STATUSES: Final = tuple(status.value for status in OrderStatus)


@final
@dataclass(slots=True)
class Tally:
    """What the writers believe; for the view alone, since an answer may have been lost.

    - `unanswered`: commits whose answer was lost: only the ledger knows whether they took place.
    """

    transactions: int = 0
    rolled_back: int = 0
    unanswered: int = 0
    reconnects: int = 0
    last_error: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, name: str, error: str = "") -> None:
        """Count one; called from the writers' threads."""
        with self.lock:
            setattr(self, name, getattr(self, name) + 1)
            self.last_error = error or self.last_error


@asynccontextmanager
async def writing(dsn: str, options: DemoOptions) -> AsyncGenerator[Tally]:
    """Write beside the body; no session and no thread is left when it returns.

    Raises:
        Exception: a writer failed with something else than an unreachable server.
    """
    tally, stop = Tally(), threading.Event()
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    limiter = anyio.CapacityLimiter(options.writers)
    async with anyio.create_task_group() as tasks:
        for number in range(options.writers):
            dice = random.Random(f"{seed}/{number}")
            writer = _Writer(dsn, tally, stop, dice, number=number, rate=options.rate / options.writers)
            # not abandoned when cancelled: the body is, and leaving it stops the threads
            tasks.start_soon(lambda run: anyio.to_thread.run_sync(run, limiter=limiter), writer.run)
        try:
            yield tally
        finally:
            stop.set()


class _RolledBack(Exception):
    """Ends a transaction of the workload that is meant to leave nothing behind."""


@final
class _Writer:
    """One session after the other, until it is told to stop."""

    def __init__(
        self,
        dsn: str,
        tally: Tally,
        stop: threading.Event,
        dice: random.Random,
        *,
        number: int,
        rate: float,
    ) -> None:
        self._dsn = dsn
        self._tally = tally
        self._stop = stop
        self._dice = dice
        self._number = number
        self._rate = rate
        self._orders: list[int] = []
        self._customers: list[int] = []
        self._count = 0
        self._kinds: tuple[tuple[int, Callable[[Connection], int]], ...] = (
            (34, self._place_order),
            (26, self._move_on),
            (10, self._edit_lines),
            (8, self._cancel),
            (8, self._change_customer),
            (5, self._renumber),
            (4, self._sign_up),
            (3, self._price_round),
            (5, self._roll_back),
            (5, self._roll_back_a_part),
        )

    def run(self) -> None:
        """Write, and connect again when the server went away."""
        while not self._stop.is_set():
            try:
                with connect(self._dsn, f"writer {self._number}") as connection:
                    self._begin(connection)
                    self._write(connection)
            except psycopg.OperationalError as error:
                self._tally.add("reconnects", type(error).__name__)
                self._stop.wait(_RECONNECT_SECONDS)

    def _write(self, connection: Connection) -> None:
        weights = [weight for weight, _ in self._kinds]
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            self._count += 1
            if self._number == 0 and self._count % _POISON_EVERY == _FIRST_POISON:
                kind: Callable[[Connection], int] = self._place_poison
            else:
                kind = self._dice.choices(self._kinds, weights)[0][1]
            rows = self._transact(connection, kind)
            # what was missed while the server was away is not caught up with
            due = max(due, time.monotonic() - 1.0) + rows / self._rate

    def _transact(self, connection: Connection, kind: Callable[[Connection], int]) -> int:
        rows, decided = 1, False
        try:
            with connection.transaction():
                rows = max(1, kind(connection))
                decided = True
            self._tally.add("transactions")
        except _RolledBack:
            self._tally.add("rolled_back")
        except psycopg.OperationalError:
            if decided:
                self._tally.add("unanswered")
            if connection.closed:
                raise
            self._tally.add("rolled_back")  # a deadlock, or a timeout of the user's database
        return rows

    def _begin(self, connection: Connection) -> None:
        """Find what there is: from an earlier run, or from before the connection was lost."""
        if self._number == 0:
            count = connection.execute("SELECT count(*) FROM cdc_demo.customers").fetchone()
            for _ in range(_CUSTOMERS - (count[0] if count else 0)):
                self._transact(connection, self._sign_up)
        customers = connection.execute("SELECT id FROM cdc_demo.customers ORDER BY id LIMIT 20")
        self._customers = [number for (number,) in customers.fetchall()]
        orders = connection.execute(
            "SELECT id FROM cdc_demo.orders WHERE id %% 16 = %s AND note IS DISTINCT FROM %s ORDER BY id DESC LIMIT 50",
            [self._number, _POISON],
        )
        self._orders = [number for (number,) in orders.fetchall()]

    # Each kind of transaction returns the number of rows that it changed, to keep to the rate.

    def _place_order(self, connection: Connection) -> int:
        note = self._dice.choice(_NOTES)
        return self._insert_order(connection, f"{note}2027-03-14" if note == DELIVER_BY else note)

    def _place_poison(self, connection: Connection) -> int:
        return self._insert_order(connection, _POISON)

    def _insert_order(self, connection: Connection, note: str | None) -> int:
        lines = [(self._dice.randint(1, 5), self._price()) for _ in range(self._dice.randint(1, 4))]
        total = sum((quantity * price for quantity, price in lines), Decimal(0))
        row = connection.execute(
            "INSERT INTO cdc_demo.orders (customer_id, total, note) VALUES (%s, %s, %s) RETURNING id",
            [self._dice.choice(self._customers or [1]), total, note],
        ).fetchone()
        assert row is not None
        for line, (quantity, price) in enumerate(lines, start=1):
            connection.execute(
                "INSERT INTO cdc_demo.order_lines (order_id, line, sku, quantity, price) VALUES (%s, %s, %s, %s, %s)",
                [row[0], line, f"SKU-{self._dice.randrange(10_000):04}", quantity, price],
            )
        if note != _POISON:  # nobody touches those again: three failing in a row would stop all
            self._orders.append(row[0])
        return 1 + len(lines)

    def _move_on(self, connection: Connection) -> int:
        status = self._dice.choice(_STATUSES[1:])
        return connection.execute(
            "UPDATE cdc_demo.orders SET status = %s::cdc_demo.order_status WHERE id = %s",
            [status, self._some_order()],
        ).rowcount

    def _edit_lines(self, connection: Connection) -> int:
        return connection.execute(
            "UPDATE cdc_demo.order_lines SET quantity = quantity + 1 WHERE order_id = %s",
            [self._some_order()],
        ).rowcount

    def _cancel(self, connection: Connection) -> int:
        order = self._some_order()
        if order in self._orders:
            self._orders.remove(order)
        lines = connection.execute("DELETE FROM cdc_demo.order_lines WHERE order_id = %s", [order]).rowcount
        return lines + connection.execute("DELETE FROM cdc_demo.orders WHERE id = %s", [order]).rowcount

    def _renumber(self, connection: Connection) -> int:
        """Change a key; the new one was never used."""
        return (
            2
            * connection.execute(
                "UPDATE cdc_demo.order_lines SET line = line + 100 WHERE order_id = %s AND line %% 100 = 1",
                [self._some_order()],
            ).rowcount
        )

    def _change_customer(self, connection: Connection) -> int:
        """Change a row that all writers change."""
        return connection.execute(
            "UPDATE cdc_demo.customers SET preferences = %s::jsonb WHERE id = %s",
            [self._preferences(), self._dice.choice(self._customers or [1])],
        ).rowcount

    def _sign_up(self, connection: Connection) -> int:
        name = self._dice.choice(("Ada", "Zoë", "Łukasz", "Mei", "Óscar", "Priya"))
        return connection.execute(
            "INSERT INTO cdc_demo.customers (name, email, preferences) VALUES (%s, %s, %s::jsonb)",
            [name, f"customer-{self._dice.randrange(1 << 30):x}@example.com", self._preferences()],
        ).rowcount

    def _price_round(self, connection: Connection) -> int:
        """Change many rows of several orders in one transaction."""
        return connection.execute(
            "UPDATE cdc_demo.order_lines SET price = round(price * 1.01, 2) WHERE order_id = ANY (%s)",
            [sorted(self._orders[-15:])],
        ).rowcount

    def _roll_back(self, connection: Connection) -> int:
        known = list(self._orders)
        self._place_order(connection)
        self._orders = known
        raise _RolledBack

    def _roll_back_a_part(self, connection: Connection) -> int:
        rows = self._place_order(connection)
        known = list(self._orders)
        with connection.transaction(force_rollback=True):  # a savepoint
            self._place_order(connection)
        self._orders = known
        return rows + self._move_on(connection)

    def _some_order(self) -> int:
        return self._dice.choice(self._orders) if self._orders else 0

    def _price(self) -> Decimal:
        return Decimal(self._dice.randint(99, 19_999)) / 100

    def _preferences(self) -> str:
        return json.dumps(
            {
                "newsletter": self._dice.random() < 0.5,
                "language": self._dice.choice(("de", "en", "fr", "pl")),
            }
        )
