"""Where the examples find what they need, all in the environment.

SHOP_DSN is the database, SHOP_PASSWORD_FILE a file with a password that may change, SHOP_SLOT the slot's name,
SHOP_LOOP the event loop (asyncio or trio).
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import anyio
from shop import CUSTOMERS, ORDERS

from cdc_wal import PostgresTransport, WalConfig

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def shop_config() -> WalConfig:
    """Describe a slot, and a publication of two tables."""
    return WalConfig(
        dsn=os.environ["SHOP_DSN"],
        slot_name=os.environ.get("SHOP_SLOT", "shop"),
        publication_name="shop",
        tables=(ORDERS.id, CUSTOMERS.id),
    )


def read_password() -> str:
    """Return the password of this moment: it is asked for on every connection."""
    return Path(os.environ["SHOP_PASSWORD_FILE"]).read_text(encoding="utf-8").strip()


def shop_transport() -> PostgresTransport:
    """Make the transport; that opens nothing."""
    password = read_password if "SHOP_PASSWORD_FILE" in os.environ else None
    return PostgresTransport(shop_config(), password=password)


def run(main: Callable[[*Ts], Awaitable[T]], *arguments: *Ts) -> T:
    """Run a program on the event loop that SHOP_LOOP names; asyncio.run and trio.run would do as well."""
    return anyio.run(main, *arguments, backend=os.environ.get("SHOP_LOOP", "asyncio"))
