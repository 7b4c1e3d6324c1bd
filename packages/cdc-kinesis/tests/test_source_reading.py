"""What a group of one reads: everything once, from where it stopped, to the end of each shard."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime

import anyio
import pytest
from source_kit import Kit, both_ways, consuming, eventually

from cdc_core import AccessError, Event, NotProvisioned, PartitionStream
from cdc_kinesis._aggregation import Aggregate
from cdc_kinesis._leases import Checkpoint
from cdc_kinesis._position import KinesisPosition
from cdc_kinesis._retention import ShardGap
from cdc_kinesis._source import KinesisSource
from cdc_testing.servers.kinesis import Drop, EmbeddedAws, Rates, Refuse, open_kinesis

pytestmark = pytest.mark.anyio

SHARD = "shardId-000000000000"


@pytest.fixture
async def kit(servers: EmbeddedAws, fan_out: bool) -> AsyncGenerator[Kit]:
    kit = Kit(servers, enhanced_fan_out=fan_out)
    await kit.create()
    yield kit
    servers.kinesis.clear_faults()


def aggregate(numbers: Sequence[int]) -> bytes:
    parts = Aggregate("1")
    for number in numbers:
        parts.add(b"key", b"%d" % number)
    return parts.finish()


@both_ways
async def test_a_next_consumer_starts_at_once_where_the_last_one_stopped(
    servers: EmbeddedAws, fan_out: bool
) -> None:
    kit = Kit(servers, enhanced_fan_out=fan_out, failover_seconds=60.0)
    await kit.create()
    await kit.put(range(20))
    async with consuming(kit.source()) as consumer:
        await consumer.until_delivered(range(20))
        await kit.put(range(20, 30))
        await consumer.until_delivered(range(30))
    assert consumer.numbers == list(range(30))
    await kit.put(range(30, 35))
    with anyio.fail_after(kit.config.failover_seconds / 2):  # nobody waits for a lease to expire
        async with consuming(kit.source()) as after:
            await after.until_delivered(range(30, 35))
    assert after.numbers == list(range(30, 35))
    before, now = (each.deliveries[0].event.fence for each in (consumer, after))
    assert before is not None
    assert now is not None
    assert now > before


@both_ways
async def test_reading_resumes_inside_an_aggregated_record(kit: Kit) -> None:
    await kit.put_data(aggregate(range(6)))
    await kit.put_data(aggregate(range(6, 10)))
    async with consuming(kit.source(), acks=False) as consumer:
        await consumer.until_delivered(range(10))
        await consumer.streams[0].ack([each.event for each in consumer.deliveries if each.number < 4])
    assert (await kit.lease(SHARD)).checkpoint.sub_sequence == 3
    async with consuming(kit.source()) as after:
        await after.until_delivered(range(4, 10))
        await kit.put_data(b"10")
        await after.until_delivered([10])
    assert after.numbers == list(range(4, 11))
    positions = [delivery.event.position for delivery in after.deliveries]
    assert all(isinstance(position, KinesisPosition) for position in positions)
    assert [position.sub_sequence for position in positions if isinstance(position, KinesisPosition)] == [
        4,
        5,
        0,
        1,
        2,
        3,
        0,
    ]


async def test_what_is_acknowledged_is_written_within_the_interval_and_by_a_flush_at_once(
    embedded_aws: EmbeddedAws,
) -> None:
    slow = Kit(embedded_aws, checkpoint_interval_seconds=3600.0, failover_seconds=60.0)
    await slow.create()
    await slow.put(range(4))
    async with consuming(slow.source(), acks=False) as consumer:
        await consumer.until_delivered(range(4))
        stream = consumer.streams[0]
        await stream.ack([each.event for each in consumer.deliveries[:3]])
        assert not (await slow.lease(SHARD)).checkpoint.has_begun
        await stream.flush()
        position = consumer.deliveries[2].event.position
        assert isinstance(position, KinesisPosition)
        assert (await slow.lease(SHARD)).checkpoint == Checkpoint(position.sequence_number, 0)
    quick = Kit(embedded_aws, checkpoint_interval_seconds=0.05, failover_seconds=60.0)
    await quick.create()
    await quick.put(range(2))
    async with consuming(quick.source(), acks=False) as consumer:
        await consumer.until_delivered(range(2))
        await consumer.streams[0].ack([consumer.deliveries[0].event])

        async def is_written() -> bool:
            return (await quick.lease(SHARD)).checkpoint.has_begun

        await eventually(is_written, "the checkpoint is written though an event is in flight")


async def test_expired_iterators_lose_and_repeat_nothing(kit: Kit) -> None:
    async with consuming(kit.source()) as consumer:
        for start in range(0, 40, 10):
            await kit.put(range(start, start + 10))
            kit.kinesis.expire_iterators()
            await consumer.until_delivered(range(start + 10))
    assert consumer.numbers == list(range(40))


async def test_a_throttled_and_failing_service_delays_reading_and_nothing_else(kit: Kit) -> None:
    streams = [kit.config.stream_name]
    throttled = Refuse(code="ProvisionedThroughputExceededException", status=400)
    get_records = ("GetRecords",)
    async with consuming(kit.source()) as consumer:
        await kit.put(range(5))
        await consumer.until_delivered(range(5))
        with (
            kit.kinesis.add_fault(throttled, operations=get_records, streams=streams, count=2) as first,
            kit.kinesis.add_fault(
                Drop(stored=True), operations=get_records, streams=streams, skip=2, count=2
            ),
            kit.kinesis.add_fault(Refuse(), operations=get_records, streams=streams, skip=4, count=1) as last,
        ):
            await kit.put(range(5, 10))
            await consumer.until_delivered(range(10))
            assert first.hits == 2
            assert last.hits == 1
    assert consumer.numbers == list(range(10))


async def test_with_the_default_pacing_the_service_limits_are_not_met(embedded_aws: EmbeddedAws) -> None:
    async with open_kinesis(throttle=Rates(), use_existing=False) as kinesis:
        kit = Kit(EmbeddedAws(kinesis, embedded_aws.dynamodb), poll_interval_seconds=0.01)
        await kit.create()
        await kit.put(range(3))
        source = KinesisSource(kit.config, kit.new_aws())
        async with consuming(source) as consumer:
            for number in range(3, 12):
                await consumer.until_delivered(range(number))
                await kit.put([number])
        refused = [call for call in kinesis.calls("GetRecords") if call.code]
        assert not refused


@both_ways
async def test_latest_means_the_first_start_of_the_group_whoever_starts_later(
    servers: EmbeddedAws,
    fan_out: bool,
) -> None:
    kit = Kit(servers, enhanced_fan_out=fan_out, iterator_type="LATEST")
    await kit.create()
    await kit.put([0])
    await anyio.sleep(1.1)  # the service tells its time in seconds
    async with consuming(kit.source(), acks=False) as consumer:
        await consumer.until(lambda: bool(consumer.streams), "the shard is taken")
    await kit.put([1, 2])
    async with consuming(kit.source()) as after:
        await after.until_delivered([1, 2])
    assert after.numbers == [1, 2]


@both_ways
async def test_a_group_starts_at_a_time(embedded_aws: EmbeddedAws, fan_out: bool) -> None:
    async with open_kinesis(use_existing=False) as kinesis:
        servers = EmbeddedAws(kinesis, embedded_aws.dynamodb)
        start_at = datetime.fromtimestamp(kinesis.now() + 50, UTC)
        kit = Kit(servers, iterator_type="AT_TIMESTAMP", start_at=start_at, enhanced_fan_out=fan_out)
        await kit.create()
        await kit.put([0])
        kinesis.advance(100)
        await kit.put([1])
        async with consuming(kit.source()) as consumer:
            await consumer.until_delivered([1])
    assert consumer.numbers == [1]


@both_ways
async def test_a_trimmed_checkpoint_is_a_gap_that_the_operator_has_to_accept(
    embedded_aws: EmbeddedAws,
    fan_out: bool,
) -> None:
    async with open_kinesis(use_existing=False) as kinesis:
        kit = Kit(EmbeddedAws(kinesis, embedded_aws.dynamodb), enhanced_fan_out=fan_out)
        await kit.create()
        await kit.put(range(4))
        async with consuming(kit.source(), acks=False) as consumer:
            await consumer.until_delivered(range(4))
            await consumer.streams[0].ack([consumer.deliveries[0].event])
        kinesis.advance(25 * 3600)
        await kit.put([4])
        async with consuming(kit.source()) as after:
            await after.until(lambda: bool(after.errors), "the gap is reported")
        gap = after.errors[0]
        assert isinstance(gap, ShardGap)
        position = consumer.deliveries[0].event.position
        assert isinstance(position, KinesisPosition)
        assert (gap.shard_id, gap.from_sequence_number) == (SHARD, position.sequence_number)
        assert gap.to_sequence_number is not None
        assert after.numbers == []
        await kit.aws.call(
            "dynamodb",
            "update_item",
            TableName=kit.config.lease_table,
            Key={"leaseKey": {"S": SHARD}},
            UpdateExpression="SET checkpoint = :c, checkpointSubSequenceNumber = :s",
            ExpressionAttributeValues={":c": {"S": "TRIM_HORIZON"}, ":s": {"N": "0"}},
        )
        async with consuming(kit.source()) as accepted:
            await accepted.until_delivered([4])
        assert accepted.numbers == [4]


@both_ways
async def test_a_quiet_shard_whose_last_record_was_trimmed_is_no_gap_where_it_was_watched(
    embedded_aws: EmbeddedAws,
    fan_out: bool,
) -> None:
    def yesterday() -> float:
        return time.time() - 20 * 3600

    async with open_kinesis(use_existing=False, clock=yesterday) as kinesis:
        kit = Kit(EmbeddedAws(kinesis, embedded_aws.dynamodb), enhanced_fan_out=fan_out)
        await kit.create()
        await kit.put([0])
        async with consuming(kit.source()) as consumer:
            await consumer.until_delivered([0])
        kinesis.advance(20 * 3600)
        async with consuming(kit.source()) as watching:

            async def is_marked() -> bool:
                answer = await kit.aws.call("dynamodb", "scan", TableName=kit.config.meta_table)
                return any(item["name"]["S"] == f"read/{SHARD}" for item in answer["Items"])

            await eventually(is_marked, "the shard is marked as read until now")
        assert watching.numbers == []
        kinesis.advance(5 * 3600)
        async with consuming(kit.source()) as after:
            await after.until(lambda: bool(after.streams), "the shard is taken")
            await kit.put([1])
            await after.until_delivered([1])
        assert after.numbers == [1]


@both_ways
async def test_a_checkpoint_that_the_service_does_not_know_is_a_gap_too(kit: Kit) -> None:
    await kit.put(range(2))
    async with consuming(kit.source()) as consumer:
        await consumer.until_delivered(range(2))
    unknown = Refuse(code="InvalidArgumentException", status=400)
    with kit.kinesis.add_fault(
        unknown, operations=["GetShardIterator", "SubscribeToShard"], streams=[kit.config.stream_name]
    ):
        async with consuming(kit.source()) as after:
            await after.until(lambda: bool(after.errors), "the gap is reported")
    assert isinstance(after.errors[0], ShardGap)
    assert after.errors[0].to_sequence_number is None
    assert (await kit.lease(SHARD)).owner is None, "left cleanly, for whoever is to go on"


async def test_a_permission_that_is_missing_for_long_ends_the_source(kit: Kit) -> None:
    async with consuming(kit.source("reader")) as consumer:
        await kit.put([0])
        await consumer.until_delivered([0])
        with kit.kinesis.refuse_access_key("reader"):
            await consumer.until(lambda: bool(consumer.errors), "the source says so")
    assert isinstance(consumer.errors[0], AccessError)


async def test_what_is_missing_is_said_at_once(kit: Kit, embedded_aws: EmbeddedAws) -> None:
    nothing = Kit(embedded_aws)
    with pytest.raises(NotProvisioned, match="stream"):
        async with nothing.source().open(drain_timeout_seconds=1.0):
            pass
    await nothing.call("create_stream", ShardCount=1)
    with pytest.raises(NotProvisioned, match="table"):
        async with nothing.source().open(drain_timeout_seconds=1.0):
            pass


@both_ways
async def test_a_stream_that_is_deleted_while_it_is_read_ends_the_source(kit: Kit) -> None:
    async with consuming(kit.source()) as consumer:
        await consumer.until(lambda: bool(consumer.streams), "the shard is taken")
        await kit.call("delete_stream", EnforceConsumerDeletion=True)
        await consumer.until(lambda: bool(consumer.errors), "the source says so")
    assert isinstance(consumer.errors[0], NotProvisioned)


@both_ways
async def test_lag_is_told_while_a_shard_is_held(kit: Kit) -> None:
    source = kit.source()
    await kit.put(range(3))
    async with consuming(source) as consumer:
        await consumer.until_delivered(range(3))

        async def is_told() -> bool:
            return SHARD in source.lags and source.lags[SHARD].millis_behind_latest == 0

        await eventually(is_told, "the last read stands at the tip")
    assert source.lags == {}


@both_ways
async def test_a_worker_that_leaves_early_gets_the_rest_again(kit: Kit) -> None:
    await kit.put(range(3))
    left_once = False

    async with anyio.create_task_group() as tasks, kit.source().open(drain_timeout_seconds=5.0) as streams:
        async for stream in streams:
            if not left_once:
                left_once = True
                async with stream:
                    batch = await anext(aiter(stream))
                    await stream.ack([batch[0]])
                continue
            async with stream:
                again: Sequence[Event] = await anext(aiter(stream))
                assert [int(event.value or b"") for event in again] == [1, 2]
            break
        tasks.cancel_scope.cancel()


async def test_a_handler_that_waits_holds_reading_back_at_the_buffered_bytes(
    embedded_aws: EmbeddedAws,
) -> None:
    kit = Kit(embedded_aws, max_buffered_bytes=3000, max_records_per_shard=2, max_batch_events=1)
    await kit.create()
    for number in range(20):
        await kit.put_data(b"%d" % number + b" " * 990)
    goes_on = anyio.Event()

    async def wait(stream: PartitionStream, batch: Sequence[Event]) -> None:
        await goes_on.wait()

    async with consuming(kit.source()) as consumer:
        consumer.in_hand = wait
        await consumer.until_delivered([0])
        gets = kit.kinesis.calls("GetRecords", stream=kit.config.stream_name)
        assert sum(1 for _ in gets) <= 4
        goes_on.set()
        await consumer.until_delivered(range(20))
    assert consumer.numbers == list(range(20))
