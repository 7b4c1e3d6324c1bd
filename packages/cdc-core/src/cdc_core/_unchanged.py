"""UNCHANGED, the value that the server did not send, and the forms in which the wire spells it."""

from __future__ import annotations

import enum
from typing import Final


class Unchanged(enum.Enum):
    """The type of `UNCHANGED`, an enum of one member so that type checkers narrow on `is`."""

    UNCHANGED = "unchanged"

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED: Final = Unchanged.UNCHANGED
"""An unsent TOAST value: the column kept the value it had, which is neither NULL nor any string."""

PLACEHOLDER: Final = "__debezium_unavailable_value"
"""Debezium's default for `unavailable.value.placeholder`, which this toolkit uses as well."""

_CODES = list(PLACEHOLDER.encode())
# The version 3 (MD5) UUID of the placeholder, which Debezium gives to an element of a uuid[] (measured).
_NAME_UUID = "b68a35a7-17ad-35b3-af2a-ae46edb4545a"
_HSTORE = {PLACEHOLDER: PLACEHOLDER}
_STRINGS = frozenset({PLACEHOLDER, f'{{"{PLACEHOLDER}":"{PLACEHOLDER}"}}'})
_LISTS: tuple[list[object], ...] = ([PLACEHOLDER], [*_CODES], [_NAME_UUID])
_NEEDLE, _UUID_NEEDLE = PLACEHOLDER.encode(), _NAME_UUID.encode()
_CODES_NEEDLE = ",".join(map(str, _CODES)).encode()


def may_hold_placeholder(value: bytes) -> bool:
    """Say whether a placeholder may stand in these bytes: three substring searches, 0.2 us for 500 bytes.

    Debezium's converter writes arrays without blanks, so the codes are looked for in that form.
    """
    return _NEEDLE in value or _CODES_NEEDLE in value or _UUID_NEEDLE in value


def put_unchanged(row: dict[str, object]) -> None:
    """Replace, in place, each column that is a placeholder as a whole; what is nested deeper is data.

    A text column that truly holds the placeholder's text cannot be told from an unsent one: that ambiguity is
    Debezium's own.
    """
    for column, value in row.items():
        if isinstance(value, str):
            unsent = value in _STRINGS
        elif isinstance(value, list):
            unsent = value in _LISTS
        else:
            unsent = value == _HSTORE
        if unsent:
            row[column] = UNCHANGED
