"""Several members of a group: shards are shared, handed over, taken from the dead, and kept from the frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import urlsplit

import anyio
import pytest
from source_kit import Board, Consumer, Kit, assert_keys_in_order, consuming, eventually

from cdc_core import Event, PartitionLost, PartitionStream
from cdc_kinesis._aws import Aws
from cdc_kinesis._lease_table import LeaseLost
from cdc_kinesis._leases import Checkpoint
from cdc_kinesis._pacing import Pacing
from cdc_kinesis._position import KinesisPosition
from cdc_kinesis._source import KinesisSource
from cdc_testing.servers.kinesis import EmbeddedAws
from cdc_testing.servers.tcp_proxy import TcpProxy, open_tcp_proxy

pytestmark = pytest.mark.anyio

SHARD = "shardId-000000000000"


@pytest.fixture
async def kit(embedded_aws: EmbeddedAws) -> Kit:
    return Kit(embedded_aws)


def behind(kit: Kit, proxy: TcpProxy) -> KinesisSource:
    """Return a source whose way to its leases goes through a proxy."""
    config = replace(kit.config, dynamodb_endpoint_url=f"http://{proxy.host}:{proxy.port}")
    aws = Aws(config, kit.servers.boto3_session())
    return KinesisSource(config, aws, pacing=Pacing(calls_per_second=500, bytes_per_second=1 << 30))


def proxy_of(kit: Kit) -> tuple[str, int]:
    url = urlsplit(kit.config.dynamodb_endpoint_url or "")
    assert url.hostname is not None
    assert url.port is not None
    return url.hostname, url.port


def spread(*consumers: Consumer) -> list[int]:
    return sorted(len(consumer.shards) for consumer in consumers)


async def test_eight_shards_are_shared_fairly_by_two_then_three_then_two_members(kit: Kit) -> None:
    await kit.create(shards=8)
    board = Board()
    async with consuming(kit.source(), board=board) as first:
        await first.until(lambda: len(first.shards) == 8, "one member has all")
        await kit.put(range(32))
        async with consuming(kit.source(), board=board) as second:
            await board.until(lambda: spread(first, second) == [4, 4], "two have four each")
            await kit.put(range(32, 64))
            async with consuming(kit.source(), board=board) as third:
                await board.until(
                    lambda: spread(first, second, third) == [2, 3, 3], "three have three or two"
                )
                await kit.put(range(64, 96))
                await board.until_delivered(range(96))
            await board.until(lambda: spread(first, second) == [4, 4], "two have four each again")
            await kit.put(range(96, 128))
            await board.until_delivered(range(128))
    assert not board.errors
    assert sorted(board.numbers) == list(range(128)), "handed over cleanly, nothing comes twice"
    assert_keys_in_order(board.deliveries)


async def test_a_shard_is_handed_over_only_when_its_worker_has_left(kit: Kit) -> None:
    await kit.create(shards=2)
    board = Board()
    goes_on = anyio.Event()

    async def wait(stream: PartitionStream, batch: Sequence[Event]) -> None:
        await goes_on.wait()

    async with consuming(kit.source(), board=board) as old:
        await old.until(lambda: len(old.shards) == 2, "one member has both")
        old.in_hand = wait
        await kit.put([0, 8])  # one in each shard
        await board.until_delivered([0, 8])
        async with consuming(kit.source(), board=board) as new:

            def revoked() -> list[PartitionStream]:
                return [stream for stream in old.streams if stream.revoking_at is not None]

            async def is_revoking() -> bool:
                return bool(revoked())

            await eventually(is_revoking, "a shard is asked for")
            moved = revoked()[0].partition.id
            lease = await kit.lease(moved)
            assert lease.is_handing_over
            counter = lease.counter

            async def is_renewed() -> bool:
                return (await kit.lease(moved)).counter > counter

            await eventually(is_renewed, "its holder renews while it drains")
            assert not new.streams
            goes_on.set()
            await new.until(lambda: moved in new.shards, "the next owner starts")
            await kit.put(range(16, 32))
            await board.until_delivered(range(16, 32))
    assert sorted(board.numbers) == [0, 8, *range(16, 32)]
    assert_keys_in_order(board.deliveries)


async def test_a_member_that_vanishes_is_replaced_after_the_failover_time(kit: Kit) -> None:
    await kit.create()
    board = Board()
    await kit.put(range(4))
    async with (
        open_tcp_proxy(*proxy_of(kit)) as proxy,
        consuming(behind(kit, proxy), acks=False, drain_timeout_seconds=0.1, board=board) as dead,
    ):
        await dead.until_delivered(range(4))
        await dead.streams[0].ack([dead.deliveries[0].event])
        await dead.streams[0].flush()
        proxy.refuse()
        await proxy.cut()
        async with consuming(kit.source(), board=board) as next_owner:
            await next_owner.until_delivered(range(1, 4))
            assert next_owner.numbers == [1, 2, 3]
            assert not dead.streams[0].current(dead.deliveries[1].event)
            with pytest.raises(PartitionLost):
                await dead.streams[0].ack([dead.deliveries[1].event])


async def test_an_owner_that_cannot_renew_loses_its_shard_and_gets_it_back(kit: Kit) -> None:
    await kit.create()
    board = Board()
    async with (
        open_tcp_proxy(*proxy_of(kit)) as proxy,
        consuming(behind(kit, proxy), board=board) as consumer,
    ):
        await kit.put(range(4))
        await board.until_delivered(range(4))
        first = consumer.streams[0]
        proxy.stall()  # no answer, and no refusal either
        await consumer.until(lambda: first in consumer.left, "the worker is cancelled at the deadline")
        proxy.resume()
        await consumer.until(lambda: len(consumer.streams) == 2, "the shard is taken again")
        await kit.put(range(4, 8))
        await board.until_delivered(range(8))
    assert not board.errors
    assert_keys_in_order(board.deliveries)


async def test_a_lost_answer_of_a_renewal_loses_no_lease(kit: Kit) -> None:
    await kit.create()
    async with open_tcp_proxy(*proxy_of(kit)) as proxy, consuming(behind(kit, proxy)) as consumer:
        await kit.put(range(2))
        await consumer.until_delivered(range(2))
        for number in range(2, 6):
            await proxy.cut()
            await kit.put([number])
            await consumer.until_delivered([number])
            before = (await kit.lease(SHARD)).counter

            async def is_renewed(before: int = before) -> bool:
                return (await kit.lease(SHARD)).counter > before

            await eventually(is_renewed, "it is renewed again")
        assert len(consumer.streams) == 1
    assert consumer.numbers == list(range(6))


async def test_another_taker_ends_the_stream_and_its_position_does_not_move_back(kit: Kit) -> None:
    await kit.create()
    await kit.put(range(4))
    async with consuming(kit.source(), acks=False, drain_timeout_seconds=0.1) as consumer:
        await consumer.until_delivered(range(4))
        stream, events = consumer.streams[0], [delivery.event for delivery in consumer.deliveries]
        lease = await kit.lease(SHARD)
        taken = await kit.leases.take(lease, "somebody else")
        assert taken is not None
        place = events[2].position
        assert isinstance(place, KinesisPosition)
        done = await kit.leases.renew(taken, Checkpoint(place.sequence_number, 0))
        await stream.ack(events[:1])
        await stream.flush()  # finds out that it is lost
        await consumer.until(lambda: stream in consumer.left, "the worker is cancelled")
        assert (await kit.lease(SHARD)).checkpoint == done.checkpoint
        with pytest.raises(PartitionLost):
            await stream.ack(events)
        with pytest.raises(LeaseLost):
            await kit.leases.renew(lease, Checkpoint(place.sequence_number, 0))


async def test_leaving_waits_for_workers_cancels_the_late_and_writes_what_is_done(kit: Kit) -> None:
    await kit.create()
    await kit.put(range(3))

    async def stay(stream: PartitionStream, batch: Sequence[Event]) -> None:
        await stream.ack(batch[:1])
        await anyio.sleep_forever()

    async with consuming(kit.source(), drain_timeout_seconds=0.2) as consumer:
        consumer.in_hand = stay
        await consumer.until_delivered(range(3))
    lease = await kit.lease(SHARD)
    assert lease.owner is None
    place = consumer.deliveries[0].event.position
    assert isinstance(place, KinesisPosition)
    assert lease.checkpoint == Checkpoint(place.sequence_number, 0)


async def test_a_cancelled_host_leaves_no_lease_behind(kit: Kit) -> None:
    await kit.create(shards=2)
    await kit.put(range(8))
    for number in range(8):
        with anyio.CancelScope() as host:
            async with consuming(kit.source()) as consumer:
                if number == 0:
                    await consumer.until_delivered(range(8))
                for _ in range(3 * number):
                    await anyio.lowlevel.checkpoint()
                host.cancel()
                await anyio.lowlevel.checkpoint()
    for shard in await kit.shard_ids():
        lease = await kit.lease(shard)
        assert lease.owner is None


async def test_two_groups_read_one_stream_each_by_itself(kit: Kit, embedded_aws: EmbeddedAws) -> None:
    await kit.create()
    other = Kit(embedded_aws, stream_name=kit.config.stream_name, group_id="other")
    await other.create_tables()
    await kit.put(range(6))
    async with consuming(kit.source()) as mine, consuming(other.source()) as theirs:
        await mine.until_delivered(range(6))
        await theirs.until_delivered(range(6))


async def test_a_row_deleted_by_hand_is_made_again_and_its_shard_read_from_its_oldest_record(
    kit: Kit,
) -> None:
    await kit.create()
    await kit.put(range(3))
    async with consuming(kit.source()) as consumer:
        await consumer.until_delivered(range(3))
    lease = await kit.lease(SHARD)
    await kit.aws.call(
        "dynamodb",
        "delete_item",
        TableName=kit.config.lease_table,
        Key={"leaseKey": {"S": lease.shard_id}},
    )
    async with consuming(kit.source()) as after:
        await after.until_delivered(range(3))
