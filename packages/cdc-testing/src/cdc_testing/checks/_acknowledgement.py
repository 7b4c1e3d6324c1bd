"""Promises on acknowledgement: what is committed, when, and what comes again."""

from __future__ import annotations

from cdc_core import UNKNOWN

from ._consumer import (
    SHORT_DRAIN_SECONDS,
    Consumer,
    Delivery,
    consuming,
    eventually,
    provisioned,
    rows,
    write_singly,
)
from ._harness import Harness


async def check_nothing_unacknowledged_is_lost_in_a_crash(harness: Harness) -> None:
    """After a crash all that was not acknowledged comes again: the replay starts at or before its first event."""
    transport = await provisioned(harness)
    await write_singly(harness, range(12))
    async with consuming(
        harness, transport, tolerant=True, drain_timeout_seconds=SHORT_DRAIN_SECONDS
    ) as before:
        await before.until_delivered(range(12))
        acknowledged = _first_halves(before)
        await before.ack(acknowledged)
        await before.flush()
        await harness.crash(transport)
    left_over = set(range(12)) - {delivery.number for delivery in acknowledged}
    async with consuming(harness, harness.transport(), acks=True) as after:
        await after.until_delivered(left_over)


async def check_a_clean_leave_repeats_nothing_acknowledged(harness: Harness) -> None:
    """After a clean leave the next consumer starts with the first event that was not acknowledged."""
    transport = await provisioned(harness)
    await write_singly(harness, range(12))
    async with consuming(harness, transport) as before:
        await before.until_delivered(range(12))
        acknowledged = _first_halves(before)
        await before.ack(acknowledged)
    numbers = {delivery.number for delivery in acknowledged}
    async with consuming(harness, harness.transport(), acks=True) as after:
        await after.until_delivered(set(range(12)) - numbers)
        again = numbers & set(after.numbers)
        assert not again, f"acknowledged before a clean leave, delivered again: {sorted(again)}"


async def check_only_the_contiguous_prefix_is_committed(harness: Harness) -> None:
    """Acknowledged out of order, an event is not committed before all that were delivered before it are."""
    transport = await provisioned(harness)
    await harness.write(*rows([0], key="key"))
    await harness.write(*rows([1], key="key"))
    await harness.write(*rows([2], key="key"))
    async with consuming(
        harness, transport, tolerant=True, drain_timeout_seconds=SHORT_DRAIN_SECONDS
    ) as before:
        await before.until_delivered(range(3))
        await before.ack(delivery for delivery in before.deliveries if delivery.number != 0)
        await before.flush()
        committed = await harness.committed()
        assert committed is UNKNOWN or committed == 0, (
            f"{committed} rows are committed, the first is not done"
        )
        await harness.crash(transport)
    async with consuming(harness, harness.transport()) as after:
        await after.until_delivered(range(3))
        await after.ack(delivery for delivery in after.deliveries if delivery.number != 1)
        await after.ack(delivery for delivery in after.deliveries if delivery.number == 1)
    async with consuming(harness, harness.transport()) as last:
        await harness.write(*rows([3], key="key"))
        await last.until_delivered([3])
        assert last.numbers == [3], f"all were acknowledged, delivered again: {last.numbers}"


async def check_a_commit_does_not_split_a_transaction(harness: Harness) -> None:
    """Where commits cover whole transactions, one whose last events are not acknowledged comes again as a whole."""
    transport = await provisioned(harness)
    await harness.write(*rows(range(2), key="key"))
    await harness.write(*rows(range(2, 6), key="key"))
    async with consuming(harness, transport) as before:
        await before.until_delivered(range(6))
        await before.ack(delivery for delivery in before.deliveries if delivery.number < 4)
        await before.flush()
        await _until_committed(harness, 2, exactly=True)
    async with consuming(harness, harness.transport(), acks=True) as after:
        await after.until_delivered(range(2, 6))
        assert after.numbers[0] == 2, f"the replay starts with row {after.numbers[0]}, not 2"


async def check_a_commit_can_cover_single_events(harness: Harness) -> None:
    """Where commits cover single events, only those of a transaction that were not acknowledged come again."""
    transport = await provisioned(harness)
    await harness.write(*rows(range(4), key="key"))
    async with consuming(harness, transport) as before:
        await before.until_delivered(range(4))
        await before.ack(delivery for delivery in before.deliveries if delivery.number < 2)
        await before.flush()
        await _until_committed(harness, 2, exactly=True)
    async with consuming(harness, harness.transport(), acks=True) as after:
        await after.until_delivered(range(2, 4))
        assert after.numbers[0] == 2, f"the replay starts with row {after.numbers[0]}, not 2"


async def check_a_flush_commits_now(harness: Harness) -> None:
    """After a flush the acknowledged prefix is committed, though the source is neither idle nor left."""
    transport = await provisioned(harness)
    await write_singly(harness, range(6), keys=1)
    async with consuming(
        harness, transport, tolerant=True, drain_timeout_seconds=SHORT_DRAIN_SECONDS
    ) as before:
        await before.until_delivered(range(6))
        await before.ack(delivery for delivery in before.deliveries if delivery.number < 3)
        await before.flush()
        await _until_committed(harness, 3)
        await harness.crash(transport)
    if await harness.committed() is not UNKNOWN:
        return
    async with consuming(harness, harness.transport(), acks=True) as after:
        await after.until_delivered(range(3, 6))
        assert not set(range(3)) & set(after.numbers), f"flushed, delivered again: {after.numbers}"


async def check_an_acknowledgement_may_be_repeated(harness: Harness) -> None:
    """Acknowledging the same events twice, or none, is no error and commits nothing more."""
    transport = await provisioned(harness)
    await write_singly(harness, range(4), keys=1)
    async with consuming(harness, transport) as before:
        await before.until_delivered(range(4))
        first = [delivery for delivery in before.deliveries if delivery.number == 0]
        await before.ack(first)
        await before.ack(first)
        await first[0].stream.ack([])
    async with consuming(harness, harness.transport(), acks=True) as after:
        await after.until_delivered(range(1, 4))
        assert 0 not in after.numbers, "acknowledged twice, delivered again"


async def _until_committed(harness: Harness, count: int, *, exactly: bool = False) -> None:
    """Wait for a commit of so many rows, where the source can tell."""

    async def is_committed() -> bool:
        committed = await harness.committed()
        return committed is UNKNOWN or committed >= count

    await eventually(harness, is_committed, f"{count} rows are committed")
    committed = await harness.committed()
    assert not exactly or committed is UNKNOWN or committed == count, f"{committed} rows are committed"


def _first_halves(consumer: Consumer) -> list[Delivery]:
    """Return the first half of each stream's deliveries."""
    by_stream = [consumer.of(stream) for stream in consumer.assigned]
    return [delivery for deliveries in by_stream for delivery in deliveries[: (len(deliveries) + 1) // 2]]
