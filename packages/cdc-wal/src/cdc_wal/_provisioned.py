"""The record of what the provisioner created, for which slot, and whether it still is the same object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from cdc_core import TableId

from ._config import WalConfig
from ._connection import Connection
from ._own_tables import created_objects_table, dead_letter_table
from ._publications import quote_table

SCHEMA, TABLE, PUBLICATION, SLOT = "schema", "table", "publication", "replication slot"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """One line of the record; a slot has no OID of its own, and 0 stands for it."""

    kind: str
    name: str
    slot_name: str
    object_oid: int


async def created_objects(connection: Connection, config: WalConfig) -> tuple[Created, ...]:
    """Read the record; empty where there is none, or none that our role may read."""
    table = created_objects_table(config)
    oid = await table_oid(connection, table)
    if oid is None:
        return ()
    readable = await connection.fetch(
        "SELECT WHERE has_schema_privilege($1, 'USAGE') AND has_table_privilege($2::oid, 'SELECT')",
        [table.schema, oid],
    )
    if not readable:
        return ()
    rows = await connection.fetch(f"SELECT kind, name, slot_name, object_oid FROM {quote_table(table)}")
    return tuple(
        Created(kind=kind or "", name=name or "", slot_name=slot or "", object_oid=int(found or 0))
        for kind, name, slot, found in rows
    )


async def table_oid(connection: Connection, table: TableId) -> int | None:
    """Return a table's OID, None where there is none; needs no privilege, unlike to_regclass."""
    row = await connection.fetch_one(
        "SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')",
        [table.schema, table.name],
    )
    return int(row[0] or 0) if row else None


async def object_oid(connection: Connection, config: WalConfig, kind: str, name: str) -> int | None:
    """Return the OID of an object that we may have created, None where it is gone; 0 for a slot."""
    match kind:
        case "schema":
            row = await connection.fetch_one("SELECT oid FROM pg_namespace WHERE nspname = $1", [name])
        case "publication":
            row = await connection.fetch_one("SELECT oid FROM pg_publication WHERE pubname = $1", [name])
        case "replication slot":
            row = await connection.fetch_one(
                "SELECT 0 FROM pg_replication_slots WHERE slot_name = $1", [name]
            )
        case _:
            own = {str(table): table for table in (dead_letter_table(config), created_objects_table(config))}
            return await table_oid(connection, own[name]) if name in own else None
    return int(row[0] or 0) if row else None


async def is_ours(
    connection: Connection, config: WalConfig, record: tuple[Created, ...], kind: str, name: str
) -> bool:
    """Say whether an object exists and is the one that we created, for whichever slot."""
    oid = await object_oid(connection, config, kind, name)
    return any(item.kind == kind and item.name == name and item.object_oid == oid for item in record)


async def remember(connection: Connection, config: WalConfig, kind: str, name: str) -> None:
    """Write down that an object, which exists or is about to, is ours and used by this config's slot."""
    oid = await object_oid(connection, config, kind, name) or 0
    await connection.execute(
        f"INSERT INTO {quote_table(created_objects_table(config))} (kind, name, slot_name, object_oid)"
        " VALUES ($1, $2, $3, $4::bigint) ON CONFLICT (kind, name, slot_name)"
        " DO UPDATE SET object_oid = excluded.object_oid, created_at = excluded.created_at",
        [kind, name, config.slot_name, oid],
    )


async def forget(connection: Connection, config: WalConfig, kind: str, name: str) -> None:
    """Strike an object out for this config's slot."""
    await connection.execute(
        f"DELETE FROM {quote_table(created_objects_table(config))}"
        " WHERE kind = $1 AND name = $2 AND slot_name = $3",
        [kind, name, config.slot_name],
    )
