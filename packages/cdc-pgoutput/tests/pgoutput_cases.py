"""The type table: what is inserted, and the JSON that must come out, for every family of PostgreSQL's types.

One case is a column type, an SQL expression and the JSON value. `text(...)` stands for types that are carried
as base64 of PostgreSQL's text. `since` is the first server version that accepts the expression, `needs` an
extension or feature that not every build has.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass

SETUP = """
CREATE TYPE mood AS ENUM ('a', 'b "q"', '');
CREATE TYPE pair AS (n int, t text, d numeric);
CREATE DOMAIN age AS int;
CREATE DOMAIN older AS age CHECK (VALUE > 1);
CREATE DOMAIN price AS numeric(6, 2);
CREATE DOMAIN moment AS timestamptz(3);
CREATE DOMAIN flag AS bit(1);
CREATE DOMAIN note AS text;
CREATE DOMAIN feeling AS mood;
CREATE DOMAIN numbers AS int[];
CREATE DOMAIN document AS jsonb;
CREATE TYPE float8span AS RANGE (subtype = float8);
"""

EXTENSIONS = ("hstore", "ltree", "citext")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    type: str
    sql: str
    json: object
    since: int = 15
    needs: str = ""

    @property
    def name(self) -> str:
        return f"{self.type} {self.sql[:40]}"


def text(value: str) -> str:
    return b64encode(value.encode()).decode()


def cases(type_name: str, *pairs: tuple[str, object], since: int = 15, needs: str = "") -> list[Case]:
    return [Case(type=type_name, sql=sql, json=value, since=since, needs=needs) for sql, value in pairs]


_POINT = {"x": 1.5, "y": -2.0, "wkb": "AQEAAAAAAAAAAAD4PwAAAAAAAADA", "srid": None}
_NAN_POINT = {"x": "NaN", "y": "-Infinity", "wkb": "AQEAAAAAAAAAAAD4fwAAAAAAAPD/", "srid": None}

NUMBERS = [
    *cases("int2", ("-32768", -32768), ("32767", 32767), ("0", 0)),
    *cases("int4", ("-2147483648", -2147483648), ("2147483647", 2147483647)),
    *cases("int8", ("-9223372036854775808", -(2**63)), ("9223372036854775807", 2**63 - 1)),
    *cases("int8", ("9007199254740993", 2**53 + 1)),
    *cases("oid", ("4294967295", 4294967295)),
    *cases("numeric", ("0", "0"), ("-0.00", "0.00"), ("1.10", "1.10"), ("1e20", "100000000000000000000")),
    *cases("numeric", ("1e-30", "0." + "0" * 29 + "1"), ("-1234567890.0987654321", "-1234567890.0987654321")),
    *cases("numeric", ("repeat('123456789', 112)::numeric", "123456789" * 112), ("10000.0001", "10000.0001")),
    *cases(
        "numeric", ("'NaN'", "NAN"), ("'Infinity'", "POSITIVE_INFINITY"), ("'-Infinity'", "NEGATIVE_INFINITY")
    ),
    *cases("numeric(38,10)", ("1", "1.0000000000")),
    *cases("numeric(5,-2)", ("12345", "12300")),
    *cases("float4", ("0", 0.0), ("'-0'", -0.0), ("1", 1.0), ("0.1", 0.1), ("16777216", 1.6777216e7)),
    *cases("float4", ("3.4028235e38", 3.4028235e38), ("1e-45", 1e-45), ("1000000", 1e6), ("1e-4", 1e-4)),
    *cases("float4", ("'NaN'", "NaN"), ("'Infinity'", "Infinity"), ("'-Infinity'", "-Infinity")),
    *cases("float8", ("'-0'", -0.0), ("0.30000000000000004", 0.30000000000000004), ("1e-300", 1e-300)),
    *cases("float8", ("5e-324", 5e-324), ("1.7976931348623157e308", 1.7976931348623157e308), ("2e23", 2e23)),
    *cases("float8", ("9999999", 9999999.0), ("-0.5", -0.5), ("'NaN'", "NaN"), ("'-Infinity'", "-Infinity")),
    *cases("money", ("0", "0.00"), ("1.5", "1.50"), ("'-92233720368547758.08'", "-92233720368547758.08")),
    *cases("money", ("'92233720368547758.07'", "92233720368547758.07")),
    *cases("bool", ("true", True), ("false", False), ("NULL", None)),
]

_ESCAPES = '"\\\b\t\n\f\r\x1f\x7f\u0080\u2028\ufeff\uffff/<>&\U0001f600é'

TEXTS = [
    *cases("text", ("''", ""), ("'NULL'", "NULL"), ("' a '", " a "), (f"$q${_ESCAPES}$q$", _ESCAPES)),
    *cases("text", ("repeat('x', 300)", "x" * 300), ("repeat('é', 33000)", "é" * 33000), ("NULL", None)),
    *cases("varchar(5)", ("'ab'", "ab")),
    *cases("char(5)", ("'ab'", "ab   "), ("''", "     "), ("'éé'", "éé   ")),
    *cases("name", ("'n'", "n")),
    *cases('"char"', ("'a'", "a"), ("''", "")),
    *cases('"char"', ("'\\377'", "\\377"), since=16),
    *cases("bytea", ("''", ""), ("'\\x00ff10'", "AP8Q")),
    *cases("xml", ("'<a>é</a>'", "<a>é</a>"), needs="xml"),
    *cases("json", ('\'{"b" : 1, "b":9007199254740993}\'', '{"b" : 1, "b":9007199254740993}')),
    *cases("json", ("'[\"\\u00e9\\u0000\", 1e400]'", '["\\u00e9\\u0000", 1e400]')),
    *cases(
        "jsonb", ('\'{"b":3,"a":2}\'', '{"a": 2, "b": 3}'), ("'null'", "null"), ("'1e400'", "1" + "0" * 400)
    ),
    *cases("uuid", ("'B68A35A7-17AD-35B3-AF2A-AE46EDB4545A'", "b68a35a7-17ad-35b3-af2a-ae46edb4545a")),
    *cases("inet", ("'10.1.2.3'", "10.1.2.3"), ("'10.1.2.3/24'", "10.1.2.3/24"), ("'::1'", "::1")),
    *cases("inet", ("'2001:db8::ff00:42:8329/64'", "2001:db8::ff00:42:8329/64")),
    *cases("inet", ("'::ffff:1.2.3.4'", "::ffff:1.2.3.4")),
    *cases("cidr", ("'10.1.2.3'", "10.1.2.3/32"), ("'2001:db8::/32'", "2001:db8::/32")),
    *cases("macaddr", ("'08:00:2b:01:02:03'", "08:00:2b:01:02:03")),
    *cases("macaddr8", ("'08:00:2b:01:02:03:04:05'", "08:00:2b:01:02:03:04:05")),
    *cases("mood", ("'b \"q\"'", 'b "q"'), ("''", "")),
    *cases("tsvector", ("'''it''''s'':3 fat:2A cat:3'", "'cat':3 'fat':2A 'it''s':3")),
    *cases("citext", ("'AbC'", "AbC"), needs="citext"),
    *cases("ltree", ("'Top.A_1'", "Top.A_1"), ("''", ""), needs="ltree"),
    *cases("hstore", ("'b=>NULL, a=>1'", '{"a":"1","b":null}'), ("''", "{}"), needs="hstore"),
    *cases(
        "hstore", ("hstore(E'k\"\\\\', E'v,=>\\x1f\\n')", '{"k\\"\\\\":"v,=>\\u001F\\n"}'), needs="hstore"
    ),
    *cases("int4range", ("'[1,5]'", "[1,6)"), ("'empty'", "empty"), ("'(,)'", "(,)")),
    *cases("int8range", ("'[1,5)'", "[1,5)")),
    *cases("numrange", ("'(1.50,2]'", "(1.50,2]")),
    *cases("tsrange", ("'[2024-01-01 00:00,)'", '["2024-01-01 00:00:00",)')),
    *cases("tstzrange", ("'[2024-01-01 00:00+02,infinity)'", '["2023-12-31 22:00:00+00",infinity)')),
    *cases(
        "daterange", ("'[-infinity,infinity]'", "[-infinity,infinity]"), ("'[2024-01-01,]'", "[2024-01-01,)")
    ),
]

MOMENTS = [
    *cases("date", ("'2024-02-29'", "2024-02-29Z"), ("'10000-01-01'", "+10000-01-01Z")),
    *cases("date", ("'5874897-12-31'", "+5874897-12-31Z"), ("'0001-01-01 BC'", "0000-01-01Z")),
    *cases(
        "date", ("'4713-11-24 BC'", "-4712-11-24Z"), ("'infinity'", "infinity"), ("'-infinity'", "-infinity")
    ),
    *cases("time", ("'00:00'", "00:00:00Z"), ("'12:34:56'", "12:34:56Z"), ("'12:34:56.7'", "12:34:56.7Z")),
    *cases("time", ("'12:34:56.123456'", "12:34:56.123456Z"), ("'24:00'", "24:00:00Z")),
    *cases("time(0)", ("'12:34:56.7'", "12:34:57Z")),
    *cases("timetz", ("'12:34:56+02'", "10:34:56Z"), ("'23:00-02'", "01:00:00Z")),
    *cases("timetz", ("'12:34:56.123456-05:30'", "18:04:56.123456Z"), ("'24:00+00'", "00:00:00Z")),
    *cases("timetz", ("'00:00+15:59:59'", "08:00:01Z"), ("'00:00-15:59:59'", "15:59:59Z")),
    *cases("timestamp", ("'2024-02-29 12:34:56'", "2024-02-29T12:34:56Z")),
    *cases("timestamp", ("'2024-02-29 12:34:56.1'", "2024-02-29T12:34:56.1Z")),
    *cases("timestamp", ("'2024-02-29 12:34:56.123456'", "2024-02-29T12:34:56.123456Z")),
    *cases("timestamp", ("'1969-12-31 23:59:59.999999'", "1969-12-31T23:59:59.999999Z")),
    *cases("timestamp", ("'0001-12-31 23:59:59 BC'", "0000-12-31T23:59:59Z")),
    *cases("timestamp", ("'4713-11-24 00:00 BC'", "-4712-11-24T00:00:00Z")),
    *cases("timestamp", ("'10000-01-01'", "+10000-01-01T00:00:00Z")),
    *cases("timestamp", ("'294276-12-31 23:59:59.999999'", "+294276-12-31T23:59:59.999999Z")),
    *cases("timestamp", ("'infinity'", "infinity"), ("'-infinity'", "-infinity")),
    *cases("timestamp(0)", ("'2024-02-29 12:34:56'", "2024-02-29T12:34:56Z")),
    *cases("timestamp(3)", ("'2024-02-29 12:34:56.123'", "2024-02-29T12:34:56.123Z")),
    *cases("timestamp(3)", ("'2024-02-29 12:34:56.1'", "2024-02-29T12:34:56.1Z")),
    *cases("timestamptz", ("'2024-02-29 12:34:56+00'", "2024-02-29T12:34:56.000000Z")),
    *cases("timestamptz", ("'2024-02-29 12:34:56.1+00'", "2024-02-29T12:34:56.100000Z")),
    *cases("timestamptz", ("'2024-02-29 12:34:56.123456+02'", "2024-02-29T10:34:56.123456Z")),
    *cases("timestamptz", ("'10000-01-01 00:00+00'", "+10000-01-01T00:00:00.000000Z")),
    *cases("timestamptz", ("'0001-12-31 23:59:59+00 BC'", "0000-12-31T23:59:59.000000Z")),
    *cases("timestamptz", ("'infinity'", "infinity"), ("'-infinity'", "-infinity")),
    *cases("timestamptz(3)", ("'2024-02-29 12:34:56.12+00'", "2024-02-29T12:34:56.120Z")),
    *cases("timestamptz(3)", ("'2024-02-29 12:34:56.125+00'", "2024-02-29T12:34:56.125Z")),
    *cases("timestamptz(0)", ("'2024-02-29 12:34:56+00'", "2024-02-29T12:34:56Z")),
    *cases("interval", ("'0'", "P0Y0M0DT0H0M0S"), ("'1 year 2 mons 3 days'", "P1Y2M3DT0H0M0S")),
    *cases("interval", ("'1-2 3 4:05:06.789012'", "P1Y2M3DT4H5M6.789012S")),
    *cases("interval", ("'-1-2 -3 -4:05:06.789'", "P-1Y-2M-3DT-4H-5M-6.789S")),
    *cases("interval", ("'1 mon -1 day'", "P0Y1M-1DT0H0M0S"), ("'100 hours'", "P0Y0M0DT100H0M0S")),
    *cases("interval", ("'-1 mon +3 days 4:00'", "P0Y-1M3DT4H0M0S")),
    *cases("interval", ("'-0.000001 s'", "P0Y0M0DT0H0M-0.000001S"), ("'0.5 s'", "P0Y0M0DT0H0M0.5S")),
    *cases("interval", ("'178000000 years'", "P178000000Y0M0DT0H0M0S")),
    *cases("interval", ("'infinity'", "infinity"), ("'-infinity'", "-infinity"), since=17),
]

OTHERS = [
    *cases("bit(1)", ("B'1'", True), ("B'0'", False)),
    *cases("bit(8)", ("B'10101010'", "qg=="), ("B'00000000'", "")),
    *cases("bit(12)", ("B'000000000011'", "Aw=="), ("B'100000000001'", "AQg=")),
    *cases("bit(64)", ("1::bit(64)", "AQ==")),
    *cases("bit(70)", ("repeat('1', 70)::bit(70)", "//////////8/")),
    *cases("varbit", ("B''", ""), ("B'101'", "BQ==")),
    *cases("point", ("'(1.5,-2)'", _POINT), ("'(nan,-inf)'", _NAN_POINT)),
    *cases("box", ("'(0,0),(2,2)'", text("(2,2),(0,0)"))),
    *cases("circle", ("'<(1,2),3>'", text("<(1,2),3>"))),
    *cases("line", ("'{1,2,3}'", text("{1,2,3}"))),
    *cases("lseg", ("'[(0,0),(1,1)]'", text("[(0,0),(1,1)]"))),
    *cases("path", ("'((0,0),(1,1))'", text("((0,0),(1,1))"))),
    *cases("polygon", ("'((0,0),(1,1),(2,0))'", text("((0,0),(1,1),(2,0))"))),
    *cases("tsquery", ("'fat & rat'", text("'fat' & 'rat'"))),
    *cases("jsonpath", ("'$.a'", text('$."a"'))),
    *cases("int4multirange", ("'{[1,3),[5,8)}'", text("{[1,3),[5,8)}"))),
    *cases("pair", ("(1, 'a \"b\" \\ ,c', 1.50)", text('(1,"a ""b"" \\\\ ,c",1.50)'))),
    *cases("float8span", ("'[1.5,2)'", text("[1.5,2)"))),
    *cases("xid", ("'7'", text("7"))),
    *cases("xid8", ("'18446744073709551615'", text("18446744073709551615"))),
    *cases("cid", ("'7'", text("7"))),
    *cases("tid", ("'(1,2)'", text("(1,2)"))),
    *cases("pg_lsn", ("'16/B374D848'", text("16/B374D848"))),
    *cases("pg_snapshot", ("'10:20:10,14'", text("10:20:10,14"))),
    *cases("txid_snapshot", ("'10:20:10,14'", text("10:20:10,14"))),
    *cases("regclass", ("'pg_class'", text("pg_class"))),
    *cases("regproc", ("'now'", text("now"))),
    *cases("refcursor", ("'cur'", text("cur"))),
    *cases("lquery", ("'Top.*'", text("Top.*")), needs="ltree"),
    *cases("ltxtquery", ("'Top & A'", text("Top & A")), needs="ltree"),
    *cases("int2vector", ("'1 2 3'", [1, 2, 3]), ("''", [])),
    *cases("oidvector", ("'1 4294967295'", [1, 4294967295])),
    *cases("older", ("7", 7)),
    *cases("price", ("1", "1.00")),
    *cases("moment", ("'2024-02-29 12:34:56+00'", "2024-02-29T12:34:56.000Z")),
    *cases("flag", ("B'1'", True)),
    *cases("note", ("'t\"'", 't"')),
    *cases("feeling", ("'a'", "a")),
    *cases("numbers", ("'{1,NULL}'", [1, None])),
    *cases("document", ("'{\"a\":1}'", '{"a": 1}')),
]

ARRAYS = [
    *cases("int2[]", ("'{1,NULL,-3}'", [1, None, -3]), ("'{}'", [])),
    *cases("int4[]", ("'[2:4]={7,8,9}'", [7, 8, 9]), ("'{{1,2},{3,NULL}}'", [[1, 2], [3, None]])),
    *cases("int4[]", ("'[0:0][-1:0]={{1,2}}'", [[1, 2]]), ("NULL", None)),
    *cases("int8[]", ("'{9007199254740993}'", [2**53 + 1])),
    *cases("oid[]", ("'{4294967295}'", [4294967295])),
    *cases("float4[]", ("'{0.1,NaN}'", [0.1, "NaN"])),
    *cases(
        "float8[]",
        ("'{0.30000000000000004,NaN,Infinity,NULL}'", [0.30000000000000004, "NaN", "Infinity", None]),
    ),
    *cases("bool[]", ("'{t,f,NULL}'", [True, False, None])),
    *cases(
        "text[]",
        (
            """ARRAY['a', E'b"q\\\\x', '', NULL, 'NULL', 'c,d', '{e}', 'é', ' pad ', E'\\n']""",
            ["a", 'b"q\\x', "", None, "NULL", "c,d", "{e}", "é", " pad ", "\n"],
        ),
        ("""'{{"a,b",c},{"}","\\""}}'""", [["a,b", "c"], ["}", '"']]),
    ),
    *cases("varchar[]", ("'{a}'", ["a"])),
    *cases("char(3)[]", ("'{a}'", ["a  "])),
    *cases("name[]", ("'{n}'", ["n"])),
    *cases("uuid[]", ("'{b68a35a7-17ad-35b3-af2a-ae46edb4545a}'", ["b68a35a7-17ad-35b3-af2a-ae46edb4545a"])),
    *cases("inet[]", ("'{10.1.2.3/24}'", ["10.1.2.3/24"])),
    *cases("macaddr[]", ("'{08:00:2b:01:02:03}'", ["08:00:2b:01:02:03"])),
    *cases("tsvector[]", ("ARRAY['a:1'::tsvector]", ["'a':1"])),
    *cases("int4range[]", ("""'{"[1,5]",NULL}'""", ["[1,6)", None])),
    *cases("json[]", ("""ARRAY['{"a": 1}'::json]""", ['{"a": 1}'])),
    *cases("jsonb[]", ("""ARRAY['{"a":1}'::jsonb, NULL]""", ['{"a": 1}', None])),
    *cases("numeric[]", ("'{1.10,NaN,-Infinity,NULL}'", ["1.10", "NAN", "NEGATIVE_INFINITY", None])),
    *cases("numeric(10,2)[]", ("'{1.1,2}'", ["1.10", "2.00"])),
    *cases("date[]", ("'{2024-02-29,infinity,0001-01-01 BC}'", ["2024-02-29Z", "infinity", "0000-01-01Z"])),
    *cases("time[]", ("'{24:00}'", ["24:00:00Z"])),
    *cases("timetz[]", ("'{12:34:56+02}'", ["10:34:56Z"])),
    *cases("timestamp[]", ("""'{"2024-03-10 02:30",-infinity}'""", ["2024-03-10T02:30:00Z", "-infinity"])),
    *cases(
        "timestamptz[]",
        ("""'{"2024-03-10 02:30+00",infinity}'""", ["2024-03-10T02:30:00.000000Z", "infinity"]),
    ),
    *cases("timestamptz(0)[]", ("""'{"2024-03-10 02:30+00"}'""", ["2024-03-10T02:30:00Z"])),
    *cases("bytea[]", ("""ARRAY['\\x00ff'::bytea, NULL]""", ["AP8=", None])),
    *cases("mood[]", ("""ARRAY['a', 'b "q"', NULL, '']::mood[]""", ["a", 'b "q"', None, ""])),
    *cases("pair[]", ("""ARRAY[(1, 'x,y', NULL)::pair]""", [text('(1,"x,y",)')])),
    *cases("age[]", ("'{7,NULL}'", [7, None])),
    *cases("bit(1)[]", ("ARRAY[B'1', B'0']::bit(1)[]", [True, False])),
    *cases("bit(3)[]", ("ARRAY[B'101']", ["BQ=="])),
    *cases("varbit[]", ("'{101}'", ["BQ=="])),
    *cases("interval[]", ("'{1 day,-00:00:01}'", ["P0Y0M1DT0H0M0S", "P0Y0M0DT0H0M-1S"])),
    *cases("money[]", ("ARRAY[1234.5::money]", ["1234.50"])),
    *cases("point[]", ("""'{"(1.5,-2)"}'""", [_POINT])),
    *cases("box[]", ("'{(0,0),(2,2);(1,1),(0,0)}'", [text("(2,2),(0,0)"), text("(1,1),(0,0)")])),
    *cases("xml[]", ("""ARRAY['<a/>'::xml]""", ["<a/>"]), needs="xml"),
    *cases("citext[]", ("'{Ab}'", ["Ab"]), needs="citext"),
    *cases("ltree[]", ("'{Top.A}'", ["Top.A"]), needs="ltree"),
    *cases("hstore[]", ("""ARRAY['a=>1'::hstore]""", ['{"a":"1"}']), needs="hstore"),
    *cases("float8span[]", ("""'{"[1.5,2)"}'""", [text("[1.5,2)")])),
]

ALL = [*NUMBERS, *TEXTS, *MOMENTS, *OTHERS, *ARRAYS]
