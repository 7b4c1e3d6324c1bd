"""A stream changes hands between the Java Kinesis Client Library and us: each continues from the other's rows."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread
import pytest

from cdc_core import (
    Event,
    provision,
)
from cdc_kinesis import KinesisConfig, KinesisTransport
from cdc_testing.servers import ServerUnavailableError

sys.path.insert(0, str(Path(__file__).parent))

from aws_servers import (
    DYNAMODB_LOCAL,
    EMBEDDED,
    KINESIS_LOCAL,
    MOTO,
    AwsServer,
    AwsServers,
    Stream,
    Streams,
    eventually,
    hash_range,
)
from kcl_consumer import VERSIONS, KclConsumer, KclRecord, fetch_kcl, start_kcl
from kpl_records import aggregate
from order_events import OpenFence, Place, handle_until, local_session, order

# The library takes seconds to start, and more to see a shard's end.
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

FAILOVER_SECONDS: Final = 3.0
# Strangers' and ours, each with one of the two versions.
PAIRS: Final = ((EMBEDDED, MOTO, "2.7.2"), (KINESIS_LOCAL, DYNAMODB_LOCAL, "3.5.1"))


class Scene:
    """A stream, the lease table of a group on it, and both programs that read it."""

    def __init__(self, stream: Stream, dynamodb: AwsServer, version: str, folder: Path) -> None:
        self.stream = stream
        self.version = version
        self._folder = folder
        self._dynamodb = dynamodb
        self.client: Any = dynamodb.client("dynamodb")
        self.config = KinesisConfig(
            stream_name=stream.name,
            group_id="shop",
            region="us-east-1",
            kinesis_endpoint_url=stream.streams.server.endpoint_url,
            dynamodb_endpoint_url=dynamodb.endpoint_url,
            failover_seconds=FAILOVER_SECONDS,
            checkpoint_interval_seconds=0.2,
            poll_interval_seconds=0.25,
            max_batch_events=1,
            request_timeout_seconds=30.0,
        )
        self.transport = KinesisTransport(self.config, session=local_session())

    def create_table(self, name: str) -> None:
        """Create a lease table with a row for every shard there is, as the library makes them itself.

        It would, but waits up to half a minute before it does.
        """
        self.client.create_table(
            TableName=name,
            BillingMode="PAY_PER_REQUEST",
            KeySchema=[{"AttributeName": "leaseKey", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "leaseKey", "AttributeType": "S"}],
        )
        eventually(
            lambda: self.client.describe_table(TableName=name)["Table"]["TableStatus"] == "ACTIVE" or None
        )
        for shard in self.stream.shards():
            low, high = hash_range(shard)
            row: dict[str, Any] = {
                "leaseKey": {"S": shard["ShardId"]},
                "leaseCounter": {"N": "0"},
                "ownerSwitchesSinceCheckpoint": {"N": "0"},
                "checkpoint": {"S": "TRIM_HORIZON"},
                "checkpointSubSequenceNumber": {"N": "0"},
                "startingHashKey": {"S": str(low)},
                "endingHashKey": {"S": str(high)},
            }
            self.client.put_item(TableName=name, Item=row)

    def rows(self) -> Mapping[str, Mapping[str, Any]]:
        """The lease table, by shard."""
        items = self.client.scan(TableName=self.config.lease_table, ConsistentRead=True)["Items"]
        return {item["leaseKey"]["S"]: item for item in items}

    @asynccontextmanager
    async def java(
        self, *, table: str | None = None, client_version: str | None = None
    ) -> AsyncGenerator[KclConsumer]:
        """Run a worker of the library until the end of the block, which kills it."""
        streams = self.stream.streams
        assert streams.server.endpoint_url is not None
        assert self._dynamodb.endpoint_url is not None
        block = start_kcl(
            self.version,
            stream=self.stream.name,
            table=table or self.config.lease_table,
            kinesis_endpoint=streams.server.endpoint_url,
            dynamodb_endpoint=self._dynamodb.endpoint_url,
            log=self._folder / "kcl.log",
            client_version=client_version,
        )
        kcl = await anyio.to_thread.run_sync(block.__enter__)
        try:
            yield kcl
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(block.__exit__, None, None, None)


@pytest.fixture(params=PAIRS, ids=["embedded-kcl2", "kinesis-local-kcl3"])
def scene(request: pytest.FixtureRequest, aws_servers: AwsServers, tmp_path: Path) -> Generator[Scene]:
    """Two shards on one pair of servers and a version of the library; skipped where Java is not, fails in CI."""
    kinesis, dynamodb, version = request.param
    try:
        fetch_kcl(version)
    except ServerUnavailableError as error:
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(f"CI=true and no Kinesis Client Library to test with: {error}", pytrace=False)
        pytest.skip(str(error))
    server = aws_servers.kinesis(kinesis)
    streams = Streams(server=server, client=server.client("kinesis"))
    made = Scene(streams.create(2), aws_servers.dynamodb(dynamodb), version, tmp_path)
    try:
        yield made
    finally:
        streams.delete_all()
        streams.client.close()
        made.client.close()


@pytest.fixture
def anyio_backend(scene: Scene) -> str:
    """One event loop for each pair: what differs between the loops is tested elsewhere."""
    return "trio" if scene.version == VERSIONS[0] else "asyncio"


def centre(shard: Mapping[str, Any]) -> int:
    low, high = hash_range(shard)
    return (low + high) // 2 + 17  # no border of a later split


def put_aggregate(stream: Stream, shard: Mapping[str, Any], *texts: str) -> str:
    rows = [(f"key-{text}", text.encode()) for text in texts]
    entry = {
        "Data": aggregate(rows, hash_key=centre(shard)),
        "PartitionKey": rows[0][0],
        "ExplicitHashKey": str(centre(shard)),
    }
    (outcome,) = stream.ask("put_records", StreamName=stream.name, Records=[entry])["Records"]
    return str(outcome["SequenceNumber"])


def texts_of(kcl: KclConsumer, shard_id: str) -> list[str]:
    return [record.data.decode() for record in kcl.records if record.shard == shard_id]


def find(kcl: KclConsumer, text: str) -> KclRecord:
    return next(record for record in kcl.records if record.data.decode() == text)


async def wait_for(kcl: KclConsumer, condition: Callable[[KclConsumer], object], what: str) -> None:
    await anyio.to_thread.run_sync(partial(kcl.wait, condition, what=what))


async def test_what_the_library_began_is_continued_exactly_inside_an_aggregate_and_across_a_split(
    scene: Scene,
) -> None:
    stream = scene.stream
    left, right = stream.shards()
    scene.create_table(scene.config.lease_table)
    put_aggregate(stream, left, "l0", "l1", "l2", "l3")
    stream.put("r0", "r1", hash_key=centre(right))
    async with scene.java() as kcl:
        await wait_for(kcl, lambda kcl: len(kcl.records) == 6, "all six records")
        await anyio.to_thread.run_sync(kcl.checkpoint, find(kcl, "l1"))
        low, high = await anyio.to_thread.run_sync(stream.split, right)
        await wait_for(
            kcl, lambda kcl: right["ShardId"] in kcl.shards("shard_ended"), "the end of the parent"
        )
        stream.put("low0", "low1", hash_key=centre(low))
        await wait_for(kcl, lambda kcl: len(texts_of(kcl, low["ShardId"])) == 2, "the child's records")
        await anyio.to_thread.run_sync(kcl.checkpoint, find(kcl, "low0"))
        await anyio.to_thread.run_sync(kcl.stop)
    stream.put("l4", hash_key=centre(left))
    stream.put("high0", hash_key=centre(high))

    handled = await handle_until(scene.transport, {"l4", "high0", "low1", "l3"})

    assert handled[left["ShardId"]] == ["l2", "l3", "l4"]
    assert handled[low["ShardId"]] == ["low1"]
    assert handled[high["ShardId"]] == ["high0"]
    assert right["ShardId"] not in handled


async def test_what_we_began_is_continued_by_the_library_exactly_inside_an_aggregate_and_across_a_split(
    scene: Scene,
) -> None:
    stream = scene.stream
    left, right = stream.shards()
    await provision(scene.transport)
    sequence = put_aggregate(stream, left, "l0", "l1", "l2", "l3")
    stream.put("r0", "r1", hash_key=centre(right))
    low, high = await anyio.to_thread.run_sync(stream.split, right)
    stream.put("low0", "low1", hash_key=centre(low))

    handled = await handle_until(scene.transport, {"l1", "low0", "r1"}, hold={"l2", "low1"})

    assert handled[left["ShardId"]] == ["l0", "l1"]
    assert handled[right["ShardId"]] == ["r0", "r1"]
    rows = scene.rows()
    assert rows[left["ShardId"]]["checkpoint"] == {"S": sequence}
    assert rows[left["ShardId"]]["checkpointSubSequenceNumber"] == {"N": "1"}
    assert rows[right["ShardId"]]["checkpoint"] == {"S": "SHARD_END"}
    stream.put("l4", hash_key=centre(left))
    stream.put("high0", hash_key=centre(high))
    async with scene.java() as kcl:
        await wait_for(kcl, lambda kcl: len(kcl.records) >= 5, "what is left")
        assert texts_of(kcl, left["ShardId"]) == ["l2", "l3", "l4"]
        assert texts_of(kcl, low["ShardId"]) == ["low1"]
        assert texts_of(kcl, high["ShardId"]) == ["high0"]
        assert [record.sub_sequence for record in kcl.records if record.sequence == sequence] == [2, 3]
        await anyio.to_thread.run_sync(kcl.stop)
        assert len(kcl.records) == 5


@pytest.mark.parametrize("scene", [PAIRS[1]], ids=["kinesis-local-kcl3"], indirect=True)
async def test_the_rows_that_version_3_puts_beside_the_leases_are_let_alone(scene: Scene) -> None:
    stream = scene.stream
    left, right = stream.shards()
    scene.create_table(scene.config.lease_table)
    stream.put("l0", "l1", hash_key=centre(left))
    async with scene.java(client_version="3X") as kcl:
        await wait_for(kcl, lambda kcl: len(kcl.records) == 2, "both records")
        await anyio.to_thread.run_sync(kcl.checkpoint, find(kcl, "l0"))
        await anyio.to_thread.run_sync(kcl.stop)
    strangers = {key: row for key, row in scene.rows().items() if not key.startswith("shardId-")}
    assert {"CLIENT_VERSION_MIGRATION", "WORKER_METRIC_STATS"} <= {
        row["entityType"]["S"] for row in strangers.values()
    }
    stream.put("r0", hash_key=centre(right))

    handled = await handle_until(scene.transport, {"l1", "r0"})

    assert handled == {left["ShardId"]: ["l1"], right["ShardId"]: ["r0"]}
    assert {key: row for key, row in scene.rows().items() if key in strangers} == strangers


async def test_what_we_publish_is_read_by_the_library_record_for_record(scene: Scene) -> None:
    stream = scene.stream
    await provision(scene.transport)
    scene.create_table(f"{stream.name}-java")
    events = [order(number) for number in range(200)]
    async with scene.transport.publisher(OpenFence()) as publisher:
        assert not await (await publisher.publish(events))

    ours: dict[Place, Event] = {}
    await handle_until(scene.transport, {str(event.identity) for event in events}, into=ours)
    async with scene.java(table=f"{stream.name}-java") as kcl:
        await wait_for(kcl, lambda kcl: len(kcl.records) >= len(events), "as many records as were published")
        await anyio.to_thread.run_sync(kcl.stop)

    read = {(record.shard, record.sequence, record.sub_sequence): record for record in kcl.records}
    assert len(kcl.records) == len(read) == len(events)
    assert read.keys() == ours.keys()
    assert any(record.aggregated for record in kcl.records)
    for place, record in read.items():
        event = ours[place]
        assert event.value is not None
        # The value stands at the beginning, and what is ours behind it.
        assert record.data.startswith(event.value[:-1])
        assert record.partition_key.encode() == event.key
    # Every row carries the hash key of its bucket, or the library would drop the whole record.
    for record in kcl.records:
        if record.aggregated:
            assert record.explicit_hash_key is not None
            low, high = next(hash_range(s) for s in stream.shards() if s["ShardId"] == record.shard)
            assert low <= int(record.explicit_hash_key) <= high
