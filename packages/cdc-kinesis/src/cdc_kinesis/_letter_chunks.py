"""Dead letters as records of a stream: each cut into chunks where a record may not be so large. Bytes only, no I/O.

A record is `CDCL`, a version byte, the size of a header in four bytes, the header as JSON, and a chunk of the
letter's body as it is. The header names the letter, the copy (each attempt to store it is one), the chunk and how
many there are; the first also what lists are filtered by. A header with `removed` is a marker: a stream cannot
delete, so what was replayed or discarded is said to be gone. The body is msgpack, which holds bytes unchanged.

All records of a letter have one partition key, which the first eight digits of its id are; so have all letters of
a key of a table, whose order is thereby the order of their records.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, final

import msgspec

from cdc_core import (
    Cause,
    DeadLetter,
    Event,
    FailedEvent,
    Lane,
    Operation,
    Position,
    TableId,
    parse_identity,
)

from ._position import KinesisPosition

_PREFIX: Final = struct.Struct(">4sBI")
_MAGIC: Final = b"CDCL"
_VERSION: Final = 1
_KEY_DIGITS: Final = 8
_MANY: Final = 1_000_000
_MAX_REASON: Final = 8192
_POSITION: Final = re.compile(r"(.+):(\d+):(\d+)", re.ASCII | re.DOTALL)


class Facts(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What is known of a letter without its body.

    - `source`: the stream and group whose letter it is; `key`, `related_key`: digests of the keys, None without one.
    - `failed_at`: ISO 8601.
    """

    source: str
    pipeline: str
    failed_at: str
    position: str
    identity: str | None = None
    schema: str | None = None
    table: str | None = None
    key: str | None = None
    related_key: str | None = None

    @property
    def table_id(self) -> TableId | None:
        """The table."""
        return None if self.schema is None or self.table is None else TableId(self.schema, self.table)

    @property
    def keys(self) -> Sequence[tuple[TableId | None, str | None]]:
        """What the event occupies: its keys, as digests; events of a table without a key are one key."""
        own = [(self.table_id, key) for key in (self.key, self.related_key) if key is not None]
        return own or [(self.table_id, None)]


class Removal(msgspec.Struct, frozen=True, gc=False):
    """Why a letter is gone: `replayed` or `discarded`, and what the operator said."""

    how: Literal["replayed", "discarded"]
    reason: str
    removed_at: str


class Header(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The header of a record: of a chunk, whose `number` counts from 0 to `count` - 1, or of a marker."""

    letter: str
    copy: str = ""
    number: int = 0
    count: int = 0
    facts: Facts | None = None
    removed: Removal | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A record of the dead-letter stream: its header, and a chunk of the body."""

    header: Header
    chunk: bytes


class LetterTooLarge(ValueError):
    """What has to be in a record's header does not fit into a record."""


def letter_id(source: str, failed: FailedEvent) -> str:
    """Return the id of a failed event's letter: the same for each delivery of the event, another for each pipeline."""
    event = failed.event
    what = f"position {event.position}" if event.identity is None else f"identity {event.identity}"
    key = _digest(source, failed.pipeline, str(event.table), (event.key or b"").hex())
    return key[:_KEY_DIGITS] + _digest(source, failed.pipeline, what)[:24]


def partition_key_of(letter: str) -> str:
    """Return the partition key of all records of a letter."""
    return letter[:_KEY_DIGITS]


def hash_key_of(letter: str) -> int:
    """Return the point of the hash space that all records of a letter go to."""
    return int(letter[:_KEY_DIGITS], 16) << (128 - 4 * _KEY_DIGITS)


def key_digest(key: bytes | None) -> str | None:
    """Return what stands for a key in a header."""
    return None if key is None else hashlib.sha256(key).hexdigest()[:32]


def encode_letter(failed: FailedEvent, *, source: str, copy: str, max_record_bytes: int) -> Sequence[bytes]:
    """Return the records of a failed event.

    - `copy`: names this attempt to store it; `max_record_bytes`: of a record's data and partition key.

    Raises:
        LetterTooLarge: what has to be in the header does not fit.
    """
    letter = letter_id(source, failed)
    facts = _facts_of(failed, source)
    body = _encode_body(_body_of(failed))
    room = max_record_bytes - len(partition_key_of(letter).encode())
    in_first = room - len(_frame(Header(letter=letter, copy=copy, number=0, count=_MANY, facts=facts), b""))
    in_others = room - len(_frame(Header(letter=letter, copy=copy, number=_MANY, count=_MANY), b""))
    if in_first <= 0 or in_others <= 0:
        raise LetterTooLarge(f"its header does not fit into a record of {max_record_bytes} bytes")
    chunks = [
        body[:in_first],
        *(body[at : at + in_others] for at in range(in_first, len(body), in_others)),
    ]
    return [
        _frame(
            Header(
                letter=letter, copy=copy, number=number, count=len(chunks), facts=None if number else facts
            ),
            chunk,
        )
        for number, chunk in enumerate(chunks)
    ]


def encode_removal(letter: str, removal: Removal) -> bytes:
    """Return the marker that says that a letter is gone."""
    told = msgspec.structs.replace(removal, reason=_text(removal.reason)[:_MAX_REASON])
    return _frame(Header(letter=letter, removed=told), b"")


def decode_frame(data: bytes) -> Frame | None:
    """Return what a record holds; None where it is none of ours."""
    if len(data) < _PREFIX.size:
        return None
    magic, version, size = _PREFIX.unpack_from(data)
    if magic != _MAGIC or version != _VERSION or len(data) < _PREFIX.size + size:
        return None
    try:
        header = _decode_header(data[_PREFIX.size : _PREFIX.size + size])
    except msgspec.DecodeError:
        return None
    return Frame(header=header, chunk=data[_PREFIX.size + size :])


def decode_letter(letter: str, facts: Facts, body: bytes) -> DeadLetter:
    """Build a letter of its facts and its whole body; its event is marked as replayed."""
    told = _decode_body(body)
    event = Event(
        key=told.key,
        value=told.value,
        op=None if told.op is None else Operation(told.op),
        table=facts.table_id,
        position=position_of(facts.position),
        identity=None if facts.identity is None else parse_identity(facts.identity),
        lane=None if told.lane is None else Lane(told.lane),
        headers=told.headers,
        related_key=told.related_key,
        committed_at=told.committed_at,
        fence=told.fence,
        replayed=True,
        delivery=told.delivery,
    )
    return DeadLetter(
        id=letter,
        event=event,
        cause=Cause(type=told.cause_type, message=told.cause_message),
        pipeline=facts.pipeline,
        attempts=told.attempts,
        failed_at=datetime.fromisoformat(facts.failed_at),
        parked=told.parked,
    )


def position_of(text: str) -> Position:
    """Read a position back from its text; one that is none of ours stays text."""
    found = _POSITION.fullmatch(text)
    return text if found is None else KinesisPosition(found[1], found[2], int(found[3]))


class _Body(msgspec.Struct, omit_defaults=True, gc=False):
    cause_type: str
    cause_message: str
    attempts: int
    parked: bool = False
    key: bytes | None = None
    value: bytes | None = None
    related_key: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    op: str | None = None
    lane: str | None = None
    committed_at: float | None = None
    fence: int | None = None
    delivery: int = 0


_decode_header: Final = msgspec.json.Decoder(Header).decode
_encode_header: Final = msgspec.json.Encoder().encode
_decode_body: Final = msgspec.msgpack.Decoder(_Body).decode
_encode_body: Final = msgspec.msgpack.Encoder().encode


def _facts_of(failed: FailedEvent, source: str) -> Facts:
    event = failed.event
    return Facts(
        source=source,
        pipeline=_text(failed.pipeline),
        failed_at=failed.failed_at.isoformat(),
        position=_text(str(event.position)),
        identity=None if event.identity is None else str(event.identity),
        schema=None if event.table is None else event.table.schema,
        table=None if event.table is None else event.table.name,
        key=key_digest(event.key),
        related_key=key_digest(event.related_key),
    )


def _body_of(failed: FailedEvent) -> _Body:
    event = failed.event
    return _Body(
        cause_type=_text(failed.cause.type),
        cause_message=_text(failed.cause.message),
        attempts=failed.attempts,
        parked=failed.parked,
        key=event.key,
        value=event.value,
        related_key=event.related_key,
        headers=tuple((name, value) for name, value in event.headers),
        op=None if event.op is None else event.op.value,
        lane=event.lane,
        committed_at=event.committed_at,
        fence=event.fence,
        delivery=event.delivery,
    )


def _frame(header: Header, chunk: bytes) -> bytes:
    encoded = _encode_header(header)
    return _PREFIX.pack(_MAGIC, _VERSION, len(encoded)) + encoded + chunk


def _digest(*parts: str) -> str:
    # the sizes keep parts apart that hold what would part them
    joined = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(joined.encode(errors="replace")).hexdigest()


def _text(value: str) -> str:
    return value.encode(errors="replace").decode()  # a cause may quote anything, lone surrogates too
