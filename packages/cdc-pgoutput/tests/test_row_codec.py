from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pgoutput_bytes as wire
import pgoutput_reference as reference
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_pgoutput import DecodeError, Decoder, Insert, Relation, RowCodec, TypeRegistry, Update

_EPOCH = datetime(2000, 1, 1)


def printed_timestamp(moment: datetime) -> str:
    text = moment.isoformat(sep=" ")
    return text.rstrip("0") if "." in text else text


def fewer_digits(moment: datetime, digits: int) -> datetime:
    step = 10 ** (6 - digits)
    return moment.replace(microsecond=moment.microsecond // step * step)


def _timestamps(digits: int) -> st.SearchStrategy[str]:
    usual = st.datetimes(_EPOCH.replace(year=1000)).map(
        lambda moment: printed_timestamp(fewer_digits(moment, digits))
    )
    rare = st.sampled_from(["infinity", "-infinity", "0044-03-15 12:00:00 BC", "12024-01-01 00:00:00.5"])
    return usual | (rare if digits else rare.map(lambda text: text.removesuffix(".5")))


def _with_zone(text: str) -> str:
    if "infinity" in text:
        return text
    return f"{text[:-3]}+00 BC" if text.endswith(" BC") else f"{text}+00"


def _numeric(number: Decimal) -> str:
    return f"{number:f}"


# (type OID, type modifier): what PostgreSQL may print for it
TEXTS: dict[tuple[int, int], st.SearchStrategy[str]] = {
    (16, -1): st.sampled_from(["t", "f"]),
    (20, -1): st.integers(-(2**63), 2**63 - 1).map(str),
    (23, -1): st.integers(-5, 5).map(str),
    (25, -1): st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    (1043, -1): st.text(
        st.characters(max_codepoint=0x80, exclude_characters="\0"), min_size=120, max_size=140
    ),
    (701, -1): st.floats().map(
        lambda x: "NaN" if x != x else repr(x).replace("inf", "Infinity").removesuffix(".0")
    ),
    (1700, -1): st.decimals(allow_nan=False, allow_infinity=False, places=4).map(_numeric)
    | st.decimals(-10, 10, places=0).map(_numeric)
    | st.sampled_from(["NaN", "Infinity", "-Infinity", "0.00000000000000000001"]),
    (1082, -1): st.dates(date(1, 1, 1)).map(date.isoformat) | st.sampled_from(["infinity", "4713-01-01 BC"]),
    (1114, -1): _timestamps(6),
    (1114, 0): _timestamps(0),
    (1114, 3): _timestamps(3),
    (1184, -1): _timestamps(6).map(_with_zone),
    (1184, 0): _timestamps(0).map(_with_zone),
    (1184, 3): _timestamps(3).map(_with_zone),
    (3802, -1): st.builds(json.dumps, st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)),
    (2950, -1): st.uuids().map(str),
}
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8)


@st.composite
def shapes(draw: st.DrawFn) -> tuple[Relation, Decoder, list[tuple[int, int]]]:
    names = draw(st.lists(NAMES, min_size=1, max_size=8, unique=True))
    types = [draw(st.sampled_from(sorted(TEXTS))) for _ in names]
    keys = [draw(st.booleans()) for _ in names]
    decoder = Decoder()
    columns = [(name, *kind, key) for name, kind, key in zip(names, types, keys, strict=True)]
    relation = decoder.decode(wire.relation(*columns))
    assert isinstance(relation, Relation)
    return relation, decoder, types


def row_of(types: list[tuple[int, int]], *, may_be_unchanged: bool) -> st.SearchStrategy[list[Any]]:
    extra = st.just(...) if may_be_unchanged else st.nothing()
    return st.tuples(*(st.none() | extra | TEXTS[kind] for kind in types)).map(list)


def key_names(relation: Relation) -> list[str]:
    return [column.name for column in reversed(relation.columns)][:2]


def part(document: dict[str, Any], names: list[str]) -> dict[str, Any]:
    return {name: document[name] for name in names}


def same(text: str | None, document: Any) -> None:
    assert text is not None
    assert reference.dumps(json.loads(text)) == reference.dumps(document)
    assert list(json.loads(text)) == list(document)


@given(st.data(), shapes())
@settings(deadline=None)
def test_an_insert_is_encoded_as_the_slow_reference_encodes_it(data: st.DataObject, shape: Any) -> None:
    relation, decoder, types = shape
    payload = wire.insert(*data.draw(row_of(types, may_be_unchanged=False)))
    names = key_names(relation)
    codec = decoder.codec(relation.relation_id, names)
    expected, end = reference.row(relation, payload, 6)
    after, key = codec.insert(payload)
    same(after, expected)
    same(key, part(expected, names))
    assert codec.row_json(payload, 6) == (after, end)
    assert codec.key_json(payload, 6) == (key, end)
    message = decoder.decode(payload)
    assert isinstance(message, Insert)
    assert message.new.to_json().decode() == after


@given(st.data(), shapes())
@settings(deadline=None)
def test_an_update_without_old_row_has_placeholders_for_what_was_not_sent(
    data: st.DataObject, shape: Any
) -> None:
    relation, decoder, types = shape
    payload = wire.update(data.draw(row_of(types, may_be_unchanged=True)))
    names = key_names(relation)
    expected, _ = reference.row(relation, payload, 6)
    before, after, key, old_key = decoder.codec(relation.relation_id, names).update(payload)
    same(after, expected)
    same(key, part(expected, names))
    assert (before, old_key) == (None, None)


@given(st.data(), shapes())
@settings(deadline=None)
def test_an_update_with_the_old_row_fills_what_was_not_sent(data: st.DataObject, shape: Any) -> None:
    relation, decoder, types = shape
    old = data.draw(row_of(types, may_be_unchanged=False))
    new = data.draw(row_of(types, may_be_unchanged=True))
    payload = wire.update(new, old=old)
    names = key_names(relation)
    expected_before, end = reference.row(relation, payload, 6)
    expected_after, _ = reference.row(relation, payload, end + 1, expected_before)
    before, after, key, old_key = decoder.codec(relation.relation_id, names).update(payload)
    same(before, expected_before)
    same(after, expected_after)
    same(key, part(expected_after, names))
    if reference.dumps(part(expected_before, names)) == reference.dumps(part(expected_after, names)):
        assert old_key is None
    else:
        same(old_key, part(expected_before, names))
    message = decoder.decode(payload)
    assert isinstance(message, Update)
    assert message.new.to_json().decode() == after


@given(st.data(), shapes())
@settings(deadline=None)
def test_an_update_with_the_old_key_fills_from_the_key_columns_only(data: st.DataObject, shape: Any) -> None:
    relation, decoder, types = shape
    old = [
        value if column.is_key else None
        for column, value in zip(
            relation.columns, data.draw(row_of(types, may_be_unchanged=False)), strict=True
        )
    ]
    payload = wire.update(data.draw(row_of(types, may_be_unchanged=True)), key=old)
    names = key_names(relation)
    expected_before, end = reference.row(relation, payload, 6)
    real = {column.name: expected_before[column.name] for column in relation.columns if column.is_key}
    expected_after, _ = reference.row(relation, payload, end + 1, real)
    codec = decoder.codec(relation.relation_id, names)
    before, after, key, old_key = codec.update(payload)
    same(before, expected_before)
    same(after, expected_after)
    same(key, part(expected_after, names))
    known = all(name in real for name in names)
    assert codec.key_in_identity is known
    old_text = reference.dumps(part(expected_before, names))
    if known and old_text != reference.dumps(part(expected_after, names)):
        same(old_key, part(expected_before, names))
    else:
        assert old_key is None
    gone = codec.delete(wire.delete(key=old))
    same(gone[0], expected_before)
    assert (gone[1] is None) is not known


CUTS = [
    wire.insert("1", "a", "2024-02-29 12:34:56.123456+00"),
    wire.update(["1", ..., None], old=["1", "a", None]),
    wire.update(["1", "é", None], key=["0", None, None]),
    wire.delete(old=["1", "a", None]),
    wire.delete(key=["1", None, None]),
]


def functions(codec: RowCodec) -> list[Callable[[bytes], Any]]:
    return [
        codec.insert,
        codec.update,
        codec.delete,
        lambda b: codec.row_json(b, 6),
        lambda b: codec.key_json(b, 6),
    ]


@pytest.fixture
def codec() -> RowCodec:
    decoder = Decoder()
    relation = decoder.decode(wire.relation(("id", 23), ("name", 25), ("made", 1184)))
    assert isinstance(relation, Relation)
    return decoder.codec(relation.relation_id, ["id"])


@pytest.mark.parametrize("payload", CUTS)
def test_a_message_cut_anywhere_is_a_decode_error_with_its_place(codec: RowCodec, payload: bytes) -> None:
    by_tag: dict[bytes, Any] = {b"I": codec.insert, b"U": codec.update, b"D": codec.delete}
    function = by_tag[payload[:1]]
    function(payload)
    for size in range(5, len(payload)):
        with pytest.raises(DecodeError) as caught:
            function(payload[:size])
        assert 5 <= caught.value.offset <= size
        assert caught.value.tag == payload[0]
        assert caught.value.kind in ("Insert", "Update", "Delete")
    with pytest.raises(DecodeError, match="1 bytes follow"):
        function(payload + b"n")


@given(st.sampled_from(CUTS), st.data())
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_json_or_a_decode_error(payload: bytes, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(payload) - 1))
    change = data.draw(st.binary(max_size=6))
    mutated = payload[:position] + change + payload[position + data.draw(st.integers(0, 6)) :]
    decoder = Decoder()
    decoder.decode(wire.relation(("id", 23), ("name", 25), ("made", 1184)))
    for function in functions(decoder.codec(wire.RELATION_ID, ["id"])):
        try:
            texts = function(mutated)
        except DecodeError:
            continue
        for text in texts:
            if isinstance(text, str):
                json.loads(text)


@pytest.mark.parametrize(
    ("fields", "column"),
    [
        (("1x", "a", None), "id"),
        (("1", b"\xff", None), "name"),
        (("1", "a", "2024-02-29 12:34:56+02"), "made"),
    ],
)
def test_a_bad_value_is_named_by_its_column_and_place(codec: RowCodec, fields: Any, column: str) -> None:
    payload = wire.insert(*fields)
    with pytest.raises(DecodeError) as caught:
        codec.insert(payload)
    assert caught.value.column == column
    bad = next(field for field in fields if field not in ("1", "a", None))
    data = bad if isinstance(bad, bytes) else bad.encode()
    assert payload[caught.value.offset :].startswith(data)


def test_an_error_never_shows_a_value(codec: RowCodec) -> None:
    with pytest.raises(DecodeError) as caught:
        codec.insert(wire.insert("secret", "a", None))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("oid", [20, 700, 1700])
@pytest.mark.parametrize(
    "text", ["", "-", ".", "1,2", "--1", "1e", "0x1", "1_0", " 1", "1 ", "१", '1"', "1..2"]
)
def test_what_is_not_a_number_is_refused(oid: int, text: str) -> None:
    decoder = Decoder()
    decoder.decode(wire.relation(("n", oid)))
    with pytest.raises(DecodeError, match="not a"):
        decoder.codec(wire.RELATION_ID).insert(wire.insert(text))


@pytest.mark.parametrize("text", ["05", "5.", ".5", "00.5", "-05.5"])
@pytest.mark.parametrize("oid", [20, 701])
def test_a_number_that_json_does_not_allow_never_leaves_as_a_json_number(oid: int, text: str) -> None:
    decoder = Decoder()
    decoder.decode(wire.relation(("n", oid)))
    with pytest.raises(DecodeError, match="not a"):
        decoder.codec(wire.RELATION_ID).insert(wire.insert(text))


@pytest.mark.parametrize("zone", ["+07", "+10", "-00", "+01:00", ""])
def test_a_timestamptz_of_a_session_that_is_not_utc_is_refused(zone: str) -> None:
    decoder = Decoder()
    decoder.decode(wire.relation(("n", 1184)))
    with pytest.raises(DecodeError, match="TimeZone UTC"):
        decoder.codec(wire.RELATION_ID).insert(wire.insert(f"2024-02-29 12:34:56.123456{zone}"))


def test_a_tuple_alone_that_is_cut_anywhere_is_refused(codec: RowCodec) -> None:
    payload = wire.insert("1", "a", "2024-02-29 12:34:56+00")
    for function in (codec.row_json, codec.key_json):
        for size in range(6, len(payload)):
            with pytest.raises(DecodeError):
                function(payload[:size], 6)


@pytest.mark.parametrize("oid", [1082, 1114, 1184])
@pytest.mark.parametrize(
    "text", ["", "2024-02-29T00:00:00", "2024-2-29", "24-02-29", "2024-W09-4", '2024-02-29"', "now"]
)
def test_what_is_not_a_moment_is_refused(oid: int, text: str) -> None:
    decoder = Decoder()
    decoder.decode(wire.relation(("n", oid)))
    with pytest.raises(DecodeError, match="not a"):
        decoder.codec(wire.RELATION_ID).insert(wire.insert(text))


def test_a_column_name_can_not_become_code() -> None:
    names = ["{b}", "{{", "\\", '"', "'", "'''", "\n", "{__import__('os')}", "\\N{BULLET}", "%s", "\u2028"]
    decoder = Decoder()
    decoder.decode(wire.relation(*((name, 25) for name in names)))
    after, key = decoder.codec(wire.RELATION_ID, names).insert(wire.insert(*names))
    assert json.loads(after) == {name: name for name in names}
    assert key == after


def test_the_widest_table_that_postgresql_allows_is_encoded() -> None:
    decoder = Decoder()
    decoder.decode(wire.relation(*((f"c{index}", 23) for index in range(1600))))
    codec = decoder.codec(wire.RELATION_ID, ["c1599", "c0"])
    new = [str(index) for index in range(1600)]
    _, after, key, old_key = codec.update(wire.update(new, old=["0"] * 1600))
    assert json.loads(after)["c1599"] == 1599
    assert (key, old_key) == ('{"c1599":1599,"c0":0}', '{"c1599":0,"c0":0}')


def test_a_value_longer_than_two_length_bytes_is_whole(codec: RowCodec) -> None:
    for size in (255, 256, 65535, 65536, 2**24):
        after, _ = codec.insert(wire.insert("1", "x" * size, None))
        assert len(json.loads(after)["name"]) == size


def test_rows_inside_a_stream_block_are_read_from_byte_nine(codec: RowCodec) -> None:
    payload = wire.insert("1", "a", None, xid=b"\0\0\2\0")
    assert codec.insert(payload, 9) == codec.insert(wire.insert("1", "a", None))


def test_a_message_can_be_read_where_it_lies_in_its_frame(codec: RowCodec) -> None:
    frame = b"w" + bytes(24) + wire.insert("1", "a", None)
    assert codec.insert(frame, 30) == codec.insert(wire.insert("1", "a", None))
    with pytest.raises(DecodeError) as caught:
        codec.insert(frame + b"x", 30)
    assert (caught.value.tag, caught.value.kind) == (ord("I"), "Insert")
    assert caught.value.offset == len(frame)


def test_a_key_column_that_does_not_exist_is_refused_at_once() -> None:
    decoder = Decoder()
    decoder.decode(wire.relation(("id", 23)))
    with pytest.raises(ValueError, match="nope"):
        decoder.codec(wire.RELATION_ID, ["nope"])


def test_without_key_columns_there_is_no_key() -> None:
    decoder = Decoder()
    relation = decoder.decode(wire.relation(("id", 23)))
    assert isinstance(relation, Relation)
    codec = RowCodec(relation, TypeRegistry())
    assert codec.insert(wire.insert("1")) == ('{"id":1}', None)
    assert codec.update(wire.update(["1"], old=["2"])) == ('{"id":2}', '{"id":1}', None, None)
    assert codec.delete(wire.delete(old=["1"])) == ('{"id":1}', None)
    assert codec.key_json(wire.insert("1"), 6)[0] == "{}"


def test_moments_of_every_precision_keep_their_digits() -> None:
    decoder = Decoder()
    moment = datetime(2024, 2, 29, 12, 34, 56, tzinfo=UTC)
    for digits in range(7):
        decoder.decode(wire.relation(("a", 1184, digits), ("b", 1114, digits)))
        codec = decoder.codec(wire.RELATION_ID)
        for microseconds in (0, 100_000, 120_000, 123_456):
            exact = fewer_digits(moment + timedelta(microseconds=microseconds), digits)
            text = printed_timestamp(exact.replace(tzinfo=None))
            value = json.loads(codec.insert(wire.insert(text + "+00", text))[0])
            fraction = f".{exact.microsecond:06}"[: digits + 1] if digits else ""
            assert value == {"a": f"2024-02-29T12:34:56{fraction}Z", "b": text.replace(" ", "T") + "Z"}
