"""Tuple data: the values of one row as the server sent them, taken apart only when somebody asks.

A tuple is a 16-bit count and per column a kind byte: `n` NULL, `u` an unchanged TOAST value that was not
sent, `t` text and `b` binary, the last two with a 32-bit length and the value.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeAlias, final

from ._errors import DecodeError
from ._wire import U16, U32

if TYPE_CHECKING:
    from ._messages import Relation
    from ._shape import Shape

__all__ = ["UNCHANGED_TOAST", "Field", "Row", "UnchangedToast", "walk_tuple"]

_NULL = 0x6E
_UNCHANGED = 0x75
_TEXT = 0x74
_BINARY = 0x62
_MESSAGE_KINDS = {0x49: "Insert", 0x55: "Update", 0x44: "Delete"}

# kind byte, first and one past the last byte of the value
Field: TypeAlias = tuple[int, int, int]


@final
class UnchangedToast(Enum):
    """The type of `UNCHANGED_TOAST`, so that `isinstance` and type checkers can tell it from a value."""

    UNCHANGED_TOAST = "unchanged toast"

    def __repr__(self) -> str:
        return self.name

    def __bool__(self) -> bool:
        return False


UNCHANGED_TOAST: Final = UnchangedToast.UNCHANGED_TOAST
"""A value that the server did not send because the update did not change it: neither NULL nor a value."""


def walk_tuple(payload: bytes, offset: int, columns: Sequence[object]) -> tuple[list[Field], int]:
    """Find where each value of the tuple at `offset` lies, without reading any.

    Returns: one field per column, and the offset behind the tuple.
    Raises: DecodeError (without tag and kind: the caller knows them) when the bytes are not a tuple of these
    columns.
    """
    try:
        (count,) = U16.unpack_from(payload, offset)
    except struct.error:
        raise DecodeError("truncated: a tuple starts with 2 bytes", offset=offset) from None
    if count != len(columns):
        raise DecodeError(f"a tuple of {count} columns for a relation of {len(columns)}", offset=offset)
    size = len(payload)
    position = offset + 2
    fields: list[Field] = []
    for _ in range(count):
        if position >= size:
            raise DecodeError("truncated: a column's kind is missing", offset=position)
        kind = payload[position]
        if kind in (_NULL, _UNCHANGED):
            position += 1
            fields.append((kind, position, position))
            continue
        if kind not in (_TEXT, _BINARY):
            raise DecodeError(f"unknown column kind {bytes([kind])!r}", offset=position)
        start = position + 5
        if start > size:
            raise DecodeError("truncated: a column's length is missing", offset=position + 1)
        (length,) = U32.unpack_from(payload, position + 1)
        position = start + length
        if position > size:
            raise DecodeError(f"truncated: a value of {length} bytes is cut short", offset=start)
        fields.append((kind, start, position))
    return fields, position


@final
class Row:
    """One row of a message, decoded when asked. Its methods raise DecodeError for bytes that are not the
    column's type.

    `is_key_only` says that only the columns of the replica identity were sent; the others read as NULL though
    they need not be.
    """

    __slots__ = ("_end", "_fields", "_marker", "_old", "_payload", "_shape", "_start", "is_key_only")

    def __init__(
        self,
        shape: Shape,
        payload: bytes,
        marker: int,
        fields: list[Field],
        end: int,
        *,
        old: Row | None = None,
        is_key_only: bool = False,
    ) -> None:
        self._shape = shape
        self._payload = payload
        self._marker = marker
        self._start = marker + 1
        self._fields = fields
        self._end = end
        self._old = old
        self.is_key_only: bool = is_key_only

    @property
    def relation(self) -> Relation:
        return self._shape.relation

    def to_json(self) -> bytes:
        """The row as a JSON object in UTF-8, straight from the tuple's bytes.

        A value that was not sent is filled from the old row where that has it, and is Debezium's placeholder
        otherwise.
        """
        codec = self._shape.codec()
        if self._old is not None:
            return codec.update(self._payload, self._old._marker)[1].encode()
        try:
            return codec.row_json(self._payload, self._start)[0].encode()
        except DecodeError as error:
            raise self._located(error) from error.__cause__

    def values(self) -> tuple[object, ...]:
        """The columns' values in table order; `UNCHANGED_TOAST` for those that neither row was sent with."""
        return tuple(self._value(index) for index in range(len(self._fields)))

    def to_dict(self) -> dict[str, object]:
        """`values()` by column name."""
        return {column.name: self._value(index) for index, column in enumerate(self._shape.relation.columns)}

    def _value(self, index: int) -> object:
        kind, start, end = self._fields[index]
        if kind == _NULL:
            return None
        if kind == _UNCHANGED:
            return self._from_old(index)
        try:
            return self._shape.python_value(index, self._payload, start, end, is_binary=kind == _BINARY)
        except DecodeError as error:
            raise self._located(error) from error.__cause__

    def _located(self, error: DecodeError) -> DecodeError:
        tag = self._payload[0]
        return error.within(tag, _MESSAGE_KINDS.get(tag))

    def _from_old(self, index: int) -> object:
        old = self._old
        if old is None or (old.is_key_only and not self._shape.relation.columns[index].is_key):
            return UNCHANGED_TOAST
        return old._value(index)

    def _identity(self) -> tuple[object, ...]:
        return self.relation, self.is_key_only, self._payload[self._start : self._end], self._old

    def __eq__(self, other: object) -> bool:
        return self._identity() == other._identity() if isinstance(other, Row) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._identity())

    def __repr__(self) -> str:
        """Names the table only: a repr may end in a log, row values may not."""
        relation = self.relation
        return f"<Row of {relation.schema}.{relation.name}, {len(self._fields)} columns>"
