"""One value's text to its JSON text, per type: the table of Debezium's values (mode: decimals as strings, ISO
times, base64 bytes, unknown types included), with our exact forms where Debezium loses something.

Each function takes the text that PostgreSQL prints and returns JSON; it raises ValueError for text that is
not the type's.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable
from json.encoder import encode_basestring
from struct import Struct

from ._arrays import Nested, parse_array, parse_hstore
from ._moments import iso_date, iso_interval, iso_time, iso_timestamp, iso_timestamptz, iso_timetz

__all__ = [
    "UNAVAILABLE",
    "JsonFromText",
    "array_json",
    "base64_json",
    "bit_json",
    "bits_json",
    "bits_to_bytes",
    "bool_json",
    "bytea_json",
    "date_json",
    "float_json",
    "hstore_json",
    "integer_json",
    "interval_json",
    "money_json",
    "money_to_number",
    "numeric_json",
    "point_json",
    "string_json",
    "time_json",
    "timestamp_json",
    "timestamptz_json",
    "timetz_json",
    "vector_json",
]

JsonFromText = Callable[[str], str]

# Debezium's default `unavailable.value.placeholder`.
UNAVAILABLE = "__debezium_unavailable_value"

# JSON string with everything but controls, quote and backslash raw; written in C in CPython.
string_json: JsonFromText = encode_basestring

_match_integer = re.compile(r"-?(?:0|[1-9]\d*)", re.ASCII).fullmatch
_match_numeric = re.compile(r"-?(?:\d+\.?\d*|\.\d+)", re.ASCII).fullmatch
_match_float = re.compile(r"(-?(?:0|[1-9]\d*))(\.\d+)?(e[+-]\d+)?", re.ASCII).fullmatch
_match_money = re.compile(r"-?\$(?:\d{1,3}(?:,\d{3})*|\d+)\.\d\d", re.ASCII).fullmatch
_match_point = re.compile(r"\(([^,()]+),([^,()]+)\)").fullmatch
_match_bits = re.compile(r"[01]*").fullmatch
_match_vector = re.compile(r"(?:-?\d+(?: -?\d+)*)?", re.ASCII).fullmatch

_BOOLS = {"t": "true", "f": "false"}
_FLOAT_SPECIALS = frozenset({"NaN", "Infinity", "-Infinity"})
_NUMERIC_SPECIALS = {
    "NaN": '"NAN"',
    "Infinity": '"POSITIVE_INFINITY"',
    "-Infinity": '"NEGATIVE_INFINITY"',
}
_WKB_POINT = Struct("<BIdd")


def bool_json(text: str) -> str:
    try:
        return _BOOLS[text]
    except KeyError:
        raise ValueError("not a bool") from None


def integer_json(text: str) -> str:
    if _match_integer(text) is None:
        raise ValueError("not an integer")
    return text


def numeric_json(text: str) -> str:
    special = _NUMERIC_SPECIALS.get(text)
    if special is not None:
        return special
    if _match_numeric(text) is None:
        raise ValueError("not a numeric")
    return f'"{text}"'


def float_json(text: str) -> str:
    """Always with a point or an exponent, so that -0 stays -0.0 and 5 a float for those who tell them
    apart.
    """
    if text in _FLOAT_SPECIALS:
        return f'"{text}"'
    match = _match_float(text)
    if match is None:
        raise ValueError("not a float")
    return text if match[2] or match[3] else f"{text}.0"


def money_to_number(text: str) -> str:
    """Strip what lc_monetary C adds."""
    if _match_money(text) is None:
        raise ValueError("not money as lc_monetary C prints it")
    return text.replace("$", "").replace(",", "")


def money_json(text: str) -> str:
    return f'"{money_to_number(text)}"'


def bytea_json(text: str) -> str:
    if text[:2] != "\\x":
        raise ValueError("bytea is not in hex format; the session must set bytea_output to hex")
    return f'"{b64encode(bytes.fromhex(text[2:])).decode()}"'


def base64_json(text: str) -> str:
    """Debezium's carrier for types it does not know: base64 of the text."""
    return f'"{b64encode(text.encode()).decode()}"'


def date_json(text: str) -> str:
    return f'"{iso_date(text)}"'


def time_json(text: str) -> str:
    return f'"{iso_time(text)}"'


def timetz_json(text: str) -> str:
    return f'"{iso_timetz(text)}"'


def timestamp_json(text: str) -> str:
    return f'"{iso_timestamp(text)}"'


def timestamptz_json(precision: int) -> JsonFromText:
    """The encoder for timestamptz columns with `precision` fractional digits."""

    def encode(text: str) -> str:
        return f'"{iso_timestamptz(text, precision)}"'

    return encode


def interval_json(text: str) -> str:
    return f'"{iso_interval(text)}"'


def bit_json(text: str) -> str:
    """bit(1) is a bool."""
    if text == "1":
        return "true"
    if text == "0":
        return "false"
    raise ValueError("not a bit(1)")


def bits_to_bytes(text: str) -> bytes:
    """Little-endian bytes without the zero bytes at the high end; how many bits there were is lost."""
    if _match_bits(text) is None:
        raise ValueError("not a bit string")
    number = int(text or "0", 2)
    return number.to_bytes((number.bit_length() + 7) // 8, "little")


def bits_json(text: str) -> str:
    return f'"{b64encode(bits_to_bytes(text)).decode()}"'


def point_json(text: str) -> str:
    match = _match_point(text)
    if match is None:
        raise ValueError("not a point")
    x, y = match.groups()
    json_x, json_y = float_json(x), float_json(y)
    wkb = b64encode(_WKB_POINT.pack(1, 1, float(x), float(y))).decode()
    return f'{{"x":{json_x},"y":{json_y},"wkb":"{wkb}","srid":null}}'


def vector_json(text: str) -> str:
    """int2vector and oidvector: numbers with blanks between them."""
    if _match_vector(text) is None:
        raise ValueError("not a vector of numbers")
    return "[" + text.replace(" ", ",") + "]"


def hstore_json(text: str) -> str:
    """A JSON object, carried as a JSON string."""
    pairs = parse_hstore(text)
    inner = ",".join(
        f"{_inner_string(key)}:{'null' if value is None else _inner_string(value)}"
        for key, value in pairs.items()
    )
    return string_json("{" + inner + "}")


_LOWER_ESCAPE = re.compile(r"\\(?:\\|u00[01][a-f])")


def _inner_string(text: str) -> str:
    # Debezium writes \u001F with upper-case digits, and inside a string that difference survives JSON
    # parsing.
    return _LOWER_ESCAPE.sub(lambda match: match[0][:-1] + match[0][-1].upper(), string_json(text))


def array_json(element: JsonFromText, delimiter: str) -> JsonFromText:
    """The encoder for arrays whose elements `element` encodes."""

    def encode_nested(elements: Nested) -> str:
        parts = [
            "null" if item is None else element(item) if isinstance(item, str) else encode_nested(item)
            for item in elements
        ]
        return "[" + ",".join(parts) + "]"

    def encode(text: str) -> str:
        return encode_nested(parse_array(text, delimiter))

    return encode
