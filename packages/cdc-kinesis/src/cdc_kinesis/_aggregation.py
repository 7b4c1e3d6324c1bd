"""Many rows in one Kinesis record: the Kinesis Producer Library's aggregated record format.

Four magic bytes, a protobuf message, and its MD5 (the KPL's `aggregation-format.md`). The message is

    repeated string partition_key_table = 1; repeated string explicit_hash_key_table = 2; repeated Record records = 3;
    Record: required uint64 partition_key_index = 1; optional uint64 explicit_hash_key_index = 2;
            required bytes data = 3; repeated Tag tags = 4;

Written and read by hand: that costs 0.4 us a row either way, protobuf's own classes three times as much (measured).
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from itertools import repeat
from typing import Final, Protocol, final

import msgspec

from ._row_heads import HEADS_TAG, RowHead, RowHeads, read_heads, write_heads

_MAGIC: Final = b"\xf3\x89\x9a\xc2"
_DIGEST_BYTES: Final = 16
_MAX_VARINT_BYTES: Final = 10
# Tags of the wire format: the field's number times 8, plus 2 for a length that bytes follow, 0 for a varint.
_PARTITION_KEY, _HASH_KEY, _RECORD = 0x0A, 0x12, 0x1A
# the tags of a row's partition key index, hash key index and data
_USUAL_ROW: Final = b"\x08\x10\x1a"
_BYTES: Final = 2
# A varint below it takes one byte.
_ONE_BYTE: Final = 0x80
# Longer rows than so many bytes are rare, and cost a microsecond more.
_TABLE_SIZE: Final = 2048
# What a row takes beside its data and a new partition key: two tags and lengths for each, and two indexes.
_ROW_OVERHEAD_BYTES: Final = 20
# What an aggregate takes without rows, with a hash key of 39 digits.
_EMPTY_BYTES: Final = len(_MAGIC) + _DIGEST_BYTES + 2 + 39


@final
class SubRecord(msgspec.Struct, frozen=True, gc=False):
    """One row of an aggregated record; its number in there, from 0, is its sub-sequence number.

    - `explicit_hash_key`: None where the partition key's MD5 decides.
    - `head`, `heads`: what the aggregate says of this row and of all, where a publisher of ours wrote it.
    """

    partition_key: str
    explicit_hash_key: str | None
    data: bytes
    head: RowHead | None = None
    heads: RowHeads | None = None


class AggregateRow(Protocol):
    """A row that goes into an aggregate.

    - `key`: its partition key in UTF-8; `head`: what `RowHeads` has of it, in JSON, or `null`; `shared`: the member of
      `RowHeads.shared` that the head names, or nothing.
    """

    @property
    def key(self) -> bytes: ...

    @property
    def data(self) -> bytes: ...

    @property
    def head(self) -> bytes: ...

    @property
    def shared(self) -> bytes: ...


def aggregate(
    rows: Iterable[AggregateRow], explicit_hash_key: str, *, bucket: int, max_bytes: int
) -> tuple[bytes, int]:
    """Return the data of an aggregated record, and how many of the rows are in it: as many as fit, one at least.

    Every row gets the one explicit hash key: the Kinesis Client Library drops a whole aggregate if one row's hash key
    is outside the shard's range (measured).
    """
    indexes: dict[bytes, int] = {}
    shared: dict[bytes, None] = {}
    heads: list[bytes] = []
    parts: list[bytes] = []
    size = _EMPTY_BYTES
    for row in rows:
        key, data, head = row.key, row.data, row.head
        length = len(data)
        size += length + len(key) + len(head) + _ROW_OVERHEAD_BYTES
        if row.shared not in shared:
            size += len(row.shared) + 1
            if size <= max_bytes or not heads:
                shared[row.shared] = None
        if size > max_bytes and heads:
            break
        heads.append(head)
        index = indexes.setdefault(key, len(indexes))
        if length < _TABLE_SIZE and index < _ONE_BYTE:
            parts += (_BEFORE_INDEX[length], _VARINTS[index], _BEHIND_INDEX[length], data)
        else:
            parts += _row_parts(index, b"", data)
    shared.pop(b"", None)
    if shared:
        tag = write_heads(bucket, shared, heads)
        inner = b"%b%b%b" % (_HEADS_TAG, _varint(len(tag)), tag)
        parts[:4] = _row_parts(0, b"\x22%b%b" % (_varint(len(inner)), inner), parts[3])
    head_parts = [b"\x0a%b%b" % (_varint(len(key)), key) for key in indexes]
    hash_key = explicit_hash_key.encode()
    head_parts.append(b"\x12%b%b" % (_varint(len(hash_key)), hash_key))
    message = b"".join(head_parts + parts)
    return b"".join((_MAGIC, message, hashlib.md5(message, usedforsecurity=False).digest())), len(heads)


def _row_parts(index: int, tag: bytes, data: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    inner = b"\x08%b\x10\x00" % _varint(index)
    length = b"\x1a%b" % _varint(len(data))
    # the tag stands before the data, so that the data is the last of a row's four parts, as elsewhere
    return b"\x1a" + _varint(len(inner) + len(tag) + len(length) + len(data)), inner + tag, length, data


@final
class Aggregate:
    """An aggregated record that is gathered row by row, whatever its size."""

    def __init__(self, explicit_hash_key: str) -> None:
        self._explicit_hash_key = explicit_hash_key
        self._rows: list[AggregateRow] = []

    def add(self, partition_key: bytes, data: bytes) -> None:
        """Add a row; its partition key in UTF-8."""
        self._rows.append(_GatheredRow(partition_key, data))

    def finish(self) -> bytes:
        """Return the record's data."""
        return aggregate(self._rows, self._explicit_hash_key, bucket=0, max_bytes=sys.maxsize)[0]


class _GatheredRow(msgspec.Struct, frozen=True, gc=False):
    key: bytes
    data: bytes
    head: bytes = b"null"
    shared: bytes = b""


def deaggregate(data: bytes) -> list[SubRecord] | None:
    """Return the rows of an aggregated record; None for a record that is none, or is damaged: then it is plain bytes.

    So it is to the Kinesis Client Library (measured).
    """
    if data[:4] != _MAGIC or len(data) <= len(_MAGIC) + _DIGEST_BYTES:
        return None
    message = data[4:-_DIGEST_BYTES]
    if hashlib.md5(message, usedforsecurity=False).digest() != data[-_DIGEST_BYTES:]:
        return None
    try:
        return _parse(message) or None
    except (IndexError, ValueError):  # UnicodeDecodeError is one
        return None


_Row = tuple[int, int | None, bytes]


def _parse(message: bytes) -> list[SubRecord]:
    keys: list[str] = []
    hash_keys: list[str] = []
    rows: list[_Row] = []
    tags: list[bytes] = []
    place, end = 0, len(message)
    while place < end:
        tag = message[place]
        if tag & 7 != _BYTES:
            place = _skipped(message, place)
            continue
        length, start = message[place + 1], place + 2
        if length >= _ONE_BYTE:
            length, start = _read_varint(message, place + 1)
        place = start + length
        if place > end:
            raise ValueError("a field is longer than its message")
        if tag == _RECORD:
            # the order in which everybody writes a row's fields, with indexes below 128; others cost a call
            key, hash_key, size = message[start + 1], message[start + 3], message[start + 5]
            if message[start : start + 5 : 2] == _USUAL_ROW and (key | hash_key) < _ONE_BYTE:
                start += 6
                if size >= _ONE_BYTE:
                    size, start = size - _ONE_BYTE + (message[start] << 7), start + 1
                if start + size == place:  # a longer size has another value here
                    rows.append((key, hash_key, message[start:place]))
                    continue
            rows.append(_any_row(message[place - length : place], tags))
        elif tag == _PARTITION_KEY:
            keys.append(message[start:place].decode())
        elif tag == _HASH_KEY:
            hash_keys.append(message[start:place].decode())
    # the tables may stand behind the rows that point into them: any order is protobuf
    heads = read_heads(tags[0], rows=len(rows)) if tags else None
    each = repeat(None) if heads is None else heads.heads
    return [
        SubRecord(keys[key], None if hash_key is None else hash_keys[hash_key], data, head, heads)
        for (key, hash_key, data), head in zip(rows, each, strict=False)
    ]


def _any_row(row: bytes, tags: list[bytes]) -> _Row:
    """Read a row with its fields in any order; its tag of ours goes to `tags`."""
    key: int | None = None
    hash_key: int | None = None
    data: bytes | None = None
    place = 0
    while place < len(row):
        match row[place]:
            case 0x08:
                key, place = _read_varint(row, place + 1)
            case 0x10:
                hash_key, place = _read_varint(row, place + 1)
            case 0x1A:
                data, place = _read_bytes(row, place + 1)
            case 0x22:
                tag, place = _read_bytes(row, place + 1)
                if tag.startswith(_HEADS_TAG):
                    tags.append(_read_bytes(tag, len(_HEADS_TAG))[0])
            case _:
                place = _skipped(row, place)
    if key is None or data is None or place != len(row):
        raise ValueError("a row without partition key or data")
    return key, hash_key, data


def _read_bytes(message: bytes, place: int) -> tuple[bytes, int]:
    length, start = _read_varint(message, place)
    return message[start : start + length], start + length


def _skipped(message: bytes, place: int) -> int:
    """Return the place behind a field that nobody asked for."""
    tag, place = _read_varint(message, place)
    match tag & 7:
        case 0:
            return _read_varint(message, place)[1]
        case 1:
            return place + 8
        case 2:
            length, start = _read_varint(message, place)
            return start + length
        case 5:
            return place + 4
        case _:
            raise ValueError(f"wire type {tag & 7}")


def _read_varint(message: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 7 * _MAX_VARINT_BYTES, 7):
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < _ONE_BYTE:
            return value, place
    raise ValueError("a number of more than ten bytes")


def _varint(value: int) -> bytes:
    written = bytearray()
    while value >= _ONE_BYTE:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


# The beginning of a tag of that name, up to its value's length.
_HEADS_TAG: Final = b"\x0a%b%b\x12" % (_varint(len(HEADS_TAG)), HEADS_TAG)
# What stands before and behind the index of a row's partition key, by the length of its data.
_VARINTS: Final = [_varint(value) for value in range(_ONE_BYTE)]
_BEFORE_INDEX: Final = [
    b"\x1a%b\x08" % _varint(length + 5 + len(_varint(length))) for length in range(_TABLE_SIZE)
]
_BEHIND_INDEX: Final = [b"\x10\x00\x1a%b" % _varint(length) for length in range(_TABLE_SIZE)]
