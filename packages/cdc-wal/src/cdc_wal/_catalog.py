"""What the stream does not say: a table's key in its order, and what a user's types are made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

from cdc_pgoutput import TypeInfo, TypeKind, TypeRegistry

from ._connection import Connection


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RelationKey:
    """The columns that make an event's key.

    - `columns`: in the key's own order, which need not be the table's; empty where the table has no key.
    - `is_primary_key`: False where a unique index stands in for it.
    """

    columns: tuple[str, ...]
    is_primary_key: bool


async def relation_key(connection: Connection, relation_id: int) -> RelationKey:
    """Read a table's key: the primary key; else the index of the replica identity; else the first unique index.

    "First" is by name and among those on plain columns only, nullable and partial ones too: what Debezium 3.6 does
    (measured), so that keys agree. The columns that an index merely includes are not part of the key.

    Returns a key without columns where there is none, or no such table any more.
    """
    row = await connection.fetch_one(_KEY, [relation_id])
    if row is None:
        return RelationKey(columns=(), is_primary_key=False)
    count = int(row[1] or 0)
    return RelationKey(columns=tuple(name or "" for name in row[2 : 2 + count]), is_primary_key=row[0] == "t")


async def type_infos(connection: Connection, type_oids: Iterable[int]) -> tuple[TypeInfo, ...]:
    """Read types, and those they are made of: base types of domains, elements of arrays, subtypes of ranges.

    One query; a type that does not exist any more is left out, and so are those that every `TypeRegistry` knows.
    """
    known = TypeRegistry()
    oids = "{" + ",".join(str(oid) for oid in sorted(set(type_oids))) + "}"
    return tuple(
        TypeInfo(
            oid=int(oid or 0),
            name=name or "",
            schema=schema or "",
            kind=TypeKind(kind),
            element_oid=int(element or 0),
            base_oid=int(base or 0),
            base_type_modifier=-1 if modifier is None else int(modifier),
            delimiter=delimiter or ",",
        )
        for oid, name, schema, kind, element, base, modifier, delimiter in await connection.fetch(
            _TYPES, [oids]
        )
        if int(oid or 0) not in known
    )


# INDEX_MAX_KEYS is 32; pg_get_indexdef would quote names, so attributes are joined by their numbers instead.
_KEY = f"""
SELECT i.indisprimary, i.indnkeyatts, {
    ", ".join(
        f"(SELECT attname FROM pg_attribute a WHERE a.attrelid = i.indrelid AND a.attnum = i.indkey[{n}])"
        for n in range(32)
    )
}
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = $1::oid AND i.indisunique AND i.indisvalid AND i.indislive
  AND (i.indexprs IS NULL AND NOT 0 = ANY (i.indkey::int2[]))
ORDER BY i.indisprimary DESC, i.indisreplident DESC, c.relname
LIMIT 1
"""

# A true array is told from other types with elements (point, name) by its subscript handler, as the server does
# since 14.
_TYPES = """
WITH RECURSIVE part (oid) AS (
    SELECT oid FROM pg_type WHERE oid = ANY ($1::oid[])
  UNION
    SELECT below.oid
    FROM part
    JOIN pg_type t ON t.oid = part.oid
    LEFT JOIN pg_range r ON r.rngtypid = t.oid
    JOIN pg_type below ON below.oid IN (t.typbasetype, t.typelem, r.rngsubtype)
)
SELECT t.oid, t.typname, n.nspname,
       CASE WHEN a.is_array THEN 'a' ELSE t.typtype END,
       CASE WHEN a.is_array THEN t.typelem WHEN t.typtype = 'r' THEN r.rngsubtype ELSE 0 END,
       CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE 0 END, t.typtypmod, t.typdelim
FROM part
JOIN pg_type t ON t.oid = part.oid
JOIN pg_namespace n ON n.oid = t.typnamespace
LEFT JOIN pg_range r ON r.rngtypid = t.oid,
LATERAL (SELECT t.typsubscript = 'array_subscript_handler'::regproc AND t.typtype = 'b') a (is_array)
ORDER BY t.oid
"""
