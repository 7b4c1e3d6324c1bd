from __future__ import annotations

import json
import math
from base64 import b64decode
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from ipaddress import ip_address
from struct import pack
from time import process_time
from typing import Any, TypeGuard
from uuid import UUID

import pgoutput_bytes as wire
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pgoutput_rows import CITEXT, HSTORE, LTREE, row_of

from cdc_pgoutput import (
    UNAVAILABLE,
    UNCHANGED_TOAST,
    DecodeError,
    Interval,
)


def python(oid: int, text: str, modifier: int = -1) -> object:
    return row_of(oid, text, modifier=modifier).values()[0]


def encoded(oid: int, value: wire.Field, modifier: int = -1) -> Any:
    return json.loads(row_of(oid, value, modifier=modifier).to_json())["c0"]


PYTHON: list[tuple[int, str, object]] = [
    (16, "t", True),
    (16, "f", False),
    (20, "9223372036854775807", 2**63 - 1),
    (701, "0.1", 0.1),
    (701, "-Infinity", -math.inf),
    (1700, "1.10", Decimal("1.10")),
    (1700, "-Infinity", Decimal("-Infinity")),
    (790, "-$1,234.50", Decimal("-1234.50")),
    (25, "é", "é"),
    (17, "\\x00ff", b"\0\xff"),
    (2950, "b68a35a7-17ad-35b3-af2a-ae46edb4545a", UUID("b68a35a7-17ad-35b3-af2a-ae46edb4545a")),
    (1082, "2024-02-29", date(2024, 2, 29)),
    (1082, "infinity", "infinity"),
    (1082, "0044-03-15 BC", "0044-03-15 BC"),
    (1082, "10000-01-01", "10000-01-01"),
    (1083, "12:34:56.5", time(12, 34, 56, 500_000)),
    (1083, "24:00:00", "24:00:00"),
    (1266, "12:34:56-05:30", time(12, 34, 56, tzinfo=timezone(-timedelta(hours=5, minutes=30)))),
    (1266, "24:00:00+00", "24:00:00+00"),
    (1114, "2024-02-29 12:34:56.1", datetime(2024, 2, 29, 12, 34, 56, 100_000)),
    (1114, "-infinity", "-infinity"),
    (1184, "2024-02-29 12:34:56+00", datetime(2024, 2, 29, 12, 34, 56, tzinfo=UTC)),
    (1184, "294276-12-31 23:59:59.999999+00", "294276-12-31 23:59:59.999999+00"),
    (1186, "1 year 2 mons 3 days 04:05:06.789", Interval(14, 3, 14_706_789_000)),
    (1186, "-1 years -2 mons +3 days -00:00:00.000001", Interval(-14, 3, -1)),
    (1186, "infinity", "infinity"),
    (1560, "101", "101"),
    (600, "(1.5,-2)", "(1.5,-2)"),
    (114, '{"a" : 1}', '{"a" : 1}'),
    (22, "1 -2", [1, -2]),
    (22, "", []),
    (1007, "{1,NULL,{3}}".replace(",{3}", ""), [1, None]),
    (1007, "{{1,2},{3,4}}", [[1, 2], [3, 4]]),
    (1231, "{1.10,NaN}".replace(",NaN", ""), [Decimal("1.10")]),
    (1020, "{(2,2),(0,0);(1,1),(0,0)}", ["(2,2),(0,0)", "(1,1),(0,0)"]),
    (HSTORE, '"a"=>"1", "b"=>NULL', {"a": "1", "b": None}),
    (CITEXT, "AbC", "AbC"),
    (61000, "anything", "anything"),
]


@pytest.mark.parametrize(("oid", "text", "expected"), PYTHON)
def test_a_value_becomes_a_python_value_where_that_is_exact(oid: int, text: str, expected: object) -> None:
    value = python(oid, text)
    assert value == expected
    assert type(value) is type(expected)


def test_a_bit_of_length_one_is_a_bool() -> None:
    assert python(1560, "1", modifier=1) is True
    assert encoded(1560, "0", modifier=1) is False


def test_nan_stays_nan() -> None:
    number = python(701, "NaN")
    assert isinstance(number, float)
    assert math.isnan(number)
    decimal = python(1700, "NaN")
    assert isinstance(decimal, Decimal)
    assert decimal.is_nan()


PLAIN = UNAVAILABLE
CODES = list(UNAVAILABLE.encode())
PLACEHOLDERS: list[tuple[str, int, Any]] = [
    *((name, oid, PLAIN) for name, oid in [("text", 25), ("varchar", 1043), ("bpchar", 1042), ("json", 114)]),
    *((name, oid, PLAIN) for name, oid in [("jsonb", 3802), ("xml", 142), ("numeric", 1700), ("bytea", 17)]),
    *((name, oid, PLAIN) for name, oid in [("tsvector", 3614), ("numrange", 3906), ("varbit", 1562)]),
    *((name, oid, PLAIN) for name, oid in [("polygon", 604), ("int4multirange", 4451), ("ltree", LTREE)]),
    *((name, oid, PLAIN) for name, oid in [("citext", CITEXT), ("unknown", 61000)]),
    *((name, oid, PLAIN) for name, oid in [("int2[]", 1005), ("numeric[]", 1231), ("date[]", 1182)]),
    *(
        (name, oid, PLAIN)
        for name, oid in [("timestamp[]", 1115), ("timestamptz[]", 1185), ("bytea[]", 1001)]
    ),
    *((name, oid, PLAIN) for name, oid in [("float8[]", 1022), ("oid[]", 1028), ("bool[]", 1000)]),
    ("text[]", 1009, [PLAIN]),
    ("jsonb[]", 3807, [PLAIN]),
    ("int4[]", 1007, CODES),
    ("int8[]", 1016, CODES),
    ("uuid[]", 2951, ["b68a35a7-17ad-35b3-af2a-ae46edb4545a"]),
    ("hstore", HSTORE, f'{{"{PLAIN}":"{PLAIN}"}}'),
]


@pytest.mark.parametrize(("name", "oid", "expected"), PLACEHOLDERS, ids=[one[0] for one in PLACEHOLDERS])
def test_an_unchanged_value_has_the_placeholder_of_its_type(name: str, oid: int, expected: Any) -> None:
    row = row_of(oid, ...)
    assert json.loads(row.to_json())["c0"] == expected
    assert row.values() == (UNCHANGED_TOAST,)


ELEMENTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5)


def is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def array_text(value: list[Any]) -> str:
    """As array_out of PostgreSQL writes it: quotes only where they are needed."""
    parts: list[str] = []
    for item in value:
        if item is None:
            parts.append("NULL")
        elif is_list(item):
            parts.append(array_text(item))
        elif item == "" or item.upper() == "NULL" or any(mark in item for mark in '"\\{}, \t\n\r\v\f'):
            escaped = item.replace("\\", "\\\\").replace('"', '\\"')
            parts.append(f'"{escaped}"')
        else:
            parts.append(item)
    return "{" + ",".join(parts) + "}"


@given(
    st.lists(st.none() | ELEMENTS)
    | st.lists(st.lists(st.none() | ELEMENTS, min_size=2, max_size=2), min_size=1)
)
def test_every_array_of_text_comes_back(value: list[Any]) -> None:
    text = array_text(value)
    assert python(1009, text) == value
    assert encoded(1009, text) == value
    assert python(1009, f"[2:{len(value) + 1}]={text}") == value


NOT_ARRAYS = [
    "",
    "{",
    "}",
    "x",
    "{1",
    "1}",
    "{1}}",
    "{{1}",
    "{1,}",
    "{,1}",
    "{1,,2}",
    '{"1}',
    "{1}{2}",
    "[1]={1}",
    *("{1}x", "{1{2}}", "{{1}2}", '{"1"2}', "{\\1}", "[1:1]", "{1},{2}", "{{},}"),
    "{" * 7 + "1" + "}" * 7,
]


@pytest.mark.parametrize("text", NOT_ARRAYS)
@pytest.mark.parametrize("oid", [1009, 1007])
def test_what_is_not_an_array_is_refused(oid: int, text: str) -> None:
    row = row_of(oid, text)
    for read in (row.to_json, row.values):
        with pytest.raises(DecodeError) as caught:
            read()
        assert caught.value.column == "c0"


@given(st.dictionaries(ELEMENTS, st.none() | ELEMENTS, max_size=4))
def test_every_hstore_comes_back(value: dict[str, str | None]) -> None:
    def quoted(text: str) -> str:
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'

    text = ", ".join(
        f"{quoted(key)}=>{'NULL' if item is None else quoted(item)}" for key, item in value.items()
    )
    assert python(HSTORE, text) == value
    assert json.loads(encoded(HSTORE, text)) == value


@pytest.mark.parametrize(
    "text", ["x", '"a"', '"a"=>', '"a"=>1', '"a"=>"1",', '"a"=>"1", ', '"a"=>"1" "b"=>"2"']
)
def test_what_is_not_an_hstore_is_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        row_of(HSTORE, text).to_json()


@given(st.text(st.sampled_from("01"), max_size=70))
def test_bits_become_little_endian_bytes_without_high_zeros(bits: str) -> None:
    data = b64decode(encoded(1562, bits))
    assert int.from_bytes(data, "little") == int(bits or "0", 2)
    assert not data.endswith(b"\0")


@given(st.integers(-(2**31) + 1, 2**31 - 2))
def test_a_binary_date_is_the_day_it_counts(days: int) -> None:
    value = encoded(1082, wire.Binary(pack("!i", days)))
    epoch = date(2000, 1, 1).toordinal()
    if 1 <= epoch + days <= date.max.toordinal():
        assert value == f"{date.fromordinal(epoch + days).isoformat()}Z"
    else:
        assert value[0] in "+-0"


@given(st.floats(width=32))
def test_a_binary_float4_keeps_its_value(number: float) -> None:
    value = encoded(700, wire.Binary(pack("!f", number)))
    if math.isfinite(number):
        assert pack("!f", value) == pack("!f", number)
    else:
        assert float(value) == number or math.isnan(number)


@given(st.integers(-(2**63), 2**63 - 1))
def test_binary_money_keeps_every_cent(cents: int) -> None:
    assert Decimal(encoded(790, wire.Binary(pack("!q", cents)))) == Decimal(cents) / 100


@given(st.ip_addresses())
def test_a_binary_address_is_that_address(address: Any) -> None:
    family = 2 if address.version == 4 else 3
    data = bytes([family, address.max_prefixlen, 0, len(address.packed)]) + address.packed
    assert ip_address(encoded(869, wire.Binary(data))) == address


BINARY_OIDS = [
    16,
    17,
    18,
    19,
    20,
    21,
    22,
    23,
    25,
    26,
    27,
    30,
    114,
    600,
    650,
    700,
    701,
    790,
    829,
    869,
    1000,
    1007,
    1082,
    1083,
    1114,
    1184,
    1186,
    1231,
    1266,
    1560,
    1562,
    1700,
    2950,
    3220,
    3802,
    3904,
    3910,
    5069,
    *(HSTORE, LTREE, CITEXT),
]


@settings(deadline=None)
@given(st.sampled_from(BINARY_OIDS), st.binary(max_size=40))
def test_any_binary_value_is_read_or_refused(oid: int, data: bytes) -> None:
    row = row_of(oid, wire.Binary(data))
    for read in (lambda: json.loads(row.to_json()), row.values):
        try:
            read()
        except DecodeError as error:
            assert_column(error)


def assert_column(error: DecodeError) -> None:
    assert error.column == "c0"


def test_a_binary_array_of_other_elements_is_refused() -> None:
    data = pack("!iiIii", 1, 0, 25, 1, 1) + pack("!i", 4) + b"\0\0\0\7"
    with pytest.raises(DecodeError, match="not a binary value"):
        row_of(1007, wire.Binary(data)).to_json()


@pytest.mark.parametrize("lengths", [[5000] * 5 + [0], [0], [-1], [2**31 - 1], [3, 3, 3, 3, 3, 3]])
def test_a_binary_array_can_not_claim_more_than_it_holds(lengths: list[int]) -> None:
    data = pack("!iiI", len(lengths), 0, 23) + b"".join(pack("!ii", length, 1) for length in lengths)
    with pytest.raises(DecodeError, match="not a binary value"):
        row_of(1007, wire.Binary(data + bytes(100_000))).to_json()


@pytest.mark.parametrize(
    ("oid", "text"),
    [
        (1009, "{" + '"\\"' * 200_000),
        (1009, '{"' + "\\" * 200_001),
        (1009, '{"' + '\\"' * 200_000),
        (HSTORE, '"' + '\\"' * 200_000),
        (1009, "{" * 400_000),
        (790, "$" + "1," * 200_000),
        (1186, "1 day " * 100_000),
        (22, "1 " * 200_000),
        (600, "(" * 400_000),
    ],
)
def test_hostile_text_is_refused_in_time_that_grows_with_its_length(oid: int, text: str) -> None:
    row = row_of(oid, text)
    started = process_time()
    for read in (row.to_json, row.values):
        try:
            read()
        except DecodeError as error:
            assert_column(error)
    assert process_time() - started < 5
