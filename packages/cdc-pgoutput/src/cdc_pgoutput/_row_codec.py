"""Rows to JSON text by code that is generated for one relation.

A row costs no loop over columns, no object per column and no dict: measured at 3 columns, 1.15 us against 5.3
us for a dict and json.dumps. Column names enter the generated source only as JSON inside a repr of a string,
never spliced.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, Protocol, TypeAlias, final

from ._errors import DecodeError
from ._messages import Relation
from ._registry import TypeRegistry, ValueCodec
from ._row_source import FunctionSource, compile_function
from ._tuples import Field, walk_tuple

__all__ = ["DeleteJson", "InsertJson", "RowCodec", "UpdateJson"]

InsertJson: TypeAlias = tuple[str, str | None]
"""after, key (None without key columns)."""

UpdateJson: TypeAlias = tuple[str | None, str, str | None, str | None]
"""before (None: no old row was sent), after, key, old key (None unless it is known and differs from
`key`).
"""

DeleteJson: TypeAlias = tuple[str, str | None]
"""before, key (None when the old row does not hold all key columns)."""


class _Insert(Protocol):
    def __call__(self, payload: bytes, offset: int = 5, /) -> InsertJson: ...


class _Update(Protocol):
    def __call__(self, payload: bytes, offset: int = 5, /) -> UpdateJson: ...


class _Delete(Protocol):
    def __call__(self, payload: bytes, offset: int = 5, /) -> DeleteJson: ...


_TupleJson: TypeAlias = Callable[[bytes, int], tuple[str, int]]

_OLD_KEY = 0x4B
_OLD_ROW = 0x4F
_NEW_ROW = 0x4E
_TEXT = 0x74
_BINARY = 0x62
_UNCHANGED = 0x75
_MESSAGES = {"insert": (0x49, "Insert"), "update": (0x55, "Update"), "delete": (0x44, "Delete")}


@final
class RowCodec:
    """Encodes the rows of one relation as JSON text, in one pass over a raw message.

    `insert`, `update` and `delete` take the whole pgoutput message; `offset` is that of the byte that
    announces the first tuple: 5, or 9 for a message inside a stream block (protocol 2 and later), which has
    an xid more, or 30 for a whole XLogData frame. They do not look at what stands before: whoever chose this
    codec has. `row_json` and `key_json` take a tuple by the offset of its column count and return the offset
    behind it.

    Text is JSON without blanks; columns stand in table order, key columns in the order given. A column that
    was not sent with an old key is null. An unchanged TOAST value is filled from the old row where that has
    it, otherwise it is Debezium's placeholder. Values are those of the registry at the time of construction.

    Each function is compiled when it is first used. All raise DecodeError and nothing else for bytes of any
    kind.
    """

    def __init__(self, relation: Relation, types: TypeRegistry, key_columns: Sequence[str] = ()) -> None:
        """Raises: ValueError when a key column is not a column of the relation."""
        self.relation = relation
        self.key_columns: tuple[str, ...] = tuple(key_columns)
        self.value_codecs: tuple[ValueCodec, ...] = tuple(
            types.codec(column.type_oid, column.type_modifier) for column in relation.columns
        )
        positions = {column.name: index for index, column in enumerate(relation.columns)}
        missing = [name for name in key_columns if name not in positions]
        if missing:
            raise ValueError(f"key columns {missing} are not in {relation.schema}.{relation.name}")
        self._key_positions = tuple(positions[name] for name in self.key_columns)
        self.key_in_identity: bool = bool(self._key_positions) and all(
            relation.columns[index].is_key for index in self._key_positions
        )
        """Whether an old tuple of kind K holds all key columns; if not, deletes and old keys have no key."""

    @cached_property
    def insert(self) -> _Insert:
        """`(payload, offset=5) -> (after, key)`"""
        source = self._source("insert", default_offset=5)
        source.expect_header(_NEW_ROW)
        source.read_columns("v")
        source.expect_end()
        source.returns(f"{source.row('v')}, {source.key('v')}")
        function: _Insert = self._compile(source)
        return function

    @cached_property
    def update(self) -> _Update:
        """`(payload, offset=5) -> (before, after, key, old key)`"""
        source = self._source("update", default_offset=5)
        source.divert_unless(_NEW_ROW, "UPDATE_WITH_OLD")
        source.expect_header(_NEW_ROW)
        source.read_columns("v")
        source.expect_end()
        source.returns(f"None, {source.row('v')}, {source.key('v')}, None")
        function: _Update = self._compile(source, UPDATE_WITH_OLD=self._update_with_old)
        return function

    @cached_property
    def delete(self) -> _Delete:
        """`(payload, offset=5) -> (before, key)`"""
        source = self._source("delete", default_offset=5)
        source.expect_header(_OLD_ROW, _OLD_KEY)
        source.read_columns("v")
        source.expect_end()
        key = source.key("v")
        if not self.key_in_identity:
            key = f"{key} if b[s] == {_OLD_ROW} else None"
        source.returns(f"{source.row('v')}, {key}")
        function: _Delete = self._compile(source)
        return function

    @cached_property
    def row_json(self) -> _TupleJson:
        """`(payload, offset of the tuple) -> (row, end)`"""
        source = self._source("row_json")
        source.expect_count()
        source.read_columns("v")
        source.expect_inside()
        source.returns(f"{source.row('v')}, o")
        function: _TupleJson = self._compile(source)
        return function

    @cached_property
    def key_json(self) -> _TupleJson:
        """`(payload, offset of the tuple) -> (key, end)`; `{}` without key columns."""
        source = self._source("key_json")
        source.expect_count()
        source.read_columns("v", only=frozenset(self._key_positions))
        source.expect_inside()
        source.returns(f"{source.object_of('v', self._key_positions)}, o")
        function: _TupleJson = self._compile(source)
        return function

    @cached_property
    def _update_full(self) -> _Update:
        return self._update_from(_OLD_ROW)

    @cached_property
    def _update_key(self) -> _Update:
        return self._update_from(_OLD_KEY)

    def _update_from(self, marker: int) -> _Update:
        columns = self.relation.columns
        # an old key's other columns are sent as NULL, which says nothing about the row
        sent = frozenset(i for i, column in enumerate(columns) if marker == _OLD_ROW or column.is_key)
        source = self._source("update")
        source.expect_header(marker)
        source.read_columns("w")
        source.expect_header(_NEW_ROW)
        source.read_columns("v", fill_from="w", filled=sent)
        source.expect_end()
        if self._key_positions and sent.issuperset(self._key_positions):
            source.returns_with_old_key()
        else:
            source.returns(f"{source.row('w')}, {source.row('v')}, {source.key('v')}, None")
        function: _Update = self._compile(source)
        return function

    def _update_with_old(self, payload: bytes, offset: int) -> UpdateJson:
        marker = payload[offset]
        if marker == _OLD_ROW:
            return self._update_full(payload, offset)
        if marker == _OLD_KEY:
            return self._update_key(payload, offset)
        raise ValueError("an update holds an old key, an old row or a new row")

    def _source(self, name: str, default_offset: int | None = None) -> FunctionSource:
        names = [json.dumps(column.name, ensure_ascii=False) for column in self.relation.columns]
        return FunctionSource(name, names, self.value_codecs, self._key_positions, default_offset)

    def _compile(self, source: FunctionSource, **extra: object) -> Any:
        others = [
            partial(_other_value, codec, column.name)
            for codec, column in zip(self.value_codecs, self.relation.columns, strict=True)
        ]
        return compile_function(source, others=others, fail=partial(self._failure, source.name), **extra)

    def _failure(self, function: str, payload: bytes, offset: int, error: Exception) -> DecodeError:
        """Say what was wrong, by reading the same bytes again slowly.

        The generated code only notices that something is: it keeps no account of where it stands.
        """
        # not payload[0]: what precedes the tuples may be the header of a replication frame
        tag, kind = _MESSAGES.get(function, (None, None))
        try:
            if kind is None:
                self._inspect_tuple(payload, offset)
            else:
                self._inspect_message(function, payload, offset)
        except DecodeError as found:
            return found.within(tag, kind)
        return DecodeError(f"not readable ({type(error).__name__})", offset=offset, tag=tag, kind=kind)

    def _inspect_message(self, function: str, payload: bytes, offset: int) -> None:
        has_old = payload[offset : offset + 1] in (b"K", b"O")
        expected = (
            ("KO",) if function == "delete" else ("KO", "N") if function == "update" and has_old else ("N",)
        )
        for markers in expected:
            marker = payload[offset : offset + 1].decode("latin-1")
            if not marker or marker not in markers:
                raise DecodeError(f"a tuple of kind {' or '.join(markers)} is due", offset=offset)
            offset = self._inspect_tuple(payload, offset + 1)
        if offset != len(payload):
            raise DecodeError(f"{len(payload) - offset} bytes follow the end of the message", offset=offset)

    def _inspect_tuple(self, payload: bytes, offset: int) -> int:
        fields, end = walk_tuple(payload, offset, self.relation.columns)
        self._inspect_values(payload, fields)
        return end

    def _inspect_values(self, payload: bytes, fields: list[Field]) -> None:
        for codec, column, (kind, start, end) in zip(
            self.value_codecs, self.relation.columns, fields, strict=True
        ):
            if kind == _TEXT:
                try:
                    codec.to_json(payload[start:end].decode())
                except Exception as error:
                    reason = str(error) if type(error) is ValueError else f"not a value of type {codec.name}"
                    if isinstance(error, UnicodeDecodeError):
                        reason = "text that is not UTF-8"
                    raise DecodeError(reason, offset=start, column=column.name) from error
            elif kind == _BINARY:
                _other_value(codec, column.name, payload, start - 5, None)


def _other_value(
    codec: ValueCodec, column: str, payload: bytes, offset: int, fill: str | None
) -> tuple[str, int]:
    """A value that is neither text nor NULL: unchanged, or binary."""
    kind = payload[offset]
    if kind == _UNCHANGED:
        return codec.unchanged if fill is None else fill, offset + 1
    if kind != _BINARY:
        raise DecodeError(f"unknown column kind {bytes([kind])!r}", offset=offset, column=column)
    if codec.from_binary is None:
        raise DecodeError(
            f"the binary form of type {codec.name} is not read",
            offset=offset,
            column=column,
            remedy="Ask the server for text: START_REPLICATION without the option binary",
        )
    start = offset + 5
    end = start + int.from_bytes(payload[offset + 1 : start])
    if end > len(payload):
        raise DecodeError("truncated: a value is cut short", offset=start, column=column)
    try:
        return codec.to_json(codec.from_binary(payload[start:end])), end
    except Exception as error:
        raise DecodeError(f"not a binary value of type {codec.name}", offset=start, column=column) from error
