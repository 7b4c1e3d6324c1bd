"""Aggregated records, as far as looking at a stream needs them."""

from __future__ import annotations

from collections.abc import Sequence


def rows_of(data: bytes) -> Sequence[bytes] | None:
    """Return the data of the rows of an aggregated record; None for a record that is none."""
    return None  # until records are aggregated
