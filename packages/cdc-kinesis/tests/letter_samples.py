"""Failed events for the tests of the dead letters."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

from cdc_core import (
    Cause,
    ChangeIdentity,
    DeadLetter,
    Epoch,
    Event,
    FailedEvent,
    Headers,
    Lane,
    Operation,
    TableId,
)
from cdc_kinesis import KinesisPosition

EPOCH = Epoch("7012345678901234567", 1, "shop", "0")
FAILED_AT = datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=UTC)
ORDERS = TableId("shop", "orders")


def failed_event(
    number: int,
    *,
    key: bytes | None = b'{"id":1}',
    value: bytes | None = None,
    pipeline: str = "billing",
    identified: bool = True,
    headers: Headers = (("cdc-op", b"c"), ("absent", None)),
    failed_at: datetime = FAILED_AT,
    table: TableId | None = ORDERS,
    related_key: bytes | None = None,
) -> FailedEvent:
    """Return a failed event; its number is its LSN, its place in the shard, and its value where none is given."""
    return FailedEvent(
        event=Event(
            key=key,
            value=b'{"number":%d}' % number if value is None else value,
            op=Operation.CREATE,
            table=table,
            position=KinesisPosition("shardId-000000000000", str(10**20 + number), 0),
            identity=ChangeIdentity(EPOCH, number, 0) if identified else None,
            lane=Lane("3"),
            headers=headers,
            related_key=related_key,
            committed_at=1_700_000_000.25,
            fence=7,
            delivery=number,
        ),
        cause=Cause(type="shop.OutOfStock", message="none left: é世"),
        pipeline=pipeline,
        attempts=3,
        failed_at=failed_at,
    )


def number_of(letter: DeadLetter) -> int:
    """Return the number of a letter's event."""
    identity = letter.event.identity
    assert isinstance(identity, ChangeIdentity)
    return identity.commit_lsn


async def numbers(letters: AsyncIterator[DeadLetter]) -> list[int]:
    """Return the numbers of letters in their order."""
    return [number_of(letter) async for letter in letters]
