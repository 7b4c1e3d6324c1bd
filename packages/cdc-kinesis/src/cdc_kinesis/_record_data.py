"""An event as the data of one Kinesis record, and back.

The data is the Debezium envelope with one more member, `cdc`, as its last: a foreign reader sees an ordinary change
event, ours gets the key, the identity and the rest without decoding the envelope. `cdc` ends with its own size, in
fixed width, so that it is found from the end and the value comes out byte for byte:

    {…,"cdc":[commit_lsn,ordinal,sub_index,bucket,committed_at,key,related_key,"op/schema/table/epoch","00000132"]}

A key that is no JSON object is a string in base64, and so is a related key always. A value that is none stands in
`cdc`, in base64, before the size, and the envelope has no other member. An identity that is no change's stands where
the LSN would be, as its text.
"""

from __future__ import annotations

import sys
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol, cast, final, overload
from urllib.parse import unquote

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

from ._row_heads import RowHead, RowHeads

# `,"00000132"]}`, the number counting from the comma (or brace) before "cdc" to the end
_TAIL_BYTES: Final = 13
_OPEN, _CLOSE = b"{}"
_SIZE: Final = slice(-11, -3)
_START: Final = b'"cdc":['
_OPERATIONS: Final = {operation.value: operation for operation in Operation}
_LSN_END: Final = 1 << 64
# Tables times operations; a stream that holds more pays for decoding them again.
_MAX_CACHED: Final = 4096


@final
class RecordEncoder:
    """Writes events as record data. It remembers what the rows of a table share: that is most of the work.

    0.7 us a row, against 4 us when each member is formatted anew (measured).
    """

    def __init__(self) -> None:
        # by the addresses of epoch, table and operation (comparing them would cost more than all the rest); the
        # entry holds them, so that no other object can come to have their addresses
        self._cache: dict[tuple[int, int, int], tuple[SharedPart, object, object, object]] = {}
        self._numbered = 0
        self._epoch: Epoch | None = None
        self._table: TableId | None = None
        self._op: Operation | None = None
        self._shared: SharedPart | None = None

    def describe(self, event: OutgoingEvent) -> tuple[bytes, SharedPart] | None:
        """Return what an aggregate says of an event, whose value goes into it as it is; None for an unusual one.

        The first part is the JSON of a `RowHead`.
        """
        identity, op = event.identity, event.op
        if not isinstance(identity, ChangeIdentity) or event.related_key is not None or event.value is None:
            return None
        epoch, table = identity.epoch, event.table
        if epoch is self._epoch and table is self._table and op is self._op and self._shared is not None:
            shared = self._shared
        else:
            shared = self._look_up(epoch, table, op)
        return _encode(
            (identity.commit_lsn, identity.ordinal, identity.sub_index, event.committed_at, shared.number)
        ), shared

    def encode(self, event: OutgoingEvent, bucket: int) -> bytes:
        """Return the data of an event's record; `bucket` is the one that its key belongs to."""
        identity = event.identity
        if isinstance(identity, ChangeIdentity):
            epoch: Epoch | None = identity.epoch
            head = _encode(
                (identity.commit_lsn, identity.ordinal, identity.sub_index, bucket, event.committed_at)
            )
        else:
            epoch = None
            head = _encode((str(identity), 0, 0, bucket, event.committed_at))
        table, op = event.table, event.op
        if epoch is self._epoch and table is self._table and op is self._op and self._shared is not None:
            shared = self._shared.text
        else:
            shared = self._look_up(epoch, table, op).text
        key, value = event.key, event.value
        if not key or key[0] != _OPEN or key[-1] != _CLOSE:
            key = _in_base64(key)
        related_key = _NO_RELATED_KEY if event.related_key is None else _related_key(event.related_key)
        size = len(head) + len(key) + len(related_key) + len(shared) + _FIXED_BYTES
        if value is not None and len(value) > 2 and value[0] == _OPEN and value[-1] == _CLOSE:
            tail = _TAILS[size] if size < _TAIL_COUNT else b',"%08d"]}' % size
            return b"".join((value[:-1], b',"cdc":', head[:-1], b",", key, related_key, shared, tail))
        other = _in_base64(value)
        size += 1 + len(other)
        return b'{"cdc":%b,%b%b%b,%b,"%08d"]}' % (head[:-1], key, related_key, shared, other, size)

    def _look_up(self, epoch: Epoch | None, table: TableId | None, op: Operation | None) -> SharedPart:
        address = (id(epoch), id(table), id(op))
        cached = self._cache.get(address)
        if cached is None:
            if len(self._cache) >= _MAX_CACHED:
                self._cache.clear()
            names = ("", "") if table is None else (_quoted(table.schema), _quoted(table.name))
            text = _encode("/".join((op or "", *names, "" if epoch is None else str(epoch))))
            shared = SharedPart(self._numbered, text, b'"%d":%b' % (self._numbered, text))
            self._numbered += 1
            cached = self._cache[address] = (shared, epoch, table, op)
        self._epoch, self._table, self._op, self._shared = epoch, table, op, cached[0]
        return cached[0]


@final
class SharedPart(msgspec.Struct, frozen=True, gc=False):
    """What the rows of a table share: `op/schema/table/epoch`.

    - `number`: never another's with the same encoder; `text`: in JSON; `member`: of `RowHeads.shared`, in JSON.
    """

    number: int
    text: bytes
    member: bytes


@final
class RecordDecoder:
    """Reads events from record data.

    - `lanes`: the lane of each bucket; an event of a bucket beyond them has none.
    """

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._lanes = lanes
        self._bucket_count = len(lanes)
        self._cache: dict[str, _Shared] = {}

    def decode(
        self, data: bytes, partition_key: str, position: Position, fence: int | None = None, delivery: int = 0
    ) -> Event:
        """Return the event of a record; one that no publisher of ours wrote has its bytes as value, no identity."""
        try:
            start = len(data) - int(data[_SIZE])
            if data[start + 1 : start + 8] != _START or data[-2:] != b"]}" or start < 0:
                return _foreign(data, partition_key, position, fence, delivery)
            identity: Identity | None
            meta = (_decode_row if start else _decode_bare)(data[start + 7 : -1])
            shared = self._cache.get(meta.shared) or self._read(meta.shared)
            if isinstance(meta.commit_lsn, str):
                identity = _parsed(meta.commit_lsn)
            elif shared.epoch is None or not _can_be(meta):
                return _foreign(data, partition_key, position, fence, delivery)
            else:
                identity = ChangeIdentity(shared.epoch, meta.commit_lsn, meta.ordinal, meta.sub_index)
            value = data[:start] + b"}" if start else _bare_value(meta)
            raw_key = bytes(meta.key)
            key = raw_key if raw_key[:1] == b"{" else _key_of(raw_key)
            related_key = None if meta.related_key is None else b64decode(meta.related_key)
            bucket = meta.bucket
        except (msgspec.DecodeError, ValueError, RecursionError):  # the last of brackets by the thousand
            return _foreign(data, partition_key, position, fence, delivery)
        return Event(
            key=key,
            value=value,
            op=shared.op,
            table=shared.table,
            position=position,
            identity=identity,
            lane=self._lanes[bucket] if 0 <= bucket < self._bucket_count else None,
            headers=NO_HEADERS if identity is None else _make_headers(identity, shared.named),
            related_key=related_key,
            committed_at=meta.committed_at,
            fence=fence,
            delivery=delivery,
        )

    def decode_row(
        self, row: AggregatedRow, position: Position, fence: int | None = None, delivery: int = 0
    ) -> Event:
        """Return the event of a row of an aggregated record, or of a record that is none."""
        head, heads = row.head, row.heads
        text = None if head is None or heads is None else heads.shared.get(head.shared)
        if text is None or head is None or heads is None:
            return self.decode(row.data, row.partition_key, position, fence, delivery)
        try:
            shared = self._cache.get(text) or self._read(text)
        except ValueError:
            return _foreign(row.data, row.partition_key, position, fence, delivery)
        if shared.epoch is None:
            return _foreign(row.data, row.partition_key, position, fence, delivery)
        identity = ChangeIdentity(shared.epoch, head.commit_lsn, head.ordinal, head.sub_index)
        return Event(
            key=row.partition_key.encode(),
            value=row.data,
            op=shared.op,
            table=shared.table,
            position=position,
            identity=identity,
            lane=self._lanes[heads.bucket] if 0 <= heads.bucket < self._bucket_count else None,
            headers=_make_headers(identity, shared.named),
            committed_at=head.committed_at,
            fence=fence,
            delivery=delivery,
        )

    def _read(self, text: str) -> _Shared:
        if len(self._cache) >= _MAX_CACHED:
            self._cache.clear()
        op, schema, table, epoch = text.split("/", 3)
        named: list[tuple[str, bytes | None]] = []
        table_id = None
        if op:
            named.append(("cdc-op", op.encode()))
        if table:
            table_id = TableId(unquote(schema), unquote(table))
            named += [("cdc-schema", table_id.schema.encode()), ("cdc-table", table_id.name.encode())]
        shared = self._cache[text] = _Shared(
            _OPERATIONS.get(op), table_id, _parsed_epoch(epoch) if epoch else None, tuple(named)
        )
        return shared


class AggregatedRow(Protocol):
    """A row of an aggregated record, as `SubRecord`."""

    @property
    def partition_key(self) -> str: ...

    @property
    def data(self) -> bytes: ...

    @property
    def head(self) -> RowHead | None: ...

    @property
    def heads(self) -> RowHeads | None: ...


def encode_record(event: OutgoingEvent, *, bucket: int) -> bytes:
    """Return the data of one event's record; for more than a few, `RecordEncoder` is several times cheaper."""
    return RecordEncoder().encode(event, bucket)


def decode_record(
    data: bytes,
    *,
    partition_key: str,
    position: Position,
    lanes: Sequence[Lane],
    fence: int | None = None,
    delivery: int = 0,
) -> Event:
    """Return the event of one record; for more than a few, `RecordDecoder` is several times cheaper."""
    return RecordDecoder(lanes).decode(data, partition_key, position, fence, delivery)


_Named = tuple[tuple[str, bytes | None], ...]


@final
class RoutingHeaders(msgspec.Struct, frozen=True, gc=False, eq=False):
    """The headers that an `OutgoingEvent` has, made when somebody looks at them: a sequence of names and values.

    A struct, since it costs a quarter of another object, and every event has one.
    """

    identity: Identity
    named: _Named

    def __iter__(self) -> Iterator[tuple[str, bytes | None]]:
        return iter(self._made())

    def __len__(self) -> int:
        return 1 + len(self.named)

    @overload
    def __getitem__(self, index: int, /) -> tuple[str, bytes | None]: ...
    @overload
    def __getitem__(self, index: slice, /) -> _Named: ...
    def __getitem__(self, index: int | slice, /) -> tuple[str, bytes | None] | _Named:
        return self._made()[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self._made()) == list(other)  # pyright: ignore[reportUnknownArgumentType]

    def __hash__(self) -> int:
        return hash(self._made())

    def index(self, value: object, start: int = 0, stop: int = sys.maxsize) -> int:
        """Return the place of a header; ValueError where there is none."""
        return self._made().index(value, start, stop)

    def count(self, value: object) -> int:
        """Return how often a header is there."""
        return self._made().count(value)

    def _made(self) -> _Named:
        return (("cdc-id", str(self.identity).encode()), *self.named)


Sequence.register(RoutingHeaders)  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]
# a struct cannot inherit from Sequence (their metaclasses differ), and a cast at each call would cost as much as it
_make_headers: Final = cast("Callable[[Identity, _Named], Headers]", RoutingHeaders)


class _Shared(msgspec.Struct, frozen=True):
    op: Operation | None
    table: TableId | None
    epoch: Epoch | None
    named: _Named


class _Row(msgspec.Struct, array_like=True, gc=False):
    commit_lsn: int | str
    ordinal: int
    sub_index: int
    bucket: int
    committed_at: float | None
    key: msgspec.Raw
    related_key: str | None
    shared: str


class _Bare(_Row, array_like=True, gc=False):
    value: str | None


_encode: Final = msgspec.json.Encoder().encode
_decode_row: Final = msgspec.json.Decoder(_Row).decode
_decode_bare: Final = msgspec.json.Decoder(_Bare).decode
_decode_text: Final = msgspec.json.Decoder(str).decode
_NO_RELATED_KEY: Final = b",null,"
# the comma (or brace) and `"cdc":` before the head, whose bracket is the head's, and the comma in place of its end
_FIXED_BYTES: Final = 1 + len(_START) - 1 + _TAIL_BYTES
_TAIL_COUNT: Final = 1024
_TAILS: Final = [b',"%08d"]}' % size for size in range(_TAIL_COUNT)]


def _foreign(data: bytes, partition_key: str, position: Position, fence: int | None, delivery: int) -> Event:
    return Event(
        key=partition_key.encode(),
        value=data,
        op=None,
        table=None,
        position=position,
        fence=fence,
        delivery=delivery,
    )


def _in_base64(data: bytes | None) -> bytes:
    return b"null" if data is None else b'"%b"' % b64encode(data)


def _related_key(key: bytes) -> bytes:
    return b',"%b",' % b64encode(key)


def _quoted(name: str) -> str:
    return name.replace("%", "%25").replace("/", "%2F")


def _key_of(raw: bytes) -> bytes | None:
    return None if raw == b"null" else b64decode(_decode_text(raw))


def _bare_value(meta: _Row) -> bytes | None:
    encoded = meta.value if isinstance(meta, _Bare) else None
    return None if encoded is None else b64decode(encoded)


def _parsed(text: str) -> Identity | None:
    try:
        return parse_identity(text)
    except ValueError:
        return None


def _can_be(meta: _Row) -> bool:
    """Say whether the numbers are an identity's; others could not be read back from a dead letter."""
    return (
        isinstance(meta.commit_lsn, int)
        and 0 <= meta.commit_lsn < _LSN_END
        and meta.ordinal >= 0
        and meta.sub_index >= 0
    )


def _parsed_epoch(text: str) -> Epoch:
    first = parse_identity(f"{text}:0/0:0.0")  # raises ValueError where no epoch prints so
    if not isinstance(first, ChangeIdentity):
        raise ValueError(f"not an epoch: {text[:80]!r}")
    return first.epoch
