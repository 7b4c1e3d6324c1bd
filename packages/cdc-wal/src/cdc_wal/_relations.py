"""What stays the same for the rows of one relation: its key, its codec, the constant parts of its envelopes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from cdc_core import TableId
from cdc_pgoutput import Relation, ReplicaIdentity, RowCodec, TypeRegistry

from ._version import __version__

CONNECTOR = "cdc-wal"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SourceName:
    """What is the same in the `source` of every event of one reader: its name and its database."""

    name: str
    database: str


@final
class RelationState:
    """One relation in one shape, as the change builder needs it.

    - `ignored`: its rows never become events (rule 13), though they count in ordinals.
    """

    __slots__ = ("_constants", "codec", "ignored", "relation", "source_tail", "table")

    def __init__(self, relation: Relation, codec: RowCodec, source: SourceName, *, ignored: bool) -> None:
        self.relation = relation
        self.table = TableId(relation.schema, relation.name)
        self.codec = codec
        self.ignored = ignored
        self._constants = source_constants(source, self.table)
        self.source_tail = f',"replica_identity":"{relation.replica_identity.name.lower()}"}}'

    def source_parts(self, commit_time_us: int, xid: int, last_end_lsn: int | None) -> tuple[str, str]:
        """Return the text of `source` before each of the two places where the row's own LSN stands."""
        return source_parts(self._constants, commit_time_us, xid, last_end_lsn)


def source_constants(source: SourceName, table: TableId | None) -> tuple[str, str, str]:
    """Return the parts of `source` that are the same for all events of a table (None: of messages)."""
    name, database = _json(source.name), _json(source.database)
    schema, table_name = (_json(table.schema), _json(table.name)) if table else ('""', '""')
    return (
        f'{{"version":"{__version__}","connector":"{CONNECTOR}","name":{name},"ts_ms":',
        f',"snapshot":"false","db":{database},"sequence":"[',
        f',"schema":{schema},"table":{table_name},"txId":',
    )


def source_parts(
    constants: tuple[str, str, str], commit_time_us: int, xid: int | None, last_end_lsn: int | None
) -> tuple[str, str]:
    """Return the text of `source` before each of the two places where an event's own LSN stands.

    `sequence` is a JSON text of two strings, as Debezium has it: the end of the last transaction, and the own LSN.
    """
    last = "null" if last_end_lsn is None else f'\\"{last_end_lsn}\\"'
    head = f'{constants[0]}{commit_time_us // 1000}{constants[1]}{last},\\"'
    xid_text = "null" if xid is None else str(xid)
    middle = f'\\"]","ts_us":{commit_time_us},"ts_ns":{commit_time_us}000{constants[2]}{xid_text},"lsn":'
    return head, middle


def key_columns(relation: Relation, chosen: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of the key that every event of a row can carry.

    - `chosen`: the primary key's columns in key order, or what stands for it; from the catalog.

    Where the replica identity is another index, a delete and an update's old row hold that index's columns only: a
    key of other columns would be unknown for them, and order per key would be lost. Then the identity is the key.
    With the default identity the relation itself marks the primary key's columns, as they were when the row was
    written. The catalog adds their order; where it knows other columns by now, or none, the marked ones are the key.
    """
    names = {column.name for column in relation.columns}
    identity = tuple(column.name for column in relation.columns if column.is_key)
    usable = tuple(chosen) if set(chosen) <= names else ()  # a column list may leave key columns out
    if relation.replica_identity is ReplicaIdentity.INDEX and not set(usable) <= set(identity):
        return identity
    is_cut = bool(chosen) and not usable
    if relation.replica_identity is ReplicaIdentity.DEFAULT and identity and not is_cut:
        return usable if set(usable) == set(identity) else identity
    return usable


def make_relation_state(
    relation: Relation, types: TypeRegistry, key: Sequence[str], source: SourceName, *, cdc_schema: str
) -> RelationState:
    """Make the state of a relation whose types and key are resolved."""
    codec = RowCodec(relation, types, key_columns(relation, key))
    return RelationState(relation, codec, source, ignored=relation.schema == cdc_schema)


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
