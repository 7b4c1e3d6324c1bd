"""Promises on what is delivered, in which order, under which identity."""

from __future__ import annotations

import re
from itertools import pairwise

import anyio

from cdc_core import ChangeIdentity, Event, NotProvisioned

from ._consumer import SHORT_DRAIN_SECONDS, consuming, provisioned, write_singly
from ._harness import Harness


async def check_an_unprovisioned_source_is_refused(harness: Harness) -> None:
    """Opening a source whose objects do not exist raises `NotProvisioned`."""
    try:
        async with harness.transport().source().open(drain_timeout_seconds=1.0):
            pass
    except NotProvisioned:
        return
    raise AssertionError("a source that is not provisioned was opened")


async def check_everything_written_is_delivered(harness: Harness) -> None:
    """Rows written before and while the source is open are all delivered."""
    transport = await provisioned(harness)
    await write_singly(harness, range(6))
    async with consuming(harness, transport, acks=True) as consumer:
        await consumer.until_delivered(range(6))
        await write_singly(harness, range(6, 12))
        await consumer.until_delivered(range(12))


async def check_events_keep_their_order_per_key(harness: Harness) -> None:
    """On first deliveries the events of a key come in the order in which they were written."""
    transport = await provisioned(harness)
    for first in range(0, 24, 3):  # each transaction holds a row of each of three keys
        await harness.write(*((f"key-{number % 3}", number) for number in range(first, first + 3)))
    async with consuming(harness, transport, acks=True) as consumer:
        await consumer.until_delivered(range(24))
        for key in {delivery.key for delivery in consumer.deliveries}:
            numbers = [delivery.number for delivery in consumer.first_deliveries if delivery.key == key]
            assert numbers == sorted(numbers), f"the events of {key} came out of order: {numbers}"


async def check_identities_grow_within_a_lane(harness: Harness) -> None:
    """Within a lane first deliveries have ever greater identities; an event without a lane promises nothing."""
    transport = await provisioned(harness)
    for first in range(0, 12, 2):
        await harness.write(*((f"key-{number % 4}", number) for number in range(first, first + 2)))
    async with consuming(harness, transport, acks=True) as consumer:
        await consumer.until_delivered(range(12))
        events = [delivery.event for delivery in consumer.first_deliveries]
    for lane in {event.lane for event in events if event.lane is not None}:
        identities = [event.identity for event in events if event.lane == lane]
        changes = [identity for identity in identities if isinstance(identity, ChangeIdentity)]
        for earlier, later in pairwise(changes):
            assert earlier < later, f"in lane {lane} {later} came after {earlier}"


async def check_identities_are_equal_on_repeats(harness: Harness) -> None:
    """An event that comes again has the identity, the key and the row that it had; no other event has it.

    Its bytes may differ in the envelope's outer `ts_*`, which are the time of processing.
    """
    transport = await provisioned(harness)
    await harness.write(*((f"key-{number}", number) for number in range(3)))
    await write_singly(harness, range(3, 6))
    async with consuming(
        harness, transport, tolerant=True, drain_timeout_seconds=SHORT_DRAIN_SECONDS
    ) as before:
        await before.until_delivered(range(6))
        await harness.crash(transport)
    async with consuming(harness, harness.transport(), acks=True) as after:
        await after.until_delivered(range(6))
    repeats = {delivery.number: delivery.event for delivery in after.deliveries}
    for delivery in before.first_deliveries:
        event, repeat = delivery.event, repeats[delivery.number]
        assert repeat.identity == event.identity, f"{event.identity} came again as {repeat.identity}"
        assert repeat.key == event.key, f"{event.identity} has another key now"
        assert _without_processing_time(repeat) == _without_processing_time(event), (
            f"{event.identity} has other bytes now"
        )
        assert repeat.lane == event.lane, f"{event.identity} changed its lane"
    known = [delivery.event.identity for delivery in after.first_deliveries]
    known = [identity for identity in known if identity is not None]
    assert len(known) == len(set(known)), "two events have the same identity"


async def check_deliveries_are_numbered_and_told_apart(harness: Harness) -> None:
    """Positions tell the deliveries of a stream apart and can be printed; `delivery` counts them from 0."""
    transport = await provisioned(harness)
    await write_singly(harness, range(8))
    async with consuming(harness, transport, acks=True) as consumer:
        await consumer.until_delivered(range(8))
        for stream in consumer.assigned:
            events = [delivery.event for delivery in consumer.of(stream)]
            assert [event.delivery for event in events] == list(range(len(events))), "gaps in `delivery`"
            positions = {event.position for event in events}
            assert len(positions) == len({delivery.number for delivery in consumer.of(stream)}), (
                f"positions do not tell {len(events)} deliveries apart: {positions}"
            )
            assert len({str(position) for position in positions}) == len(positions), "positions print alike"


async def check_batches_are_bounded_and_never_empty(harness: Harness) -> None:
    """A batch holds at least one event, and no more events and bytes than configured; one larger event comes alone."""
    max_events, max_bytes = harness.max_batch
    transport = await provisioned(harness)
    numbers = range(2 * max_events + 1)
    await harness.write(*(("key", number) for number in numbers))
    open_for_all = anyio.Event()
    async with consuming(harness, transport, acks=True) as consumer:
        consumer.before_iterating = open_for_all.wait  # what waits meanwhile could make one huge batch
        await consumer.until(lambda: bool(consumer.assigned), "a partition is assigned")
        open_for_all.set()
        await consumer.until_delivered(numbers)
        for batch in consumer.batches:
            assert len(batch) > 0, "an empty batch"
            assert len(batch) <= max_events, f"{len(batch)} events in a batch, {max_events} are allowed"
            size = sum(len(event.key or b"") + len(event.value or b"") for event in batch)
            assert size <= max_bytes or len(batch) == 1, f"{size} bytes in a batch, {max_bytes} are allowed"


def _without_processing_time(event: Event) -> bytes | None:
    """Return the value up to the envelope's outer times; where it has none, all of it."""
    return event.value if event.value is None else re.sub(rb'"ts_(ms|us|ns)":\d+}?,?', b"", event.value)
