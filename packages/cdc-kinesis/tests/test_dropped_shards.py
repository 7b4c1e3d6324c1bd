"""Shards that the stream dropped before their group had read them."""

from __future__ import annotations

import pytest
from source_kit import Kit, consuming

from cdc_kinesis._retention import ShardGap
from cdc_testing.servers.kinesis import EmbeddedAws, open_kinesis

SHARD = "shardId-000000000000"


@pytest.mark.anyio
async def test_a_shard_that_was_dropped_unread_is_a_gap_and_its_children_follow_when_it_is_accepted(
    embedded_aws: EmbeddedAws,
) -> None:
    async with open_kinesis(use_existing=False) as kinesis:
        kit = Kit(EmbeddedAws(kinesis, embedded_aws.dynamodb))
        await kit.create()
        await kit.put(range(4))
        async with consuming(kit.source(), acks=False) as consumer:
            await consumer.until_delivered(range(4))
            await consumer.streams[0].ack([consumer.deliveries[0].event])
        await kit.split(SHARD)
        kinesis.advance(25 * 3600)
        await kit.put(range(4, 20))
        assert SHARD not in await kit.shard_ids()
        async with consuming(kit.source()) as after:
            await after.until(lambda: bool(after.errors), "the gap is reported")
        gap = after.errors[0]
        assert isinstance(gap, ShardGap)
        assert (gap.shard_id, gap.to_sequence_number) == (SHARD, None)
        assert f"delete the item whose leaseKey is {SHARD}" in gap.remedy
        assert after.numbers == []
        await kit.aws.call(
            "dynamodb",
            "delete_item",
            TableName=kit.config.lease_table,
            Key={"leaseKey": {"S": SHARD}},
        )
        async with consuming(kit.source()) as accepted:
            await accepted.until_delivered(range(4, 20))
        assert sorted(accepted.numbers) == list(range(4, 20))
