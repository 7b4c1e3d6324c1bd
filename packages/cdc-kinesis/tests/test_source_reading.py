"""What a group of one reads: everything once, from where it stopped, to the end of each shard."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import anyio
import pytest
from source_kit import Kit, consuming, eventually

from cdc_testing.servers.kinesis import EmbeddedAws

pytestmark = pytest.mark.anyio


@pytest.fixture
async def kit(embedded_aws: EmbeddedAws) -> AsyncGenerator[Kit]:
    kit = Kit(embedded_aws)
    await kit.create(shards=2)
    yield kit
    embedded_aws.kinesis.clear_faults()


async def test_everything_is_read_and_a_next_consumer_starts_at_once_behind_it(kit: Kit) -> None:
    await kit.put(range(20))
    async with consuming(kit.source()) as consumer:
        await consumer.until_delivered(range(20))
        await kit.put(range(20, 30))
        await consumer.until_delivered(range(30))
    assert sorted(consumer.numbers) == list(range(30))
    await kit.put(range(30, 35))
    with anyio.fail_after(kit.config.failover_seconds):  # nobody waits for a lease to expire
        async with consuming(kit.source()) as after:
            await after.until_delivered(range(30, 35))
    assert sorted(after.numbers) == list(range(30, 35))
    assert after.deliveries[0].event.fence is not None
    fences = {delivery.shard: delivery.event.fence for delivery in consumer.deliveries}
    assert all((each.event.fence or 0) > (fences[each.shard] or 0) for each in after.deliveries)
