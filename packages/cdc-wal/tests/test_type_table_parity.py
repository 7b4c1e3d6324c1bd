"""Any values of many types in one row: the reader's JSON is what a slow reference makes of PostgreSQL's own text."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from type_reference import same, wire
from wal_reading import provisioned, reading

from cdc_wal import WalConfig
from cdc_wal._connection import Connection

pytestmark = pytest.mark.anyio

_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
_INTS = st.integers(-(2**31), 2**31 - 1)
_FLOATS = st.floats(width=64) | st.floats(-1e6, 1e6)
_CENTS = st.integers(-(2**63), 2**63 - 1)
_FRACTION = st.sampled_from(["", ".5", ".123456", ".000001", ".100000", ".999999"])
_INFINITE = st.sampled_from(["infinity", "-infinity"])


def _quoted(items: list[str | None]) -> str:
    parts = [
        "NULL" if one is None else '"' + one.replace("\\", "\\\\").replace('"', '\\"') + '"' for one in items
    ]
    return "{" + ",".join(parts) + "}"


def arrays_of(texts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Literals of arrays with NULLs, of one or two dimensions, some with bounds of their own."""
    flat = st.lists(st.none() | texts, max_size=4).map(_quoted)
    pairs = st.lists(st.lists(st.none() | texts, min_size=2, max_size=2).map(_quoted), min_size=1, max_size=3)
    bounded = st.lists(texts, min_size=3, max_size=3).map(lambda three: f"[-1:1]={_quoted([*three])}")
    return flat | pairs.map(lambda rows: "{" + ",".join(rows) + "}") | bounded


@st.composite
def dates(draw: st.DrawFn, last_year: int = 294275) -> str:
    is_bc = draw(st.integers(0, 3)) == 0
    year = draw(st.integers(1, 4712 if is_bc else last_year) | st.integers(1, 4712) | st.integers(1900, 2100))
    return f"{year:04}-{draw(st.integers(1, 12)):02}-{draw(st.integers(1, 28)):02}{' BC' * (is_bc and year < 4713)}"


@st.composite
def clocks(draw: st.DrawFn) -> str:
    hour, minute, second = (draw(st.integers(0, most)) for most in (23, 59, 59))
    return f"{hour:02}:{minute:02}:{second:02}{draw(_FRACTION)}"


@st.composite
def moments(draw: st.DrawFn, zone: str = "") -> str:
    date = draw(dates())
    return f"{date.removesuffix(' BC')} {draw(clocks())}{zone}{' BC' * date.endswith('BC')}"


@st.composite
def intervals(draw: st.DrawFn) -> str:
    months, days, micros = (
        draw(_INTS),
        draw(_INTS),
        draw(st.integers(-(2**62), 2**62) | st.integers(-(10**8), 10**8)),
    )
    return f"{months} mons {days} days {micros // 1000000} seconds {micros % 1000000} microseconds"


_NUMERICS = st.decimals(allow_nan=False, allow_infinity=False, places=7).map(lambda number: f"{number:f}")
_SPECIALS = st.sampled_from(["NaN", "Infinity", "-Infinity"])
_DATES = dates(last_year=5874897) | _INFINITE
_STAMPS = moments() | _INFINITE
_RANGE = st.tuples(_INTS, st.integers(0, 100)).map(lambda pair: f"[{pair[0] // 2},{pair[0] // 2 + pair[1]})")

COLUMNS: dict[str, st.SearchStrategy[str]] = {
    "bool": st.booleans().map(str),
    "int2": st.integers(-(2**15), 2**15 - 1).map(str),
    "int4": _INTS.map(str),
    "int8": st.integers(-(2**63), 2**63 - 1).map(str),
    "oid": st.integers(0, 2**32 - 1).map(str),
    "float4": st.floats(width=32).map(repr),
    "float8": _FLOATS.map(repr),
    "numeric": _NUMERICS | _SPECIALS | st.integers(-(10**60), 10**60).map(str),
    "money": _CENTS.map(lambda cents: f"{'-' * (cents < 0)}{abs(cents) // 100}.{abs(cents) % 100:02}"),
    "text": _TEXT,
    "varchar": _TEXT,
    "bpchar": _TEXT,
    "bytea": st.binary(max_size=20).map(lambda data: "\\x" + data.hex()),
    "uuid": st.uuids().map(str),
    "json": st.recursive(_TEXT | st.integers() | st.none(), st.lists, max_leaves=4).map(json.dumps).filter(
        lambda text: "\\u0000" not in text
    ),
    "jsonb": st.dictionaries(_TEXT, st.integers(), max_size=3).map(lambda one: json.dumps(one, ensure_ascii=False)),
    "inet": st.ip_addresses().map(str),
    "mood": st.sampled_from(["sad", 'so "so"', ""]),
    "date": _DATES,
    "time": clocks() | st.just("24:00:00"),
    "timetz": st.tuples(clocks(), st.sampled_from(["+00", "-15:59:59", "+05:30", "+14"])).map("".join),
    "timestamp": _STAMPS,
    "timestamptz": moments(zone="+02:30") | _INFINITE,
    "interval": intervals(),
    "varbit": st.text(st.sampled_from("01"), max_size=70),
    "point": st.tuples(_FLOATS, _FLOATS).map(lambda pair: f"({pair[0]!r},{pair[1]!r})"),
    "xid8": st.integers(0, 2**64 - 1).map(str),
    "pg_lsn": st.integers(0, 2**64 - 1).map(lambda lsn: f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"),
    "int4range": _RANGE,
    "int4multirange": st.lists(_RANGE, max_size=3).map(lambda ranges: "{" + ",".join(ranges) + "}"),
    "pair": st.tuples(_INTS, _TEXT).map(lambda two: f"({two[0]},{_quoted([two[1]])[1:-1]})"),
    "text[]": arrays_of(_TEXT),
    "int4[]": arrays_of(_INTS.map(str)),
    "float8[]": arrays_of(_FLOATS.map(repr)),
    "numeric[]": arrays_of(_NUMERICS | _SPECIALS),
    "bool[]": arrays_of(st.booleans().map(str)),
    "mood[]": arrays_of(st.sampled_from(["sad", 'so "so"', ""])),
    "bytea[]": arrays_of(st.binary(max_size=5).map(lambda data: "\\x" + data.hex())),
    "date[]": arrays_of(_DATES),
    "timestamptz[]": arrays_of(moments(zone="-08") | _INFINITE),
    "interval[]": arrays_of(intervals()),
    "varbit[]": arrays_of(st.text(st.sampled_from("01"), max_size=20)),
    "pair[]": arrays_of(st.tuples(_INTS, _TEXT).map(lambda two: f"({two[0]},{_quoted([two[1]])[1:-1]})")),
}  # fmt: skip
ROWS = st.lists(
    st.fixed_dictionaries({name: st.none() | values for name, values in COLUMNS.items()}),
    min_size=1,
    max_size=12,
)
_numbers = itertools.count(1)


@pytest.fixture
async def table(sql: Connection, config: WalConfig) -> None:
    await sql.simple("CREATE TYPE mood AS ENUM ('sad', 'so \"so\"', ''); CREATE TYPE pair AS (n int, t text)")
    columns = ", ".join(f'"{name}" {name}' for name in COLUMNS)
    await sql.simple(
        f"CREATE TABLE t (number int PRIMARY KEY, {columns}); ALTER TABLE t REPLICA IDENTITY FULL"
    )
    await provisioned(config)


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rows=ROWS)
async def test_any_row_is_as_the_reference_reads_the_servers_own_text(
    sql: Connection, config: WalConfig, table: None, rows: list[dict[str, str | None]]
) -> None:
    # Each example has numbers of its own: what an earlier one left unread is passed over.
    first = next(_numbers)
    numbers = [first, *itertools.islice(_numbers, len(rows) - 1)]
    params = ", ".join(f"CAST(${place} AS {name})" for place, name in enumerate(COLUMNS, 2))
    for number, row in zip(numbers, rows, strict=True):
        await sql.fetch(
            f"INSERT INTO t VALUES ($1, {params})", [str(number), *(row[name] for name in COLUMNS)]
        )
    await sql.simple(f"DELETE FROM t WHERE number < {first}")
    printed = await sql.fetch(f"SELECT t.* FROM t WHERE number >= {first} ORDER BY number")
    events: list[dict[str, Any]] = []
    async with reading(config) as reader:
        while len(events) < len(rows):
            (event,) = await reader.take(1)
            envelope = json.loads(event.value or b"")
            if envelope["op"] == "c" and envelope["after"]["number"] >= first:
                events.append(envelope["after"])
            await reader.stream.ack([event])
    for event_row, texts in zip(events, printed, strict=True):
        for (name, found), text in zip(list(event_row.items())[1:], texts[1:], strict=True):
            assert same(found, wire(name, text)), (name, text, found, wire(name, text))
