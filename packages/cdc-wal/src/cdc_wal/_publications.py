"""Publications: what one publishes, what is missing from it, and which tables it may not take."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast, final

from cdc_core import TableId

from ._config import OPERATIONS, WalConfig
from ._connection import Connection
from ._conninfo import quote_identifier, quote_literal
from ._errors import NoReplicaIdentity

# Without it the rows of a partitioned table come under the names of its partitions.
_VIA_ROOT = "publish_via_partition_root = true"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PublicationState:
    """A publication as it is.

    - `tables`: those named in it; `schemas`: those published whole.
    - `narrowed`: tables with a column list or a row filter, which their owner made and we never touch.
    - `sends_generated`: whether stored generated columns are sent (PostgreSQL 18 or newer, by its owner's choice).
    """

    oid: int
    name: str
    all_tables: bool
    operations: frozenset[str]
    via_root: bool
    tables: frozenset[TableId]
    schemas: frozenset[str]
    narrowed: frozenset[TableId]
    sends_generated: bool


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PublishableTable:
    """A table, or a leaf of a partitioned one, as far as publishing it goes.

    - `chosen`: the table it was chosen by: itself, or the partitioned one above it.
    - `has_identity`: whether the server can say which row an update or delete is about.
    - `has_generated_identity`: whether it would say so by a generated column, which is not sent and so refused.
    - `owned`: whether our role owns it, as publishing it needs; `reachable`: whether it may use its schema, as naming
      it needs.
    """

    chosen: TableId
    table: TableId
    has_identity: bool
    has_generated_identity: bool
    owned: bool
    reachable: bool


async def inspect_publication(connection: Connection, name: str) -> PublicationState | None:
    """Read a publication, None where there is none."""
    sql = _PUBLICATION_15 if connection.server_version >= 150000 else _PUBLICATION_14
    generated = "p.pubgencols = 's'" if connection.server_version >= 180000 else "false"
    row = await connection.fetch_one(sql.replace("[generated]", generated), [name])
    if row is None or row[0] is None:
        return None
    found = cast("dict[str, Any]", json.loads(row[0]))
    tables = [(TableId(item["schema"], item["name"]), bool(item["narrowed"])) for item in found["tables"]]
    return PublicationState(
        oid=int(found["oid"]),
        name=name,
        all_tables=found["all_tables"],
        operations=frozenset(word for word, on in found["operations"].items() if on),
        via_root=found["via_root"],
        tables=frozenset(table for table, _ in tables),
        schemas=frozenset(found["schemas"]),
        narrowed=frozenset(table for table, narrowed in tables if narrowed),
        sends_generated=found["generated"],
    )


async def publishable_tables(connection: Connection, config: WalConfig) -> list[PublishableTable]:
    """Look at every table that the config's choice means; a chosen one that cannot be published is not among them."""
    if config.all_tables:
        condition, params = "true", []
    else:
        names = json.dumps([[table.schema, table.name] for table in config.table_ids])
        condition = (
            "(root_schema, root_name) IN (SELECT t ->> 0, t ->> 1 FROM jsonb_array_elements($1::jsonb) t)"
            " OR root_schema IN (SELECT jsonb_array_elements_text($2::jsonb))"
        )
        params = [names, json.dumps(config.schemas)]
    rows = await connection.fetch(_TABLES.format(condition=condition), params)
    return [
        PublishableTable(
            chosen=TableId(root_schema or "", root_name or ""),
            table=TableId(schema or "", name or ""),
            has_identity=identity == "t",
            # PostgreSQL 18 refuses what earlier ones let pass, see pub_contains_invalid_column() in publicationcmds.c.
            has_generated_identity=generated == "t" and connection.server_version >= 180000,
            owned=owned == "t",
            reachable=reachable == "t",
        )
        for root_schema, root_name, schema, name, identity, generated, owned, reachable in rows
    ]


async def require_identities(connection: Connection, config: WalConfig) -> None:
    """Check once more, in the transaction that publishes, that no statement of the user's will be refused for it.

    Raises:
        NoReplicaIdentity: a table would be published for updates or deletes without one.
    """
    if {"update", "delete"}.isdisjoint(config.operations):
        return
    fault = identity_fault(await publishable_tables(connection, config))
    if fault is not None:
        why, remedy = fault
        raise NoReplicaIdentity(why, where={"publication": config.publication_name}, remedy=remedy)


def create_statement(config: WalConfig) -> str:
    """Return the statement that creates the publication."""
    options = f"publish = {quote_literal(', '.join(config.operations))}, {_VIA_ROOT}"
    objects = "FOR ALL TABLES" if config.all_tables else f"FOR {_objects(config.table_ids, config.schemas)}"
    return f"CREATE PUBLICATION {quote_identifier(config.publication_name)} {objects} WITH ({options})"


def change_statements(config: WalConfig, state: PublicationState) -> tuple[str, ...]:
    """Return what brings a publication to the config: adds what is missing, takes nothing away."""
    name = quote_identifier(config.publication_name)
    statements: list[str] = []
    tables, schemas = missing(config, state)
    if tables or schemas:
        statements.append(f"ALTER PUBLICATION {name} ADD {_objects(tables, schemas)}")
    if not state.operations.issuperset(config.operations):
        both = [word for word in OPERATIONS if word in config.operations or word in state.operations]
        statements.append(f"ALTER PUBLICATION {name} SET (publish = {quote_literal(', '.join(both))})")
    return tuple(statements)


def missing(config: WalConfig, state: PublicationState) -> tuple[tuple[TableId, ...], tuple[str, ...]]:
    """Return the tables and schemas of the config that a publication does not publish."""
    if state.all_tables:
        return (), ()
    tables = tuple(
        table for table in config.table_ids if table not in state.tables and table.schema not in state.schemas
    )
    return tables, tuple(schema for schema in config.schemas if schema not in state.schemas)


def identity_fault(
    tables: Sequence[PublishableTable], *, sends_generated: bool = False
) -> tuple[str, str] | None:
    """Return why the server would refuse the updates and deletes of published tables, and the statements that mend it.

    - `sends_generated`: whether the publication sends stored generated columns.

    Returns None where it would refuse none.
    """
    bare = [item.table for item in tables if not item.has_identity]
    generated = [item.table for item in tables if item.has_identity and item.has_generated_identity]
    reasons: list[str] = []
    if bare:
        names = ", ".join(map(str, bare))
        reasons.append(
            f"without a replica identity the server would refuse every UPDATE and DELETE of {names}"
        )
    remedies = [
        f"ALTER TABLE {quote_table(table)} REPLICA IDENTITY FULL (or ADD PRIMARY KEY, which costs less log)"
        for table in bare
    ]
    if generated and not sends_generated:
        names = ", ".join(map(str, generated))
        reasons.append(
            "with a generated column in the replica identity the server would refuse every UPDATE and DELETE of"
            f" {names}"
        )
        remedies += [
            f"ALTER TABLE {quote_table(table)} REPLICA IDENTITY USING INDEX name (a unique index of columns that are"
            " NOT NULL and not generated)"
            for table in generated
        ]
    return ("; ".join(reasons), "; ".join(remedies)) if reasons else None


def quote_table(table: TableId) -> str:
    """Quote a table's name for SQL."""
    return f"{quote_identifier(table.schema)}.{quote_identifier(table.name)}"


def _objects(tables: Sequence[TableId], schemas: Sequence[str]) -> str:
    parts: list[str] = []
    if tables:
        parts.append("TABLE " + ", ".join(quote_table(table) for table in tables))
    if schemas:
        parts.append("TABLES IN SCHEMA " + ", ".join(quote_identifier(schema) for schema in schemas))
    return ", ".join(parts)


_PUBLICATION = """
SELECT jsonb_build_object(
    'oid', p.oid::bigint, 'all_tables', p.puballtables, 'via_root', p.pubviaroot, 'generated', [generated],
    'operations', jsonb_build_object(
        'insert', p.pubinsert, 'update', p.pubupdate, 'delete', p.pubdelete, 'truncate', p.pubtruncate),
    'tables', coalesce((
        SELECT jsonb_agg(jsonb_build_object('schema', n.nspname, 'name', c.relname, 'narrowed', {narrowed}))
        FROM pg_publication_rel r
        JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE r.prpubid = p.oid), '[]'),
    'schemas', coalesce({schemas}, '[]'))::text
FROM pg_publication p WHERE p.pubname = $1
"""
_PUBLICATION_14 = _PUBLICATION.format(narrowed="false", schemas="'[]'::jsonb")
_PUBLICATION_15 = _PUBLICATION.format(
    narrowed="r.prattrs IS NOT NULL OR r.prqual IS NOT NULL",
    schemas="(SELECT jsonb_agg(n.nspname) FROM pg_publication_namespace s"
    " JOIN pg_namespace n ON n.oid = s.pnnspid WHERE s.pnpubid = p.oid)",
)

# What may be published: is_publishable_class() in src/backend/catalog/pg_publication.c (permanent tables of users).
# An identity index must be valid and immediate, see RelationGetIndexList() in src/backend/utils/cache/relcache.c.
_TABLES = """
WITH root AS (
    SELECT c.oid, n.nspname AS root_schema, c.relname AS root_name
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND c.oid >= 16384
      AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
)
SELECT root_schema, root_name, n.nspname, c.relname,
       c.relreplident = 'f' OR EXISTS (
           SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
           AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident END),
       EXISTS (
           SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attgenerated <> '' AND NOT a.attisdropped
           AND (c.relreplident = 'f' OR EXISTS (
               SELECT FROM pg_index i WHERE i.indrelid = c.oid AND a.attnum = ANY (i.indkey::int2[])
               AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident END))),
       pg_has_role(o.relowner, 'USAGE'), has_schema_privilege(o.relnamespace, 'USAGE')
FROM root
JOIN pg_class o ON o.oid = root.oid
JOIN LATERAL (
    SELECT root.oid AS leaf WHERE o.relkind = 'r'
    UNION ALL SELECT relid FROM pg_partition_tree(root.oid) WHERE isleaf AND o.relkind = 'p'
) l ON true
JOIN pg_class c ON c.oid = l.leaf AND c.relkind IN ('r', 'p')
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE {condition}
ORDER BY 1, 2, 3, 4
"""
