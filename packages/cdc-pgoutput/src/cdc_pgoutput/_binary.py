"""Binary values to the text that PostgreSQL would have sent for them.

One path for both forms: what a binary value means in JSON or Python is decided by its text alone. The layouts
are those of each type's send function (src/backend/utils/adt). Types without a reader here are refused, never
guessed. Readers raise ValueError, IndexError or struct.error for bytes that are not the type's.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from uuid import UUID

from ._arrays import Nested, array_literal
from ._binary_scalars import (
    BinaryReader,
    expect_size,
    number,
    read_bool,
    read_date,
    read_float4,
    read_float8,
    read_interval,
    read_money,
    read_numeric,
    read_time,
    read_timetz,
    timestamp,
)

__all__ = ["BINARY_READERS", "BinaryReader", "array_from_binary", "range_from_binary"]

_I16 = Struct("!h")
_I32 = Struct("!i")
_U32 = Struct("!I")
_I64 = Struct("!q")
_U64 = Struct("!Q")


def _jsonb(data: bytes) -> str:
    if data[0] != 1:
        raise ValueError(f"jsonb version {data[0]} is not known")
    return data[1:].decode()


def _bytea(data: bytes) -> str:
    return f"\\x{data.hex()}"


def _char(data: bytes) -> str:
    expect_size(data, 1)
    code = data[0]
    if code == 0:
        return ""
    return chr(code) if code < 128 else f"\\{code:03o}"


def _uuid(data: bytes) -> str:
    return str(UUID(bytes=data))


def _bits(data: bytes) -> str:
    (count,) = _I32.unpack_from(data)
    expect_size(data, 4 + (count + 7) // 8)
    return "".join(f"{byte:08b}" for byte in data[4:])[:count]


def _network(data: bytes) -> str:
    family, bits, is_cidr, size = data[:4]
    expect_size(data, 4 + size)
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
    expect_size(data, 16)
    return f"({read_float8(data[:8])},{read_float8(data[8:])})"


def _tid(data: bytes) -> str:
    expect_size(data, 6)
    block, offset = struct.unpack("!IH", data)
    return f"({block},{offset})"


def _lsn(data: bytes) -> str:
    expect_size(data, 8)
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
    expect_size(data, position)
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
        # An empty array has no dimension, an empty int2vector one. Inner ones that are empty would take no bytes
        # and any number of rounds; all others run out of bytes first.
        least = 0 if dimensions == 1 else 1
        if any(length < least for length in lengths):
            raise ValueError("array dimensions that the value cannot hold")
        elements, end = _read_elements(data, 12 + 8 * dimensions, lengths, element)
        expect_size(data, end)
        return array_literal(elements, delimiter)

    return read


def _read_elements(
    data: bytes, position: int, lengths: list[int], element: BinaryReader
) -> tuple[Nested, int]:
    elements: Nested = []
    if not lengths:
        return elements, position
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
            expect_size(data, 1)
            return "empty"
        position = 1
        lower = upper = ""
        if not flags & 0x08:
            item, position = _sized(data, position)
            lower = _range_bound(bound(item or b""))
        if not flags & 0x10:
            item, position = _sized(data, position)
            upper = _range_bound(bound(item or b""))
        expect_size(data, position)
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
    **dict.fromkeys(("oid", "xid", "cid"), number(_U32)),
    **dict.fromkeys(("bit", "varbit"), _bits),
    **dict.fromkeys(("inet", "cidr"), _network),
    **dict.fromkeys(("macaddr", "macaddr8"), _hardware),
    "bool": read_bool,
    "bytea": _bytea,
    "char": _char,
    "date": read_date,
    "daterange": _range(read_date),
    "float4": read_float4,
    "float8": read_float8,
    "hstore": _hstore,
    "int2": number(_I16),
    "int2vector": _vector(21, number(_I16)),
    "int4": number(_I32),
    "int4range": _range(number(_I32)),
    "int8": number(_I64),
    "int8range": _range(number(_I64)),
    "interval": read_interval,
    "jsonb": _jsonb,
    "money": read_money,
    "numeric": read_numeric,
    "numrange": _range(read_numeric),
    "oidvector": _vector(26, number(_U32)),
    "pg_lsn": _lsn,
    "point": _point,
    "tid": _tid,
    "time": read_time,
    "timestamp": timestamp(""),
    "timestamptz": timestamp("+00"),
    "timetz": read_timetz,
    "tsrange": _range(timestamp("")),
    "tstzrange": _range(timestamp("+00")),
    "uuid": _uuid,
    "xid8": number(_U64),
}
