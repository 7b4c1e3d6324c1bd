"""A handler that writes in one database transaction, so that a repeat of an event changes nothing.

psycopg's own async connection knows asyncio alone. A plain one in a worker thread works on trio as well; only the
thread waits for the database, the event loop goes on.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import anyio.to_thread
import psycopg
from shop import ORDERS, Order

from cdc_core import Change, Event, Handler, Transient


@asynccontextmanager
async def open_handler(dsn: str) -> AsyncGenerator[Handler]:
    """Open a handler of whole batches, every table in them: no decorator, and the connection is its own."""
    sink = _Sink(dsn)

    async def handle(events: Sequence[Event]) -> None:
        changes = [change for event in events if (change := ORDERS.of(event)) is not None]
        try:
            # Not abandoned when it is cancelled: a transaction is either written or not when this returns.
            await anyio.to_thread.run_sync(sink.write, changes)
        except psycopg.OperationalError as error:
            raise Transient from error  # the sink is down, not the data: tried again without end

    try:
        yield handle
    finally:
        sink.close()


class _Sink:
    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: psycopg.Connection | None = None

    def write(self, changes: Sequence[Change[Order]]) -> None:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(self._dsn)
        with self._connection.transaction():
            for change in changes:
                _save(self._connection, change)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


def _save(connection: psycopg.Connection, change: Change[Order]) -> None:
    identity = str(change.identity)  # the same on every repeat
    new = connection.execute("INSERT INTO shop.handled VALUES (%s) ON CONFLICT DO NOTHING", [identity])
    if new.rowcount == 0:
        return
    if change.after is None:
        connection.execute("DELETE FROM shop.order_totals WHERE id = %s", [change.key_as(int)])
        return
    connection.execute(
        "INSERT INTO shop.order_totals VALUES (%s, %s, %s)"
        " ON CONFLICT (id) DO UPDATE SET total = excluded.total, identity = excluded.identity",
        [change.after.id, change.after.total, identity],
    )
