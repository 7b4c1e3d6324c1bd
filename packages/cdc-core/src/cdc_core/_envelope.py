"""The Debezium JSON change event as Python objects: decoded when asked for, with no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Generic, Literal, TypeVar, cast, final

import msgspec

from ._errors import EnvelopeError
from ._events import Event, Operation, TableId
from ._position import Identity
from ._rows import RowReader, read_key
from ._unchanged import may_hold_placeholder, put_unchanged

Row = Mapping[str, object]
"""A row whose columns are in their wire forms, by name; an unsent value is `UNCHANGED`. Not to be changed."""

R = TypeVar("R", covariant=True)
K = TypeVar("K")
T = TypeVar("T")

ReplicaIdentity = Literal["default", "full", "index", "nothing"]
"""What the server sends of an old row: the primary key, the whole row, an index's columns, or nothing."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@final
class SourceInfo(
    msgspec.Struct, frozen=True, kw_only=True, gc=False, rename={"database": "db", "xid": "txId"}
):
    """The `source` of an envelope; a field that its writer did not give is None.

    - `schema`, `table`, `database`: where the row lives; empty for a logical message's table.
    - `lsn`: the start LSN of the change; `commit_lsn` and `ordinal`: its identity, from our own reader only.
    - `xid`: the database transaction's id; `ts_ms`, `ts_us`: its commit time (of a snapshot row: when it was read).
    - `snapshot`: `"false"` or None for a change, else how far the snapshot is (`"true"`, `"last"`, `"incremental"`).
    - `replica_identity`: what the server sent of old rows, from our own reader only.
    - `version`, `connector`, `name`, `sequence`, `origin`, `origin_lsn`: as Debezium means them.
    """

    schema: str = ""
    table: str = ""
    database: str = ""
    version: str | None = None
    connector: str | None = None
    name: str | None = None
    lsn: int | None = None
    commit_lsn: int | None = None
    ordinal: int | None = None
    xid: int | None = None
    ts_ms: int | None = None
    ts_us: int | None = None
    snapshot: str | None = None
    sequence: str | None = None
    origin: str | None = None
    origin_lsn: int | None = None
    replica_identity: ReplicaIdentity | None = None

    @property
    def ts(self) -> datetime | None:
        """The commit time, aware, UTC; None where it is not given.

        Raises:
            EnvelopeError: Python's datetime cannot hold it.
        """
        return moment(self.ts_us, self.ts_ms)

    @property
    def is_snapshot(self) -> bool:
        """Whether the row was read by a snapshot, initial or incremental."""
        return self.snapshot not in (None, "false")


@final
class TransactionInfo(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The `transaction` of an envelope.

    - `id`: one for all events of a transaction from our reader; from Debezium it differs per event: there the
      transaction is the part before the colon.
    - `total_order`, `data_collection_order`: the event's number in its transaction, and in that of its table's.
    """

    id: str
    total_order: int | None = None
    data_collection_order: int | None = None


@final
class KeyOnly(msgspec.Struct, frozen=True):
    """The `before` of a change whose server did not send the whole old row: the columns that are real, no others.

    - `columns`: those columns in their wire forms.
    """

    columns: Row


@final
class Change(msgspec.Struct, Generic[R], frozen=True, kw_only=True):
    """What an event says, decoded: a row was created, updated, deleted or read, or its table truncated.

    - `op`: which of these; a truncate has neither row, and so has a logical message (see `MessagePrefix`).
    - `after`: the new row; None for delete and truncate.
    - `before`: the old row, where the event says that the whole of it was sent (REPLICA IDENTITY FULL, read by our
      reader). Otherwise None, or a `KeyOnly` of what is real: with our reader the columns that are not null, since
      it sends null for each one that it was not given and a replica identity's columns cannot be null; with
      Debezium the event's key, since it fills the other columns with inventions that look like data.
    - `source`, `transaction`: where it comes from.
    - `ts_us`: when the envelope was written, in microseconds since 1970; the commit time is `source.ts`.
    - `event`: the delivery that it was decoded from.
    """

    op: Operation
    source: SourceInfo
    event: Event
    before: R | KeyOnly | None = None
    after: R | None = None
    transaction: TransactionInfo | None = None
    ts_us: int | None = None

    @property
    def identity(self) -> Identity | None:
        """The change's identity, the same on every repeat; None where nothing sure can be said."""
        return self.event.identity

    @property
    def table(self) -> TableId:
        """The table that the envelope names."""
        return TableId(self.source.schema, self.source.table)

    @property
    def ts(self) -> datetime | None:
        """When the envelope was written, aware, UTC; None where it is not given.

        Raises:
            EnvelopeError: Python's datetime cannot hold it.
        """
        return moment(self.ts_us, None)

    @property
    def key(self) -> Row | None:
        """The event's key in its wire forms, decoded anew by each access; None where the row has no key.

        Raises:
            EnvelopeError: the key is not a JSON object.
        """
        return decode_key(self.event)

    def key_as(self, key_type: type[K], /) -> K:
        """Return the key as `key_type`.

        - `key_type`: for a key of one column that column's type (`int`); for a composite one `tuple[int, str]` in the
          key's order, or a dataclass or msgspec struct with the columns' names (also for one column).

        Raises:
            EnvelopeError: the event has no key, or it is not a JSON object.
            RowError: the key is of another shape or type.
            ConfigError: rows cannot be read as `key_type`.
        """
        key = decode_key(self.event)
        if key is None:
            raise EnvelopeError(
                "the event has no key",
                where={"table": self.table},
                remedy="give the table a primary key, or read the key from the row",
            )
        return read_key(key_type, key, where=self.table)


class _Envelope(msgspec.Struct, frozen=True, kw_only=True):
    op: Operation
    source: SourceInfo
    before: dict[str, object] | None = None
    after: dict[str, object] | None = None
    transaction: TransactionInfo | None = None
    ts_ms: int | None = None
    ts_us: int | None = None


class _Place(msgspec.Struct, frozen=True, kw_only=True):
    schema: str = ""
    table: str = ""


class _Routing(msgspec.Struct, frozen=True, kw_only=True):
    op: Operation
    source: _Place


_ENVELOPE = msgspec.json.Decoder(_Envelope)
_ROUTING = msgspec.json.Decoder(_Routing)
_KEY = msgspec.json.Decoder(dict[str, object])
_WITH_AFTER = frozenset({Operation.CREATE, Operation.UPDATE, Operation.READ})


def decode_change(event: Event) -> Change[Row]:
    """Decode an event's envelope; its rows stay in their wire forms.

    Raises:
        EnvelopeError: the bytes are not the envelope they should be, or the event is a tombstone.
    """
    envelope = _open(event)
    return Change(
        op=envelope.op,
        source=envelope.source,
        event=event,
        before=cast("Row | None", envelope.before) if _is_whole(envelope) else _key_only(envelope, event),
        after=envelope.after,
        transaction=envelope.transaction,
        ts_us=_microseconds(envelope),
    )


def decode_typed_change(event: Event, rows: RowReader[T]) -> Change[T]:
    """Decode an event's envelope, its rows as the row type of `rows`.

    Raises:
        EnvelopeError: as `decode_change`.
        RowError: a row does not fit the row type.
    """
    envelope = _open(event)
    after, before = envelope.after, envelope.before
    return Change(
        op=envelope.op,
        source=envelope.source,
        event=event,
        before=(
            (None if before is None else rows.read(before))
            if before is None or _is_whole(envelope)
            else _key_only(envelope, event)
        ),
        after=None if after is None else rows.read(after),
        transaction=envelope.transaction,
        ts_us=_microseconds(envelope),
    )


def decode_routing(event: Event) -> tuple[Operation | None, TableId | None]:
    """Return what happened and to which table, as the event says or else as its envelope does.

    A tombstone that does not say its table yields (None, None). The rows are skipped, not decoded.

    Raises:
        EnvelopeError: the bytes are not the envelope they should be.
    """
    op, table = event.op, event.table
    if event.value is None or (op is not None and (table is not None or op is Operation.MESSAGE)):
        return op, table
    routing = decode_json(_ROUTING, event.value, "envelope", event)
    if routing.op is Operation.MESSAGE:
        return routing.op, None
    return routing.op, TableId(routing.source.schema, routing.source.table)


def decode_key(event: Event) -> dict[str, object] | None:
    """Return an event's key by column, in wire forms; None where it has none.

    Raises:
        EnvelopeError: the key is not a JSON object.
    """
    return None if event.key is None else decode_json(_KEY, event.key, "key", event)


def decode_json(decoder: msgspec.json.Decoder[T], data: bytes, what: str, event: Event) -> T:
    """Decode JSON bytes of an event; `what` names them in the error.

    Integers of any size stay exact; a number that a float cannot hold (1e400) is refused, never made infinite.

    Raises:
        EnvelopeError: the bytes are malformed or of another shape.
    """
    try:
        return decoder.decode(data)
    # RecursionError: msgspec nests on the C stack's budget, and a key or value may be nested without end
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _malformed(error, data, what, event) from error


def _open(event: Event) -> _Envelope:
    value = event.value
    if value is None:
        raise EnvelopeError(
            "a tombstone has no envelope", where=_where(event), remedy="look at event.is_tombstone first"
        )
    envelope = decode_json(_ENVELOPE, value, "envelope", event)
    if envelope.after is None and envelope.op in _WITH_AFTER:
        raise EnvelopeError(
            f"the envelope's op is {envelope.op.value!r} and its after is null", where=_where(event)
        )
    if may_hold_placeholder(value):
        for row in (envelope.before, envelope.after):
            if row is not None:
                put_unchanged(row)
    return envelope


def _is_whole(envelope: _Envelope) -> bool:
    return envelope.source.replica_identity == "full"


def _key_only(envelope: _Envelope, event: Event) -> KeyOnly | None:
    if envelope.before is None:
        return None
    if envelope.source.replica_identity is None:
        return KeyOnly(decode_key(event) or {})
    return KeyOnly({name: value for name, value in envelope.before.items() if value is not None})


def _microseconds(envelope: _Envelope) -> int | None:
    if envelope.ts_us is not None:
        return envelope.ts_us
    return None if envelope.ts_ms is None else envelope.ts_ms * 1000


def moment(us: int | None, ms: int | None) -> datetime | None:
    """Return a point in time, aware, UTC, from microseconds or else milliseconds since 1970.

    Raises:
        EnvelopeError: Python's datetime cannot hold it.
    """
    if us is None:
        if ms is None:
            return None
        us = ms * 1000
    try:
        return _EPOCH + timedelta(microseconds=us)
    except OverflowError:
        raise EnvelopeError(f"{us} microseconds since 1970 are no time that Python can hold") from None


def _where(event: Event) -> dict[str, object]:
    where: dict[str, object] = {"position": event.position}
    if event.table is not None:
        where["table"] = event.table
    return where


def _malformed(error: Exception, data: bytes, what: str, event: Event) -> EnvelopeError:
    remedy = ""
    if what == "envelope" and b'"schema"' in data[:16] and b'"payload"' in data:
        remedy = "set value.converter.schemas.enable=false on the connector"
    # UnicodeDecodeError and ValidationError of these types name a place and a type, never a value, but for an
    # enum's member: op, one letter
    reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    return EnvelopeError(
        f"the {what} is not what it should be: {reason[:300]}", where=_where(event), remedy=remedy
    )
