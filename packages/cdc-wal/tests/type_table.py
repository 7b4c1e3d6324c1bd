"""The type table on a server: what is inserted, and the JSON that is due.

The cases are those of cdc-pgoutput's own tests, which check them against recorded streams; here they are written to a
running server and read through a slot. `MORE` are cases that only need a server.
"""

from __future__ import annotations

import json
import runpy
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

CASES_FILE = Path(__file__).parents[2] / "cdc-pgoutput" / "tests" / "pgoutput_cases.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A column type, an SQL expression, and the JSON value due; `since` and `needs` say which servers have it."""

    type: str
    sql: str
    json: object
    since: int = 15
    needs: str = ""


_RECORDED = runpy.run_path(str(CASES_FILE), run_name="pgoutput_cases")


def _recorded(name: str) -> list[Case]:
    return [
        Case(type=one.type, sql=one.sql, json=one.json, since=one.since, needs=one.needs)
        for one in _RECORDED[name]
    ]


def _cases(type_name: str, *pairs: tuple[str, object], since: int = 15, needs: str = "") -> list[Case]:
    return [Case(type=type_name, sql=sql, json=value, since=since, needs=needs) for sql, value in pairs]


def _text(value: str) -> str:
    return b64encode(value.encode()).decode()


SETUP: str = (
    _RECORDED["SETUP"]
    + """
CREATE DOMAIN short AS varchar(5);
CREATE DOMAIN feelings AS mood[];
CREATE DOMAIN instants AS timestamptz(0)[];
CREATE DOMAIN pricelist AS price[];
CREATE DOMAIN whole_day AS daterange;
CREATE DOMAIN couple AS pair;
CREATE TYPE nest AS (p pair, f feeling[], w timestamptz);
"""
)

_ADDRESS = "2001:db8:85a3::8a2e:370:7334"
_MULTIRANGES = [
    *_cases("int4multirange", ("'{}'", _text("{}")), ("'{[1,2],[2,5)}'", _text("{[1,5)}"))),
    *_cases("int8multirange", ("'{(,5),[7,)}'", _text("{(,5),[7,)}"))),
    *_cases("nummultirange", ("'{[1.5,2.50)}'", _text("{[1.5,2.50)}"))),
    *_cases("datemultirange", ("'{[2024-01-01,2024-01-02]}'", _text("{[2024-01-01,2024-01-03)}"))),
    *_cases("tsmultirange", ("'{[2024-01-01 00:00,)}'", _text('{["2024-01-01 00:00:00",)}'))),
    *_cases("tstzmultirange", ("'{[2024-01-01 00:00+02,)}'", _text('{["2023-12-31 22:00:00+00",)}'))),
    *_cases("float8span_multirange", ("'{[0.1,0.2]}'", _text("{[0.1,0.2]}"))),
    *_cases("int4multirange[]", ("""'{"{[1,3)}",NULL,"{}"}'""", [_text("{[1,3)}"), None, _text("{}")])),
]
_MORE_ARRAYS = [
    *_cases("numrange[]", ("""'{"(1.50,2]",empty,NULL}'""", ["(1.50,2]", "empty", None])),
    *_cases("daterange[]", ("""'[0:1]={"[2024-01-01,)",NULL}'""", ["[2024-01-01,)", None])),
    *_cases(
        "tstzrange[]", ("""ARRAY[tstzrange('2024-01-01 00:00+02', NULL)]""", ['["2023-12-31 22:00:00+00",)'])
    ),
    *_cases("float4[]", ("'{{0.5,-0},{NULL,1e10}}'", [[0.5, -0.0], [None, 1e10]])),
    *_cases("numeric(10,2)[]", ("'{1.1,NULL}'", ["1.10", None])),
    *_cases(
        "text[]",
        ("'[-1:0][2:3]={{a,NULL},{\"\",b}}'", [["a", None], ["", "b"]]),
        ("'{{{a}},{{b}}}'", [[["a"]], [["b"]]]),
    ),
    *_cases("cidr[]", ("'{10.0.0.0/8,NULL}'", ["10.0.0.0/8", None])),
    *_cases("macaddr8[]", ("'{08:00:2b:01:02:03:04:05}'", ["08:00:2b:01:02:03:04:05"])),
    *_cases('"char"[]', ("'{a,\"\",NULL}'", ["a", "", None])),
    *_cases("xid8[]", ("'{1,NULL}'", [_text("1"), None])),
    *_cases("pg_lsn[]", ("'{0/A}'", [_text("0/A")])),
    *_cases("jsonpath[]", ("ARRAY['$.a'::jsonpath]", [_text('$."a"')])),
    *_cases("tsquery[]", ("ARRAY['a & b'::tsquery]", [_text("'a' & 'b'")])),
    *_cases("bool[]", ("'[5:6]={t,NULL}'", [True, None])),
    *_cases("feeling[]", ("'{a,NULL}'", ["a", None])),
    *_cases("price[]", ("'{1,NULL}'", ["1.00", None])),
    *_cases("short[]", ("'{abc,NULL}'", ["abc", None])),
    *_cases("feelings", ("ARRAY['a', NULL]::mood[]", ["a", None])),
    *_cases("instants", ("'{2024-02-29 12:34:56+00}'", ["2024-02-29T12:34:56Z"])),
    *_cases("pricelist", ("'{1,NULL}'", ["1.00", None])),
    *_cases("lseg[]", ("ARRAY['[(0,0),(1,1)]'::lseg]", [_text("[(0,0),(1,1)]")])),
    *_cases("bit(1)[]", ("'{1,NULL,0}'", [True, None, False])),
    *_cases("date[]", ("'{-infinity,0044-03-15 BC,NULL}'", ["-infinity", "-0043-03-15Z", None])),
    *_cases("oidvector[]", ("ARRAY['1 2'::oidvector]", [[1, 2]])),
]
_MORE_SCALARS = [
    *_cases("bool", ("true", True)),
    *_cases(
        "text", ("E'tab\\tquote\"back\\\\slash'", 'tab\tquote"back\\slash'), ("'日本語 🎉'", "日本語 🎉")
    ),
    *_cases("varchar", ("''", ""), ("'é'", "é")),
    *_cases("name", ("''", ""), ("'é'", "é")),
    *_cases("char(1)", ("''", " "), ("'🎉'", "🎉")),
    *_cases("jsonb", ("'[9007199254740993]'", "[9007199254740993]")),
    *_cases("inet", (f"'{_ADDRESS}'", _ADDRESS), ("'0.0.0.0/0'", "0.0.0.0/0")),
    *_cases("numeric(1000,500)", ("1", "1." + "0" * 500)),
    *_cases("numeric(3,5)", ("0.00123", "0.00123")),
    *_cases("numeric(5,-2)", ("50", "100"), ("-12345", "-12300")),
    *_cases("oid", ("0", 0)),
    *_cases("float4", ("1e10", 1e10), ("'-Infinity'", "-Infinity"), ("1.17549435e-38", 1.1754944e-38)),
    *_cases("float8", ("'Infinity'", "Infinity"), ("-1e22", -1e22), ("1e15", 1e15), ("1e16", 1e16)),
    *_cases("money", ("-1234567.891", "-1234567.89"), ("'0.01'", "0.01")),
    *_cases("time", ("'23:59:59.999999'", "23:59:59.999999Z")),
    *_cases("timetz", ("'24:00:00-15:59'", "15:59:00Z"), ("'00:00:00.1+00:00:01'", "23:59:59.1Z")),
    *_cases("timestamptz", ("'4714-11-24 00:00:00+00 BC'", "-4713-11-24T00:00:00.000000Z")),
    *_cases("timestamptz", ("'294276-12-31 23:59:59.999999+00'", "+294276-12-31T23:59:59.999999Z")),
    *_cases("date", ("'4714-11-24 BC'", "-4713-11-24Z"), ("'0001-01-01'", "0001-01-01Z")),
    *_cases("interval", ("'2562047788:00:54.775807'", "P0Y0M0DT2562047788H0M54.775807S")),
    *_cases(
        "interval",
        ("'-178000000 years'", "P-178000000Y0M0DT0H0M0S"),
        ("'2147483647 days'", "P0Y0M2147483647DT0H0M0S"),
    ),
    *_cases("interval(0)", ("'1.6 s'", "P0Y0M0DT0H0M2S")),
    *_cases("interval year to month", ("'14 months'", "P1Y2M0DT0H0M0S")),
    *_cases("varbit(5)", ("B'00101'", "BQ==")),
    *_cases("path", ("'[(0,0),(1e-30,1)]'", _text("[(0,0),(1e-30,1)]"))),
    *_cases("circle", ("'<(0.1,0.30000000000000004),3>'", _text("<(0.1,0.30000000000000004),3>"))),
    *_cases("tsvector", ("''", "")),
    *_cases("tsrange", ("'(,infinity)'", "(,infinity)")),
    *_cases("short", ("'abcde'", "abcde")),
    *_cases("whole_day", ("'[2024-01-01,2024-01-01]'", "[2024-01-01,2024-01-02)")),
    *_cases("couple", ("ROW(NULL, '', 'NaN')", _text('(,"",NaN)'))),
    *_cases(
        "nest",
        (
            "ROW(ROW(1, NULL, NULL), '{a}', '2024-01-01 00:00+02')",
            _text('("(1,,)",{a},"2023-12-31 22:00:00+00")'),
        ),
    ),
    *_cases("regtype", ("'int4'", _text("integer")), ("'mood'", _text("public.mood"))),
    *_cases("regnamespace", ("'public'", _text("public"))),
    *_cases("regrole", ("'pg_monitor'", _text("pg_monitor"))),
    *_cases("regconfig", ("'simple'", _text("simple"))),
    *_cases('"char"', ('(-1)::int4::"char"', "\\377")),
    *_cases("aclitem", ("makeaclitem(10, 10, 'SELECT', false)", _text("postgres=r/postgres"))),
]
MORE = [*_MORE_SCALARS, *_MULTIRANGES, *_MORE_ARRAYS]

FAMILIES: dict[str, list[Case]] = {
    **{name.lower(): _recorded(name) for name in ("NUMBERS", "TEXTS", "MOMENTS", "OTHERS", "ARRAYS")},
    "more": MORE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Cases as the columns of one table, `v0`, `v1` and so on."""

    name: str
    cases: tuple[Case, ...]

    @property
    def columns(self) -> list[str]:
        return [f"v{index}" for index in range(len(self.cases))]

    @property
    def table_sql(self) -> str:
        columns = ", ".join(
            f"{name} {case.type}" for name, case in zip(self.columns, self.cases, strict=True)
        )
        return f"CREATE TABLE {self.name} (id int PRIMARY KEY, touched int, {columns})"

    @property
    def insert_sql(self) -> str:
        values = ", ".join(f"({case.sql})::{case.type}" for case in self.cases)
        return f"INSERT INTO {self.name} SELECT 1, 0, {values}"

    def differences(self, row: Mapping[str, object]) -> dict[str, tuple[object, object]]:
        """Return what is not as it should be: by case, what was found and what is due."""
        return {
            f"{self.name}.{column} {case.type} {case.sql[:40]}": (row.get(column, "absent"), case.json)
            for column, case in zip(self.columns, self.cases, strict=True)
            if exactly(row.get(column, "absent")) != exactly(case.json)
        }


# Types that no primary key can hold: they have no order.
NOT_KEYS = frozenset(
    [
        "aclitem",
        "box",
        "cid",
        "circle",
        "json",
        "jsonpath",
        "line",
        "lquery",
        "lseg",
        "ltxtquery",
        "path",
        "pg_snapshot",
        "point",
        "polygon",
        "refcursor",
        "txid_snapshot",
        "xid",
        "xml",
    ]
)


def key_families(chosen: Iterable[Family], *, columns_each: int) -> list[Family]:
    """Return the cases that a primary key can hold, a few in each family: an index entry has 2,704 bytes."""
    cases = [
        case
        for family in chosen
        for case in family.cases
        if case.type not in NOT_KEYS and case.json is not None
    ]
    parts = [cases[start : start + columns_each] for start in range(0, len(cases), columns_each)]
    return [Family(name=f"keys_{number}", cases=tuple(part)) for number, part in enumerate(parts)]


# The table begins with PostgreSQL 15; 14 lacks these of it, and sends a "char" above 127 as a byte that is no UTF-8.
_NOT_IN_14 = frozenset({"numeric(5,-2)", "numeric(3,5)", "'2562047788:00:54.775807'", '(-1)::int4::"char"'})


def families(major: int, features: Iterable[str] = ()) -> list[Family]:
    """Return the families with the cases that a server of this version and with these features can hold."""
    available = {"", *features}
    absent = _NOT_IN_14 if major < 15 else frozenset[str]()
    chosen = {
        name: tuple(
            case
            for case in cases
            if case.since <= max(major, 15)
            and case.needs in available
            and absent.isdisjoint((case.type, case.sql))
        )
        for name, cases in FAMILIES.items()
    }
    return [Family(name=f"family_{name}", cases=cases) for name, cases in chosen.items()]


def exactly(value: object) -> str:
    """Return a text that tells -0.0 from 0 and 1 from 1.0, which `==` does not."""
    return json.dumps(value, sort_keys=True)
