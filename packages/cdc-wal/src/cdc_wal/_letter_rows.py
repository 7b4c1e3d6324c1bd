"""Dead letters as rows: every byte as it came, so that the same event is built again later."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import datetime
from typing import cast

from cdc_core import (
    Cause,
    DeadLetter,
    Event,
    FailedEvent,
    Headers,
    Lane,
    Operation,
    TableId,
    parse_identity,
)

from ._connection import Parameter, Row
from ._own_tables import DEAD_LETTER_COLUMNS

STORED_COLUMNS = DEAD_LETTER_COLUMNS[1:]
"""What is written; the id is the database's."""


def letter_parameters(failed: FailedEvent) -> tuple[Parameter, ...]:
    """Return a failed event as the values of `STORED_COLUMNS`."""
    event = failed.event
    identity = None if event.identity is None else _text(str(event.identity))
    position = _text(str(event.position))
    return (
        _text(failed.pipeline),
        identity or position,
        identity,
        position,
        None if event.lane is None else _text(event.lane),
        event.key,
        event.related_key,
        event.value,
        _pack_headers(event.headers),
        None if event.op is None else event.op.value,
        None if event.table is None else event.table.schema,
        None if event.table is None else event.table.name,
        None if event.committed_at is None else repr(event.committed_at),
        event.fence,
        event.delivery,
        _text(failed.cause.type),
        _text(failed.cause.message),
        failed.attempts,
        failed.failed_at.isoformat(),
        "t" if failed.parked else "f",
    )


def letter_of(row: Row) -> DeadLetter:
    """Build the letter of a row of all `DEAD_LETTER_COLUMNS`; its event is marked as replayed."""
    at: dict[str, str | None] = dict(zip(DEAD_LETTER_COLUMNS, row, strict=True))
    return DeadLetter(
        id=at["id"] or "",
        event=_event_of(at),
        cause=Cause(type=at["cause_type"] or "", message=at["cause_message"] or ""),
        pipeline=at["pipeline"] or "",
        attempts=int(at["attempts"] or 0),
        failed_at=datetime.fromisoformat(at["failed_at"] or ""),
        parked=at["parked"] == "t",
    )


def _event_of(at: dict[str, str | None]) -> Event:
    identity, schema, name = at["identity"], at["table_schema"], at["table_name"]
    return Event(
        key=_bytes(at["key"]),
        value=_bytes(at["value"]),
        op=None if at["op"] is None else Operation(at["op"]),
        table=None if schema is None or name is None else TableId(schema, name),
        position=at["position"] or "",
        identity=None if identity is None else parse_identity(identity),
        lane=None if at["lane"] is None else Lane(at["lane"]),
        headers=_unpack_headers(_bytes(at["headers"]) or b"[]"),
        related_key=_bytes(at["related_key"]),
        committed_at=None if at["committed_at"] is None else float(at["committed_at"]),
        fence=None if at["fence"] is None else int(at["fence"]),
        replayed=True,
        delivery=int(at["delivery"] or 0),
    )


def _pack_headers(headers: Headers) -> bytes:
    pairs = [
        (name, None if value is None else base64.b64encode(value).decode("ascii")) for name, value in headers
    ]
    return json.dumps(pairs, separators=(",", ":")).encode("ascii")


def _unpack_headers(packed: bytes) -> Headers:
    pairs = cast("Sequence[tuple[str, str | None]]", json.loads(packed))
    return tuple((name, None if value is None else base64.b64decode(value)) for name, value in pairs)


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text.removeprefix("\\x"))


def _text(value: str) -> str:
    # what text of PostgreSQL cannot hold; a cause may quote anything
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
