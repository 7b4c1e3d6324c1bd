"""One value each way: Debezium's wire forms of scalars to Python, and Python to the wire forms."""

from __future__ import annotations

import binascii
import enum
import math
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Final
from uuid import UUID

NUMERIC_SPECIALS: Final = {
    "NAN": Decimal("NaN"),
    "POSITIVE_INFINITY": Decimal("Infinity"),
    "NEGATIVE_INFINITY": Decimal("-Infinity"),
}
FLOAT_SPECIALS: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

_NUMERIC = re.compile(r"-?\d+(?:\.\d+)?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\dZ", re.ASCII)
_TIME = re.compile(r"\d\d:\d\d:\d\d(?:\.\d{1,6})?Z", re.ASCII)
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?Z", re.ASCII)
_INTERVAL = re.compile(
    r"P(-?\d{1,10})Y(-?\d{1,10})M(-?\d{1,10})DT(-?\d{1,12})H(-?\d{1,12})M(-?)(\d{1,12})(?:\.(\d{1,6}))?S",
    re.ASCII,
)


class Mismatch(Exception):
    """A wire value is none that the annotation allows. Its text says what was expected, never what was found."""


def read_float(value: object) -> float:
    """Read a float: a JSON number that it holds exactly, or one of three strings."""
    if isinstance(value, float):
        return value
    if isinstance(value, str) and value in FLOAT_SPECIALS:
        return FLOAT_SPECIALS[value]
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            raise Mismatch("a number that a float can hold") from None
        if number == value:
            return number
        raise Mismatch("a number that a float holds exactly (use int)")
    raise Mismatch("a float")


def read_decimal(value: object) -> Decimal:
    """Read a numeric: digits in a string without exponent, one of three names, or an integer."""
    if isinstance(value, str):
        if _NUMERIC.fullmatch(value) is not None:
            return Decimal(value)
        if value in NUMERIC_SPECIALS:
            return NUMERIC_SPECIALS[value]
    elif isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    # a JSON float is refused: its digits are not those of the column (use float)
    raise Mismatch("a numeric as a string")


def read_bytes(value: object) -> bytes:
    """Read standard base64, padded."""
    if isinstance(value, str):
        try:
            return binascii.a2b_base64(value, strict_mode=True)
        except ValueError:
            pass
    raise Mismatch("base64")


def read_uuid(value: object) -> UUID:
    """Read a UUID in PostgreSQL's form."""
    if isinstance(value, str) and len(value) == 36:
        try:
            return UUID(value)
        except ValueError:
            pass
    raise Mismatch("a uuid")


def read_date(value: object) -> date:
    """Read `2024-02-29Z`."""
    if isinstance(value, str) and _DATE.fullmatch(value) is not None:
        try:
            return date.fromisoformat(value[:-1])
        except ValueError:
            pass
    raise Mismatch("a date of the years 1 to 9999 (add `| str` to take infinity and other years as text)")


def read_naive_time(value: object) -> time:
    """Read `12:34:56.789Z`, whose Z means nothing for a `time` column."""
    if isinstance(value, str) and _TIME.fullmatch(value) is not None:
        try:
            return time.fromisoformat(value[:-1])
        except ValueError:
            pass
    raise Mismatch("a time before 24:00 (add `| str` to take 24:00:00 as text)")


def read_aware_time(value: object) -> time:
    """Read a `timetz` column, which is in UTC on the wire."""
    return read_naive_time(value).replace(tzinfo=UTC)


def read_aware_datetime(value: object) -> datetime:
    """Read a `timestamptz` column, which is in UTC on the wire."""
    if isinstance(value, str) and _MOMENT.fullmatch(value) is not None:
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            pass
    raise Mismatch(
        "a timestamp of the years 1 to 9999 (add `| str` to take infinity and other years as text)"
    )


def read_naive_datetime(value: object) -> datetime:
    """Read a `timestamp` column, which has no zone: the Z on the wire does not mean UTC."""
    return read_aware_datetime(value).replace(tzinfo=None)


def read_timedelta(value: object) -> timedelta:
    """Read an interval whose years and months are 0: their length depends on the calendar."""
    found = _INTERVAL.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise Mismatch("an interval (add `| str` to take infinity as text)")
    years, months, days, hours, minutes, sign, seconds, fraction = found.groups()
    if int(years) or int(months):
        raise Mismatch("an interval without years and months (add `| str` to take those as text)")
    factor = -1 if sign else 1
    try:
        return timedelta(
            days=int(days),
            hours=int(hours),
            minutes=int(minutes),
            seconds=factor * int(seconds),
            microseconds=factor * int((fraction or "0").ljust(6, "0")),
        )
    except OverflowError:
        raise Mismatch("an interval that a timedelta can hold (add `| str`)") from None


READERS: Final[dict[type, tuple[Callable[[object], object], frozenset[type]]]] = {
    float: (read_float, frozenset({str, int, float})),
    Decimal: (read_decimal, frozenset({str, int})),
    bytes: (read_bytes, frozenset({str})),
    UUID: (read_uuid, frozenset({str})),
    date: (read_date, frozenset({str})),
    time: (read_naive_time, frozenset({str})),
    datetime: (read_aware_datetime, frozenset({str})),
    timedelta: (read_timedelta, frozenset({str})),
}
"""For each scalar type what reads it, and the JSON types that it looks at."""


def write_scalar(value: object) -> object:
    """Return the wire form of a scalar; NotImplemented for anything else."""
    kind: type = type(value)
    if isinstance(value, enum.Enum):
        return write_scalar(value.value)
    if value is None or kind in (bool, int, str):
        return value
    for base in kind.__mro__:
        if (writer := _WRITERS.get(base)) is not None:
            return writer(value)
    return NotImplemented


def _write_float(value: float) -> object:
    if math.isnan(value):
        return "NaN"
    return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")


def _write_decimal(value: Decimal) -> str:
    if value.is_nan():
        return "NAN"
    if value.is_infinite():
        return "POSITIVE_INFINITY" if value > 0 else "NEGATIVE_INFINITY"
    return format(value, "f")


def _write_bytes(value: bytes) -> str:
    return binascii.b2a_base64(value, newline=False).decode()


def _write_date(value: date) -> str:
    return f"{value.isoformat()}Z"


def _write_time(value: time) -> str:
    offset = value.utcoffset()
    if offset is not None:  # timetz: the wire has it in UTC
        moment = datetime.combine(date(2000, 1, 2), value.replace(tzinfo=None)) - offset
        value = moment.time()
    return f"{_trimmed(value.replace(tzinfo=None).isoformat())}Z"


def _write_datetime(value: datetime) -> str:
    if value.utcoffset() is None:
        return f"{_trimmed(value.replace(tzinfo=None).isoformat())}Z"
    # Debezium writes six digits for timestamptz whatever they are, and trims those of timestamp
    return f"{value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def _write_timedelta(value: timedelta) -> str:
    days, rest = value.days, timedelta(seconds=value.seconds, microseconds=value.microseconds)
    if (
        days < 0 and rest
    ):  # one sign for all fields: -1 us is P0Y0M0DT0H0M-0.000001S, not a day less and the rest
        days, rest = days + 1, rest - timedelta(days=1)
    sign, micros = ("-", -rest) if rest < timedelta(0) else ("", rest)
    minutes, seconds = divmod(micros.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    fraction = f".{micros.microseconds:06d}".rstrip("0").rstrip(".")
    second = f"{seconds}{fraction}"
    return "P0Y0M{}DT{}H{}M{}S".format(
        days,
        f"{sign}{hours}" if hours else "0",
        f"{sign}{minutes}" if minutes else "0",
        f"{sign}{second}" if second != "0" else "0",
    )


def _trimmed(text: str) -> str:
    return text.rstrip("0") if "." in text else text


_WRITERS: Final[dict[type, Callable[..., object]]] = {
    int: int,
    float: _write_float,
    str: str,
    Decimal: _write_decimal,
    bytes: _write_bytes,
    bytearray: _write_bytes,
    UUID: str,
    datetime: _write_datetime,
    date: _write_date,
    time: _write_time,
    timedelta: _write_timedelta,
}
