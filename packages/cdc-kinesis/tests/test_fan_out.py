"""What is enhanced fan-out's own: subscriptions that break, end, are taken, and are left while nothing comes."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
import pytest
from source_kit import Kit, consuming, eventually, in_thread

from cdc_core import Event, NotProvisioned, PartitionStream
from cdc_kinesis import _fan_out
from cdc_kinesis._source import KinesisSource
from cdc_testing.servers.kinesis import Drop, EmbeddedAws, Hold, Refuse
from cdc_testing.servers.tcp_proxy import TcpProxy, open_tcp_proxy

pytestmark = pytest.mark.anyio

SHARD: Final = "shardId-000000000000"
# Less than the second in which an idle subscription gets a sign of life.
AT_ONCE_SECONDS: Final = 0.7


@pytest.fixture
def fan_out() -> bool:
    return True


@pytest.fixture
async def kit(servers: EmbeddedAws) -> Kit:
    kit = Kit(servers, enhanced_fan_out=True)
    await kit.create()
    return kit


@asynccontextmanager
async def through_proxy(kit: Kit) -> AsyncGenerator[tuple[KinesisSource, TcpProxy]]:
    """Open a proxy for what a source asks of Kinesis; the kit itself goes straight."""
    url = urlsplit(kit.config.kinesis_endpoint_url or "")
    async with open_tcp_proxy(url.hostname or "", url.port or 0) as proxy:
        config = replace(kit.config, kinesis_endpoint_url=f"http://{proxy.host}:{proxy.port}")
        yield KinesisSource(config, kit.new_aws(config=config)), proxy


async def until(condition: Callable[[], bool], what: str) -> None:
    async def holds() -> bool:
        return condition()

    await eventually(holds, what)


def threads_inside() -> list[str]:
    """The threads that are in a subscription's code."""
    frames = sys._current_frames()  # pyright: ignore[reportPrivateUsage]
    found: list[str] = []
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        while frame is not None:
            if frame.f_code.co_filename == _fan_out.__file__:
                found.append(f"{thread.name}: {frame.f_code.co_name}")
            frame = frame.f_back
    return found


def subscriptions(kit: Kit, code: str = "") -> int:
    return sum(1 for call in kit.kinesis.calls("SubscribeToShard") if call.code == code)


def has_more_than(kit: Kit, count: int, code: str = "") -> bool:
    return subscriptions(kit, code) > count


async def test_a_connection_cut_between_two_events_loses_and_repeats_nothing(kit: Kit) -> None:
    async with through_proxy(kit) as (source, proxy), consuming(source) as consumer:
        for start, ending in ((0, "rst"), (10, "fin")):
            await kit.put(range(start, start + 10))
            await consumer.until_delivered(range(start + 10))
            await proxy.cut("rst" if ending == "rst" else "fin")
            kit.kinesis.advance(5.0)
        await kit.put(range(20, 30))
        await consumer.until_delivered(range(30))
    assert consumer.numbers == list(range(30))


async def test_a_connection_cut_inside_an_event_loses_and_repeats_nothing(kit: Kit) -> None:
    async with through_proxy(kit) as (source, proxy), consuming(source) as consumer:
        await kit.put([0])
        await consumer.until_delivered([0])
        before = proxy.statistics.bytes_to_client
        proxy.throttle(100_000, "to_client")
        await kit.put_data(b"1" + b" " * 500_000)
        await until(lambda: proxy.statistics.bytes_to_client > before + 20_000, "the event is under way")
        await proxy.cut()
        assert consumer.numbers == [0]
        proxy.throttle(None)
        kit.kinesis.advance(5.0)
        await kit.put([2])
        await consumer.until_delivered([1, 2])
    assert consumer.numbers == [0, 1, 2]


async def test_an_event_that_arrives_damaged_is_asked_for_again(kit: Kit) -> None:
    async with through_proxy(kit) as (source, proxy), consuming(source) as consumer:
        await kit.put([0])
        await consumer.until_delivered([0])
        proxy.corrupt("to_client", after_bytes=50_000)
        await kit.put_data(b"1" + b" " * 100_000)
        await until(lambda: subscriptions(kit, "ResourceInUseException") > 0, "it subscribes again")
        kit.kinesis.advance(5.0)
        await consumer.until_delivered([1])
    assert consumer.numbers == [0, 1]


async def test_what_waited_in_the_sockets_when_they_were_cut_comes_again_in_order(
    servers: EmbeddedAws,
) -> None:
    kit = Kit(servers, enhanced_fan_out=True, max_buffered_bytes=3000, max_batch_events=1)
    await kit.create()
    goes_on = anyio.Event()

    async def wait(stream: PartitionStream, batch: Sequence[Event]) -> None:
        await goes_on.wait()

    async with through_proxy(kit) as (source, proxy), consuming(source) as consumer:
        consumer.in_hand = wait
        for number in range(30):  # events of their own, more than the sockets take
            await kit.put_data(b"%d" % number + b" " * 300_000)
        await consumer.until_delivered([0])
        await proxy.cut()
        kit.kinesis.advance(5.0)
        goes_on.set()
        await consumer.until_delivered(range(30))
    assert consumer.numbers == list(range(30))


async def test_a_subscription_that_is_over_is_followed_by_another(kit: Kit) -> None:
    async with consuming(kit.source()) as consumer:
        for start in range(0, 30, 10):
            await kit.put(range(start, start + 10))
            await consumer.until_delivered(range(start + 10))
            kit.kinesis.advance(300.0)
        await kit.put([30])
        await consumer.until_delivered([30])
    assert consumer.numbers == list(range(31))
    assert subscriptions(kit) >= 4
    assert subscriptions(kit, "ResourceInUseException") == 0


async def test_a_quiet_shard_is_gone_on_with_where_it_stood_and_not_where_the_group_began(
    servers: EmbeddedAws,
) -> None:
    kit = Kit(servers, enhanced_fan_out=True, iterator_type="LATEST")
    await kit.create()
    await kit.put([0])
    await anyio.sleep(1.1)  # the service tells its time in seconds
    async with consuming(kit.source()) as consumer:
        for _ in range(2):
            ended = subscriptions(kit)
            await until(partial(has_more_than, kit, ended), "the shard is subscribed to")
            kit.kinesis.advance(300.0)
        await kit.put([1])
        await consumer.until_delivered([1])
    assert consumer.numbers == [1]


async def test_a_shard_that_another_subscription_has_is_waited_for_and_taken(kit: Kit) -> None:
    await kit.put([0])
    answer = await kit.aws.call(
        "kinesis",
        "describe_stream_consumer",
        StreamARN=await kit.stream_arn(),
        ConsumerName=kit.config.group_id,
    )

    async def take() -> Any:
        return await kit.aws.call(
            "kinesis",
            "subscribe_to_shard",
            ConsumerARN=answer["ConsumerDescription"]["ConsumerARN"],
            ShardId=SHARD,
            StartingPosition={"Type": "LATEST"},
        )

    source = kit.source()
    others = [await take()]
    async with consuming(source) as consumer:
        for number in range(2):
            refused = subscriptions(kit, "ResourceInUseException")
            await until(partial(has_more_than, kit, refused, "ResourceInUseException"), "it is refused")
            assert number not in consumer.numbers
            kit.kinesis.advance(5.0)
            await consumer.until_delivered([number])
            if number == 0:
                kit.kinesis.advance(5.0)
                others.append(await take())  # ours is told so, in its stream
                await kit.put([1])
    assert consumer.numbers == [0, 1]
    for other in others:
        await in_thread(other["EventStream"].close)


@pytest.mark.parametrize("ways_to_fail", [Refuse(), Drop(stored=False)], ids=["refused", "dropped"])
async def test_a_failing_service_delays_the_subscription_and_nothing_else(
    kit: Kit, ways_to_fail: Refuse | Drop
) -> None:
    await kit.put(range(5))
    with kit.kinesis.add_fault(ways_to_fail, operations=["SubscribeToShard"], count=2) as fault:
        async with consuming(kit.source()) as consumer:
            await consumer.until_delivered(range(5))
        assert fault.hits == 2
    assert consumer.numbers == list(range(5))


async def test_leaving_while_nothing_comes_is_quick_and_leaves_no_thread_and_no_connection(kit: Kit) -> None:
    async with through_proxy(kit) as (source, proxy):
        async with consuming(source) as consumer:
            await kit.put([0])
            await consumer.until_delivered([0])
            await until(lambda: bool(threads_inside()), "a thread waits for the next event")
            proxy.stall("to_client")
            connections = proxy.statistics.open
            began_at = anyio.current_time()
        assert anyio.current_time() - began_at < AT_ONCE_SECONDS
        assert threads_inside() == []
        assert not (await kit.lease(SHARD)).owner
        proxy.resume()
        await until(lambda: proxy.statistics.open == connections - 1, "the connection is closed")
    assert consumer.numbers == [0]


async def test_leaving_while_a_subscription_is_not_answered_does_not_wait_for_it(kit: Kit) -> None:
    with kit.kinesis.add_fault(Hold(), operations=["SubscribeToShard"]) as held:
        async with consuming(kit.source()):
            await held.wait_async(1)
            began_at = anyio.current_time()
        assert anyio.current_time() - began_at < 3.0
    await until(lambda: threads_inside() == [], "what was under way ends by itself")


async def test_a_consumer_that_is_not_registered_is_said_at_once(servers: EmbeddedAws) -> None:
    kit = Kit(servers)
    await kit.create()
    config = replace(kit.config, enhanced_fan_out=True)
    with pytest.raises(NotProvisioned, match="consumer") as caught:
        async with KinesisSource(config, kit.new_aws(config=config)).open(drain_timeout_seconds=1.0):
            pass
    assert "provisioner" in caught.value.remedy


async def test_a_consumer_that_is_deregistered_ends_the_source_and_one_registered_anew_does_not(
    kit: Kit,
) -> None:
    name = {"StreamARN": await kit.stream_arn(), "ConsumerName": kit.config.group_id}
    async with consuming(kit.source()) as consumer:
        await kit.put([0])
        await consumer.until_delivered([0])
        kit.kinesis.advance(5.0)
        await kit.aws.call("kinesis", "deregister_stream_consumer", **name)
        await kit.register_consumer()
        kit.kinesis.advance(300.0)
        await kit.put([1])
        await consumer.until_delivered([1])
        await kit.aws.call("kinesis", "deregister_stream_consumer", **name)
        await kit.put([2])
        await consumer.until(lambda: bool(consumer.errors), "the source says so")
    assert isinstance(consumer.errors[0], NotProvisioned)
    assert "consumer" in str(consumer.errors[0])


async def test_it_is_said_once_that_it_is_experimental(kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="cdc_kinesis"):
        async with consuming(kit.source()) as consumer:
            await kit.put([0])
            await consumer.until_delivered([0])
    assert ["experimental" in record.message for record in caplog.records] == [True]
