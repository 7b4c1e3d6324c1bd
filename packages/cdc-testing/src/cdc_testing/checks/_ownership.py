"""Promises on who owns a partition, and on how it is taken away, lost and left."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import anyio.lowlevel

from cdc_core import Event, PartitionLost, PartitionStream

from ._consumer import SHORT_DRAIN_SECONDS, Consumer, consuming, eventually, provisioned, rows, write_singly
from ._harness import Harness


async def check_a_revoked_stream_stops_before_the_next_owner(harness: Harness) -> None:
    """A revoked partition has no next owner while its worker is at work within its deadline."""
    transport = await provisioned(harness)
    worker_may_leave = anyio.Event()
    async with consuming(harness, transport, acks=True) as old:
        old.before_leaving = worker_may_leave.wait
        await _until_partitions_are_owned(old)
        await harness.write(*((f"key-{number}", number) for number in range(16)))
        await old.until_delivered(range(16))
        async with consuming(harness, harness.transport(), acks=True) as new:
            await old.until(lambda: bool(old.ended), "a stream of the first consumer is revoked")
            revoked = old.ended[0]
            assert revoked.revoking_at is not None, "a stream ended without revoking_at"
            delivered = len(old.of(revoked))
            await harness.write(*((f"key-{number % 16}", number) for number in range(16, 32)))
            await anyio.sleep(harness.quiet_seconds)
            assert not _streams_of(new, revoked), "the next owner started before the worker had left"
            assert len(old.of(revoked)) == delivered, "a revoked stream went on yielding"
            worker_may_leave.set()
            await new.until(lambda: bool(_streams_of(new, revoked)), "the next owner starts")

            async def are_delivered() -> bool:
                return set(range(32)) <= set(old.numbers) | set(new.numbers)

            await eventually(harness, are_delivered, "all rows are delivered to one of the two")
            again = {delivery.number for delivery in new.deliveries} & set(range(16))
            assert not again, f"acknowledged before the hand-over, delivered again: {sorted(again)}"


async def check_a_worker_past_its_deadline_is_cancelled(harness: Harness) -> None:
    """A worker that has not left a revoked stream by `revoking_at` is cancelled, and goes on behind its stream."""
    transport = await provisioned(harness)
    async with consuming(harness, transport, tolerant=True, drain_timeout_seconds=SHORT_DRAIN_SECONDS) as old:
        old.before_leaving = anyio.sleep_forever
        await _until_partitions_are_owned(old)
        async with consuming(harness, harness.transport()) as new:
            await old.until(lambda: bool(old.left), "the worker of a revoked stream is cancelled")
            # any of them: one that was lost, not revoked, may have gone back to its former owner
            await new.until(
                lambda: any(_streams_of(new, moved) for moved in old.left), "the next owner starts"
            )


async def check_a_lost_stream_cancels_its_worker(harness: Harness) -> None:
    """When a partition is lost its worker is cancelled through the stream, and a late ack raises `PartitionLost`."""
    transport = await provisioned(harness)
    await write_singly(harness, range(3), keys=1)
    async with consuming(
        harness, transport, tolerant=True, drain_timeout_seconds=SHORT_DRAIN_SECONDS
    ) as consumer:
        consumer.in_hand = _wait_forever
        await consumer.until_delivered([0])
        stream = consumer.deliveries[0].stream
        assert stream.current(consumer.deliveries[0].event), "an event just delivered is not current"
        await harness.lose(transport)
        await consumer.until(lambda: stream in consumer.left, "the lost stream's worker is cancelled")
        event = consumer.deliveries[0].event
        assert not stream.current(event), "an event of a lost partition is still current"
        await _must_be_lost(stream, [event])


async def check_a_stale_acknowledgement_changes_nothing(harness: Harness) -> None:
    """Acknowledging events of a lost partition commits nothing; beside valid ones they are passed over."""
    transport = await provisioned(harness)
    await write_singly(harness, range(4), keys=1)
    async with consuming(
        harness, transport, tolerant=True, drain_timeout_seconds=SHORT_DRAIN_SECONDS
    ) as consumer:
        await consumer.until_delivered(range(4))
        old = list(consumer.deliveries)
        await harness.lose(transport)
        await consumer.until(lambda: old[0].stream in consumer.left, "the lost stream's worker leaves")
        await _must_be_lost(old[0].stream, [delivery.event for delivery in old])
    async with consuming(harness, harness.transport()) as after:
        await after.until_delivered(range(4))
        fresh = after.deliveries[0]
        await fresh.stream.ack([old[-1].event, fresh.event])  # one is valid: no error
    async with consuming(harness, harness.transport(), acks=True) as last:
        await last.until_delivered(range(1, 4))


async def check_events_come_again_after_a_loss(harness: Harness) -> None:
    """After a loss all that was not acknowledged is delivered to whoever owns the partition next."""
    transport = await provisioned(harness)
    await write_singly(harness, range(6), keys=1)
    async with consuming(
        harness, transport, tolerant=True, drain_timeout_seconds=SHORT_DRAIN_SECONDS
    ) as before:
        await before.until_delivered(range(6))
        await before.ack(delivery for delivery in before.deliveries if delivery.number < 2)
        await harness.lose(transport)
        await before.until(lambda: bool(before.left), "the lost stream's worker leaves")
    async with consuming(harness, harness.transport(), acks=True) as after:
        await after.until_delivered(range(2, 6))


async def check_a_cut_connection_loses_nothing(harness: Harness) -> None:
    """After a broken connection, everything is still delivered, by the same transport object."""
    transport = await provisioned(harness)
    await write_singly(harness, range(4))
    seen: set[int] = set()
    async with consuming(
        harness, transport, acks=True, tolerant=True, drain_timeout_seconds=SHORT_DRAIN_SECONDS
    ) as before:
        await before.until_delivered(range(4))
        await harness.cut(transport)
        await write_singly(harness, range(4, 8))
        # It may come back by itself, or fail, as it likes.
        await before.until(
            lambda: set(range(8)) <= set(before.numbers) or bool(before.errors),
            "the source goes on or fails",
        )
    seen = set(before.numbers)
    if not set(range(8)) <= seen:
        async with consuming(harness, transport, acks=True) as after:
            await after.until_delivered(set(range(8)) - seen)


async def check_fences_grow_with_each_owner(harness: Harness) -> None:
    """`Event.fence` is an integer, the same for one owner of a partition and greater for the next."""
    transport = await provisioned(harness)
    await harness.write(*rows([0], key="key"))
    async with consuming(harness, transport) as before:
        await before.until_delivered([0])
    async with consuming(harness, harness.transport(), acks=True) as after:
        await after.until_delivered([0])
        await harness.write(*rows([1], key="key"))
        await after.until_delivered([1])
    earlier, later = before.deliveries[0].event.fence, {delivery.event.fence for delivery in after.deliveries}
    assert earlier is not None, "a fenced transport delivered an event without a fence"
    assert len(later) == 1, f"one owner had several fences: {later}"
    fence = later.pop()
    assert fence is not None, "a fenced transport delivered an event without a fence"
    assert fence > earlier, f"the next owner's fence is {fence}, after {earlier}"


async def check_leaving_gives_workers_time_to_finish(harness: Harness) -> None:
    """While the source is left, a worker sees `revoking_at`, may finish, and what it acknowledges is committed."""
    transport = await provisioned(harness)
    await harness.write(*rows([0], key="key"))
    seen_deadline: list[bool] = []

    async def finish_slowly(stream: PartitionStream, batch: Sequence[Event]) -> None:
        async def is_revoking() -> bool:
            return stream.revoking_at is not None

        await eventually(harness, is_revoking, "a worker sees that its stream is being left")
        seen_deadline.append(stream.current(batch[0]))

    async with consuming(harness, transport, acks=True) as before:
        before.in_hand = finish_slowly
        await before.until_delivered([0])
    assert seen_deadline == [True], "an event was no longer current before the deadline"
    await harness.write(*rows([1], key="key"))
    async with consuming(harness, harness.transport(), acks=True) as after:
        await after.until_delivered([1])
        assert after.numbers == [1], f"handled while leaving, delivered again: {after.numbers}"


async def check_leaving_is_bounded_by_the_drain_timeout(harness: Harness) -> None:
    """A worker that does not finish is cancelled at the deadline, and leaving does not wait for it any longer."""
    transport = await provisioned(harness)
    await harness.write(*rows([0], key="key"))
    released = anyio.Event()

    async def ignore_cancellation(stream: PartitionStream, batch: Sequence[Event]) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()
            with anyio.CancelScope(shield=True):
                await released.wait()

    cancelled = anyio.Event()
    opened: list[Consumer] = []

    failures: list[AssertionError] = []

    async def consume() -> None:
        try:
            async with consuming(
                harness, transport, tolerant=True, drain_timeout_seconds=SHORT_DRAIN_SECONDS
            ) as consumer:
                consumer.in_hand = ignore_cancellation
                opened.append(consumer)
                await consumer.until_delivered([0])
        except AssertionError as error:
            failures.append(error)
            cancelled.set()

    was_left = False
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consume)
        with anyio.move_on_after(2 * harness.patience_seconds + SHORT_DRAIN_SECONDS):
            await cancelled.wait()
            await opened[0].source_left.wait()
            was_left = True
        released.set()
        tasks.cancel_scope.cancel()
    if failures:
        raise failures[0]
    assert cancelled.is_set(), "a worker was not cancelled at the drain timeout"
    assert was_left, "leaving the source waited for a worker that does not finish"


async def check_a_cancelled_consumer_commits_what_it_acknowledged(harness: Harness) -> None:
    """Leaving is shielded: when its host is cancelled, what was acknowledged is committed all the same."""
    transport = await provisioned(harness)
    await write_singly(harness, range(2), keys=1)
    with anyio.CancelScope() as host:
        async with consuming(harness, transport, tolerant=True) as before:
            await before.until_delivered(range(2))
            await before.ack(delivery for delivery in before.deliveries if delivery.number == 0)
            host.cancel()
            await anyio.lowlevel.checkpoint()
    async with consuming(harness, harness.transport(), acks=True) as after:
        await after.until_delivered([1])
        assert after.numbers == [1], f"acknowledged before the cancellation, delivered again: {after.numbers}"


async def _until_partitions_are_owned(consumer: Consumer) -> None:
    await consumer.until(
        lambda: len(consumer.entered) >= 2 and len(consumer.entered) == len(consumer.assigned),
        "two partitions are assigned (a revocable harness has as many)",
    )


def _streams_of(consumer: Consumer, stream: PartitionStream) -> list[PartitionStream]:
    return [one for one in consumer.assigned if one.partition == stream.partition]


async def _wait_forever(stream: PartitionStream, batch: Sequence[Event]) -> None:
    await anyio.sleep_forever()


async def _must_be_lost(stream: PartitionStream, events: Sequence[Event]) -> None:
    try:
        await stream.ack(events)
    except PartitionLost:
        return
    raise AssertionError("a late acknowledgement on a lost partition did not raise PartitionLost")
