"""PostgreSQL's text of a value to its JSON, once more and slowly: by the table, with the standard library's own means.

What the reader's generated code must equal. Dates go through `datetime` in a year that it knows, numbers through
`Decimal` and `float`, arrays through a reader that looks at one character after the other.
"""

from __future__ import annotations

import base64
import json
import re
import struct
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

_MOMENTS = ("date", "timestamp", "timestamptz")
_INFINITE = ("infinity", "-infinity")


def wire(type_name: str, text: str | None) -> Any:
    """Return the JSON value that the table has for the text of a value of this type."""
    if text is None:
        return None
    if type_name.endswith("[]"):
        return [_nested(type_name.removesuffix("[]"), item) for item in _read_array(text)]
    if type_name in _MOMENTS:
        return text if text in _INFINITE else _moment(type_name, text)
    return _READERS[type_name](text)


def _nested(type_name: str, item: Any) -> Any:
    return (
        wire(type_name, item)
        if item is None or type(item) is str
        else [_nested(type_name, one) for one in item]
    )


def _numeric(text: str) -> str:
    special = {"NaN": "NAN", "Infinity": "POSITIVE_INFINITY", "-Infinity": "NEGATIVE_INFINITY"}.get(text)
    return special or f"{Decimal(text):f}"


def _bits(text: str) -> bytes:
    found = bytearray()
    for start in range(len(text), 0, -8):
        found.append(int(text[max(0, start - 8) : start], 2))
    return bytes(found).rstrip(b"\0")


def _point(text: str) -> dict[str, object]:
    x, y = text.strip("()").split(",")
    wkb = struct.pack("<BIdd", 1, 1, float(x), float(y))
    return {
        "x": wire("float8", x),
        "y": wire("float8", y),
        "wkb": base64.b64encode(wkb).decode(),
        "srid": None,
    }


def _moment(type_name: str, text: str) -> str:
    is_bc = text.endswith(" BC")
    year_text, rest = text.removesuffix(" BC").split("-", 1)
    year = 1 - int(year_text) if is_bc else int(year_text)
    # 400 years later the calendar is the same, and Python knows 1 to 9999 only
    known = 2000 + year % 400
    printed = f"{known:04}-{rest}" if type_name != "timestamptz" else f"{known:04}-{rest.removesuffix('+00')}"
    moment = datetime.fromisoformat(printed)
    sign = "-" if year < 0 else "+" if year > 9999 else ""
    day = f"{sign}{abs(year):04}-{moment:%m-%d}"
    if type_name == "date":
        return f"{day}Z"
    clock = f"{moment:%H:%M:%S.%f}"
    return f"{day}T{clock if type_name == 'timestamptz' else clock.rstrip('0').rstrip('.')}Z"


def _timetz(text: str) -> str:
    clock, sign, zone = re.fullmatch(r"([\d:.]+)([+-])([\d:]+)", text).groups()  # type: ignore[union-attr]
    parts = [int(part) for part in zone.split(":")] + [0, 0]
    east = timedelta(hours=parts[0], minutes=parts[1], seconds=parts[2])
    hour, minute, second = clock.split(":")
    moment = datetime(2000, 1, 1) + timedelta(
        hours=int(hour), minutes=int(minute), microseconds=int(Decimal(second) * 10**6)
    )
    moment += -east if sign == "+" else east
    return f"{moment:%H:%M:%S.%f}".rstrip("0").rstrip(".") + "Z"


def _interval(text: str) -> str:
    found = {"year": 0, "mon": 0, "day": 0}
    hours = minutes = 0
    seconds = Decimal(0)
    for number, word in re.findall(r"([+-]?\d+) (year|mon|day)s?", text):
        found[word] = int(number)
    if clock := re.search(r"([+-]?)(\d+):(\d\d):([\d.]+)$", text):
        sign = -1 if clock[1] == "-" else 1
        hours, minutes, seconds = sign * int(clock[2]), sign * int(clock[3]), sign * Decimal(clock[4])
    shown = f"{seconds:f}".rstrip("0").rstrip(".") if seconds % 1 else f"{int(seconds)}"
    return f"P{found['year']}Y{found['mon']}M{found['day']}DT{hours}H{minutes}M{shown}S"


def _read_array(text: str) -> list[Any]:
    array, end = _read_braces(text, text.index("{") if text[0] == "[" else 0)
    assert end == len(text)
    return array


def _read_braces(text: str, position: int) -> tuple[list[Any], int]:
    """Read from a brace on: one character after the other, as the server's own array_in does."""
    items: list[Any] = []
    position += 1
    while text[position] != "}":
        if text[position] == ",":
            position += 1
        elif text[position] == "{":
            inner, position = _read_braces(text, position)
            items.append(inner)
        elif text[position] == '"':
            item, position = _read_quoted(text, position + 1)
            items.append(item)
        else:
            start = position
            while text[position] not in ",}":
                position += 1
            bare = text[start:position]
            items.append(None if bare == "NULL" else bare)
    return items, position + 1


def _read_quoted(text: str, position: int) -> tuple[str, int]:
    item = ""
    while text[position] != '"':
        position += text[position] == "\\"
        item += text[position]
        position += 1
    return item, position + 1


def _float(text: str) -> float | str:
    return text if text in ("NaN", "Infinity", "-Infinity") else float(text)


def _money(text: str) -> str:
    return f"{Decimal(text.replace('$', '').replace(',', '')):.2f}"


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


_READERS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("int2", "int4", "int8", "oid"), int),
    **dict.fromkeys(("text", "varchar", "bpchar", "uuid", "json", "jsonb", "inet", "mood", "int4range"), str),
    **dict.fromkeys(("xid8", "pg_lsn", "int4multirange", "pair"), _base64),
    **dict.fromkeys(("float4", "float8"), _float),
    "bool": {"t": True, "f": False}.__getitem__,
    "numeric": _numeric,
    "money": _money,
    "bytea": lambda text: base64.b64encode(bytes.fromhex(text[2:])).decode(),
    "varbit": lambda text: base64.b64encode(_bits(text)).decode(),
    "point": _point,
    "time": lambda text: f"{text}Z",
    "timetz": _timetz,
    "interval": lambda text: text if text in _INFINITE else _interval(text),
}


def same(found: object, due: object) -> bool:
    """Compare as JSON: -0.0 is not 0.0, and 1 not 1.0."""
    return json.dumps(found, sort_keys=True) == json.dumps(due, sort_keys=True)
