"""Typed rows as the events that our reader would make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from cdc_core import (
    ChangeIdentity,
    Operation,
    OutgoingEvent,
    TableId,
    encode_change,
    encode_key,
    encode_message,
    encode_row,
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where in the log an event is written: its identity (sub-index 0), and the commit time since 1970."""

    identity: ChangeIdentity
    committed_at: float

    @property
    def source(self) -> dict[str, object]:
        """The envelope's `source` but for schema and table."""
        return {
            "connector": "memory",
            "db": self.identity.epoch.slot,
            "lsn": self.identity.commit_lsn,
            "commit_lsn": self.identity.commit_lsn,
            "ordinal": self.identity.ordinal,
            "ts_us": self.ts_us,
            "replica_identity": "full",
        }

    @property
    def ts_us(self) -> int:
        """The commit time in microseconds."""
        return int(self.committed_at * 1_000_000)

    def at(self, sub_index: int) -> ChangeIdentity:
        """Return the identity of one of several events of the same row message."""
        epoch, lsn, ordinal = self.identity.epoch, self.identity.commit_lsn, self.identity.ordinal
        return ChangeIdentity(epoch, lsn, ordinal, sub_index)


def inserted(table: TableId, row: object, key: Sequence[str] | None, place: Place) -> OutgoingEvent:
    """Make the event of an insert."""
    return _row_event(Operation.CREATE, table, place, key=encode_key(row, key or key_columns(row)), after=row)


def updated(
    table: TableId, row: object, before: object | None, key: Sequence[str] | None, place: Place
) -> list[OutgoingEvent]:
    """Make the events of an update: one, or a delete and a create where the key changes."""
    new_key = encode_key(row, key or key_columns(row))
    old_key = new_key if before is None else encode_key(before, key or key_columns(before))
    if old_key == new_key:
        return [_row_event(Operation.UPDATE, table, place, key=new_key, before=before, after=row)]
    return [
        _row_event(Operation.DELETE, table, place, key=old_key, related_key=new_key, before=before),
        _row_event(Operation.CREATE, table, place, key=new_key, related_key=old_key, after=row, sub_index=2),
    ]


def deleted(table: TableId, row: object, key: Sequence[str] | None, place: Place) -> OutgoingEvent:
    """Make the event of a delete, as under REPLICA IDENTITY FULL."""
    return _row_event(
        Operation.DELETE, table, place, key=encode_key(row, key or key_columns(row)), before=row
    )


def truncated(tables: Sequence[TableId], place: Place) -> list[OutgoingEvent]:
    """Make the events of a truncate: one for each table."""
    return [
        _row_event(Operation.TRUNCATE, table, place, key=None, sub_index=index)
        for index, table in enumerate(tables)
    ]


def emitted(prefix: str, content: bytes, place: Place) -> OutgoingEvent:
    """Make the event of a logical message."""
    return OutgoingEvent(
        key=None,
        value=encode_message(prefix=prefix, content=content, source=place.source, ts_us=place.ts_us),
        op=Operation.MESSAGE,
        table=None,
        identity=place.identity,
        committed_at=place.committed_at,
    )


def key_columns(row: object) -> tuple[str, ...]:
    """Return the key's columns where nobody says: `id` if there is one, else the first column."""
    columns = tuple(encode_row(row))
    return ("id",) if "id" in columns else columns[:1]


def _row_event(
    op: Operation,
    table: TableId,
    place: Place,
    *,
    key: bytes | None,
    related_key: bytes | None = None,
    sub_index: int = 0,
    **rows: Any,
) -> OutgoingEvent:
    return OutgoingEvent(
        key=key,
        value=encode_change(op=op, table=table, source=place.source, ts_us=place.ts_us, **rows),
        op=op,
        table=table,
        identity=place.at(sub_index),
        related_key=related_key,
        committed_at=place.committed_at,
    )
