"""pgoutput messages of one replication connection, in; events with their identities and envelopes, out. No I/O.

The envelope is Debezium's, written straight from the tuple's bytes: no dict, no object for a column. What each field
holds, and where ours differs from Debezium's, is listed in docs/envelope.md.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Generic, Protocol, TypeVar, cast, final

from cdc_core import ChangeIdentity, Epoch, Operation, SourceError, TableId
from cdc_pgoutput import Decoder, Lsn, Message, Origin, PgOutputError, Relation, Truncate

from ._confirm import ConfirmTracker
from ._relations import RelationState, SourceName, source_constants, source_parts
from ._transaction import RelationInTransaction, Transaction, origin_text

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# The frame: 'w', the change's LSN, the server's WAL end, its time; then pgoutput's message.
# https://www.postgresql.org/docs/current/protocol-replication.html
_HEADER_BYTES: Final = 25
_TUPLE_AT: Final = (
    _HEADER_BYTES + 5
)  # behind the tag and the relation id: the byte that announces the first tuple
_KEEPALIVE: Final = ord("k")
_OLD_ROW: Final = ord("O")
_ROWS: Final = b"IUD"
_INSERT, _UPDATE, _ = _ROWS
_CREATE: Final = Operation.CREATE
_BEGIN, _COMMIT = b"BC"
# Kind, LSN, tag, relation id: what a row needs of the frame's and the message's head, in one call.
_head = struct.Struct("!BQ16xBI").unpack_from
_u64 = struct.Struct("!Q").unpack_from
_begin = struct.Struct("!QqI").unpack_from  # commit LSN, commit time, xid
_commit = struct.Struct("!BQQq").unpack_from  # flags, commit LSN, end LSN, commit time
_POSTGRES_EPOCH_US: Final = 946_684_800_000_000


class MakeEvent(Protocol[T_co]):
    """Makes the event of its parts: an `Event` for a partition stream, an `OutgoingEvent` for a publisher."""

    def __call__(
        self,
        key: bytes | None,
        value: bytes,
        op: Operation,
        table: TableId | None,
        identity: ChangeIdentity,
        related_key: bytes | None,
        committed_at: float,
        delivery: int,
        /,
    ) -> T_co: ...


@final
class ChangeBuilder(Generic[T]):
    """Builds the events of one replication connection, protocol 1: whole transactions in commit order.

    - `tracker`: told of every Begin, event and Commit in their order.
    - `make`: makes one event.
    - `message_keys`: prefix of a logical message to the member of its JSON content that is its key.
    - `now_us`: the time of processing in microseconds since 1970, for the outer `ts_*`.
    - `max_bytes`: of the values of the events that one `feed` makes.
    - `mark_end`: marks the last event of a transaction; the last one made is then held until the next frame tells.

    `feed` consumes frames until it meets a relation that is not resolved; the caller resolves it and feeds the rest.
    """

    def __init__(
        self,
        *,
        epoch: Epoch,
        source: SourceName,
        decoder: Decoder,
        tracker: ConfirmTracker,
        make: MakeEvent[T],
        message_keys: dict[str, str],
        now_us: Callable[[], int],
        max_bytes: int,
        mark_end: Callable[[T], T] | None = None,
    ) -> None:
        self._epoch = epoch
        self._decoder = decoder
        self._tracker = tracker
        self._make = make
        self._message_keys = message_keys
        self._now_us = now_us
        self._max_bytes = max_bytes
        self._mark_end = mark_end
        self._message_constants = source_constants(source, None)
        self.events: list[T] = []
        self.payload_bytes = 0  # keys and values of `events`
        self.last_bytes = 0
        self.reply_requested = False
        self.truncates = 0  # how many events of TRUNCATE were made
        self._delivered = 0  # the number of the next delivery
        self._numbered = 0  # how many of them the tracker knows of
        self._relations: dict[int, RelationState] = {}
        self._transaction = Transaction()
        self._last_end_lsn: int | None = None
        self._outer_times = ""

    def take(self, *, hold_last: bool = True) -> list[T]:
        """Return the events made since the last call; False for `hold_last` where the transaction is known to go on."""
        self._number_events()
        events, self.events = self.events, []
        self.payload_bytes = 0
        if hold_last and self._mark_end is not None and self._transaction.open and events:
            self.events.append(events.pop())
        return events

    def resolve(self, relation: Relation, state: RelationState) -> None:
        """Put a relation's resolved state in force."""
        self._relations[relation.relation_id] = state
        transaction = self._transaction
        before = transaction.relations.pop(relation.relation_id, None)
        if before is not None and before.table == state.table:
            # The server announces a table anew after TRUNCATE and ALTER TABLE too: its rows are counted on.
            after = RelationInTransaction(state, transaction, self._last_end_lsn)
            after.events = before.events
            transaction.relations[relation.relation_id] = after

    def feed(self, frames: Sequence[bytes], start: int = 0) -> tuple[int, Relation | None]:
        """Consume frames from `start` on; return the next one's index, and the relation to resolve first, if any.

        Stops early once the events made since `take` hold `max_bytes`: an envelope is several times its row.

        Raises:
            SourceError: the bytes are not what the protocol says; names what, where and at which LSN.
        """
        now = self._now_us()
        self._outer_times = f'"ts_ms":{now // 1000},"ts_us":{now},"ts_ns":{now}000}}'
        end = f'}},"op":"c",{self._outer_times}'
        epoch, make, events, transaction = self._epoch, self._make, self.events, self._transaction
        relations, index = transaction.relations, start
        # An insert's whole way stands in this loop, without a call but the codec's and the maker's: in methods, as all
        # other frames, it took 0.4 us more (of 3.6 from frame to event, narrow rows).
        try:
            for index in range(start, len(frames)):
                frame = frames[index]
                try:
                    kind, lsn, tag, relation_id = _head(frame)
                except struct.error:  # shorter than any row, as a keepalive is
                    kind, lsn, tag, relation_id = frame[0], 0, 0, 0
                if tag not in _ROWS or kind == _KEEPALIVE:
                    if (announced := self._control(frame)) is not None:
                        return index + 1, announced
                    continue
                relation = relations.get(relation_id) or self._open_relation(frame, relation_id)
                ordinal = transaction.ordinal
                # before any filter of ours: the number is the same on every repeat
                transaction.ordinal = ordinal + 1
                if relation.ignored:
                    continue
                if tag != _INSERT:
                    self._change(frame, tag, relation, lsn, ordinal)
                else:
                    after, key = relation.insert(frame, _TUPLE_AT)
                    total = transaction.events = transaction.events + 1
                    of_table = relation.events = relation.events + 1
                    value = (
                        f'{{"before":null,"after":{after}{relation.head}{lsn}{relation.middle}{lsn}{transaction.origin}'
                        f'{ordinal}{relation.tail}{total},"data_collection_order":{of_table}{end}'
                    ).encode()
                    delivery = self._delivered
                    self._delivered = delivery + 1
                    self.last_bytes = len(value) + len(key or "")
                    self.payload_bytes += self.last_bytes
                    identity = ChangeIdentity(epoch, transaction.commit_lsn, ordinal)
                    key_bytes = None if key is None else key.encode()
                    at = transaction.committed_at
                    events.append(
                        make(key_bytes, value, _CREATE, relation.table, identity, None, at, delivery)
                    )
                if self.payload_bytes >= self._max_bytes:
                    self._number_events()
                    return index + 1, None
        except (PgOutputError, struct.error, IndexError) as error:
            raise self._broken(frames[index], error) from error
        self._number_events()
        return len(frames), None

    def _change(
        self, frame: bytes, tag: int, relation: RelationInTransaction, lsn: int, ordinal: int
    ) -> None:
        """Make the events of an update or a delete."""
        if tag != _UPDATE:
            before, key = relation.codec.delete(frame, _TUPLE_AT)
            self._emit(relation, Operation.DELETE, key, before, "null", lsn, ordinal)
            return
        old, after, key, old_key = relation.codec.update(frame, _TUPLE_AT)
        if old_key is None:
            # an old key that is no other key (it came because one of its columns is stored out of line) is no row
            before = old if old is not None and frame[_TUPLE_AT] == _OLD_ROW else "null"
            self._emit(relation, Operation.UPDATE, key, before, after, lsn, ordinal)
        else:
            before = old or "null"
            # An update that changes the key: a delete of the old (0), its tombstone (1), a create of the new (2).
            # Transports that compact make the tombstone; its number stays free elsewhere.
            self._emit(relation, Operation.DELETE, old_key, before, "null", lsn, ordinal, 0, key)
            self._emit(relation, Operation.CREATE, key, "null", after, lsn, ordinal, 2, old_key)

    def _emit(
        self,
        relation: RelationInTransaction,
        op: Operation,
        key: str | None,
        before: str,
        after: str,
        lsn: int,
        ordinal: int,
        sub_index: int = 0,
        related_key: str | None = None,
    ) -> None:
        transaction = self._transaction
        total = transaction.events = transaction.events + 1
        of_table = relation.events = relation.events + 1
        value = (
            f'{{"before":{before},"after":{after}{relation.head}{lsn}{relation.middle}{lsn}{transaction.origin}'
            f'{ordinal}{relation.tail}{total},"data_collection_order":{of_table}}},"op":"{op._value_}",'
            f"{self._outer_times}"
        ).encode()
        delivery = self._delivered
        self._delivered = delivery + 1
        self.last_bytes = len(value) + len(key or "")
        self.payload_bytes += self.last_bytes
        self.events.append(
            self._make(
                None if key is None else key.encode(),
                value,
                op,
                relation.table,
                ChangeIdentity(self._epoch, transaction.commit_lsn, ordinal, sub_index),
                None if related_key is None else related_key.encode(),
                transaction.committed_at,
                delivery,
            )
        )

    def _open_relation(self, frame: bytes, relation_id: int) -> RelationInTransaction:
        """Make what the rows of a relation share within this transaction."""
        transaction = self._transaction
        state = self._relations.get(relation_id)
        if state is None or not transaction.open:
            self._decoder.decode(frame[_HEADER_BYTES:])  # says what is wrong with an unannounced relation
            raise SourceError("a row came outside of a transaction", where={"slot": self._epoch.slot})
        found = transaction.relations[relation_id] = RelationInTransaction(
            state, transaction, self._last_end_lsn
        )
        return found

    def _control(self, frame: bytes) -> Relation | None:
        """Consume a frame that is no row; return the relation that it announces, if it does."""
        if frame[0] == _KEEPALIVE:
            self._number_events()
            self._tracker.wal_end(Lsn(_u64(frame, 1)[0]))
            self.reply_requested = self.reply_requested or frame[17] == 1
            return None
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
        elif isinstance(message, Origin):
            self._transaction.set_origin(message.name, message.commit_lsn)
        return None

    def _truncate(self, frame: bytes, message: Truncate) -> None:
        transaction, lsn = self._transaction, _u64(frame, 1)[0]
        ordinal = transaction.ordinal
        transaction.ordinal += 1
        for index, announced in enumerate(message.relations):
            relation_id = announced.relation_id
            relation = transaction.relations.get(relation_id)
            if relation is None:
                relation = transaction.relations[relation_id] = RelationInTransaction(
                    self._relations[relation_id], transaction, self._last_end_lsn
                )
            if not relation.ignored:
                self.truncates += 1
                self._emit(relation, Operation.TRUNCATE, None, "null", "null", lsn, ordinal, index)

    def _message(self, frame: bytes, message: Message) -> None:
        transaction, lsn = self._transaction, _u64(frame, 1)[0]
        ordinal, xid, place = 0, None, "null"
        if message.transactional:
            identity_lsn, xid, origin = transaction.commit_lsn, transaction.xid, transaction.origin
            ordinal = transaction.ordinal
            transaction.ordinal += 1
            transaction.events += 1
            place = (
                f'{{"id":"{transaction.id}","total_order":{transaction.events},"data_collection_order":1}}'
            )
        else:
            # The LSN of a message that is not transactional is the end of its record, and there the commit record of
            # another transaction may begin (seen on 15): its last byte is in no other record. The stream tells no
            # time for it; the last one that it told stands in.
            identity_lsn = int(message.lsn) - 1
            origin = origin_text("null", "null", identity_lsn)
        head, middle = source_parts(
            self._message_constants, transaction.commit_time_us, xid, self._last_end_lsn
        )
        source = f"{head}{lsn}{middle}{lsn}{origin}{ordinal}}}"
        content = base64.b64encode(message.content).decode()
        body = f'{{"prefix":{json.dumps(message.prefix, ensure_ascii=False)},"content":"{content}"}}'
        times = self._outer_times.partition(",")[0]
        value = f'{{"op":"m",{times},"source":{source},"transaction":{place},"message":{body}}}'
        key = _message_key(message, self._message_keys.get(message.prefix))
        identity = ChangeIdentity(self._epoch, identity_lsn, ordinal)
        encoded = value.encode()
        self.last_bytes = len(encoded) + len(key)
        self.payload_bytes += self.last_bytes
        committed_at = transaction.committed_at
        self.events.append(
            self._make(key, encoded, Operation.MESSAGE, None, identity, None, committed_at, self._delivered)
        )
        self._delivered += 1

    def _number_events(self) -> None:
        """Tell the tracker of the events made since the last time."""
        if (count := self._delivered - self._numbered) > 0:
            self._tracker.deliver(count)
            self._numbered = self._delivered

    def _broken(self, frame: bytes, error: Exception) -> SourceError:
        lsn = Lsn(_u64(frame, 1)[0]) if len(frame) >= 9 else None
        where = {"slot": self._epoch.slot, "lsn": lsn, "commit_lsn": Lsn(self._transaction.commit_lsn)}
        return SourceError(
            f"a message from the server cannot be decoded: {error}",
            where=where,
            remedy="nothing after the last confirmed transaction was acknowledged; report it with the server's version",
        )


def _message_key(message: Message, member: str | None) -> bytes:
    if member is not None:
        # Whatever an application writes, the reader goes on: JSON that is none, a lone surrogate ("\ud800"), which is
        # no UTF-8, and nesting beyond Python's stack are content without that member.
        with suppress(ValueError, RecursionError):
            content: object = json.loads(message.content, parse_constant=_refuse_constant)
            if isinstance(content, dict) and member in content:
                return _json_bytes({member: cast("dict[str, object]", content)[member]})
    return _json_bytes({"prefix": message.prefix})


def _json_bytes(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
