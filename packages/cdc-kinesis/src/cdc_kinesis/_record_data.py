"""An event as the data of one Kinesis record, and back.

The data is the Debezium envelope with one more member, `cdc`, as its last: a foreign reader sees an ordinary change
event, ours gets the key, the identity and the rest without decoding the envelope. `cdc` ends with its own size, in
fixed width, so that it is found from the end and the value comes out byte for byte.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final, final, overload

import msgspec

from cdc_core import (
    NO_HEADERS,
    ChangeIdentity,
    Epoch,
    Event,
    Headers,
    Identity,
    Lane,
    Operation,
    OutgoingEvent,
    Position,
    TableId,
    parse_identity,
)

# `,"size":"00000187"}}`, the number counting from the comma (or brace) before "cdc" to the end
_TAIL_BYTES: Final = 20
_SIZE: Final = slice(-11, -3)
_START: Final = b'"cdc":{'
_OPERATIONS: Final = {operation.value: operation for operation in Operation}


def encode_record(event: OutgoingEvent, *, bucket: int) -> bytes:
    """Return the data of an event's record; `bucket` is the one that its key belongs to."""
    identity = event.identity
    if isinstance(identity, ChangeIdentity):
        parts = [
            b'"cdc":{"epoch":%b,"lsn":%d,"ordinal":%d'
            % (_text(str(identity.epoch)), identity.commit_lsn, identity.ordinal)
        ]
        if identity.sub_index:
            parts.append(b',"sub":%d' % identity.sub_index)
    else:
        parts = [b'"cdc":{"id":%b' % _text(str(identity))]
    parts.append(b',"bucket":%d' % bucket)
    if event.op is not None:
        parts.append(b',"op":"%b"' % event.op.value.encode())
    if event.table is not None:
        parts.append(b',"schema":%b,"table":%b' % (_text(event.table.schema), _text(event.table.name)))
    if event.key is not None:
        parts.append(_key_member(b"key", event.key))
    if event.related_key is not None:
        parts.append(_key_member(b"related_key", event.related_key))
    if event.committed_at is not None:
        parts.append(b',"committed_at":%a' % event.committed_at)
    value = event.value
    if value is not None and len(value) > 2 and value.startswith(b"{") and value.endswith(b"}"):
        return _finished(value[:-1] + b",", parts)
    if value is not None:
        parts.append(b',"value64":"%b"' % b64encode(value))
    return _finished(b"{", parts)


def decode_record(
    data: bytes,
    *,
    partition_key: str,
    position: Position,
    lanes: Sequence[Lane],
    fence: int | None = None,
    delivery: int = 0,
) -> Event:
    """Return the event of a record; one that no publisher of ours wrote has its bytes as value, and no identity.

    - `lanes`: the lane of each bucket; a bucket beyond them has none.
    """
    meta = _meta_of(data)
    if meta is None:
        return Event(
            key=partition_key.encode(),
            value=data,
            op=None,
            table=None,
            position=position,
            fence=fence,
            delivery=delivery,
        )
    identity = _identity_of(meta)
    return Event(
        key=_key_of(meta.key, meta.key64),
        value=_value_of(data, meta),
        op=None if meta.op is None else _OPERATIONS.get(meta.op),
        table=None if meta.table is None else TableId(meta.schema, meta.table),
        position=position,
        identity=identity,
        lane=lanes[meta.bucket] if 0 <= meta.bucket < len(lanes) else None,
        headers=NO_HEADERS
        if identity is None
        else RoutingHeaders(identity, meta.op, meta.schema, meta.table),
        related_key=_key_of(meta.related_key, meta.related_key64),
        committed_at=meta.committed_at,
        fence=fence,
        delivery=delivery,
    )


@final
class RoutingHeaders(Sequence[tuple[str, bytes | None]]):
    """The headers that an `OutgoingEvent` has, made when somebody looks at them."""

    __slots__ = ("_identity", "_op", "_schema", "_table")

    def __init__(self, identity: Identity, op: str | None, schema: str, table: str | None) -> None:
        self._identity, self._op, self._schema, self._table = identity, op, schema, table

    def __iter__(self) -> Iterator[tuple[str, bytes | None]]:
        return iter(self._made())

    def __len__(self) -> int:
        return len(self._made())

    @overload
    def __getitem__(self, index: int, /) -> tuple[str, bytes | None]: ...
    @overload
    def __getitem__(self, index: slice, /) -> Headers: ...
    def __getitem__(self, index: int | slice, /) -> tuple[str, bytes | None] | Headers:
        return self._made()[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._made() == list(other)  # pyright: ignore[reportUnknownArgumentType]

    def __hash__(self) -> int:
        return hash(tuple(self._made()))

    def _made(self) -> list[tuple[str, bytes | None]]:
        named: list[tuple[str, bytes | None]] = [("cdc-id", str(self._identity).encode())]
        if self._op is not None:
            named.append(("cdc-op", self._op.encode()))
        if self._table is not None:
            named += [("cdc-schema", self._schema.encode()), ("cdc-table", self._table.encode())]
        return named


_ABSENT: Final = msgspec.Raw()  # msgspec takes no union with Raw


class _Meta(msgspec.Struct, gc=False):
    bucket: int
    size: str
    epoch: str | None = None
    lsn: int = 0
    ordinal: int = 0
    sub: int = 0
    id: str | None = None
    op: str | None = None
    schema: str = ""
    table: str | None = None
    key: msgspec.Raw = _ABSENT
    key64: str | None = None
    related_key: msgspec.Raw = _ABSENT
    related_key64: str | None = None
    committed_at: float | None = None
    value64: str | None = None


_decode_meta: Final = msgspec.json.Decoder(_Meta).decode
_text: Final = msgspec.json.Encoder().encode


def _key_member(name: bytes, key: bytes) -> bytes:
    if key.startswith(b"{") and key.endswith(b"}"):
        return b',"%b":%b' % (name, key)
    return b',"%b64":"%b"' % (name, b64encode(key))


def _finished(before: bytes, parts: list[bytes]) -> bytes:
    member = b"".join(parts)
    return b'%b%b,"size":"%08d"}}' % (before, member, 1 + len(member) + _TAIL_BYTES)


def _meta_of(data: bytes) -> _Meta | None:
    size = data[_SIZE]
    if not (data.endswith(b'"}}') and size.isdigit() and (start := len(data) - int(size)) >= 0):
        return None
    if data[start + 1 : start + 1 + len(_START)] != _START:
        return None
    try:
        meta = _decode_meta(data[start + 7 : -1])
        if meta.epoch is not None:
            _epoch(meta.epoch)
    except (msgspec.DecodeError, ValueError):
        return None
    return meta


def _value_of(data: bytes, meta: _Meta) -> bytes | None:
    start = len(data) - int(meta.size)
    if start == 0:
        return None if meta.value64 is None else b64decode(meta.value64)
    return data[:start] + b"}"


def _key_of(raw: msgspec.Raw, encoded: str | None) -> bytes | None:
    if raw is not _ABSENT:
        return bytes(raw)
    return None if encoded is None else b64decode(encoded)


def _identity_of(meta: _Meta) -> Identity | None:
    if meta.epoch is not None:
        return ChangeIdentity(_epoch(meta.epoch), meta.lsn, meta.ordinal, meta.sub)
    if meta.id is None:
        return None
    try:
        return parse_identity(meta.id)
    except ValueError:
        return None


@lru_cache(maxsize=64)
def _epoch(text: str) -> Epoch:
    system_id, timeline, slot, fingerprint = text.split(":", 3)
    return Epoch(system_id, int(timeline), slot, fingerprint)
