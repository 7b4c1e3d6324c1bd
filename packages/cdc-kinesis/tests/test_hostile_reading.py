"""What a stream may hold, and lose, that nobody wishes for."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from source_kit import Kit, consuming

from cdc_kinesis._retention import ShardGap
from cdc_testing.servers.kinesis import EmbeddedAws, open_kinesis

pytestmark = pytest.mark.anyio


@pytest.fixture
async def timed_kit(embedded_aws: EmbeddedAws) -> AsyncGenerator[Kit]:
    """A stream of one shard on a server whose clock is this test's alone."""
    async with open_kinesis(use_existing=False) as kinesis:
        kit = Kit(EmbeddedAws(kinesis, embedded_aws.dynamodb))
        await kit.create()
        yield kit


async def test_a_closed_shard_whose_rest_was_trimmed_is_a_gap_and_not_its_end(timed_kit: Kit) -> None:
    kit = timed_kit
    (shard_id,) = await kit.shard_ids()
    await kit.put(range(5))
    async with consuming(kit.source()) as before:
        await before.until_delivered(range(5))
    await kit.put(range(5, 15))
    kit.kinesis.advance(20 * 3600)
    await kit.split(shard_id)  # the shard outlives its records by twenty hours
    kit.kinesis.advance(5 * 3600)
    await kit.put([15])

    async with consuming(kit.source()) as after:
        await after.until(lambda: bool(after.errors or after.numbers), "something is told or delivered")
    assert after.numbers == [], "nothing behind the gap is handed out"
    (error,) = after.errors
    assert isinstance(error, ShardGap)
    assert (error.shard_id, error.to_sequence_number) == (shard_id, None)
    assert not (await kit.lease(shard_id)).is_done


async def test_a_closed_shard_that_was_read_whole_ends_when_its_records_are_trimmed(timed_kit: Kit) -> None:
    kit = timed_kit
    (shard_id,) = await kit.shard_ids()
    await kit.put(range(5))
    async with consuming(kit.source()) as before:
        await before.until_delivered(range(5))
        kit.kinesis.advance(20 * 3600)
        await kit.put([5])
        await before.until_delivered([5])
    await kit.split(shard_id)
    kit.kinesis.advance(5 * 3600)
    await kit.put([6])

    async with consuming(kit.source()) as after:
        await after.until_delivered([6])
    assert after.numbers == [6]
    assert not after.errors
