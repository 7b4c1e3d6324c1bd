"""Binary numbers and moments to the text that PostgreSQL would have sent for them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import date, timedelta
from math import isinf, isnan
from struct import Struct

__all__ = [
    "BinaryReader",
    "expect_size",
    "number",
    "read_bool",
    "read_date",
    "read_float4",
    "read_float8",
    "read_interval",
    "read_money",
    "read_numeric",
    "read_time",
    "read_timetz",
    "timestamp",
]

BinaryReader = Callable[[bytes], str]

_I32 = Struct("!i")
_I64 = Struct("!q")
_F32 = Struct("!f")
_F64 = Struct("!d")
_DAY_US = 86_400_000_000


def expect_size(data: bytes, size: int) -> None:
    if len(data) != size:
        raise ValueError(f"a binary value of {len(data)} bytes where {size} are due")


def number(layout: Struct) -> BinaryReader:
    def read(data: bytes) -> str:
        expect_size(data, layout.size)
        return str(layout.unpack(data)[0])

    return read


def read_bool(data: bytes) -> str:
    expect_size(data, 1)
    return "ft"[data[0]]


def _float_text(value: float, digits: str) -> str:
    if isnan(value):
        return "NaN"
    if isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return digits.removesuffix(".0")


def read_float8(data: bytes) -> str:
    expect_size(data, 8)
    (value,) = _F64.unpack(data)
    return _float_text(value, repr(value))


def read_float4(data: bytes) -> str:
    expect_size(data, 4)
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


def read_numeric(data: bytes) -> str:
    count, weight, sign, scale = struct.unpack_from("!HhHH", data)
    expect_size(data, 8 + 2 * count)
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


def read_money(data: bytes) -> str:
    expect_size(data, 8)
    (cents,) = _I64.unpack(data)
    whole, rest = divmod(abs(cents), 100)
    return f"{'-' if cents < 0 else ''}${whole:,}.{rest:02}"


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


def read_date(data: bytes) -> str:
    expect_size(data, 4)
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


def read_time(data: bytes) -> str:
    expect_size(data, 8)
    return _day_clock(_I64.unpack(data)[0])


def read_timetz(data: bytes) -> str:
    expect_size(data, 12)
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


def timestamp(zone: str) -> BinaryReader:
    def read(data: bytes) -> str:
        expect_size(data, 8)
        (microseconds,) = _I64.unpack(data)
        if microseconds == 2**63 - 1:
            return "infinity"
        if microseconds == -(2**63):
            return "-infinity"
        days, rest = divmod(microseconds, _DAY_US)
        day, era = _date_text(days)
        return f"{day} {_clock(rest)}{zone}{era}"

    return read


def read_interval(data: bytes) -> str:
    expect_size(data, 16)
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
