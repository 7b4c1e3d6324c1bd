"""Shards come and go while they are read: children after parents, nothing lost, order kept, an end written last."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest
from source_kit import Board, Kit, assert_keys_in_order, both_ways, consuming, eventually

from cdc_core import Event, PartitionStream
from cdc_testing.servers.kinesis import EmbeddedAws

pytestmark = pytest.mark.anyio

PARENT = "shardId-000000000000"


@pytest.fixture
async def kit(servers: EmbeddedAws, fan_out: bool) -> Kit:
    kit = Kit(servers, enhanced_fan_out=fan_out)
    await kit.create()
    return kit


@both_ways
async def test_a_split_shard_is_read_to_its_end_before_its_children(kit: Kit) -> None:
    async with consuming(kit.source()) as consumer:
        await kit.put(range(32))
        await kit.split(PARENT)
        await kit.put(range(32, 64))
        await consumer.until_delivered(range(64))
    shards = [delivery.shard for delivery in consumer.deliveries]
    assert shards[:32] == [PARENT] * 32
    assert set(shards[32:]) == {"shardId-000000000001", "shardId-000000000002"}
    assert sorted(consumer.numbers) == list(range(64))
    assert_keys_in_order(consumer.deliveries)
    fences = [delivery.event.fence or 0 for delivery in consumer.deliveries]
    assert max(fences[:32]) < min(fences[32:]), "a sink that compares by key refuses no child"


@both_ways
async def test_the_end_of_a_shard_is_written_only_when_all_of_it_is_done(kit: Kit) -> None:
    await kit.put(range(4))
    await kit.split(PARENT)
    await kit.put(range(4, 8))
    async with consuming(kit.source(), acks=False) as consumer:
        held = anyio.Event()

        async def stay(stream: PartitionStream, batch: Sequence[Event]) -> None:
            if stream.partition.id == PARENT:
                await held.wait()

        consumer.in_hand = stay
        await consumer.until_delivered(range(4))
        stream, events = consumer.streams[0], [delivery.event for delivery in consumer.deliveries]
        await stream.ack([*events[:1], *events[2:]])
        await stream.flush()
        lease = await kit.lease(PARENT)
        assert lease.checkpoint.is_sequence
        assert not lease.children
        await stream.ack(events)  # though its worker has not left

        async def is_at_end() -> bool:
            return (await kit.lease(PARENT)).is_done

        await eventually(is_at_end, "the end is written")
        lease = await kit.lease(PARENT)
        assert lease.children == {"shardId-000000000001", "shardId-000000000002"}
        for child in lease.children:
            assert (await kit.lease(child)).parents == {PARENT}
        held.set()
        await consumer.until_delivered(range(8))


@both_ways
async def test_a_shard_that_ended_unacknowledged_is_read_again_by_the_next(kit: Kit) -> None:
    await kit.put(range(4))
    await kit.split(PARENT)
    await kit.put(range(4, 8))
    async with consuming(kit.source(), acks=False) as consumer:
        await consumer.until_delivered(range(4))
        await consumer.streams[0].ack([delivery.event for delivery in consumer.deliveries[:2]])
    async with consuming(kit.source()) as after:
        await after.until_delivered(range(2, 8))
    assert after.numbers[:2] == [2, 3]
    assert sorted(after.numbers) == list(range(2, 8))


@both_ways
async def test_merged_shards_are_both_read_before_what_they_became(
    servers: EmbeddedAws, fan_out: bool
) -> None:
    kit = Kit(servers, enhanced_fan_out=fan_out)
    await kit.create(shards=2)
    async with consuming(kit.source()) as consumer:
        await kit.put(range(32))
        first, second = await kit.shard_ids()
        await kit.call("merge_shards", ShardToMerge=first, AdjacentShardToMerge=second)
        await kit.put(range(32, 64))
        await consumer.until_delivered(range(64))
    assert {delivery.shard for delivery in consumer.deliveries[:32]} == {first, second}
    assert {delivery.shard for delivery in consumer.deliveries[32:]} == {"shardId-000000000002"}
    assert sorted(consumer.numbers) == list(range(64))
    assert_keys_in_order(consumer.deliveries)


@both_ways
async def test_nothing_is_lost_and_keys_keep_their_order_while_the_shards_change_under_load(
    kit: Kit,
) -> None:
    total = 240
    board = Board()

    async def write() -> None:
        for start in range(0, total, 40):
            await kit.put(range(start, start + 40))

    async def reshard() -> None:
        for count in (2, 4, 3, 2):
            await kit.call("update_shard_count", TargetShardCount=count, ScalingType="UNIFORM_SCALING")

    async with consuming(kit.source(), board=board), consuming(kit.source(), board=board):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            tasks.start_soon(reshard)
        await board.until_delivered(range(total))
    assert not board.errors
    assert_keys_in_order(board.deliveries)


@both_ways
async def test_rows_of_finished_shards_are_deleted_once_their_children_have_begun(kit: Kit) -> None:
    async with consuming(kit.source()) as consumer:
        await kit.put(range(16))
        await kit.split(PARENT)
        await kit.put(range(16, 32))
        await consumer.until_delivered(range(32))
    assert (await kit.lease(PARENT)).is_done
    async with consuming(kit.source()) as after:

        async def is_gone() -> bool:
            return await kit.leases.read(PARENT) is None

        await eventually(is_gone, "the parent's row is deleted")
        await kit.put(range(32, 40))
        await after.until_delivered(range(32, 40))
    assert sorted(after.numbers) == list(range(32, 40))
