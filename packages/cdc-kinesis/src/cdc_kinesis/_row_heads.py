"""What an aggregated record says of its rows beside their bytes, in one place: the tag `cdc` of its first row.

A row of an aggregate is then the envelope as it came, and nothing is written into each: the tag is

    [bucket, {"0": "op/schema/table/epoch", …}, [[commit_lsn, ordinal, sub_index, committed_at, 0], null, …]]

with an entry for each row, in order; null for a row that carries all of it in itself (see `_record_data`). The key of
such a row is its partition key. The KPL's format has tags of rows, and every reader of it passes over them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, final

import msgspec

HEADS_TAG: Final = b"cdc"


@final
class RowHead(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Of one row; `shared` is the number of what it shares with others: operation, table and epoch."""

    commit_lsn: int
    ordinal: int
    sub_index: int
    committed_at: float | None
    shared: int


@final
class RowHeads(msgspec.Struct, frozen=True, array_like=True):
    """Of all rows of an aggregate."""

    bucket: int
    shared: dict[int, str]
    heads: list[RowHead | None]


def write_heads(bucket: int, shared: Iterable[bytes], heads: Iterable[bytes]) -> bytes:
    """Return the tag's value from parts in JSON: members of the object, and entries of the array."""
    return b"[%d,{%b},[%b]]" % (bucket, b",".join(shared), b",".join(heads))


def read_heads(text: bytes, *, rows: int) -> RowHeads | None:
    """Read the tag's value; None where it is not one for so many rows."""
    try:
        found = _decode(text)
    except msgspec.DecodeError:
        return None
    return found if len(found.heads) == rows else None


_decode: Final = msgspec.json.Decoder(RowHeads).decode
