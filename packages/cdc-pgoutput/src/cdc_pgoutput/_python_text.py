"""One value's text to a Python value, per type; text where Python has no type that holds the value
exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from uuid import UUID

from ._arrays import Nested, parse_array, parse_hstore
from ._json_text import bit_json, bool_json, float_json, integer_json, money_to_number, numeric_json

__all__ = [
    "PythonFromText",
    "array_python",
    "bit_python",
    "bool_python",
    "bytea_python",
    "float_python",
    "hstore_python",
    "integer_python",
    "money_python",
    "numeric_python",
    "uuid_python",
    "vector_python",
]

PythonFromText = Callable[[str], object]


def bool_python(text: str) -> bool:
    return bool_json(text) == "true"


def bit_python(text: str) -> bool:
    return bit_json(text) == "true"


def integer_python(text: str) -> int:
    return int(integer_json(text))


def float_python(text: str) -> float:
    float_json(text)
    return float(text)


def numeric_python(text: str) -> Decimal:
    numeric_json(text)
    return Decimal(text)


def money_python(text: str) -> Decimal:
    return Decimal(money_to_number(text))


def bytea_python(text: str) -> bytes:
    if text[:2] != "\\x":
        raise ValueError("bytea is not in hex format; the session must set bytea_output to hex")
    return bytes.fromhex(text[2:])


def uuid_python(text: str) -> UUID:
    return UUID(text)


def vector_python(text: str) -> list[int]:
    return [integer_python(part) for part in text.split(" ")] if text else []


def array_python(element: PythonFromText, delimiter: str) -> PythonFromText:
    """The reader for arrays whose elements `element` reads."""

    def read_nested(elements: Nested) -> list[object]:
        return [
            None if item is None else element(item) if isinstance(item, str) else read_nested(item)
            for item in elements
        ]

    def read(text: str) -> list[object]:
        return read_nested(parse_array(text, delimiter))

    return read


def hstore_python(text: str) -> dict[str, str | None]:
    return parse_hstore(text)
