"""Typed rows: each wire form is read by the field's annotation, and what does not fit is named without its value."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NewType, TypedDict
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_core import (
    UNCHANGED,
    AwareTime,
    Change,
    ConfigError,
    Event,
    NaiveDatetime,
    Operation,
    RowError,
    Table,
    Unchanged,
    encode_change,
    encode_key,
    encode_row,
)


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


UserId = NewType("UserId", int)


@dataclass(frozen=True)
class Point:
    x: float
    y: float


class Settings(msgspec.Struct, frozen=True):
    theme: str
    size: int = 1


class Typed(TypedDict):
    a: int


@dataclass(frozen=True)
class At:
    number: int = 0


def read(annotation: object, value: object) -> Any:
    """Read one column `v` of a row whose field has this annotation."""
    rows: Table[Any] = Table("shop.things", make_dataclass("Thing", [("v", annotation)]))
    envelope = {"op": "c", "source": {"schema": "shop", "table": "things"}, "after": {"v": value}}
    change = rows.of(Event(key=None, value=msgspec.json.encode(envelope), op=None, table=None, position=At()))
    assert isinstance(change, Change)
    row: Any = change.after
    return row.v


ZONE = UTC
ACCEPTED: list[tuple[object, object, object]] = [
    (int, 9007199254740993, 9007199254740993),
    (int, 2**70, 2**70),
    (bool, True, True),
    (str, "NaN", "NaN"),
    (float, 0.1, 0.1),
    (float, 5, 5.0),
    (float, "Infinity", math.inf),
    (float, "-Infinity", -math.inf),
    (Decimal, "1.10", Decimal("1.10")),
    (Decimal, "-" + "9" * 1000 + ".5", Decimal("-" + "9" * 1000 + ".5")),
    (Decimal, 7, Decimal(7)),
    (Decimal, "POSITIVE_INFINITY", Decimal("Infinity")),
    (Decimal, "NEGATIVE_INFINITY", Decimal("-Infinity")),
    (bytes, "AP8Q", b"\x00\xff\x10"),
    (bytes, "", b""),
    (UUID, "b68a35a7-17ad-35b3-af2a-ae46edb45450", UUID("b68a35a7-17ad-35b3-af2a-ae46edb45450")),
    (date, "2024-02-29Z", date(2024, 2, 29)),
    (date | str, "2024-02-29Z", date(2024, 2, 29)),
    (str | date, "2024-02-29Z", date(2024, 2, 29)),
    (date | str, "infinity", "infinity"),
    (date | str, "+10000-01-01Z", "+10000-01-01Z"),
    (date | str | None, None, None),
    (time, "12:34:56.7Z", time(12, 34, 56, 700000)),
    (AwareTime, "10:34:56Z", time(10, 34, 56, tzinfo=ZONE)),
    (time | str, "24:00:00Z", "24:00:00Z"),
    (datetime, "2024-02-29T12:34:56.100000Z", datetime(2024, 2, 29, 12, 34, 56, 100000, ZONE)),
    (datetime | str, "-4712-11-24T00:00:00Z", "-4712-11-24T00:00:00Z"),
    (NaiveDatetime, "2024-02-29T12:34:56.1Z", datetime(2024, 2, 29, 12, 34, 56, 100000)),
    (
        Annotated[datetime | None, msgspec.Meta(tz=False)],
        "2024-02-29T12:34:56Z",
        datetime(2024, 2, 29, 12, 34, 56),
    ),
    (timedelta, "P0Y0M3DT4H5M6.789012S", timedelta(3, 14706, 789012)),
    (timedelta, "P0Y0M-1DT0H0M-0.000001S", timedelta(-1, 0, -1)),
    (timedelta, "P0Y0M0DT100H0M0S", timedelta(hours=100)),
    (timedelta | str, "P1Y2M3DT4H5M6S", "P1Y2M3DT4H5M6S"),
    (Color, "red", Color.RED),
    (Level, 1, Level.LOW),
    (Literal["a", 1], "a", "a"),
    (UserId, 5, 5),
    (int | None, None, None),
    (Annotated[int, "metadata"], 5, 5),
    (str | None | Unchanged, "__debezium_unavailable_value", UNCHANGED),
    (list[int], [1, 2], [1, 2]),
    (list[int | None], [1, None], [1, None]),
    (list[list[int]], [[1], [2]], [[1], [2]]),
    (list[Decimal], ["1.10", "NEGATIVE_INFINITY"], [Decimal("1.10"), Decimal("-Infinity")]),
    (list[date | str], ["2024-02-29Z", "infinity"], [date(2024, 2, 29), "infinity"]),
    (Sequence[str], [], []),
    (tuple[int, ...], [1], (1,)),
    (list, [1, "a"], [1, "a"]),
    (dict[str, int], '{"a": 9007199254740993}', {"a": 9007199254740993}),
    (dict[str, str | None], '{"a":"1","b":null}', {"a": "1", "b": None}),
    (Mapping[str, object], '{"a": [1]}', {"a": [1]}),
    (dict, '{"a": 1}', {"a": 1}),
    (list[int], "[1, 2]", [1, 2]),
    (Settings, '{"theme": "dark"}', Settings("dark")),
    (Typed, '{"a": 1}', {"a": 1}),
    (Point, {"x": 1.5, "y": "NaN", "wkb": "", "srid": None}, None),
    (dict[str, object], {"x": 1.5}, {"x": 1.5}),
    (object, {"x": [1]}, {"x": [1]}),
    (Any, "1.50", "1.50"),
    (object, "__debezium_unavailable_value", UNCHANGED),
]


@pytest.mark.parametrize(("annotation", "value", "expected"), ACCEPTED)
def test_a_wire_form_is_read_by_its_annotation(annotation: object, value: object, expected: object) -> None:
    found = read(annotation, value)
    if annotation is Point:
        assert found.x == 1.5
        assert math.isnan(found.y)
        return
    assert found == expected
    assert type(found) is type(expected)


def test_not_a_number_is_read_as_such() -> None:
    assert math.isnan(read(float, "NaN"))
    assert read(Decimal, "NAN").is_nan()


REFUSED: list[tuple[object, object]] = [
    (int, "5"),
    (int, 5.0),
    (int, True),
    (int, None),
    (int | None, "5"),
    (bool, 1),
    (str, 5),
    (str, None),
    (float, "1.10"),
    (float, 2**53 + 1),
    (float, 10**400),
    (float, True),
    (Decimal, 1.5),
    (Decimal, "NaN"),
    (Decimal, "1e5"),
    (Decimal, " 1"),
    (Decimal, "\u0661"),
    (bytes, "AP8"),
    (bytes, "A-8="),
    (bytes, "é"),
    (UUID, "{b68a35a7-17ad-35b3-af2a-ae46edb4545a"),
    (date, "2024-02-29"),
    (date, "2023-02-29Z"),
    (date, "infinity"),
    (date, "+10000-01-01Z"),
    (date, "0000-01-01Z"),
    (date, 19782),
    (time, "24:00:00Z"),
    (time, "12:34:56.1234567Z"),
    (datetime, "infinity"),
    (datetime, "2024-02-29T12:34:56"),
    (datetime, "2024-02-29T12:34:56+02:00"),
    (datetime, "2024-W09-4T12:34:56Z"),
    (datetime, 1709210096123456),
    (timedelta, "P0Y1M0DT0H0M0S"),
    (timedelta, "P178000000Y0M0DT0H0M0S"),
    (timedelta, "infinity"),
    (timedelta, "P0Y0M9999999999DT0H0M0S"),
    (Color, "green"),
    (Color, ["red"]),
    (Level, True),
    (Literal[1], "1"),
    (Literal[1], True),
    (list[int], [1, None]),
    (list[int], ["1"]),
    (list[int], None),
    (list[int], "{1,2}"),
    (dict[str, int], '{"a": "x"}'),
    (dict[str, float], '{"a": 1e400}'),
    (dict[str, int], [1]),
    (Settings, '{"size": 2}'),
    (Settings, "["),
    (Point, {"x": 1}),
    (str | None, "__debezium_unavailable_value"),
    (int, "__debezium_unavailable_value"),
]


@pytest.mark.parametrize(("annotation", "value"), REFUSED)
def test_a_value_that_the_annotation_does_not_allow_is_an_error(annotation: object, value: object) -> None:
    with pytest.raises(RowError) as caught:
        read(annotation, value)
    assert caught.value.where == {"table": "shop.things", "column": "v"}


@given(
    st.sampled_from([annotation for annotation, _ in REFUSED]),
    st.text(st.characters(codec="utf-8"), min_size=4, max_size=30)
    | st.lists(st.text(st.characters(codec="utf-8"), min_size=4), max_size=2),
)
def test_any_text_is_read_or_a_row_error_that_does_not_quote_it(annotation: object, value: object) -> None:
    error = row_error(annotation, value)
    if error is not None and isinstance(value, str) and not value.isalpha():
        assert value not in str(error).replace(str(annotation), "")
    assert error is None or error.__cause__ is None


def row_error(annotation: object, value: object) -> RowError | None:
    try:
        read(annotation, value)
    except RowError as error:
        return error
    return None


def test_the_error_names_table_column_expected_and_found_but_never_the_value() -> None:
    with pytest.raises(RowError) as caught:
        read(Decimal, "secret")
    text = str(caught.value)
    assert "'v'" in text
    assert "numeric" in text
    assert "found str" in text
    assert "shop.things" in text
    assert "secret" not in text
    with pytest.raises(RowError) as caught:
        read(list[Color], '["secret"]')
    assert "secret" not in str(caught.value)
    with pytest.raises(RowError, match="found UNCHANGED") as caught:
        read(str, "__debezium_unavailable_value")
    assert "Unchanged" in caught.value.remedy


def test_a_missing_column_is_an_error_unless_the_field_has_a_default_and_others_are_ignored() -> None:
    @dataclass
    class Row:
        id: int
        note: str = "none"
        derived: int = field(init=False, default=3)
        odd: int = field(default=0, metadata={"column": "c.ol é"})

    rows = Table("shop.things", Row)
    envelope = {
        "op": "c",
        "source": {"schema": "shop", "table": "things"},
        "after": {"id": 1, "x": 2, "c.ol é": 5},
    }
    event = Event(key=None, value=msgspec.json.encode(envelope), op=None, table=None, position=At())
    change = rows.of(event)
    assert change is not None
    assert change.after == Row(1, odd=5)
    with pytest.raises(RowError, match="no such column"):
        Table("shop.things", make_dataclass("Other", [("other", int)])).of(event)


def test_a_row_type_that_refuses_the_row_is_a_row_error() -> None:
    @dataclass
    class Positive:
        v: int

        def __post_init__(self) -> None:
            if self.v < 0:
                raise ValueError("negative")

    rows = Table("shop.things", Positive)
    value = encode_change(op=Operation.CREATE, table=rows.id, after={"v": -1})
    with pytest.raises(RowError, match="ValueError") as caught:
        rows.of(Event(key=None, value=value, op=None, table=None, position=At()))
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("annotation", [set[int], complex, "Undefined", int | set[str], tuple[int, str]])
def test_an_annotation_that_no_column_can_be_read_as_is_refused_before_any_event(annotation: object) -> None:
    with pytest.raises(ConfigError):
        Table("shop.things", make_dataclass("Thing", [("v", annotation)]))


def test_a_row_type_is_a_dataclass_or_a_struct_and_a_table_has_two_names() -> None:
    with pytest.raises(ConfigError, match="dataclass"):
        Table("shop.things", int)
    with pytest.raises(ConfigError, match="not a table"):
        Table("things", Point)


def test_structs_are_row_types_too_and_their_renamed_fields_are_columns() -> None:
    class Renamed(msgspec.Struct, rename="camel"):
        order_id: int
        total: Decimal = Decimal(0)

    rows = Table("shop.things", Renamed)
    value = encode_change(op=Operation.CREATE, table=rows.id, after=Renamed(5, Decimal("1.50")))
    change = rows.of(Event(key=None, value=value, op=None, table=None, position=At()))
    assert change is not None
    assert change.after == Renamed(5, Decimal("1.50"))


@dataclass
class Everything:
    maybe: NaiveDatetime | None
    i: int
    f: float
    n: Decimal
    s: str
    b: bool
    raw: bytes
    u: UUID
    d: date
    t: time
    tz: AwareTime
    at: datetime
    local: NaiveDatetime
    span: timedelta
    color: Color
    grid: list[list[int | None]]
    prices: list[Decimal]
    tags: dict[str, int | None]
    settings: Settings
    note: str | Unchanged | None
    small: bool | None = None


DECIMALS = st.decimals(allow_nan=False) | st.decimals(allow_infinity=False, allow_nan=False, places=10)
EVERYTHING = st.builds(
    Everything,
    i=st.integers(),
    f=st.floats(allow_nan=False),
    n=DECIMALS,
    s=st.text(st.characters(codec="utf-8")),
    d=st.dates(),
    tz=st.times(timezones=st.just(UTC)),
    at=st.datetimes(timezones=st.just(UTC)),
    local=st.datetimes(),
    maybe=st.none() | st.datetimes(),
    prices=st.lists(DECIMALS, max_size=3),
    tags=st.dictionaries(st.text(st.characters(codec="utf-8")), st.none() | st.integers(-(2**63), 2**64 - 1)),
    settings=st.builds(Settings, st.text(st.characters(codec="utf-8")), st.integers(-(2**63), 2**64 - 1)),
    note=st.none() | st.just(UNCHANGED) | st.text(st.characters(codec="utf-8")),
)


@given(EVERYTHING)
def test_what_is_encoded_is_read_back_the_same(row: Everything) -> None:
    rows = Table("shop.all", Everything)
    value = encode_change(op=Operation.CREATE, table=rows.id, after=row)
    change = rows.of(Event(key=None, value=value, op=None, table=None, position=At()))
    assert change is not None
    assert change.after == row


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        (Decimal("1E+20"), "100000000000000000000"),
        (Decimal("-0.00"), "-0.00"),
        (Decimal("NaN"), "NAN"),
        (Decimal("-Infinity"), "NEGATIVE_INFINITY"),
        (math.nan, "NaN"),
        (-math.inf, "-Infinity"),
        (b"\x00\xff\x10", "AP8Q"),
        (date(2024, 2, 29), "2024-02-29Z"),
        (time(12, 34, 56, 700000), "12:34:56.7Z"),
        (time(12, 34, 56, tzinfo=UTC), "12:34:56Z"),
        (datetime(2024, 2, 29, 12, 34, 56, 120000), "2024-02-29T12:34:56.12Z"),
        (datetime(2024, 2, 29, 12, 34, 56, tzinfo=UTC), "2024-02-29T12:34:56.000000Z"),
        (timedelta(0), "P0Y0M0DT0H0M0S"),
        (timedelta(microseconds=-1), "P0Y0M0DT0H0M-0.000001S"),
        (timedelta(days=3, hours=4, minutes=5, seconds=6.5), "P0Y0M3DT4H5M6.5S"),
        (timedelta(days=-3, hours=-4), "P0Y0M-3DT-4H0M0S"),
        (Color.RED, "red"),
        (True, True),
        (None, None),
        (UNCHANGED, "__debezium_unavailable_value"),
        ([Decimal("1.10"), None], ["1.10", None]),
        ({"a": 2**53 + 1}, '{"a": 9007199254740993}'),
    ],
)
def test_a_value_has_debeziums_wire_form(value: object, wire: object) -> None:
    assert encode_row({"v": value}) == {"v": wire}


def test_a_key_holds_the_named_columns_in_their_order() -> None:
    assert encode_key({"a": 1, "b": Decimal("1.50"), "c": 3}, ["b", "a"]) == b'{"b":"1.50","a":1}'


def test_what_has_no_wire_form_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="complex"):
        encode_row({"v": 1j})
    with pytest.raises(TypeError, match="row"):
        encode_row(5)
