"""From a value's JSON back to text that the server reads, so that the server says whether the value is the same."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Sequence
from typing import Any, cast

from type_table import Case, Family

_DOMAINS = {
    "age": "int4", "older": "int4", "price": "numeric", "moment": "timestamptz", "flag": "bit(1)", "note": "text",
    "feeling": "mood", "numbers": "int4[]", "document": "jsonb", "short": "varchar", "feelings": "mood[]",
    "instants": "timestamptz[]", "pricelist": "numeric[]", "whole_day": "daterange", "couple": "pair",
}  # fmt: skip
_OPAQUE = frozenset(
    [
        "box",
        "circle",
        "line",
        "lseg",
        "path",
        "polygon",
        "tsquery",
        "jsonpath",
        "pair",
        "nest",
        "float8span",
        "float8span_multirange",
        "xid",
        "xid8",
        "cid",
        "tid",
        "pg_lsn",
        "pg_snapshot",
        "txid_snapshot",
        "regclass",
        "regproc",
        "regtype",
        "regnamespace",
        "regrole",
        "regconfig",
        "refcursor",
        "lquery",
        "ltxtquery",
        "int4multirange",
        "int8multirange",
        "nummultirange",
        "datemultirange",
        "tsmultirange",
        "tstzmultirange",
        "aclitem",
    ]
)
_NUMERIC_NAMES = {"NAN": "NaN", "POSITIVE_INFINITY": "Infinity", "NEGATIVE_INFINITY": "-Infinity"}


def element_type(type_name: str) -> str:
    """Return the type of an array's elements, and any other type, without modifier, its domains resolved."""
    base = _DOMAINS.get(type_name.removesuffix("[]"), type_name.removesuffix("[]"))
    return base.removesuffix("[]") if base == "bit(1)" else base.removesuffix("[]").partition("(")[0]


def literal(type_name: str, value: Any) -> str:
    """Return the text for the server's input function that means the value of this JSON."""
    kind = element_type(type_name)
    items = _items(value)
    if items is None:
        return _scalar(kind, value)
    if _is_vector(kind, items):
        return " ".join(map(str, items))
    separator = ";" if kind == "box" else ","
    return "{" + separator.join(_element(kind, item) for item in items) + "}"


def _items(value: object) -> Sequence[Any] | None:
    return cast("Sequence[Any]", value) if isinstance(value, list) else None


def _is_vector(kind: str, value: Any) -> bool:
    """int2vector and oidvector are lists in JSON and no arrays in SQL."""
    return kind in ("int2vector", "oidvector") and not (value and isinstance(value[0], list))


def _element(kind: str, item: Any) -> str:
    if item is None:
        return "NULL"
    text = literal(kind, item)
    if isinstance(item, list) and not _is_vector(kind, item):
        return text  # one dimension more
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _scalar(kind: str, value: Any) -> str:  # value: as json.loads made it
    if kind in _OPAQUE:
        return b64decode(value).decode()
    match kind:
        case "numeric":
            return _NUMERIC_NAMES.get(value, str(value))
        case "bytea":
            return "\\x" + b64decode(value).hex()
        case "bit(1)":
            return "1" if value else "0"
        case "bit" | "varbit":
            return f"{int.from_bytes(b64decode(value), 'little'):b}" if value else ""
        case "point":
            return f"({value['x']},{value['y']})"
        case "hstore":
            return ",".join(
                f"{json.dumps(k)}=>{json.dumps(v) if v is not None else 'NULL'}"
                for k, v in json.loads(value).items()
            )
        case "date" | "timestamp" | "timestamptz" if value not in ("infinity", "-infinity"):
            return _moment(value)
        case "time":
            return str(value).removesuffix("Z")
        case _:
            return value if isinstance(value, str) else json.dumps(value)


def _moment(value: str) -> str:
    """Read ISO 8601 with an astronomical year: 0 is 1 BC."""
    sign, digits = (value[0], value[1:]) if value[0] in "+-" else ("", value)
    year, _, rest = digits.partition("-")
    if sign == "-" or int(year) == 0:
        return f"{int(year) + 1:04}-{rest} BC"
    return f"{year}-{rest}"


def comparable(type_name: str, text: str | None) -> str | None:
    """Return a value's text without what the wire form is documented to lose: bounds of arrays, length of bits."""
    if text is None:
        return None
    if (type_name.endswith("[]") or type_name in _DOMAINS) and text.startswith("["):
        text = text.partition("=")[2]
    kind = element_type(type_name)
    if kind == "regtype":
        return text.removeprefix(
            "public."
        )  # the reader's sessions have it in full: their search_path is fixed
    if kind in ("bit", "varbit"):
        return ",".join(part.lstrip("0") for part in text.strip("{}").split(","))
    return text


def server_reads(cases: Sequence[Case]) -> str:
    """Return a query that has the server read each literal and print the value; timetz is compared in UTC."""
    parts = [
        _printed(f"CAST(${number} AS {_wide(case.type)})", case.type) for number, case in enumerate(cases, 1)
    ]
    return f"SELECT {', '.join(parts)}"


def server_prints(family: Family) -> str:
    """Return a query that has the server print the values that it stores."""
    parts = [_printed(name, case.type) for name, case in zip(family.columns, family.cases, strict=True)]
    return f"SELECT {', '.join(parts)} FROM public.{family.name}"


def _printed(expression: str, type_name: str) -> str:
    match type_name:
        case "timetz":
            return f"(({expression}) AT TIME ZONE 'UTC')::time::text"
        case "timetz[]":
            return f"(SELECT array_agg((x AT TIME ZONE 'UTC')::time)::text FROM unnest({expression}) x)"
        case _:
            return f"({expression})::text"


def _wide(type_name: str) -> str:
    """Return the type to read a literal as: bit(n) would refuse the shorter text, and timetz has a zone."""
    return "varbit" + "[]" * type_name.endswith("[]") if element_type(type_name) == "bit" else type_name
