"""Binary values to the text that PostgreSQL would have sent for them.

One path for both forms: what a binary value means in JSON or Python is decided by its text alone. The layouts
are those of each type's send function (src/backend/utils/adt). Types without a reader here are refused, never
guessed. Readers raise ValueError, IndexError or struct.error for bytes that are not the type's.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import date, timedelta
from ipaddress import IPv4Address, IPv6Address
from math import isinf, isnan
from struct import Struct
from uuid import UUID

from ._arrays import Nested, array_literal

__all__ = ["BINARY_READERS", "BinaryReader", "array_from_binary", "range_from_binary"]

BinaryReader = Callable[[bytes], str]

_I16 = Struct("!h")
_I32 = Struct("!i")
_U32 = Struct("!I")
_I64 = Struct("!q")
_U64 = Struct("!Q")
_F32 = Struct("!f")
_F64 = Struct("!d")
_DAY_US = 86_400_000_000


def _exact(data: bytes, size: int) -> None:
    if len(data) != size:
        raise ValueError(f"a binary value of {len(data)} bytes where {size} are due")


def _number(layout: Struct) -> BinaryReader:
    def read(data: bytes) -> str:
        _exact(data, layout.size)
        return str(layout.unpack(data)[0])

    return read


def _bool(data: bytes) -> str:
    _exact(data, 1)
    return "ft"[data[0]]


def _float_text(value: float, digits: str) -> str:
    if isnan(value):
        return "NaN"
    if isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return digits.removesuffix(".0")


def _float8(data: bytes) -> str:
    _exact(data, 8)
    (value,) = _F64.unpack(data)
    return _float_text(value, repr(value))


def _float4(data: bytes) -> str:
    _exact(data, 4)
    (value,) = _F32.unpack(data)
    if isnan(value) or isinf(value):
        return _float_text(value, "")
    # the fewest digits that give the same single-precision number again; nine always do
    for precision in range(1, 10):
        digits = f"{value:.{precision}g}"
        try:
            if _F32.pack(float(digits)) == data:
                return digits
        except OverflowError:
            continue
    raise ValueError("a float4 that no decimal gives again")


def _numeric(data: bytes) -> str:
    count, weight, sign, scale = struct.unpack_from("!HhHH", data)
    _exact(data, 8 + 2 * count)
    special = {0xC000: "NaN", 0xD000: "Infinity", 0xF000: "-Infinity"}.get(sign)
    if special is not None:
        return special
    if sign not in (0, 0x4000):
        raise ValueError("a numeric with an unknown sign")
    groups = struct.unpack_from(f"!{count}H", data, 8)
    if any(group > 9999 for group in groups):
        raise ValueError("a numeric digit group over 9999")
    # groups of four decimal digits; `weight` is the power of 10000 of the first
    padded = "".join(f"{group:04}" for group in groups)
    point = (weight + 1) * 4
    if point <= 0:
        whole, fraction = "0", "0" * -point + padded
    else:
        whole, fraction = padded[:point].ljust(point, "0").lstrip("0") or "0", padded[point:]
    text = f"{whole}.{fraction[:scale].ljust(scale, '0')}" if scale else whole
    return f"-{text}" if sign else text


def _money(data: bytes) -> str:
    _exact(data, 8)
    (cents,) = _I64.unpack(data)
    whole, rest = divmod(abs(cents), 100)
    return f"{'-' if cents < 0 else ''}${whole:,}.{rest:02}"


def _jsonb(data: bytes) -> str:
    if data[0] != 1:
        raise ValueError(f"jsonb version {data[0]} is not known")
    return data[1:].decode()


def _bytea(data: bytes) -> str:
    return f"\\x{data.hex()}"


def _char(data: bytes) -> str:
    _exact(data, 1)
    code = data[0]
    if code == 0:
        return ""
    return chr(code) if code < 128 else f"\\{code:03o}"


def _uuid(data: bytes) -> str:
    return str(UUID(bytes=data))


def _date_text(days: int) -> tuple[str, str]:
    """A day counted from 2000-01-01, and the era to put behind the time.

    Python's calendar holds the years 1 to 9999; the Gregorian one repeats every 400 years, which are 146,097
    days.
    """
    cycles, rest = divmod(days, 146_097)
    day = date(2000, 1, 1) + timedelta(days=rest)
    year = day.year + cycles * 400
    era = " BC" if year <= 0 else ""
    shown = 1 - year if year <= 0 else year
    return f"{shown:04}-{day.month:02}-{day.day:02}", era


def _date(data: bytes) -> str:
    _exact(data, 4)
    (days,) = _I32.unpack(data)
    if days == 2**31 - 1:
        return "infinity"
    if days == -(2**31):
        return "-infinity"
    text, era = _date_text(days)
    return text + era


def _clock(microseconds: int) -> str:
    seconds, fraction = divmod(microseconds, 1_000_000)
    digits = f".{fraction:06}".rstrip("0") if fraction else ""
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{digits}"


def _day_clock(microseconds: int) -> str:
    if not 0 <= microseconds <= _DAY_US:
        raise ValueError("a time outside the day")
    return _clock(microseconds)


def _time(data: bytes) -> str:
    _exact(data, 8)
    return _day_clock(_I64.unpack(data)[0])


def _timetz(data: bytes) -> str:
    _exact(data, 12)
    microseconds, west = struct.unpack("!qi", data)
    east = abs(west)
    sign = "-" if west > 0 else "+"
    hours, minutes, seconds = east // 3600, east // 60 % 60, east % 60
    zone = f"{sign}{hours:02}"
    if minutes or seconds:
        zone += f":{minutes:02}"
    if seconds:
        zone += f":{seconds:02}"
    return _day_clock(microseconds) + zone


def _timestamp(zone: str) -> BinaryReader:
    def read(data: bytes) -> str:
        _exact(data, 8)
        (microseconds,) = _I64.unpack(data)
        if microseconds == 2**63 - 1:
            return "infinity"
        if microseconds == -(2**63):
            return "-infinity"
        days, rest = divmod(microseconds, _DAY_US)
        day, era = _date_text(days)
        return f"{day} {_clock(rest)}{zone}{era}"

    return read


def _interval(data: bytes) -> str:
    _exact(data, 16)
    microseconds, days, months = struct.unpack("!qii", data)
    # 17 and later: all three at their limits
    if (microseconds, days, months) == (2**63 - 1, 2**31 - 1, 2**31 - 1):
        return "infinity"
    if (microseconds, days, months) == (-(2**63), -(2**31), -(2**31)):
        return "-infinity"
    sign = "-" if months < 0 else ""
    years, rest = divmod(abs(months), 12)
    clock = f"{'-' if microseconds < 0 else ''}{_clock(abs(microseconds))}"
    return f"{sign}{years} years {sign}{rest} mons {days} days {clock}"


def _bits(data: bytes) -> str:
    (count,) = _I32.unpack_from(data)
    _exact(data, 4 + (count + 7) // 8)
    return "".join(f"{byte:08b}" for byte in data[4:])[:count]


def _network(data: bytes) -> str:
    family, bits, is_cidr, size = data[:4]
    _exact(data, 4 + size)
    # PGSQL_AF_INET and PGSQL_AF_INET6
    if family == 2:
        address, full = str(IPv4Address(data[4:])), 32
    elif family == 3:
        address, full = _ipv6(data[4:]), 128
    else:
        raise ValueError(f"address family {family} is not known")
    return f"{address}/{bits}" if is_cidr or bits != full else address


def _ipv6(data: bytes) -> str:
    address = IPv6Address(data)
    mapped = address.ipv4_mapped
    return f"::ffff:{mapped}" if mapped is not None else str(address)


def _hardware(data: bytes) -> str:
    if len(data) not in (6, 8):
        raise ValueError("a hardware address has 6 or 8 bytes")
    return data.hex(":")


def _point(data: bytes) -> str:
    _exact(data, 16)
    return f"({_float8(data[:8])},{_float8(data[8:])})"


def _tid(data: bytes) -> str:
    _exact(data, 6)
    block, offset = struct.unpack("!IH", data)
    return f"({block},{offset})"


def _lsn(data: bytes) -> str:
    _exact(data, 8)
    high, low = struct.unpack("!II", data)
    return f"{high:X}/{low:X}"


def _versioned_text(data: bytes) -> str:
    """ltree, lquery, ltxtquery."""
    return _jsonb(data)


def _hstore(data: bytes) -> str:
    (count,) = _I32.unpack_from(data)
    position = 4
    pairs: list[str] = []
    for _ in range(count):
        key, position = _sized(data, position)
        value, position = _sized(data, position)
        if key is None:
            raise ValueError("an hstore key is null")
        pairs.append(f"{_quoted(key)}=>{'NULL' if value is None else _quoted(value)}")
    _exact(data, position)
    return ", ".join(pairs)


def _quoted(data: bytes) -> str:
    escaped = data.decode().replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _sized(data: bytes, position: int) -> tuple[bytes | None, int]:
    (size,) = _I32.unpack_from(data, position)
    position += 4
    if size < 0:
        return None, position
    end = position + size
    if end > len(data):
        raise ValueError("an inner value is truncated")
    return data[position:end], end


def array_from_binary(element_oid: int, element: BinaryReader | None, delimiter: str) -> BinaryReader | None:
    """The reader for arrays of a type; None when the element's binary form is not read."""
    if element is None:
        return None

    def read(data: bytes) -> str:
        dimensions, _, oid = struct.unpack_from("!iiI", data)
        if oid != element_oid:
            raise ValueError(f"an array with elements of type OID {oid} where {element_oid} is due")
        if not 0 <= dimensions <= 6:
            raise ValueError(f"an array of {dimensions} dimensions")
        lengths = [_I32.unpack_from(data, 12 + 8 * index)[0] for index in range(dimensions)]
        elements, end = _read_elements(data, 12 + 8 * dimensions, lengths, element)
        _exact(data, end)
        return array_literal(elements, delimiter)

    return read


def _read_elements(
    data: bytes, position: int, lengths: list[int], element: BinaryReader
) -> tuple[Nested, int]:
    elements: Nested = []
    if not lengths:
        return elements, position
    # each element takes at least its length word
    if not 0 <= lengths[0] <= len(data) // 4:
        raise ValueError(f"an array dimension of {lengths[0]} elements")
    for _ in range(lengths[0]):
        if len(lengths) > 1:
            inner, position = _read_elements(data, position, lengths[1:], element)
            elements.append(inner)
        else:
            item, position = _sized(data, position)
            elements.append(None if item is None else element(item))
    return elements, position


def _vector(element_oid: int, element: BinaryReader) -> BinaryReader:
    """int2vector and oidvector travel as arrays and print with blanks."""
    array = array_from_binary(element_oid, element, ",")
    assert array is not None

    def read(data: bytes) -> str:
        return array(data)[1:-1].replace('"', "").replace(",", " ")

    return read


def range_from_binary(bound: BinaryReader | None) -> BinaryReader | None:
    """The reader for ranges over a type; None when the bound's binary form is not read."""
    if bound is None:
        return None

    def read(data: bytes) -> str:
        flags = data[0]
        # RANGE_EMPTY 0x01, LB_INC 0x02, UB_INC 0x04, LB_INF 0x08, UB_INF 0x10
        if flags & 0x01:
            _exact(data, 1)
            return "empty"
        position = 1
        lower = upper = ""
        if not flags & 0x08:
            item, position = _sized(data, position)
            lower = _range_bound(bound(item or b""))
        if not flags & 0x10:
            item, position = _sized(data, position)
            upper = _range_bound(bound(item or b""))
        _exact(data, position)
        return f"{'[' if flags & 0x02 else '('}{lower},{upper}{']' if flags & 0x04 else ')'}"

    return read


def _range_bound(text: str) -> str:
    if text and not any(mark in text for mark in '"\\()[], \t\n\r\v\f'):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '""')
    return f'"{escaped}"'


def _range(bound: BinaryReader) -> BinaryReader:
    reader = range_from_binary(bound)
    assert reader is not None
    return reader


_TEXT_TYPES = ("text", "varchar", "bpchar", "name", "json", "xml", "citext", "refcursor")

BINARY_READERS: dict[str, BinaryReader] = {
    **dict.fromkeys(_TEXT_TYPES, bytes.decode),
    **dict.fromkeys(("ltree", "lquery", "ltxtquery", "jsonpath"), _versioned_text),
    **dict.fromkeys(("oid", "xid", "cid"), _number(_U32)),
    **dict.fromkeys(("bit", "varbit"), _bits),
    **dict.fromkeys(("inet", "cidr"), _network),
    **dict.fromkeys(("macaddr", "macaddr8"), _hardware),
    "bool": _bool,
    "bytea": _bytea,
    "char": _char,
    "date": _date,
    "daterange": _range(_date),
    "float4": _float4,
    "float8": _float8,
    "hstore": _hstore,
    "int2": _number(_I16),
    "int2vector": _vector(21, _number(_I16)),
    "int4": _number(_I32),
    "int4range": _range(_number(_I32)),
    "int8": _number(_I64),
    "int8range": _range(_number(_I64)),
    "interval": _interval,
    "jsonb": _jsonb,
    "money": _money,
    "numeric": _numeric,
    "numrange": _range(_numeric),
    "oidvector": _vector(26, _number(_U32)),
    "pg_lsn": _lsn,
    "point": _point,
    "tid": _tid,
    "time": _time,
    "timestamp": _timestamp(""),
    "timestamptz": _timestamp("+00"),
    "timetz": _timetz,
    "tsrange": _range(_timestamp("")),
    "tstzrange": _range(_timestamp("+00")),
    "uuid": _uuid,
    "xid8": _number(_U64),
}
