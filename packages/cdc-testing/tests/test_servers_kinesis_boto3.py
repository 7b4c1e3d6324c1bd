import threading
from collections.abc import Iterator
from typing import Any

import pytest

from cdc_testing.servers.kinesis import EmbeddedKinesis, start_kinesis

pytest.importorskip("boto3")

import boto3
from botocore.config import Config


@pytest.fixture
def server() -> Iterator[EmbeddedKinesis]:
    with start_kinesis(use_existing=False) as server:
        yield server


def client_of(server: EmbeddedKinesis, access_key: str = "test") -> Any:
    session: Any = boto3.Session(
        aws_access_key_id=access_key, aws_secret_access_key="test", region_name=server.region
    )
    return session.client(
        "kinesis", endpoint_url=server.endpoint_url, config=Config(retries={"total_max_attempts": 1})
    )


@pytest.fixture
def client(server: EmbeddedKinesis) -> Any:
    return client_of(server)


def read_all(client: Any, stream: str, shard: str, kind: str = "TRIM_HORIZON") -> list[dict[str, Any]]:
    """Read a shard to its tip or end."""
    iterator = client.get_shard_iterator(StreamName=stream, ShardId=shard, ShardIteratorType=kind)[
        "ShardIterator"
    ]
    records: list[dict[str, Any]] = []
    while iterator is not None:
        page = client.get_records(ShardIterator=iterator)
        records += page["Records"]
        iterator = page.get("NextShardIterator")
        if page["MillisBehindLatest"] == 0:
            break
    return records


def test_what_eight_writers_had_acknowledged_is_readable(server: EmbeddedKinesis, client: Any) -> None:
    client.create_stream(StreamName="s", ShardCount=4)
    acked: list[tuple[str, str]] = []

    def write(number: int) -> None:
        mine = client_of(server)
        for batch in range(10):
            entries = [
                {"Data": f"{number}-{batch}-{n}".encode(), "PartitionKey": f"{number}-{batch}-{n}"}
                for n in range(50)
            ]
            answer = mine.put_records(StreamName="s", Records=entries)
            acked.extend((each["ShardId"], each["SequenceNumber"]) for each in answer["Records"])

    writers = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    readable = [
        (shard["ShardId"], record["SequenceNumber"])
        for shard in client.list_shards(StreamName="s")["Shards"]
        for record in read_all(client, "s", shard["ShardId"])
    ]
    assert len(acked) == 8 * 10 * 50
    assert len(set(acked)) == len(acked)
    assert sorted(readable) == sorted(acked)
