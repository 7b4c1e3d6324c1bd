"""Promises of a transport's publisher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import anyio

from cdc_core import (
    CdcError,
    ChangeIdentity,
    ConfigError,
    Epoch,
    Event,
    Operation,
    OutgoingEvent,
    TableId,
    Transport,
    encode_change,
    encode_key,
)

from ._consumer import Consumer, consuming, provisioned
from ._harness import Harness, SeedRow

_TABLE = TableId("contract", "published")
_EPOCH = Epoch("7012345678901234567", 1, "contract", "0")


@dataclass(frozen=True, slots=True)
class _FixedFence:
    seconds: float

    def remaining_seconds(self) -> float:
        return self.seconds


def row_event(key: str, number: int) -> OutgoingEvent:
    """Return the event of a row (`key`, `number`) as a reader makes it: a transaction by itself."""
    row = {"key": key, "number": number}
    source = {"commit_lsn": number + 1, "ordinal": 0}
    return OutgoingEvent(
        key=encode_key(row, ["key"]),
        value=encode_change(
            op=Operation.CREATE, table=_TABLE, after=row, source=source, ts_us=1_700_000_000_000_000
        ),
        op=Operation.CREATE,
        table=_TABLE,
        identity=ChangeIdentity(_EPOCH, number + 1, 0),
        committed_at=1_700_000_000.0,
        ends_transaction=True,
    )


def read_row(event: Event) -> SeedRow:
    """Return the row of an event whose envelope has the columns `key` and `number`."""
    change = event.change()
    row = change.after
    assert row is not None, f"an event without a row: {change.op}"
    key, number = row["key"], row["number"]
    assert isinstance(key, str)
    assert isinstance(number, int)
    return key, number


async def check_a_transport_that_does_not_publish_says_so(harness: Harness) -> None:
    """Where `traits.publishes` is False, asking for a publisher raises `ConfigError`."""
    try:
        async with harness.transport().publisher(_FixedFence(60.0)):
            pass
    except ConfigError:
        return
    raise AssertionError("a transport that does not publish opened a publisher")


async def check_a_settled_receipt_is_durable(harness: Harness) -> None:
    """What a receipt settled survives a crash, its key, value, identity and routing headers unchanged."""
    transport = await provisioned(harness)
    events = [row_event(f"key-{number % 3}", number) for number in range(9)]
    async with transport.publisher(_FixedFence(60.0)) as publisher:
        for batch in (events[:4], events[4:]):
            rejected = await (await publisher.publish(batch))
            assert not rejected, f"sound entries were rejected: {rejected}"
        await harness.crash(transport)
    async with consuming(harness, harness.transport(), acks=True) as consumer:
        await consumer.until_delivered(range(9))
    _assert_unchanged(consumer, events)


async def check_published_events_keep_their_order_per_key(harness: Harness) -> None:
    """Batches published without waiting for receipts are stored in order per key."""
    transport = await provisioned(harness)
    async with transport.publisher(_FixedFence(60.0)) as publisher:
        receipts = [
            await publisher.publish(
                [row_event(f"key-{number % 3}", number) for number in range(start, start + 5)]
            )
            for start in range(0, 40, 5)
        ]
        for receipt in receipts:
            assert not await receipt, "sound entries were rejected"
    async with consuming(harness, transport, acks=True) as consumer:
        await consumer.until_delivered(range(40))
    for key in {delivery.key for delivery in consumer.deliveries}:
        numbers = [delivery.number for delivery in consumer.first_deliveries if delivery.key == key]
        assert numbers == sorted(numbers), f"the events of {key} were stored out of order: {numbers}"


async def check_a_rejected_entry_does_not_poison_its_batch(harness: Harness) -> None:
    """An entry that can never be stored is returned with its index and cause; its neighbours are stored."""
    transport = await provisioned(harness)
    batch = [row_event(f"key-{number}", number) for number in range(4)]
    batch[2] = harness.oversized(batch[2])
    async with transport.publisher(_FixedFence(60.0)) as publisher:
        rejected = await (await publisher.publish(batch))
        after = await (await publisher.publish([row_event("key-9", 9)]))
    assert [one.index for one in rejected] == [2], f"rejected entries: {rejected}"
    assert not after, "a batch after a rejected entry was rejected"
    async with consuming(harness, transport, acks=True) as consumer:
        await consumer.until_delivered([0, 1, 3, 9])
        assert 2 not in consumer.numbers, "a rejected entry was stored"


async def check_an_expired_fence_sends_nothing(harness: Harness) -> None:
    """Once its fence has run out a publisher raises a `CdcError` and stores nothing."""
    transport = await provisioned(harness)
    try:
        async with transport.publisher(_FixedFence(0.0)) as publisher:
            with anyio.fail_after(harness.patience_seconds):
                await (await publisher.publish([row_event("key", 0)]))
    except CdcError:
        pass
    else:
        raise AssertionError("a batch was accepted although the fence had run out")
    await _publish(transport, [row_event("other", 1)])
    async with consuming(harness, transport, acks=True) as consumer:
        await consumer.until_delivered([1])
        await anyio.sleep(harness.quiet_seconds)
        assert 0 not in consumer.numbers, "a batch was stored although the fence had run out"


async def _publish(transport: Transport, batch: Sequence[OutgoingEvent]) -> None:
    async with transport.publisher(_FixedFence(60.0)) as publisher:
        assert not await (await publisher.publish(batch))


def _assert_unchanged(consumer: Consumer, events: Sequence[OutgoingEvent]) -> None:
    for delivery in consumer.first_deliveries:
        sent, got = events[delivery.number], delivery.event
        assert (got.key, got.value) == (sent.key, sent.value), f"row {delivery.number} has other bytes now"
        assert got.identity == sent.identity, f"{sent.identity} was delivered as {got.identity}"
        for name, value in sent.headers:
            assert got.header(name) == value, (
                f"header {name} of row {delivery.number} is {got.header(name)!r}"
            )
