"""Builds messages byte by byte, as the protocol documentation lays them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from struct import pack
from types import EllipsisType

RELATION_ID = 16384


@dataclass(frozen=True, slots=True)
class Binary:
    """A value in the binary format."""

    data: bytes


# ... is an unchanged TOAST value
Field = str | bytes | Binary | EllipsisType | None


def relation(
    *columns: tuple[str, int] | tuple[str, int, int] | tuple[str, int, int, bool],
    identity: bytes = b"d",
    relation_id: int = RELATION_ID,
    schema: str = "public",
    name: str = "t",
    xid: bytes = b"",
) -> bytes:
    """Columns are (name, type OID, type modifier, in the identity); the first is in it if none says so."""
    message = (
        b"R" + xid + pack("!I", relation_id) + schema.encode() + b"\0" + name.encode() + b"\0" + identity
    )
    message += pack("!H", len(columns))
    for index, column in enumerate(columns):
        modifier = column[2] if len(column) > 2 else -1
        is_key = column[3] if len(column) > 3 else index == 0
        message += bytes([is_key]) + column[0].encode() + b"\0" + pack("!Ii", column[1], modifier)
    return message


def row(fields: Sequence[Field]) -> bytes:
    return pack("!H", len(fields)) + b"".join(field(one) for one in fields)


def field(value: Field) -> bytes:
    if value is None:
        return b"n"
    if value is ...:
        return b"u"
    if isinstance(value, Binary):
        return b"b" + pack("!I", len(value.data)) + value.data
    data = value.encode() if isinstance(value, str) else value
    return b"t" + pack("!I", len(data)) + data


def insert(*fields: Field, relation_id: int = RELATION_ID, xid: bytes = b"") -> bytes:
    return b"I" + xid + pack("!I", relation_id) + b"N" + row(fields)


def update(
    new: Sequence[Field],
    *,
    key: Sequence[Field] | None = None,
    old: Sequence[Field] | None = None,
    relation_id: int = RELATION_ID,
    xid: bytes = b"",
) -> bytes:
    before = b"K" + row(key) if key is not None else b"O" + row(old) if old is not None else b""
    return b"U" + xid + pack("!I", relation_id) + before + b"N" + row(new)


def delete(
    *, key: Sequence[Field] | None = None, old: Sequence[Field] | None = None, relation_id: int = RELATION_ID
) -> bytes:
    before = b"K" + row(key) if key is not None else b"O" + row(old or ())
    return b"D" + pack("!I", relation_id) + before
