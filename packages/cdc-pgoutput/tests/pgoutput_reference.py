"""The row encoder once more, slow and plain: a loop, one value at a time, json.dumps. What the generated code
must equal.

It covers the types whose code the generator writes out itself, and leaves the rest to the package's own value
functions, which the type table checks.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from struct import unpack_from
from typing import Any

from cdc_pgoutput import UNAVAILABLE, Relation

MISSING = object()


def fields(payload: bytes, offset: int) -> tuple[list[tuple[int, bytes]], int]:
    (count,) = unpack_from("!H", payload, offset)
    offset += 2
    found: list[tuple[int, bytes]] = []
    for _ in range(count):
        kind = payload[offset]
        offset += 1
        if kind in b"nu":
            found.append((kind, b""))
            continue
        (size,) = unpack_from("!I", payload, offset)
        offset += 4
        found.append((kind, payload[offset : offset + size]))
        offset += size
    return found, offset


def value(text: str, oid: int, modifier: int) -> Any:
    match oid:
        case 16:
            return {"t": True, "f": False}[text]
        case 20 | 21 | 23 | 26:
            return int(text)
        case 700 | 701:
            return text if text in ("NaN", "Infinity", "-Infinity") else float(text)
        case 1700:
            specials = {"NaN": "NAN", "Infinity": "POSITIVE_INFINITY", "-Infinity": "NEGATIVE_INFINITY"}
            return specials.get(text, text)
        case 1082 | 1114 | 1184 if text in ("infinity", "-infinity"):
            return text
        case 1082:
            return _date(text)
        case 1114:
            day, clock, *era = text.split(" ")
            return _date(" ".join([day, *era]))[:-1] + f"T{clock}Z"
        case 1184:
            day, clock, *era = text.split(" ")
            assert clock.endswith("+00")
            digits = 6 if modifier < 0 else modifier
            whole, _, fraction = clock[:-3].partition(".")
            shown = f"{whole}.{fraction:0<{digits}}" if digits else whole
            return _date(" ".join([day, *era]))[:-1] + f"T{shown}Z"
        case 25 | 1043 | 3802 | 2950:
            return text
        case _:
            raise NotImplementedError(oid)


def _date(text: str) -> str:
    match = re.fullmatch(r"(\d+)-(\d\d)-(\d\d)( BC)?", text)
    assert match is not None
    year = 1 - int(match[1]) if match[4] else int(match[1])
    datetime(2000 if year % 400 == 0 else 1900 + year % 100, int(match[2]), 1)
    sign = "-" if year < 0 else "+" if year > 9999 else ""
    return f"{sign}{abs(year):04}-{match[2]}-{match[3]}Z"


def row(
    relation: Relation, payload: bytes, offset: int, old: dict[str, Any] | None = None
) -> tuple[dict[str, Any], int]:
    found, end = fields(payload, offset)
    result: dict[str, Any] = {}
    for column, (kind, data) in zip(relation.columns, found, strict=True):
        if kind == ord("n"):
            result[column.name] = None
        elif kind == ord("u"):
            before = MISSING if old is None else old.get(column.name, MISSING)
            result[column.name] = UNAVAILABLE if before is MISSING else before
        else:
            result[column.name] = value(data.decode(), column.type_oid, column.type_modifier)
    return result, end


def dumps(document: Any) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))
