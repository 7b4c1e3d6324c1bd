"""Python rows to Debezium's JSON: for tests and in-memory transports; a reader encodes from the server's bytes."""

from __future__ import annotations

import binascii
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import msgspec

from ._annotations import is_row_type
from ._events import Operation, TableId
from ._rows import field_columns
from ._unchanged import PLACEHOLDER, Unchanged
from ._wire_values import write_scalar


def encode_row(row: object) -> dict[str, object]:
    """Return a row's columns in their wire forms.

    A dict or nested dataclass in a column is a json column: its text. A datetime with a zone is a `timestamptz`,
    without one a `timestamp`. `UNCHANGED` becomes the placeholder.

    - `row`: a dataclass, a msgspec struct, or a mapping of columns.

    Raises:
        TypeError: it is none of these, or a value has no wire form.
    """
    return {column: _wire(value) for column, value in _columns(row)}


def encode_key(row: object, columns: Sequence[str]) -> bytes:
    """Return a key's bytes: the named columns of a row, in this order.

    Raises:
        TypeError, KeyError: as `encode_row`; or the row lacks a column.
    """
    wire = encode_row(row)
    return msgspec.json.encode({column: wire[column] for column in columns})


def encode_change(
    *,
    op: Operation,
    table: TableId,
    before: object | None = None,
    after: object | None = None,
    source: Mapping[str, object] | None = None,
    transaction: Mapping[str, object] | None = None,
    ts_us: int | None = None,
) -> bytes:
    """Return an envelope's bytes.

    - `before`, `after`: rows as `encode_row` takes them.
    - `source`: further members of the envelope's `source` by Debezium's names; `schema` and `table` are set.
    - `transaction`: `id`, `total_order`, `data_collection_order`.
    - `ts_us`: when the envelope is written, in microseconds since 1970.
    """
    return msgspec.json.encode(
        {
            "before": None if before is None else encode_row(before),
            "after": None if after is None else encode_row(after),
            "source": {**(source or {}), "schema": table.schema, "table": table.name},
            "transaction": transaction,
            "op": op.value,
            "ts_ms": None if ts_us is None else ts_us // 1000,
            "ts_us": ts_us,
        }
    )


def encode_message(
    *,
    prefix: str,
    content: bytes,
    source: Mapping[str, object] | None = None,
    transaction: Mapping[str, object] | None = None,
    ts_us: int | None = None,
) -> bytes:
    """Return the envelope's bytes of a logical message; arguments as `encode_change`."""
    return msgspec.json.encode(
        {
            "op": Operation.MESSAGE.value,
            "ts_ms": None if ts_us is None else ts_us // 1000,
            "source": {**(source or {}), "schema": "", "table": ""},
            "transaction": transaction,
            "message": {"prefix": prefix, "content": binascii.b2a_base64(content, newline=False).decode()},
        }
    )


def _columns(row: object) -> Iterable[tuple[str, object]]:
    if isinstance(row, Mapping):
        return cast("Mapping[str, object]", row).items()
    if is_row_type(type(row)):
        return ((column, getattr(row, name)) for name, column, _ in field_columns(type(row)))
    raise TypeError(f"a row is a dataclass, a msgspec struct or a mapping, not a {type(row).__name__}")


def _wire(value: object) -> object:
    if isinstance(value, Unchanged):
        return PLACEHOLDER
    if isinstance(value, (list, tuple)):
        return [_wire(item) for item in cast("Sequence[object]", value)]
    if _is_json(value):
        return _json_text(value)
    wire = write_scalar(value)
    if wire is NotImplemented:
        raise TypeError(f"a {type(value).__name__} has no wire form")
    return wire


def _is_json(value: object) -> bool:
    return isinstance(value, Mapping) or is_row_type(type(value))


def _json_text(value: object) -> str:
    # separators as PostgreSQL prints jsonb; json refuses NaN, which PostgreSQL's json does as well
    return json.dumps(
        msgspec.to_builtins(value), ensure_ascii=False, separators=(", ", ": "), allow_nan=False
    )
