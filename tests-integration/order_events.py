"""Rows of ours to send through a stream, and a pipeline of ours that handles what comes out of one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import anyio
import boto3

from cdc_core import (
    ChangeIdentity,
    Epoch,
    Event,
    Operation,
    OutgoingEvent,
    Pipeline,
    TableId,
    encode_change,
    encode_key,
    provision,
)
from cdc_kinesis import KinesisPosition, KinesisTransport

EPOCH: Final = Epoch("7012345678901234567", 1, "orders", "0")
TABLE: Final = TableId("shop", "orders")
Place = tuple[str, str, int]
"""Shard, sequence number, sub-sequence number."""
_PATIENCE_SECONDS: Final = 60.0


def local_session() -> boto3.Session:
    """Return a session for servers that take any credentials."""
    return boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1")


class OpenFence:
    """A reader that is sure of its slot."""

    def remaining_seconds(self) -> float:
        return 60.0


def order(number: int) -> OutgoingEvent:
    """Return a row of ours: forty keys, whose numbers grow."""
    row = {"id": number % 40, "number": number, "note": "\u00e9" * (number % 7)}
    value = encode_change(
        op=Operation.UPDATE,
        table=TABLE,
        after=row,
        source={"commit_lsn": number + 1, "ordinal": 0},
        ts_us=1_700_000_000_000_000,
    )
    identity = ChangeIdentity(EPOCH, number + 1, 0)
    return OutgoingEvent(
        key=encode_key(row, ["id"]), value=value, op=Operation.UPDATE, table=TABLE, identity=identity
    )


async def handle_until(
    transport: KinesisTransport,
    wanted: Collection[str],
    *,
    hold: Collection[str] = (),
    into: dict[Place, Event] | None = None,
) -> dict[str, list[str]]:
    """Run a pipeline of ours until it has handled what is wanted; return what it handled, by shard, in order.

    What we publish is named by its identity, what others put by its bytes.

    - `hold`: what the handler never comes to an end with, so that nothing from there on is acknowledged.
    - `into`: where the events themselves are put.
    """
    handled: dict[str, list[str]] = {}
    left = set(wanted)
    done = anyio.Event()

    async def handle(events: Sequence[Event]) -> None:
        for event in events:
            position = event.position
            assert isinstance(position, KinesisPosition)
            text = str(event.identity) if event.identity is not None else (event.value or b"").decode()
            if text in hold:
                await anyio.sleep_forever()
            handled.setdefault(position.shard_id, []).append(text)
            if into is not None:
                into[position.shard_id, position.sequence_number, position.sub_sequence] = event
            left.discard(text)
        if not left:
            done.set()

    await provision(transport)
    pipeline = Pipeline(
        name="shop",
        transport=transport,
        handler=handle,
        drain_timeout_seconds=2.0,
        monitor_interval_seconds=3600,
    )
    async with pipeline.running():
        with anyio.move_on_after(_PATIENCE_SECONDS):
            await done.wait()
        assert not left, f"not handled: {left}; handled: {handled}"
    return handled
