"""pgoutput messages of one replication connection, in; events with their identities and envelopes, out. No I/O.

The envelope is Debezium's, written straight from the tuple's bytes: no dict, no object for a column. What each field
holds, and where ours differs from Debezium's, is listed in docs/envelope.md.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Sequence
from typing import Final, Generic, Protocol, TypeVar, final

from cdc_core import ChangeIdentity, Epoch, Operation, SourceError, TableId
from cdc_pgoutput import Decoder, Lsn, Message, PgOutputError, Relation, Truncate

from ._confirm import ConfirmTracker
from ._relations import Origin, RelationState, source_constants, source_parts

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# The frame: 'w', the change's LSN, the server's WAL end, its time; then pgoutput's message.
# https://www.postgresql.org/docs/current/protocol-replication.html
_HEADER_BYTES: Final = 25
_TUPLE_AT: Final = _HEADER_BYTES + 5  # behind the tag and the relation id: the byte that announces the first tuple
_KEEPALIVE: Final = ord("k")
_BEGIN, _COMMIT, _INSERT, _UPDATE, _DELETE = b"BCIUD"
_RELATION, _TRUNCATE, _MESSAGE, _ORIGIN = b"RTMO"
_u32 = struct.Struct("!I").unpack_from
_u64 = struct.Struct("!Q").unpack_from
_begin = struct.Struct("!QqI").unpack_from  # commit LSN, commit time, xid
_commit = struct.Struct("!BQQq").unpack_from  # flags, commit LSN, end LSN, commit time
_POSTGRES_EPOCH_US: Final = 946_684_800_000_000


class MakeEvent(Protocol[T_co]):
    """Makes the event of its parts: an `Event` for a partition stream, an `OutgoingEvent` for a publisher."""

    def __call__(
        self,
        *,
        key: bytes | None,
        value: bytes,
        op: Operation,
        table: TableId | None,
        identity: ChangeIdentity,
        related_key: bytes | None,
        committed_at: float,
        delivery: int,
    ) -> T_co: ...


@final
class ChangeBuilder(Generic[T]):
    """Builds the events of one replication connection, protocol 1: whole transactions in commit order.

    - `tracker`: told of every Begin, event and Commit in their order.
    - `make`: makes one event.
    - `message_keys`: prefix of a logical message to the member of its JSON content that is its key.
    - `now_us`: the time of processing in microseconds since 1970, for the outer `ts_*`.
    - `mark_end`: marks the last event of a transaction; the last one made is then held until the next frame tells.

    `feed` consumes frames until it meets a relation that is not resolved; the caller resolves it and feeds the rest.
    """

    def __init__(
        self,
        *,
        epoch: Epoch,
        origin: Origin,
        decoder: Decoder,
        tracker: ConfirmTracker,
        make: MakeEvent[T],
        message_keys: dict[str, str],
        now_us: Callable[[], int],
        mark_end: Callable[[T], T] | None = None,
    ) -> None:
        self._epoch = epoch
        self._decoder = decoder
        self._tracker = tracker
        self._make = make
        self._message_keys = message_keys
        self._now_us = now_us
        self._mark_end = mark_end
        self._message_constants = source_constants(origin, None)
        self.events: list[T] = []
        self.payload_bytes = 0
        self.reply_requested = False
        self._delivered = 0  # the number of the next delivery
        self._undelivered = 0  # events made and not yet numbered by the tracker
        self._relations: dict[int, RelationState] = {}
        self._transaction = _Transaction()
        self._last_end_lsn: int | None = None
        self._outer_times = ""
        self._rows = {_INSERT: self._insert, _UPDATE: self._update, _DELETE: self._delete}

    @property
    def in_transaction(self) -> bool:
        """Whether a Begin came without its Commit."""
        return self._transaction.open

    def take(self) -> list[T]:
        """Return the events made since the last call."""
        events, self.events = self.events, []
        self.payload_bytes = 0
        if self._mark_end is not None and self._transaction.open and events:
            self.events.append(events.pop())
        return events

    def resolve(self, relation: Relation, state: RelationState) -> None:
        """Put a relation's resolved state in force."""
        self._relations[relation.relation_id] = state
        self._transaction.parts.pop(relation.relation_id, None)

    def feed(self, frames: Sequence[bytes], start: int = 0) -> tuple[int, Relation | None]:
        """Consume frames from `start` on; return the next one's index, and the relation to resolve first, if any.

        Raises:
            SourceError: the bytes are not what the protocol says; names what, where and at which LSN.
        """
        now = self._now_us()
        self._outer_times = f'"ts_ms":{now // 1000},"ts_us":{now},"ts_ns":{now}000}}'
        index = start
        try:
            for index in range(start, len(frames)):
                frame = frames[index]
                if frame[0] == _KEEPALIVE:
                    self._number_events()
                    self._tracker.wal_end(Lsn(_u64(frame, 1)[0]))
                    self.reply_requested = self.reply_requested or frame[17] == 1
                    continue
                build = self._rows.get(frame[_HEADER_BYTES])
                if build is not None:
                    self._row(frame, build)
                elif (relation := self._control(frame)) is not None:
                    return index + 1, relation
        except (PgOutputError, struct.error, IndexError) as error:
            raise self._broken(frames[index], error) from error
        self._number_events()
        return len(frames), None

    def _row(self, frame: bytes, build: _BuildRow) -> None:
        transaction = self._transaction
        relation_id = _u32(frame, _HEADER_BYTES + 1)[0]
        state = self._relations.get(relation_id)
        if state is None or not transaction.open:
            self._decoder.decode(frame[_HEADER_BYTES:])  # says what is wrong with an unannounced relation
            raise SourceError("a row came outside of a transaction")
        ordinal = transaction.ordinal
        transaction.ordinal = ordinal + 1  # before any filter of ours: the number is the same on every repeat
        if state.ignored:
            return
        parts = transaction.parts.get(relation_id)
        if parts is None:
            parts = transaction.parts[relation_id] = _RelationParts(
                *state.source_parts(transaction.commit_time_us, transaction.xid, self._last_end_lsn)
            )
        lsn = _u64(frame, 1)[0]
        source = (
            f"{parts.head}{lsn}{parts.middle}{lsn}{transaction.origin}{ordinal}{state.source_tail}"
        )
        build(frame, state, parts, source, ordinal)

    def _insert(
        self, frame: bytes, state: RelationState, parts: _RelationParts, source: str, ordinal: int
    ) -> None:
        after, key = state.codec.insert(frame, _TUPLE_AT)
        value = f'{{"before":null,"after":{after},"source":{source}{self._place(parts)},"op":"c",{self._outer_times}'
        self._emit(Operation.CREATE, state.table, key, value, ordinal)

    def _update(
        self, frame: bytes, state: RelationState, parts: _RelationParts, source: str, ordinal: int
    ) -> None:
        before, after, key, old_key = state.codec.update(frame, _TUPLE_AT)
        if old_key is not None:
            self._key_change(state, parts, source, ordinal, (before, after, key, old_key))
            return
        value = (
            f'{{"before":{before or "null"},"after":{after},"source":{source}'
            f'{self._place(parts)},"op":"u",{self._outer_times}'
        )
        self._emit(Operation.UPDATE, state.table, key, value, ordinal)

    def _delete(
        self, frame: bytes, state: RelationState, parts: _RelationParts, source: str, ordinal: int
    ) -> None:
        before, key = state.codec.delete(frame, _TUPLE_AT)
        value = f'{{"before":{before},"after":null,"source":{source}{self._place(parts)},"op":"d",{self._outer_times}'
        self._emit(Operation.DELETE, state.table, key, value, ordinal)

    def _key_change(
        self,
        state: RelationState,
        parts: _RelationParts,
        source: str,
        ordinal: int,
        row: tuple[str | None, str, str | None, str],
    ) -> None:
        """One update that changes the key is a delete of the old (0), its tombstone (1), a create of the new (2).

        The tombstone is made by transports that compact; its number stays free elsewhere.
        """
        before, after, key, old_key = row
        removed = (
            f'{{"before":{before},"after":null,"source":{source}{self._place(parts)},"op":"d",{self._outer_times}'
        )
        self._emit(Operation.DELETE, state.table, old_key, removed, ordinal, 0, key)
        created = (
            f'{{"before":null,"after":{after},"source":{source}{self._place(parts)},"op":"c",{self._outer_times}'
        )
        self._emit(Operation.CREATE, state.table, key, created, ordinal, 2, old_key)

    def _control(self, frame: bytes) -> Relation | None:
        tag = frame[_HEADER_BYTES]
        if tag == _BEGIN:
            commit_lsn, commit_time, xid = _begin(frame, _HEADER_BYTES + 1)
            self._transaction.begin(commit_lsn, commit_time + _POSTGRES_EPOCH_US, xid)
            self._tracker.begin()
            return None
        if tag == _COMMIT:
            _, commit_lsn, end_lsn, _ = _commit(frame, _HEADER_BYTES + 1)
            self._number_events()
            if self._mark_end is not None and self.events and self._transaction.events:
                self.events[-1] = self._mark_end(self.events[-1])
            self._transaction.open = False
            self._last_end_lsn = end_lsn
            self._tracker.commit(Lsn(end_lsn))
            return None
        message = self._decoder.decode(frame[_HEADER_BYTES:])
        if isinstance(message, Relation):
            return message
        if isinstance(message, Truncate):
            self._truncate(frame, message)
        elif isinstance(message, Message):
            self._message(frame, message)
        elif tag == _ORIGIN:
            self._transaction.set_origin(getattr(message, "name", ""), getattr(message, "commit_lsn", 0))
        return None

    def _truncate(self, frame: bytes, message: Truncate) -> None:
        transaction = self._transaction
        ordinal = transaction.ordinal
        transaction.ordinal += 1
        lsn = _u64(frame, 1)[0]
        for index, relation in enumerate(message.relations):
            state = self._relations[relation.relation_id]
            if state.ignored:
                continue
            parts = _RelationParts(
                *state.source_parts(transaction.commit_time_us, transaction.xid, self._last_end_lsn)
            )
            parts = transaction.parts.setdefault(relation.relation_id, parts)
            source = f"{parts.head}{lsn}{parts.middle}{lsn}{transaction.origin}{ordinal}{state.source_tail}"
            value = f'{{"before":null,"after":null,"source":{source}{self._place(parts)},"op":"t",{self._outer_times}'
            self._emit(Operation.TRUNCATE, state.table, None, value, ordinal, index)

    def _message(self, frame: bytes, message: Message) -> None:
        transaction, lsn = self._transaction, _u64(frame, 1)[0]
        # The LSN of a message that is not transactional is the end of its record, and there the commit record of
        # another transaction may begin (seen on 15): its last byte is in no other record.
        identity_lsn = transaction.commit_lsn if message.transactional else int(message.lsn) - 1
        if message.transactional:
            ordinal = transaction.ordinal
            transaction.ordinal += 1
            commit_time_us, xid, origin = transaction.commit_time_us, transaction.xid, transaction.origin
            transaction.events += 1
            place = f',"transaction":{{"id":"{transaction.id}","total_order":{transaction.events},"data_collection_order":1}}'
        else:
            # It stands outside of any transaction; the time is the last one that the stream told.
            ordinal, xid, commit_time_us = 0, None, transaction.commit_time_us
            origin, place = _origin_text(None, None, identity_lsn), ',"transaction":null'
        head, middle = source_parts(self._message_constants, commit_time_us, xid, self._last_end_lsn)
        source = f"{head}{lsn}{middle}{lsn}{origin}{ordinal}}}"
        content = base64.b64encode(message.content).decode()
        body = f'"message":{{"prefix":{json.dumps(message.prefix, ensure_ascii=False)},"content":"{content}"}}'
        times = self._outer_times.partition(",")[0]
        value = f'{{"op":"m",{times},"source":{source}{place},{body}}}'
        key = _message_key(message, self._message_keys.get(message.prefix))
        self._emit(Operation.MESSAGE, None, key, value, ordinal, 0, None, identity_lsn)

    def _place(self, parts: _RelationParts) -> str:
        transaction = self._transaction
        transaction.events += 1
        parts.events += 1
        return (
            f',"transaction":{{"id":"{transaction.id}","total_order":{transaction.events},'
            f'"data_collection_order":{parts.events}}}'
        )

    def _emit(
        self,
        op: Operation,
        table: TableId | None,
        key: str | None,
        value: str,
        ordinal: int,
        sub_index: int = 0,
        related_key: str | None = None,
        commit_lsn: int | None = None,
    ) -> None:
        encoded = value.encode()
        transaction = self._transaction
        lsn = transaction.commit_lsn if commit_lsn is None else commit_lsn
        self.events.append(
            self._make(
                key=None if key is None else key.encode(),
                value=encoded,
                op=op,
                table=table,
                identity=ChangeIdentity(self._epoch, lsn, ordinal, sub_index),
                related_key=None if related_key is None else related_key.encode(),
                committed_at=transaction.committed_at,
                delivery=self._delivered,
            )
        )
        self._delivered += 1
        self._undelivered += 1
        self.payload_bytes += len(encoded)

    def _number_events(self) -> None:
        if self._undelivered:
            self._tracker.deliver(self._undelivered)
            self._undelivered = 0

    def _broken(self, frame: bytes, error: Exception) -> SourceError:
        lsn = Lsn(_u64(frame, 1)[0]) if len(frame) >= 9 else None
        where = {"slot": self._epoch.slot, "lsn": lsn, "commit_lsn": Lsn(self._transaction.commit_lsn)}
        return SourceError(
            f"a message from the server cannot be decoded: {error}",
            where=where,
            remedy="nothing after the last confirmed transaction was acknowledged; report it with the server's version",
        )


_BuildRow = Callable[[bytes, RelationState, "_RelationParts", str, int], None]


@final
class _RelationParts:
    """What the events of one relation share within one transaction."""

    __slots__ = ("events", "head", "middle")

    def __init__(self, head: str, middle: str) -> None:
        self.head = head
        self.middle = middle
        self.events = 0


@final
class _Transaction:
    """The transaction that the stream is in, or was in last."""

    __slots__ = (
        "commit_lsn", "commit_time_us", "committed_at", "events", "id", "open", "ordinal", "origin", "parts", "xid",
    )  # fmt: skip

    def __init__(self) -> None:
        self.begin(0, 0, 0)
        self.open = False

    def begin(self, commit_lsn: int, commit_time_us: int, xid: int) -> None:
        self.open = True
        self.commit_lsn = commit_lsn
        self.commit_time_us = commit_time_us
        self.committed_at = commit_time_us / 1e6
        self.xid = xid
        self.id = f"{xid}:{commit_lsn}"  # one for the whole transaction; Debezium's differs from event to event
        self.ordinal = 0
        self.events = 0
        self.parts: dict[int, _RelationParts] = {}
        self.origin = _origin_text(None, None, commit_lsn)

    def set_origin(self, name: str, lsn: int) -> None:
        self.origin = _origin_text(name, lsn, self.commit_lsn)


def _origin_text(name: str | None, lsn: int | None, commit_lsn: int) -> str:
    origin = "null" if name is None else json.dumps(name, ensure_ascii=False)
    origin_lsn = "null" if lsn is None else str(int(lsn))
    return (
        f',"xmin":null,"origin":{origin},"origin_lsn":{origin_lsn},"commit_lsn":{int(commit_lsn)},"ordinal":'
    )


def _message_key(message: Message, member: str | None) -> str:
    if member is not None:
        try:
            content: object = json.loads(message.content)
        except ValueError:
            content = None
        if isinstance(content, dict) and member in content:
            return json.dumps({member: content[member]}, ensure_ascii=False, separators=(",", ":"))
    return json.dumps({"prefix": message.prefix}, ensure_ascii=False, separators=(",", ":"))
