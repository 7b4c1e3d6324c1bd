"""A stream, its tables, and consumers on it, for the tests of the event source."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import anyio
import anyio.to_thread
import pytest

from cdc_core import CdcError, Event, PartitionStream
from cdc_kinesis._aws import Aws
from cdc_kinesis._config import KinesisConfig
from cdc_kinesis._lease_table import LeaseTable
from cdc_kinesis._leases import Lease
from cdc_kinesis._pacing import Pacing
from cdc_kinesis._position import KinesisPosition
from cdc_kinesis._source import KinesisSource
from cdc_testing.servers.kinesis import EmbeddedAws

both_ways: Final = pytest.mark.parametrize(
    ("anyio_backend", "fan_out"),
    [("asyncio", False), ("trio", False), ("trio", True)],
    ids=["asyncio", "trio", "fan-out"],
)
"""Runs a test of what a reader does by polling and by enhanced fan-out, whose own tests run on both event loops."""

PATIENCE_SECONDS: Final = 30.0
MAX_HASH_KEY: Final = 2**128


class Kit:
    """One stream with a group's tables, on the embedded servers."""

    def __init__(self, servers: EmbeddedAws, **settings: Any) -> None:
        self.servers = servers
        self.kinesis = servers.kinesis
        name = f"s-{secrets.token_hex(4)}"
        defaults: dict[str, Any] = {
            "stream_name": name,
            "kinesis_endpoint_url": servers.kinesis_endpoint_url,
            "dynamodb_endpoint_url": servers.dynamodb_endpoint_url,
            "region": servers.region,
            "failover_seconds": 1.5,
            "checkpoint_interval_seconds": 0.1,
            "poll_interval_seconds": 0.05,
        }
        self.config = KinesisConfig(**(defaults | settings))
        # moto's first answer takes seconds
        self.aws = self.new_aws(config=replace(self.config, failover_seconds=60.0))
        self.leases = LeaseTable(self.aws, self.config.lease_table)

    def new_aws(self, access_key_id: str | None = None, config: KinesisConfig | None = None) -> Aws:
        return Aws(config or self.config, self.servers.boto3_session(access_key_id=access_key_id))

    def source(self, access_key_id: str | None = None, *, pacing: Pacing | None = None) -> KinesisSource:
        """Return a source with clients of its own, that reads as fast as the server lets it.

        By enhanced fan-out it can subscribe at once: time has passed since the last source did.
        """
        if self.config.enhanced_fan_out:
            self.kinesis.advance(5.0)
        pace = pacing or Pacing(calls_per_second=500, bytes_per_second=1 << 30)
        return KinesisSource(self.config, self.new_aws(access_key_id), pacing=pace)

    async def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        return await self.aws.call("kinesis", operation, StreamName=self.config.stream_name, **parameters)

    async def create(self, *, shards: int = 1) -> None:
        await self.call("create_stream", ShardCount=shards)
        await self.create_tables()
        if self.config.enhanced_fan_out:
            await self.register_consumer()

    async def stream_arn(self) -> str:
        summary = await self.call("describe_stream_summary")
        return str(summary["StreamDescriptionSummary"]["StreamARN"])

    async def register_consumer(self) -> None:
        await self.aws.call(
            "kinesis",
            "register_stream_consumer",
            StreamARN=await self.stream_arn(),
            ConsumerName=self.config.group_id,
        )

    async def create_tables(self) -> None:
        for name, key in ((self.config.lease_table, "leaseKey"), (self.config.meta_table, "name")):
            await self.aws.call(
                "dynamodb",
                "create_table",
                TableName=name,
                KeySchema=[{"AttributeName": key, "KeyType": "HASH"}],
                AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"}],
                BillingMode="PAY_PER_REQUEST",
            )

    async def put(self, numbers: Iterable[int], *, keys: int = 16) -> None:
        """Put a record for each number, one after the other, spread over the hash space by its key."""
        for number in numbers:
            key = number % keys
            await self.put_data(
                b"%d" % number, key=f"key-{key}", hash_key=(2 * key + 1) * MAX_HASH_KEY // (2 * keys)
            )

    async def put_data(self, data: bytes, *, key: str = "key", hash_key: int = 1) -> str:
        answer = await self.call("put_record", Data=data, PartitionKey=key, ExplicitHashKey=str(hash_key))
        return str(answer["SequenceNumber"])

    async def lease(self, shard_id: str) -> Lease:
        lease = await self.leases.read(shard_id)
        assert lease is not None
        return lease

    async def shard_ids(self) -> list[str]:
        return [shard["ShardId"] for shard in (await self.call("list_shards"))["Shards"]]

    async def split(self, shard_id: str) -> None:
        shards = (await self.call("list_shards"))["Shards"]
        (hashes,) = [shard["HashKeyRange"] for shard in shards if shard["ShardId"] == shard_id]
        middle = (int(hashes["StartingHashKey"]) + int(hashes["EndingHashKey"])) // 2 + 1
        await self.call("split_shard", ShardToSplit=shard_id, NewStartingHashKey=str(middle))


@dataclass(frozen=True)
class Delivery:
    stream: PartitionStream
    event: Event
    shard: str
    key: bytes | None
    number: int


class Board:
    """What several consumers saw together, in the order in which they saw it."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.errors: list[CdcError] = []
        self._changed = anyio.Event()

    @property
    def numbers(self) -> list[int]:
        return [delivery.number for delivery in self.deliveries]

    def change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        with anyio.move_on_after(PATIENCE_SECONDS):
            while not condition():
                await self._changed.wait()
            return
        raise AssertionError(f"{what}: not in time; delivered {self.numbers}, errors {self.errors}")

    async def until_delivered(self, numbers: Iterable[int]) -> None:
        wanted = set(numbers)
        await self.until(lambda: wanted <= set(self.numbers), f"{len(wanted)} rows are delivered")


class Consumer:
    """What the workers of one opened source saw; `board` may be shared with others."""

    def __init__(self, *, acks: bool, board: Board) -> None:
        self.acks = acks
        self.board = board
        self.deliveries: list[Delivery] = []
        self.streams: list[PartitionStream] = []
        self.ended: list[PartitionStream] = []
        self.left: list[PartitionStream] = []
        self.errors: list[CdcError] = []
        self.in_hand: Callable[[PartitionStream, Sequence[Event]], Awaitable[None]] | None = None

    @property
    def numbers(self) -> list[int]:
        return [delivery.number for delivery in self.deliveries]

    @property
    def shards(self) -> set[str]:
        """The shards whose streams are open now."""
        return {stream.partition.id for stream in self.streams if stream not in self.left}

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        await self.board.until(condition, what)

    async def until_delivered(self, numbers: Iterable[int]) -> None:
        wanted = set(numbers)
        await self.until(lambda: wanted <= set(self.numbers), f"{len(wanted)} rows are delivered")

    async def take(self, streams: Any, tasks: anyio.abc.TaskGroup) -> None:
        try:
            async for stream in streams:
                self.streams.append(stream)
                tasks.start_soon(self._work, stream)
                self.change()
        except CdcError as error:
            self.errors.append(error)
            self.board.errors.append(error)
            self.change()

    def change(self) -> None:
        self.board.change()

    async def _work(self, stream: PartitionStream) -> None:
        async with stream:
            async for batch in stream:
                for event in batch:
                    assert isinstance(event.position, KinesisPosition)
                    number = int(event.value or b"-1")
                    delivery = Delivery(stream, event, event.position.shard_id, event.key, number)
                    self.deliveries.append(delivery)
                    self.board.deliveries.append(delivery)
                self.change()
                if self.in_hand is not None:
                    await self.in_hand(stream, batch)
                if self.acks:
                    await stream.ack(batch)
            self.ended.append(stream)
            self.change()
        self.left.append(stream)
        self.change()


@asynccontextmanager
async def consuming(
    source: KinesisSource,
    *,
    acks: bool = True,
    drain_timeout_seconds: float = 10.0,
    board: Board | None = None,
) -> AsyncGenerator[Consumer]:
    """Open a source and work on its streams until the block ends."""
    consumer = Consumer(acks=acks, board=board or Board())
    failure: BaseException | None = None
    async with (
        anyio.create_task_group() as workers,
        source.open(drain_timeout_seconds=drain_timeout_seconds) as streams,
    ):
        intake = anyio.CancelScope()

        async def take() -> None:
            with intake:
                await consumer.take(streams, workers)

        workers.start_soon(take)
        try:
            yield consumer
        except Exception as error:  # noqa: BLE001 - raised again behind the cancelled workers, which would hide it
            failure = error
            workers.cancel_scope.cancel()
        intake.cancel()
    if failure is not None:
        raise failure


async def eventually(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    with anyio.move_on_after(PATIENCE_SECONDS):
        while not await condition():  # noqa: ASYNC110 - what others hold tells no event
            await anyio.sleep(0.02)
        return
    raise AssertionError(f"{what}: not in time")


async def in_thread(call: Callable[..., Any], *arguments: Any) -> Any:
    return await anyio.to_thread.run_sync(partial(call, *arguments))


def assert_keys_in_order(deliveries: Iterable[Delivery]) -> None:
    """First deliveries alone are judged: what was not written down may come again."""
    numbers: dict[bytes | None, list[int]] = {}
    for delivery in deliveries:
        known = numbers.setdefault(delivery.key, [])
        if delivery.number not in known:
            known.append(delivery.number)
    for key, found in numbers.items():
        assert found == sorted(found), f"{key!r} came as {found}"
