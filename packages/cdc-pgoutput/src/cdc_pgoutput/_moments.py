"""Dates, times and intervals: from PostgreSQL's text to Debezium's ISO strings, and to Python values where
those fit.

The text is that of a session with DateStyle ISO, TimeZone UTC and IntervalStyle postgres. Python's own types
end at the year 9999 and know no infinity, no BC and no 24:00; those values stay text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import final

__all__ = [
    "Interval",
    "iso_date",
    "iso_interval",
    "iso_time",
    "iso_timestamp",
    "iso_timestamptz",
    "iso_timetz",
    "python_date",
    "python_interval",
    "python_time",
    "python_timestamp",
    "python_timestamptz",
    "python_timetz",
]

_DATE = r"(\d{4,7})-(\d\d)-(\d\d)"
_TIME = r"(\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?"
_match_date = re.compile(rf"{_DATE}( BC)?", re.ASCII).fullmatch
_match_time = re.compile(_TIME, re.ASCII).fullmatch
_match_timestamp = re.compile(rf"{_DATE} {_TIME}( BC)?", re.ASCII).fullmatch
_match_timestamptz = re.compile(rf"{_DATE} {_TIME}\+00( BC)?", re.ASCII).fullmatch
_match_timetz = re.compile(
    r"(\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?([+-])(\d\d)(?::(\d\d))?(?::(\d\d))?", re.ASCII
).fullmatch
_match_interval = re.compile(
    r"(?:([+-]?\d+) years?)?(?: ?([+-]?\d+) mons?)?(?: ?([+-]?\d+) days?)?"
    r"(?: ?([+-]?)(\d+):(\d\d):(\d\d)(?:\.(\d{1,6}))?)?",
    re.ASCII,
).fullmatch

_INFINITE = frozenset({"infinity", "-infinity"})
_DAY_US = 86_400_000_000


@final
@dataclass(frozen=True, slots=True)
class Interval:
    """PostgreSQL's interval: three numbers that do not convert into each other (a day may have 23 hours)."""

    months: int = 0
    days: int = 0
    microseconds: int = 0


def _year(digits: str, era: str | None) -> str:
    """ISO 8601's year, astronomical: 1 BC is 0000; more than four digits need a sign."""
    if era is None:
        return digits if len(digits) == 4 else f"+{digits}"
    year = 1 - int(digits)
    return f"-{-year:04}" if year < 0 else "0000"


def iso_date(text: str) -> str:
    if text in _INFINITE:
        return text
    match = _match_date(text)
    if match is None:
        raise ValueError("not a date in DateStyle ISO")
    year, month, day, era = match.groups()
    return f"{_year(year, era)}-{month}-{day}Z"


def iso_time(text: str) -> str:
    if _match_time(text) is None:
        raise ValueError("not a time")
    return f"{text}Z"


def iso_timestamp(text: str) -> str:
    if text in _INFINITE:
        return text
    match = _match_timestamp(text)
    if match is None:
        raise ValueError("not a timestamp in DateStyle ISO")
    year, month, day, clock, fraction, era = match.groups()
    digits = f".{fraction}" if fraction else ""
    return f"{_year(year, era)}-{month}-{day}T{clock}{digits}Z"


def iso_timestamptz(text: str, precision: int) -> str:
    """`precision` is the column's number of fractional digits: all of them are written, zeros too."""
    if text in _INFINITE:
        return text
    match = _match_timestamptz(text)
    if match is None:
        raise ValueError("not a timestamptz in DateStyle ISO and TimeZone UTC")
    year, month, day, clock, fraction, era = match.groups()
    digits = f".{(fraction or ''):0<{precision}}" if precision or fraction else ""
    return f"{_year(year, era)}-{month}-{day}T{clock}{digits}Z"


def iso_timetz(text: str) -> str:
    """The time of day in UTC: the offset is lost, as in Debezium."""
    match = _match_timetz(text)
    if match is None:
        raise ValueError("not a timetz")
    hour, minute, second, fraction, sign, *zone = match.groups()
    microseconds = (int(hour) * 3600 + int(minute) * 60 + int(second)) * 1_000_000 + int(
        f"{fraction or '':0<6}"
    )
    zone_hour, zone_minute, zone_second = (int(part or 0) for part in zone)
    east = (zone_hour * 3600 + zone_minute * 60 + zone_second) * 1_000_000
    rest = (microseconds - (east if sign == "+" else -east)) % _DAY_US
    seconds, micros = divmod(rest, 1_000_000)
    digits = f".{micros:06}".rstrip("0") if micros else ""
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{digits}Z"


def _interval_fields(text: str) -> tuple[int, int, int, str, int, int, int, str]:
    match = _match_interval(text)
    if match is None or not text:
        raise ValueError("not an interval in IntervalStyle postgres")
    years, months, days, sign, hours, minutes, seconds, fraction = match.groups()
    return (
        int(years or 0),
        int(months or 0),
        int(days or 0),
        "-" if sign == "-" else "",
        int(hours or 0),
        int(minutes or 0),
        int(seconds or 0),
        fraction or "",
    )


def iso_interval(text: str) -> str:
    """All six fields always; the sign of the clock part stands before each of its fields that is not zero."""
    if text in _INFINITE:
        return text
    years, months, days, sign, hours, minutes, seconds, fraction = _interval_fields(text)
    hour_text = f"{sign if hours else ''}{hours}"
    minute_text = f"{sign if minutes else ''}{minutes}"
    digits = fraction.rstrip("0")
    second_text = f"{sign if seconds or digits else ''}{seconds}{'.' if digits else ''}{digits}"
    return f"P{years}Y{months}M{days}DT{hour_text}H{minute_text}M{second_text}S"


def python_interval(text: str) -> Interval | str:
    if text in _INFINITE:
        return text
    years, months, days, sign, hours, minutes, seconds, fraction = _interval_fields(text)
    clock = (hours * 3600 + minutes * 60 + seconds) * 1_000_000 + int(f"{fraction:0<6}")
    return Interval(years * 12 + months, days, -clock if sign else clock)


def python_date(text: str) -> date | str:
    iso_date(text)
    try:
        return date.fromisoformat(text)
    except ValueError:
        return text


def python_time(text: str) -> time | str:
    iso_time(text)
    try:
        return time.fromisoformat(text)
    except ValueError:
        return text


def python_timetz(text: str) -> time | str:
    iso_timetz(text)
    try:
        return time.fromisoformat(text)
    except ValueError:
        return text


def python_timestamp(text: str) -> datetime | str:
    iso_timestamp(text)
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return text


def python_timestamptz(text: str) -> datetime | str:
    iso_timestamptz(text, 6)
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return text
