"""The built-in types: their OIDs, which never change between releases, and how each is written.

The OIDs are those of pg_type in PostgreSQL 15 (src/include/catalog/pg_type.dat); 14 to 18 have the same
types.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from ._json_text import (
    JsonFromText,
    base64_json,
    bit_json,
    bits_json,
    bool_json,
    bytea_json,
    date_json,
    float_json,
    hstore_json,
    integer_json,
    interval_json,
    money_json,
    numeric_json,
    point_json,
    string_json,
    time_json,
    timestamp_json,
    timestamptz_json,
    timetz_json,
    vector_json,
)
from ._moments import (
    python_date,
    python_interval,
    python_time,
    python_timestamp,
    python_timestamptz,
    python_timetz,
)
from ._python_text import (
    PythonFromText,
    bit_python,
    bool_python,
    bytea_python,
    float_python,
    hstore_python,
    integer_python,
    money_python,
    numeric_python,
    uuid_python,
    vector_python,
)

__all__ = ["ARRAYS", "EXTENSION_STYLES", "SCALARS", "STYLES", "BuiltinArray", "Style"]


@final
@dataclass(frozen=True, slots=True)
class Style:
    """How a family of types is written. `inline` names the code that the row generator has for it, if it has
    any.
    """

    to_json: JsonFromText
    to_python: PythonFromText
    inline: str | None = None


def _text(text: str) -> str:
    return text


STYLES: dict[str, Style] = {
    "bool": Style(bool_json, bool_python, "bool"),
    "integer": Style(integer_json, integer_python, "integer"),
    "float": Style(float_json, float_python, "float"),
    "numeric": Style(numeric_json, numeric_python, "numeric"),
    "money": Style(money_json, money_python),
    "text": Style(string_json, _text, "text"),
    "uuid": Style(string_json, uuid_python, "text"),
    "bytea": Style(bytea_json, bytea_python),
    "date": Style(date_json, python_date, "date"),
    "time": Style(time_json, python_time),
    "timetz": Style(timetz_json, python_timetz),
    "timestamp": Style(timestamp_json, python_timestamp, "timestamp"),
    "timestamptz": Style(timestamptz_json(6), python_timestamptz, "timestamptz"),
    "interval": Style(interval_json, python_interval),
    "bit": Style(bit_json, bit_python),
    "bits": Style(bits_json, _text),
    "point": Style(point_json, _text),
    "vector": Style(vector_json, vector_python),
    "hstore": Style(hstore_json, hstore_python),
    "opaque": Style(base64_json, _text),
}

# Types of extensions have another OID in every database: they are known by the name they are registered with.
EXTENSION_STYLES = {"citext": "text", "ltree": "text", "hstore": "hstore"}

# oid, oid of its array (0: none), name, style
_TABLE = """
16 1000 bool bool
17 1001 bytea bytea
18 1002 char text
19 1003 name text
20 1016 int8 integer
21 1005 int2 integer
22 1006 int2vector vector
23 1007 int4 integer
24 1008 regproc opaque
25 1009 text text
26 1028 oid integer
27 1010 tid opaque
28 1011 xid opaque
29 1012 cid opaque
30 1013 oidvector vector
114 199 json text
142 143 xml text
194 0 pg_node_tree opaque
600 1017 point point
601 1018 lseg opaque
602 1019 path opaque
603 1020 box opaque
604 1027 polygon opaque
628 629 line opaque
650 651 cidr text
700 1021 float4 float
701 1022 float8 float
718 719 circle opaque
774 775 macaddr8 text
790 791 money money
829 1040 macaddr text
869 1041 inet text
1033 1034 aclitem opaque
1042 1014 bpchar text
1043 1015 varchar text
1082 1182 date date
1083 1183 time time
1114 1115 timestamp timestamp
1184 1185 timestamptz timestamptz
1186 1187 interval interval
1266 1270 timetz timetz
1560 1561 bit bits
1562 1563 varbit bits
1700 1231 numeric numeric
1790 2201 refcursor opaque
2202 2207 regprocedure opaque
2203 2208 regoper opaque
2204 2209 regoperator opaque
2205 2210 regclass opaque
2206 2211 regtype opaque
2950 2951 uuid uuid
2970 2949 txid_snapshot opaque
3220 3221 pg_lsn opaque
3361 0 pg_ndistinct opaque
3402 0 pg_dependencies opaque
3614 3643 tsvector text
3615 3645 tsquery opaque
3642 3644 gtsvector opaque
3734 3735 regconfig opaque
3769 3770 regdictionary opaque
3802 3807 jsonb text
3904 3905 int4range text
3906 3907 numrange text
3908 3909 tsrange text
3910 3911 tstzrange text
3912 3913 daterange text
3926 3927 int8range text
4072 4073 jsonpath opaque
4089 4090 regnamespace opaque
4096 4097 regrole opaque
4191 4192 regcollation opaque
4451 6150 int4multirange opaque
4532 6151 nummultirange opaque
4533 6152 tsmultirange opaque
4534 6153 tstzmultirange opaque
4535 6155 datemultirange opaque
4536 6157 int8multirange opaque
4600 0 pg_brin_bloom_summary opaque
4601 0 pg_brin_minmax_multi_summary opaque
5017 0 pg_mcv_list opaque
5038 5039 pg_snapshot opaque
5069 271 xid8 opaque
"""


@final
@dataclass(frozen=True, slots=True)
class BuiltinArray:
    name: str
    element_oid: int
    delimiter: str


def _read_table() -> tuple[dict[int, tuple[str, str]], dict[int, BuiltinArray]]:
    scalars: dict[int, tuple[str, str]] = {}
    arrays: dict[int, BuiltinArray] = {}
    for line in _TABLE.split("\n")[1:-1]:
        oid, array_oid, name, style = line.split()
        scalars[int(oid)] = (name, style)
        if array_oid != "0":
            # box is the one built-in type whose elements are not delimited by a comma
            arrays[int(array_oid)] = BuiltinArray(f"{name}[]", int(oid), ";" if name == "box" else ",")
    return scalars, arrays


SCALARS, ARRAYS = _read_table()
