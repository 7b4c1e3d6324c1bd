"""Enhanced fan-out over HTTP/1.1, as boto3 has it; the service itself supports it over HTTP/2 only."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import botocore.exceptions
import pytest
from botocore.config import Config

from cdc_testing.servers.kinesis import EmbeddedKinesis, start_kinesis

SHARD = "shardId-000000000000"


@pytest.fixture
def server() -> Iterator[EmbeddedKinesis]:
    with start_kinesis(use_existing=False) as server:
        yield server


def client_of(server: EmbeddedKinesis) -> Any:
    session: Any = boto3.Session(
        aws_access_key_id="test", aws_secret_access_key="test", region_name=server.region
    )
    return session.client(
        "kinesis",
        endpoint_url=server.endpoint_url,
        config=Config(retries={"total_max_attempts": 1}, read_timeout=20),
    )


def register(client: Any) -> str:
    arn = client.describe_stream_summary(StreamName="s")["StreamDescriptionSummary"]["StreamARN"]
    return str(client.register_stream_consumer(StreamARN=arn, ConsumerName="c")["Consumer"]["ConsumerARN"])


@pytest.fixture
def client(server: EmbeddedKinesis) -> Iterator[Any]:
    client = client_of(server)
    client.create_stream(StreamName="s", ShardCount=1)
    yield client
    client.close()


@pytest.fixture
def consumer(client: Any) -> str:
    return register(client)


@contextmanager
def subscribed(client: Any, consumer: str, **position: Any) -> Generator[Iterator[dict[str, Any]]]:
    stream = client.subscribe_to_shard(
        ConsumerARN=consumer, ShardId=SHARD, StartingPosition=position or {"Type": "TRIM_HORIZON"}
    )["EventStream"]
    try:
        yield (event["SubscribeToShardEvent"] for event in stream)
    finally:
        stream.close()


def put(client: Any, key: str) -> str:
    return str(client.put_record(StreamName="s", Data=b"x", PartitionKey=key)["SequenceNumber"])


def test_records_are_pushed_until_the_shard_ends_in_its_children(client: Any, consumer: str) -> None:
    put(client, "1")
    with subscribed(client, consumer) as events:
        first = next(events)
        assert [record["PartitionKey"] for record in first["Records"]] == ["1"]
        assert first["MillisBehindLatest"] == 0
        number = put(client, "2")
        second = next(event for event in events if event["Records"])
        assert [record["PartitionKey"] for record in second["Records"]] == ["2"]
        assert second["ContinuationSequenceNumber"] == number
        client.split_shard(StreamName="s", ShardToSplit=SHARD, NewStartingHashKey="1000")
        *_, last = list(events)
    assert "ContinuationSequenceNumber" not in last
    assert [child["ShardId"] for child in last["ChildShards"]] == [
        "shardId-000000000001",
        "shardId-000000000002",
    ]


def test_a_subscription_goes_on_after_a_sequence_number(client: Any, consumer: str) -> None:
    number = put(client, "1")
    put(client, "2")
    with subscribed(client, consumer, Type="AFTER_SEQUENCE_NUMBER", SequenceNumber=number) as events:
        assert [record["PartitionKey"] for record in next(events)["Records"]] == ["2"]


def test_a_subscription_without_a_record_goes_on_where_it_stood(
    server: EmbeddedKinesis, client: Any, consumer: str
) -> None:
    put(client, "1")
    with subscribed(client, consumer, Type="LATEST") as events:
        number = next(events)["ContinuationSequenceNumber"]
    put(client, "2")
    server.advance(5)
    with subscribed(client, consumer, Type="AFTER_SEQUENCE_NUMBER", SequenceNumber=number) as events:
        assert [record["PartitionKey"] for record in next(events)["Records"]] == ["2"]


def test_an_idle_subscription_shows_that_it_lives_and_ends_after_five_minutes(
    server: EmbeddedKinesis, client: Any, consumer: str
) -> None:
    with subscribed(client, consumer, Type="LATEST") as events:
        assert next(events)["Records"] == []
        server.advance(300)
        assert list(events) == []


def test_a_second_subscription_is_refused_for_five_seconds_and_then_takes_over(
    server: EmbeddedKinesis, client: Any, consumer: str
) -> None:
    with subscribed(client, consumer) as events:
        with pytest.raises(client.exceptions.ResourceInUseException), subscribed(client, consumer):
            raise AssertionError("it was not refused")
        server.advance(5)
        put(client, "1")
        with subscribed(client, consumer) as others:
            assert next(event for event in others if event["Records"])
            with pytest.raises(botocore.exceptions.EventStreamError, match="ResourceInUseException"):
                list(events)


def test_a_server_that_ends_does_not_wait_for_its_subscriptions() -> None:
    with start_kinesis(use_existing=False) as server:
        client = client_of(server)
        client.create_stream(StreamName="s", ShardCount=1)
        stream = client.subscribe_to_shard(
            ConsumerARN=register(client), ShardId=SHARD, StartingPosition={"Type": "LATEST"}
        )["EventStream"]
    stream.close()
    client.close()
