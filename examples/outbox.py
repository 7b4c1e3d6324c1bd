"""An outbox without a table: a message in the transaction of the change that it tells of.

python outbox.py place ID ADDRESS writes one, in plain SQL; python outbox.py serve handles them.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace

import psycopg
from settings import run, shop_config

from cdc_core import LogicalMessage, MessagePrefix, Pipeline, dispatch, ignore, provision, serve
from cdc_wal import PostgresTransport


@dataclass(frozen=True, kw_only=True)
class OrderPlaced:
    order_id: int
    email: str


PLACED = MessagePrefix("outbox.order_placed", OrderPlaced)  # its content is JSON


@PLACED.each
async def on_placed(message: LogicalMessage[OrderPlaced]) -> None:
    print(f"order {message.content.order_id}: mail to {message.content.email}", flush=True)


def place(order_id: str, email: str) -> None:
    """Write an order and its message; both are delivered, or neither is."""
    config = shop_config()
    content = json.dumps({"order_id": int(order_id), "email": email})
    with psycopg.connect(config.dsn) as connection:
        connection.execute("INSERT INTO shop.orders (id, total) VALUES (%s, 1)", [order_id])
        connection.execute("SELECT pg_logical_emit_message(true, 'outbox.order_placed', %s::text)", [content])


async def main() -> None:
    # The key, which orders messages of one order, is a member of the content; without it, it is the prefix.
    config = replace(shop_config(), message_keys={"outbox.order_placed": "order_id"})
    transport = PostgresTransport(config)
    await provision(transport)
    handler = dispatch(on_placed, others=ignore)
    await serve(Pipeline(name="outbox", transport=transport, handler=handler))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["place", order_id, email]:
            place(order_id, email)
        case _:
            run(main)
