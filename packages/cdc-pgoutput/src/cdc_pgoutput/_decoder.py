from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar, final

from ._control import (
    read_begin,
    read_begin_prepare,
    read_commit,
    read_commit_prepared,
    read_origin,
    read_prepare,
    read_rollback_prepared,
    read_stream_commit,
    read_stream_prepare,
)
from ._errors import DecodeError
from ._messages import (
    AnyMessage,
    Column,
    Delete,
    Insert,
    Message,
    Relation,
    ReplicaIdentity,
    StreamAbort,
    StreamStart,
    StreamStop,
    Truncate,
    Type,
    Update,
)
from ._registry import TypeRegistry
from ._row_codec import RowCodec
from ._shape import Shape
from ._tuples import Row, walk_tuple
from ._wire import Cursor

__all__ = ["Decoder"]

_OLD_KEY = 0x4B
_OLD_ROW = 0x4F
_NEW_ROW = 0x4E
_MAX_COLUMNS = 1600  # PostgreSQL's MaxHeapAttributeNumber
_PARALLEL_ABORT_BYTES = 25


def _stateless(read: Callable[[Cursor], AnyMessage]) -> Callable[[Decoder, Cursor], AnyMessage]:
    def run(_decoder: Decoder, cursor: Cursor) -> AnyMessage:
        return read(cursor)

    return run


@final
class Decoder:
    """Turns pgoutput messages into objects. Its state is that of one replication session: relations and
    stream block.

    Drivers hand over whole messages, so `decode` takes one and returns one; nothing is buffered. A decoder
    must see the session from its start, since the server announces each relation once.

    `protocol_version` is the one asked for in START_REPLICATION, 1 to 4. `types` is used, not copied: what is
    registered later counts from the next row on.
    """

    def __init__(self, protocol_version: int = 1, types: TypeRegistry | None = None) -> None:
        """Raises: ValueError when the protocol version is not known."""
        if protocol_version not in (1, 2, 3, 4):
            raise ValueError(f"protocol_version is 1, 2, 3 or 4, not {protocol_version}")
        self.protocol_version = protocol_version
        self.types: TypeRegistry = TypeRegistry() if types is None else types
        self._shapes: dict[int, Shape] = {}
        self._stream_xid: int | None = None

    @property
    def stream_xid(self) -> int | None:
        """The transaction whose stream block is open, None outside of one."""
        return self._stream_xid

    def decode(self, payload: bytes) -> AnyMessage:
        """Decode one whole message.

        Raises: DecodeError when it is not a whole valid message, or not one that may come now. The decoder's
            state is then as before, and nothing else is ever raised for bytes of any kind.
        """
        if not payload:
            raise DecodeError("an empty message", offset=0)
        tag = payload[0]
        entry = self._MESSAGES.get(tag)
        if entry is None:
            raise DecodeError("unknown message tag", offset=0, tag=tag)
        kind, since, fits_in_stream, read = entry
        cursor = Cursor(payload, tag=tag, kind=kind, offset=1)
        if since > self.protocol_version:
            raise cursor.error(
                f"belongs to protocol {since}, this session speaks {self.protocol_version}", offset=0
            )
        if self._stream_xid is not None and not fits_in_stream:
            raise cursor.error("came inside a stream block", offset=0)
        return read(self, cursor)

    def relation(self, relation_id: int) -> Relation | None:
        """The relation in force under this id."""
        shape = self._shapes.get(relation_id)
        return shape.relation if shape else None

    def codec(self, relation_id: int, key_columns: Sequence[str] = ()) -> RowCodec:
        """Make the encoder for the rows of a relation as it is now known.

        It does not follow later Relation messages or registrations: make another then.

        Raises:
            KeyError: when no Relation with this id has come.
            ValueError: when a key column is not one of its columns.
        """
        return RowCodec(self._shapes[relation_id].relation, self.types, key_columns)

    def unknown_types(self, relation: Relation) -> tuple[int, ...]:
        """The type OIDs that rows of this relation need and the registry does not know, in column order.

        Register them and ask again: an array or domain may be made of a type that is unknown too. What stays
        unknown is written as base64 of PostgreSQL's text.
        """
        found = [oid for column in relation.columns for oid in self.types.unknown(column.type_oid)]
        return tuple(dict.fromkeys(found))

    def recompile(self, relation: Relation) -> None:
        """Forget the generated code of a relation. Registering a type has the same effect for all of them."""
        shape = self._shapes.get(relation.relation_id)
        if shape is not None:
            shape.forget_code()

    def _xid(self, cursor: Cursor) -> int | None:
        """Messages inside a stream block carry their (sub)transaction behind the tag."""
        return None if self._stream_xid is None else cursor.u32("the xid")

    def _shape(self, cursor: Cursor) -> Shape:
        offset = cursor.offset
        relation_id = cursor.u32("the relation id")
        shape = self._shapes.get(relation_id)
        if shape is None:
            raise cursor.error(
                f"relation {relation_id} was never announced",
                offset=offset,
                remedy="Decode the session from its start, Relation messages included",
            )
        return shape

    def _row(self, cursor: Cursor, shape: Shape, *, marker: int, old: Row | None = None) -> Row:
        start = cursor.offset
        try:
            fields, end = walk_tuple(cursor.payload, start, shape.relation.columns)
        except DecodeError as error:
            raise error.within(cursor.tag, cursor.kind) from None
        cursor.offset = end
        return Row(shape, cursor.payload, start - 1, fields, end, old=old, is_key_only=marker == _OLD_KEY)

    def _relation(self, c: Cursor) -> Relation:
        xid = self._xid(c)
        relation_id = c.u32("the relation id")
        schema = c.text("the schema") or "pg_catalog"
        name = c.text("the relation's name")
        letter = chr(c.u8("the replica identity"))
        try:
            identity = ReplicaIdentity(letter)
        except ValueError:
            raise c.error(f"unknown replica identity {letter!r}", offset=c.offset - 1) from None
        count = c.u16("the number of columns")
        if count > _MAX_COLUMNS:
            raise c.error(f"{count} columns, more than PostgreSQL allows", offset=c.offset - 2)
        columns = tuple(_column(c) for _ in range(count))
        c.finish()
        if len({column.name for column in columns}) != count:
            raise c.error("two columns have the same name")
        relation = Relation(
            relation_id=relation_id,
            schema=schema,
            name=name,
            replica_identity=identity,
            columns=columns,
            xid=xid,
        )
        known = self._shapes.get(relation_id)
        # the server repeats itself after every invalidation of its cache: keep the generated code then
        announced = replace(relation, xid=None)
        if known is None or known.relation != announced:
            self._shapes[relation_id] = Shape(announced, self.types)
        return relation

    def _type(self, c: Cursor) -> Type:
        xid = self._xid(c)
        oid = c.u32("the type's OID")
        schema = c.text("the schema") or "pg_catalog"
        message = Type(type_oid=oid, schema=schema, name=c.text("the type's name"), xid=xid)
        c.finish()
        return message

    def _insert(self, c: Cursor) -> Insert:
        xid = self._xid(c)
        shape = self._shape(c)
        _marker(c, _NEW_ROW)
        message = Insert(relation=shape.relation, new=self._row(c, shape, marker=_NEW_ROW), xid=xid)
        c.finish()
        return message

    def _update(self, c: Cursor) -> Update:
        xid = self._xid(c)
        shape = self._shape(c)
        old: Row | None = None
        marker = _marker(c, _NEW_ROW, _OLD_KEY, _OLD_ROW)
        if marker != _NEW_ROW:
            old = self._row(c, shape, marker=marker)
            _marker(c, _NEW_ROW)
        message = Update(
            relation=shape.relation, old=old, new=self._row(c, shape, marker=_NEW_ROW, old=old), xid=xid
        )
        c.finish()
        return message

    def _delete(self, c: Cursor) -> Delete:
        xid = self._xid(c)
        shape = self._shape(c)
        marker = _marker(c, _OLD_KEY, _OLD_ROW)
        message = Delete(relation=shape.relation, old=self._row(c, shape, marker=marker), xid=xid)
        c.finish()
        return message

    def _truncate(self, c: Cursor) -> Truncate:
        xid = self._xid(c)
        count = c.u32("the number of relations")
        options = c.flag_byte("the options", 3)
        # 4 bytes each: a count that the payload cannot hold fails at the first missing one
        relations = tuple(self._shape(c).relation for _ in range(count))
        c.finish()
        return Truncate(
            relations=relations, cascade=bool(options & 1), restart_identity=bool(options & 2), xid=xid
        )

    def _message(self, c: Cursor) -> Message:
        xid = self._xid(c)
        flags = c.flag_byte("the flags", 1)
        lsn = c.lsn("the LSN")
        prefix = c.text("the prefix")
        content = c.take(c.u32("the content's length"), "the content")
        c.finish()
        return Message(transactional=flags == 1, lsn=lsn, prefix=prefix, content=content, xid=xid)

    def _stream_start(self, c: Cursor) -> StreamStart:
        xid = c.u32("the xid")
        message = StreamStart(xid=xid, first_segment=c.flag_byte("the first-segment flag", 1) == 1)
        c.finish()
        self._stream_xid = xid
        return message

    def _stream_stop(self, c: Cursor) -> StreamStop:
        c.finish()
        if self._stream_xid is None:
            raise c.error("no stream block is open", offset=0)
        self._stream_xid = None
        return StreamStop()

    def _stream_abort(self, c: Cursor) -> StreamAbort:
        xid, sub_xid = c.u32("the xid"), c.u32("the subtransaction's xid")
        if self.protocol_version < 4 or len(c.payload) != _PARALLEL_ABORT_BYTES:
            c.finish()
            return StreamAbort(xid=xid, sub_xid=sub_xid)
        return StreamAbort(
            xid=xid,
            sub_xid=sub_xid,
            abort_lsn=c.lsn("the abort LSN"),
            abort_time_us=c.time_us("the abort time"),
        )

    # tag: name in the protocol documentation, first protocol version, may it come in a stream block, reader
    _MESSAGES: ClassVar[dict[int, tuple[str, int, bool, Callable[[Decoder, Cursor], AnyMessage]]]] = {
        ord("B"): ("Begin", 1, False, _stateless(read_begin)),
        ord("C"): ("Commit", 1, False, _stateless(read_commit)),
        ord("O"): ("Origin", 1, True, _stateless(read_origin)),
        ord("R"): ("Relation", 1, True, _relation),
        ord("Y"): ("Type", 1, True, _type),
        ord("I"): ("Insert", 1, True, _insert),
        ord("U"): ("Update", 1, True, _update),
        ord("D"): ("Delete", 1, True, _delete),
        ord("T"): ("Truncate", 1, True, _truncate),
        ord("M"): ("Message", 1, True, _message),
        ord("S"): ("Stream Start", 2, False, _stream_start),
        ord("E"): ("Stream Stop", 2, True, _stream_stop),
        ord("c"): ("Stream Commit", 2, False, _stateless(read_stream_commit)),
        ord("A"): ("Stream Abort", 2, False, _stream_abort),
        ord("b"): ("Begin Prepare", 3, False, _stateless(read_begin_prepare)),
        ord("P"): ("Prepare", 3, False, _stateless(read_prepare)),
        ord("K"): ("Commit Prepared", 3, False, _stateless(read_commit_prepared)),
        ord("r"): ("Rollback Prepared", 3, False, _stateless(read_rollback_prepared)),
        ord("p"): ("Stream Prepare", 3, False, _stateless(read_stream_prepare)),
    }


def _marker(cursor: Cursor, *allowed: int) -> int:
    marker = cursor.u8("the tuple's kind")
    if marker not in allowed:
        names = " or ".join(chr(one) for one in allowed)
        raise cursor.error(
            f"a tuple of kind {names} is due, not {bytes([marker])!r}", offset=cursor.offset - 1
        )
    return marker


def _column(cursor: Cursor) -> Column:
    return Column(
        is_key=cursor.flag_byte("a column's flags", 1) == 1,
        name=cursor.text("a column's name"),
        type_oid=cursor.u32("a column's type"),
        type_modifier=cursor.i32("a column's type modifier"),
    )
