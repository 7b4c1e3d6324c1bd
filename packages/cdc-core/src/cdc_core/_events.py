"""An event is one delivery: bytes as they came, and what routing needs; a change is what it says, decoded."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, final

import msgspec

from ._position import Identity, Lane, Position

if TYPE_CHECKING:
    from ._envelope import Change, Row

Headers = Sequence[tuple[str, bytes | None]]
"""Headers in their order; a name may come twice, a value may be absent."""

NO_HEADERS: Final[Headers] = ()


class Operation(enum.StrEnum):
    """What happened to the row, in Debezium's letters."""

    CREATE = "c"
    UPDATE = "u"
    DELETE = "d"
    READ = "r"
    TRUNCATE = "t"
    MESSAGE = "m"


@final
class TableId(msgspec.Struct, frozen=True, order=True):
    """A table's schema and name as PostgreSQL has them: unquoted, case kept."""

    schema: str
    name: str

    @classmethod
    def parse(cls, text: str) -> TableId:
        """Read `schema.name`; a part that holds a dot stands in double quotes, a quote in it is doubled.

        Raises:
            ValueError: the text has not exactly two parts.
        """
        parts = _split_quoted(text)
        if len(parts) != 2 or not all(parts):
            raise ValueError(f"expected schema.name, got {text!r}")
        return cls(*parts)

    def __str__(self) -> str:
        return f"{_quoted_if_needed(self.schema)}.{_quoted_if_needed(self.name)}"


@final
class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One delivery of one event.

    - `key`, `value`: the bytes as they came: Debezium JSON; a tombstone's value is None, an event without key has None.
    - `op`: what happened; None for a tombstone, and where the transport cannot say without decoding.
    - `table`: the table; None for a logical message, and where the transport cannot say without decoding.
    - `position`: this delivery, in the transport's own terms.
    - `identity`: the change, the same on every repeat; None where nothing sure can be said.
    - `lane`: within it identities only grow; None means no order, and such an event is never dropped as a repeat.
    - `related_key`: where an update changed the key, the other of the two keys: this event occupies both.
    - `committed_at`: when the source committed it, in seconds since 1970; None where unknown.
    - `fence`: an integer that grows with every change of owner, or None; a sink may refuse an older one.
    - `replayed`: whether it comes from the dead letters.
    - `delivery`: the number of the event in its stream, from 0, kept by the transport.
    """

    key: bytes | None
    value: bytes | None
    op: Operation | None
    table: TableId | None
    position: Position
    identity: Identity | None = None
    lane: Lane | None = None
    headers: Headers = NO_HEADERS
    related_key: bytes | None = None
    committed_at: float | None = None
    fence: int | None = None
    replayed: bool = False
    delivery: int = 0

    @property
    def is_tombstone(self) -> bool:
        """Whether this is the marker that follows a delete where the transport compacts."""
        return self.value is None

    @property
    def is_barrier(self) -> bool:
        """Whether no other event of its partition may be handled beside it: all but rows and their tombstones."""
        return self.op in _BARRIERS

    def header(self, name: str) -> bytes | None:
        """Return the last value of a header, None where it is absent."""
        return next((value for key, value in reversed(self.headers) if key == name), None)

    def change(self) -> Change[Row]:
        """Decode the envelope; each call decodes anew.

        Raises:
            EnvelopeError: the bytes are not the envelope they should be.
        """
        from ._envelope import decode_change  # the envelope needs Event; imported when first used

        return decode_change(self)


@final
class OutgoingEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One event on its way from a reader to a transport's publisher; the fields mean what they mean in `Event`.

    `ends_transaction` is True on the last event of a database transaction where the reader knows it; the
    position that its transaction's end allows to confirm is the reader's own business.
    """

    key: bytes | None
    value: bytes | None
    op: Operation | None
    table: TableId | None
    identity: Identity
    related_key: bytes | None = None
    committed_at: float | None = None
    ends_transaction: bool = False

    @property
    def headers(self) -> Headers:
        """Return what routing needs: `cdc-id`, `cdc-op`, `cdc-schema`, `cdc-table`, as far as they apply."""
        named: list[tuple[str, bytes | None]] = [("cdc-id", str(self.identity).encode())]
        if self.op is not None:
            named.append(("cdc-op", self.op.value.encode()))
        if self.table is not None:
            named += [("cdc-schema", self.table.schema.encode()), ("cdc-table", self.table.name.encode())]
        return named


_BARRIERS = frozenset({Operation.TRUNCATE, Operation.MESSAGE})


def _split_quoted(text: str) -> list[str]:
    parts: list[str] = []
    part, quoted, index = "", False, 0
    while index < len(text):
        char = text[index]
        if char == '"' and quoted and text[index + 1 : index + 2] == '"':
            part, index = part + '"', index + 1
        elif char == '"':
            quoted = not quoted
        elif char == "." and not quoted:
            parts.append(part)
            part = ""
        else:
            part += char
        index += 1
    if quoted:
        raise ValueError(f"unbalanced quote in {text!r}")
    return [*parts, part]


def _quoted_if_needed(name: str) -> str:
    if "." in name or '"' in name:
        return '"' + name.replace('"', '""') + '"'
    return name
