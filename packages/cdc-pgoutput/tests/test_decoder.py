from __future__ import annotations

from dataclasses import FrozenInstanceError
from datetime import UTC, datetime
from struct import pack
from typing import Any

import pgoutput_bytes as wire
import pytest

from cdc_pgoutput import (
    UNCHANGED_TOAST,
    AnyMessage,
    Begin,
    BeginPrepare,
    Column,
    Commit,
    CommitPrepared,
    DecodeError,
    Decoder,
    Delete,
    Insert,
    Lsn,
    Message,
    Origin,
    Prepare,
    Relation,
    ReplicaIdentity,
    RollbackPrepared,
    StreamAbort,
    StreamCommit,
    StreamPrepare,
    StreamStart,
    StreamStop,
    Truncate,
    Type,
    UnchangedToast,
    Update,
)

# 2024-02-29 12:34:56.123456 UTC, in PostgreSQL's and in Unix microseconds
SENT = 762_525_296_123_456
UNIX = SENT + 946_684_800_000_000
XID = pack("!I", 700)
TWO = pack("!QQ", 0x10, 0x20)
TIME = pack("!q", SENT)

MESSAGES: list[tuple[int, bytes, AnyMessage]] = [
    (1, b"B" + pack("!Q", 0x10) + TIME + XID, Begin(commit_lsn=Lsn(0x10), commit_time_us=UNIX, xid=700)),
    (1, b"C\0" + TWO + TIME, Commit(flags=0, commit_lsn=Lsn(0x10), end_lsn=Lsn(0x20), commit_time_us=UNIX)),
    (1, b"O" + pack("!Q", 0xAB) + b"else\0", Origin(commit_lsn=Lsn(0xAB), name="else")),
    (1, b"Y" + pack("!I", 99999) + b"s\0t\0", Type(type_oid=99999, schema="s", name="t")),
    (1, b"Y" + pack("!I", 99999) + b"\0t\0", Type(type_oid=99999, schema="pg_catalog", name="t")),
    (
        1,
        b"M\1" + pack("!Q", 0x10) + b"p\0" + pack("!I", 2) + b"\0\xff",
        Message(transactional=True, lsn=Lsn(0x10), prefix="p", content=b"\0\xff"),
    ),
    (2, b"S" + XID + b"\1", StreamStart(xid=700, first_segment=True)),
    (
        2,
        b"c" + XID + b"\0" + TWO + TIME,
        StreamCommit(xid=700, flags=0, commit_lsn=Lsn(0x10), end_lsn=Lsn(0x20), commit_time_us=UNIX),
    ),
    (2, b"A" + XID + pack("!I", 701), StreamAbort(xid=700, sub_xid=701)),
    (
        4,
        b"A" + XID + XID + pack("!Q", 0x10) + TIME,
        StreamAbort(xid=700, sub_xid=700, abort_lsn=Lsn(0x10), abort_time_us=UNIX),
    ),
    (
        3,
        b"b" + TWO + TIME + XID + b"gid\0",
        BeginPrepare(prepare_lsn=Lsn(0x10), end_lsn=Lsn(0x20), prepare_time_us=UNIX, xid=700, gid="gid"),
    ),
    (
        3,
        b"P\0" + TWO + TIME + XID + b"gid\0",
        Prepare(flags=0, prepare_lsn=Lsn(0x10), end_lsn=Lsn(0x20), prepare_time_us=UNIX, xid=700, gid="gid"),
    ),
    (
        3,
        b"K\0" + TWO + TIME + XID + b"gid\0",
        CommitPrepared(
            flags=0, commit_lsn=Lsn(0x10), end_lsn=Lsn(0x20), commit_time_us=UNIX, xid=700, gid="gid"
        ),
    ),
    (
        3,
        b"r\0" + TWO + TIME + TIME + XID + b"gid\0",
        RollbackPrepared(
            flags=0,
            prepare_end_lsn=Lsn(0x10),
            rollback_end_lsn=Lsn(0x20),
            prepare_time_us=UNIX,
            rollback_time_us=UNIX,
            xid=700,
            gid="gid",
        ),
    ),
    (
        3,
        b"p\0" + TWO + TIME + XID + b"gid\0",
        StreamPrepare(
            flags=0, prepare_lsn=Lsn(0x10), end_lsn=Lsn(0x20), prepare_time_us=UNIX, xid=700, gid="gid"
        ),
    ),
]
IDS = [f"{version}-{type(message).__name__}" for version, _, message in MESSAGES]


@pytest.mark.parametrize(("version", "payload", "expected"), MESSAGES, ids=IDS)
def test_a_message_is_decoded_field_by_field(version: int, payload: bytes, expected: AnyMessage) -> None:
    assert Decoder(version).decode(payload) == expected


@pytest.mark.parametrize(("version", "payload", "expected"), MESSAGES, ids=IDS)
def test_a_message_that_is_cut_or_too_long_names_its_kind_and_place(
    version: int, payload: bytes, expected: AnyMessage
) -> None:
    # cut to 9 bytes, the abort of protocol 4 is that of protocol 2
    is_whole = {9} if payload[0:1] == b"A" and version == 4 else set[int]()
    for size in sorted(set(range(1, len(payload))) - is_whole):
        with pytest.raises(DecodeError) as caught:
            Decoder(version).decode(payload[:size])
        assert caught.value.offset <= size
        assert caught.value.tag == payload[0]
        assert caught.value.kind is not None
        assert caught.value.kind.replace(" ", "") == type(expected).__name__
    with pytest.raises(DecodeError, match="follow the end"):
        Decoder(version).decode(payload + b"\0")


@pytest.mark.parametrize(("version", "payload", "expected"), MESSAGES, ids=IDS)
def test_a_message_of_a_later_protocol_is_refused(version: int, payload: bytes, expected: AnyMessage) -> None:
    for older in range(1, version):
        with pytest.raises(DecodeError):
            Decoder(older).decode(payload)


@pytest.mark.parametrize("tag", sorted(set(range(256)) - set(b"BCORYIUDTMSEcAbPKrp")))
def test_an_unknown_tag_is_refused(tag: int) -> None:
    with pytest.raises(DecodeError, match="unknown message tag") as caught:
        Decoder(4).decode(bytes([tag]) + bytes(40))
    assert (caught.value.tag, caught.value.offset) == (tag, 0)


def test_an_empty_message_is_refused() -> None:
    with pytest.raises(DecodeError, match="empty") as caught:
        Decoder().decode(b"")
    assert caught.value.tag is None


@pytest.mark.parametrize("version", [0, 5, -1])
def test_an_unknown_protocol_version_is_refused(version: int) -> None:
    with pytest.raises(ValueError, match="protocol_version"):
        Decoder(version)


def test_times_are_utc_and_of_the_unix_epoch() -> None:
    begin = MESSAGES[0][2]
    assert isinstance(begin, Begin)
    assert begin.commit_time == datetime(2024, 2, 29, 12, 34, 56, 123456, tzinfo=UTC)


def test_messages_are_frozen() -> None:
    begin: Any = MESSAGES[0][2]
    with pytest.raises(FrozenInstanceError):
        begin.xid = 1
    assert not hasattr(begin, "__dict__")


def test_a_relation_holds_its_columns_and_identity() -> None:
    decoder = Decoder()
    message = decoder.decode(wire.relation(("id", 23), ("né", 1700, 393222), identity=b"f", schema=""))
    assert message == Relation(
        relation_id=wire.RELATION_ID,
        schema="pg_catalog",
        name="t",
        replica_identity=ReplicaIdentity.FULL,
        columns=(
            Column(name="id", type_oid=23, type_modifier=-1, is_key=True),
            Column(name="né", type_oid=1700, type_modifier=393222, is_key=False),
        ),
    )
    assert decoder.relation(wire.RELATION_ID) == message
    assert decoder.relation(1) is None


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (wire.relation(("id", 23), identity=b"x"), "replica identity"),
        (wire.relation(("id", 23), ("id", 23)), "same name"),
        (wire.relation(("id", 23)).replace(b"id\0", b"\xff\xfe\0"), "UTF-8"),
        (wire.relation(("id", 23))[:-1], "type modifier"),
        (b"R" + pack("!I", 1) + b"s\0t\0d" + pack("!H", 1601), "1601 columns"),
        (wire.relation(("id", 23)).replace(b"\1id", b"\2id"), "flags"),
    ],
)
def test_a_bad_relation_is_refused_and_changes_nothing(payload: bytes, reason: str) -> None:
    decoder = Decoder()
    before = decoder.decode(wire.relation(("a", 25)))
    with pytest.raises(DecodeError, match=reason):
        decoder.decode(payload)
    assert decoder.relation(wire.RELATION_ID) == before


@pytest.fixture
def decoder() -> Decoder:
    made = Decoder(4)
    made.decode(wire.relation(("id", 23), ("name", 25)))
    return made


def test_an_insert_reads_as_json_values_and_dict(decoder: Decoder) -> None:
    message = decoder.decode(wire.insert("7", 'né"'))
    assert isinstance(message, Insert)
    assert message.new.to_json() == '{"id":7,"name":"né\\""}'.encode()
    assert message.new.values() == (7, 'né"')
    assert message.new.to_dict() == {"id": 7, "name": 'né"'}
    assert message.new.relation is message.relation
    assert message.new.is_key_only is False


def test_an_unchanged_value_is_a_sentinel_that_is_neither_null_nor_text(decoder: Decoder) -> None:
    message = decoder.decode(wire.update(["7", ...]))
    assert isinstance(message, Update)
    value = message.new.values()[1]
    assert value is UNCHANGED_TOAST
    assert isinstance(value, UnchangedToast)
    assert value is not None
    assert not value
    assert repr(value) == "UNCHANGED_TOAST"
    assert message.old is None


def test_an_unchanged_value_comes_from_the_old_row_where_that_has_it(decoder: Decoder) -> None:
    full = decoder.decode(wire.update(["7", ...], old=["6", "old"]))
    key = decoder.decode(wire.update([..., ...], key=["6", None]))
    assert isinstance(full, Update)
    assert isinstance(key, Update)
    assert full.new.to_dict() == {"id": 7, "name": "old"}
    assert key.new.values() == (6, UNCHANGED_TOAST)
    assert key.new.to_json() == b'{"id":6,"name":"__debezium_unavailable_value"}'
    assert key.old is not None
    assert key.old.is_key_only
    assert key.old.values() == (6, None)
    assert full.old is not None
    assert not full.old.is_key_only


def test_a_delete_tells_a_key_from_a_row(decoder: Decoder) -> None:
    key = decoder.decode(wire.delete(key=["7", None]))
    full = decoder.decode(wire.delete(old=["7", "x"]))
    assert isinstance(key, Delete)
    assert isinstance(full, Delete)
    assert (key.old.is_key_only, key.old.to_json()) == (True, b'{"id":7,"name":null}')
    assert (full.old.is_key_only, full.old.to_json()) == (False, b'{"id":7,"name":"x"}')


def test_a_truncate_names_each_table_and_its_options(decoder: Decoder) -> None:
    second = decoder.decode(wire.relation(("a", 25), relation_id=2, name="u"))
    message = decoder.decode(b"T" + pack("!IBII", 2, 3, wire.RELATION_ID, 2))
    assert isinstance(message, Truncate)
    assert message.relations == (decoder.relation(wire.RELATION_ID), second)
    assert (message.cascade, message.restart_identity) == (True, True)
    plain = decoder.decode(b"T" + pack("!IBI", 1, 0, 2))
    assert isinstance(plain, Truncate)
    assert (plain.cascade, plain.restart_identity) == (False, False)


@pytest.mark.parametrize(
    ("payload", "reason", "offset"),
    [
        (wire.insert("1", "a", relation_id=5), "relation 5 was never announced", 1),
        (wire.insert("1"), "1 columns for a relation of 2", 6),
        (wire.insert("1", "a", "b"), "3 columns for a relation of 2", 6),
        (wire.insert("1", "a").replace(b"N\0", b"K\0"), "kind N is due", 5),
        (wire.update(["1", "a"]).replace(b"N\0", b"X\0"), "kind N or K or O is due", 5),
        (wire.delete(key=["1", None]).replace(b"K\0", b"N\0"), "kind K or O is due", 5),
        (wire.insert("1", "a").replace(b"t\0\0\0\1a", b"x\0\0\0\1a"), "unknown column kind b'x'", 14),
        (wire.insert("1", "a").replace(b"t\0\0\0\1a", b"t\xff\xff\xff\xffa"), "cut short", 19),
        (wire.insert("1", "a") + b"\0", "1 bytes follow", 20),
        (b"T" + pack("!IB", 2**32 - 1, 0), "relation id needs 4 bytes", 6),
        (b"T" + pack("!IBI", 1, 4, wire.RELATION_ID), "options has unknown bits", 5),
        (b"M\2" + pack("!Q", 1) + b"p\0" + pack("!I", 0), "flags has unknown bits", 1),
        (b"M\1" + pack("!Q", 1) + b"p\0" + pack("!I", 9) + b"x", "content needs 9 bytes", 16),
        (b"C\1" + TWO + TIME, "flags has unknown bits", 1),
    ],
)
def test_a_malformed_message_is_named_with_its_place(
    decoder: Decoder, payload: bytes, reason: str, offset: int
) -> None:
    with pytest.raises(DecodeError, match=reason) as caught:
        decoder.decode(payload)
    assert caught.value.offset == offset
    assert caught.value.tag == payload[0]


def test_a_value_that_is_not_utf8_is_an_error_when_it_is_read(decoder: Decoder) -> None:
    message = decoder.decode(wire.insert("1", b"\xff"))
    assert isinstance(message, Insert)
    for read in (message.new.to_json, message.new.values, message.new.to_dict):
        with pytest.raises(DecodeError) as caught:
            read()
        assert (caught.value.column, caught.value.offset, caught.value.tag) == ("name", 19, ord("I"))


STREAM = b"S" + XID + b"\1"


def test_inside_a_stream_block_every_message_names_its_transaction(decoder: Decoder) -> None:
    decoder.decode(STREAM)
    assert decoder.stream_xid == 700
    sub = pack("!I", 701)
    messages = [
        decoder.decode(b"R" + sub + wire.relation(("id", 23), ("name", 25))[1:]),
        decoder.decode(wire.insert("1", "a", xid=sub)),
        decoder.decode(wire.update(["1", "b"], old=["1", "a"], xid=sub)),
        decoder.decode(b"D" + sub + wire.delete(key=["1", None])[1:]),
        decoder.decode(b"T" + sub + pack("!IBI", 1, 0, wire.RELATION_ID)),
        decoder.decode(b"Y" + sub + pack("!I", 99999) + b"s\0t\0"),
        decoder.decode(b"M" + sub + b"\1" + pack("!Q", 1) + b"p\0" + pack("!I", 0)),
    ]
    assert [getattr(message, "xid", None) for message in messages] == [701] * 7
    assert isinstance(messages[2], Update)
    assert messages[2].new.to_json() == b'{"id":1,"name":"b"}'
    assert decoder.decode(b"E") == StreamStop()
    assert decoder.stream_xid is None
    after = decoder.decode(wire.insert("1", "a"))
    assert isinstance(after, Insert)
    assert after.xid is None


OUTSIDE = [payload for _, payload, message in MESSAGES if not isinstance(message, Origin | Type | Message)]


@pytest.mark.parametrize("payload", [STREAM, *OUTSIDE])
def test_what_may_not_come_inside_a_stream_block_is_refused_there(decoder: Decoder, payload: bytes) -> None:
    decoder.decode(STREAM)
    with pytest.raises(DecodeError, match="inside a stream block"):
        decoder.decode(payload)
    assert decoder.stream_xid == 700


def test_a_stream_block_that_is_not_open_can_not_end(decoder: Decoder) -> None:
    with pytest.raises(DecodeError, match="no stream block is open"):
        decoder.decode(b"E")


def test_a_failed_message_leaves_the_stream_state_as_it_was(decoder: Decoder) -> None:
    with pytest.raises(DecodeError):
        decoder.decode(STREAM + b"x")
    assert decoder.stream_xid is None
    decoder.decode(STREAM)
    with pytest.raises(DecodeError):
        decoder.decode(b"Ex")
    assert decoder.stream_xid == 700


def test_rows_keep_the_shape_they_were_sent_with(decoder: Decoder) -> None:
    old = decoder.decode(wire.insert("1", "a"))
    decoder.decode(wire.relation(("id", 25), ("name", 25), ("more", 23)))
    new = decoder.decode(wire.insert("1", "a", "2"))
    assert isinstance(old, Insert)
    assert isinstance(new, Insert)
    assert old.new.to_json() == b'{"id":1,"name":"a"}'
    assert new.new.to_json() == b'{"id":"1","name":"a","more":2}'


def test_equal_rows_are_equal_and_a_repr_shows_no_values(decoder: Decoder) -> None:
    one, two, other = (decoder.decode(wire.insert("1", text)) for text in ("secret", "secret", "b"))
    assert one == two
    assert hash(one) == hash(two)
    assert one != other
    assert "secret" not in repr(one)


def test_a_codec_of_an_unknown_relation_is_a_key_error(decoder: Decoder) -> None:
    with pytest.raises(KeyError):
        decoder.codec(5)
