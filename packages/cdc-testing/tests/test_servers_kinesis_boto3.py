"""The server over HTTP, as boto3 talks to it."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import boto3
import botocore.exceptions
import pytest
from botocore.config import Config

from cdc_testing.servers.kinesis import (
    Delay,
    Drop,
    Durations,
    EmbeddedKinesis,
    Hold,
    Refuse,
    RejectEntries,
    start_kinesis,
)


@pytest.fixture(scope="module", params=["thread", "process"])
def shared_server(request: pytest.FixtureRequest) -> Iterator[EmbeddedKinesis]:
    with start_kinesis(own_process=request.param == "process", use_existing=False) as server:
        yield server


@pytest.fixture
def server(shared_server: EmbeddedKinesis) -> EmbeddedKinesis:
    shared_server.reset()
    return shared_server


@pytest.fixture(scope="module")
def shared_client(shared_server: EmbeddedKinesis) -> Iterator[Any]:
    client = client_of(shared_server)
    yield client
    client.close()


@pytest.fixture
def client(server: EmbeddedKinesis, shared_client: Any) -> Any:
    shared_client.create_stream(StreamName="s", ShardCount=4)
    return shared_client


def client_of(server: EmbeddedKinesis, access_key: str = "test") -> Any:
    session: Any = boto3.Session(
        aws_access_key_id=access_key, aws_secret_access_key="test", region_name=server.region
    )
    return session.client(
        "kinesis",
        endpoint_url=server.endpoint_url,
        config=Config(retries={"total_max_attempts": 1}, read_timeout=20),
    )


def put(client: Any, count: int, *, prefix: str = "") -> Any:
    entries = [{"Data": b"x", "PartitionKey": f"{prefix}{number}"} for number in range(count)]
    return client.put_records(StreamName="s", Records=entries)


def stored(server: EmbeddedKinesis) -> int:
    return sum(map(len, server.records("s").values()))


def read_all(client: Any, stream: str, shard: str) -> list[dict[str, Any]]:
    """Read a shard to its tip or end."""
    iterator = client.get_shard_iterator(StreamName=stream, ShardId=shard, ShardIteratorType="TRIM_HORIZON")[
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
    acked: list[tuple[str, str]] = []

    def write(number: int) -> None:
        mine = client_of(server)
        for batch in range(10):
            answer = put(mine, 50, prefix=f"{number}-{batch}-")
            acked.extend((each["ShardId"], each["SequenceNumber"]) for each in answer["Records"])
        mine.close()

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


def test_data_comes_back_as_it_was_put(client: Any) -> None:
    data = bytes(range(256))
    answer = client.put_record(StreamName="s", Data=data, PartitionKey="ключ")
    [record] = read_all(client, "s", answer["ShardId"])
    assert record["Data"] == data
    assert record["PartitionKey"] == "ключ"
    assert record["SequenceNumber"] == answer["SequenceNumber"]


def test_errors_have_the_services_names(client: Any) -> None:
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.put_record(StreamName="nope", Data=b"", PartitionKey="a")
    with pytest.raises(client.exceptions.InvalidArgumentException):
        client.get_records(ShardIterator="garbage")
    with pytest.raises(client.exceptions.ResourceInUseException):
        client.create_stream(StreamName="s", ShardCount=1)


def test_a_closed_shard_ends_with_its_children(client: Any) -> None:
    client.split_shard(StreamName="s", ShardToSplit="shardId-000000000000", NewStartingHashKey="1000000")
    iterator = client.get_shard_iterator(
        StreamName="s", ShardId="shardId-000000000000", ShardIteratorType="LATEST"
    )["ShardIterator"]
    page = client.get_records(ShardIterator=iterator)
    assert "NextShardIterator" not in page
    assert [child["ShardId"] for child in page["ChildShards"]] == [
        "shardId-000000000004",
        "shardId-000000000005",
    ]


def test_a_share_of_the_entries_is_rejected_and_nothing_of_them_is_stored(
    server: EmbeddedKinesis, client: Any
) -> None:
    with server.add_fault(RejectEntries(fraction=0.3, seed=7), operations=["PutRecords"]) as fault:
        failed = sum(put(client, 500)["FailedRecordCount"] for _ in range(4))
        assert fault.hits == failed
    assert 400 < failed < 800
    assert stored(server) == 2000 - failed
    assert put(client, 500)["FailedRecordCount"] == 0


def test_a_fault_for_a_minute_ends_by_the_servers_clock(server: EmbeddedKinesis, client: Any) -> None:
    server.add_fault(RejectEntries(), seconds=60)
    assert put(client, 3)["FailedRecordCount"] == 3
    server.advance(60)
    assert put(client, 3)["FailedRecordCount"] == 0


def test_one_hash_key_and_one_shard_alone_can_be_rejected(server: EmbeddedKinesis, client: Any) -> None:
    entries = [{"Data": b"x", "PartitionKey": "k", "ExplicitHashKey": str(key)} for key in (1, 2, 1 << 127)]
    with server.add_fault(RejectEntries(hash_keys=("2",), code="InternalFailure")):
        results = client.put_records(StreamName="s", Records=entries)["Records"]
    assert [result.get("ErrorCode") for result in results] == [None, "InternalFailure", None]
    with server.add_fault(RejectEntries(shards=("shardId-000000000000",))):
        results = client.put_records(StreamName="s", Records=entries)["Records"]
    throttled = "ProvisionedThroughputExceededException"
    assert [result.get("ErrorCode") for result in results] == [throttled, throttled, None]


@pytest.mark.parametrize("kept", [False, True])
def test_a_lost_answer_leaves_the_records_stored_or_not_as_told(
    server: EmbeddedKinesis, client: Any, kept: bool
) -> None:
    server.add_fault(Drop(stored=kept), operations=["PutRecords"], count=1)
    with pytest.raises(botocore.exceptions.HTTPClientError):
        put(client, 3)
    assert stored(server) == (3 if kept else 0)
    [call] = server.calls("PutRecords")
    assert (call.answered, call.stored, call.call.records) == (False, kept, 3)
    assert put(client, 3)["FailedRecordCount"] == 0


@pytest.mark.parametrize("kept", [False, True])
def test_a_refusal_leaves_the_records_stored_or_not_as_told(
    server: EmbeddedKinesis, client: Any, kept: bool
) -> None:
    server.add_fault(Refuse(code="KMSThrottlingException", status=400, stored=kept), count=1)
    with pytest.raises(client.exceptions.KMSThrottlingException):
        put(client, 3)
    assert stored(server) == (3 if kept else 0)
    assert server.calls()[-1].code == "KMSThrottlingException"


def test_a_held_request_waits_for_its_release(server: EmbeddedKinesis, client: Any) -> None:
    fault = server.add_fault(Hold(), operations=["PutRecords"])
    writer = threading.Thread(target=put, args=(client, 3))
    writer.start()
    fault.wait(1)
    assert stored(server) == 0
    fault.release()
    writer.join()
    assert stored(server) == 3


def test_a_server_that_ends_does_not_wait_for_what_it_holds() -> None:
    with start_kinesis(use_existing=False) as server:
        client = client_of(server)
        fault = server.add_fault(Hold(), operations=["ListStreams"])
        caller = threading.Thread(target=lose_the_answer, args=(client,))
        caller.start()
        fault.wait(1)
    caller.join()
    client.close()


def lose_the_answer(client: Any) -> None:
    with contextlib.suppress(botocore.exceptions.HTTPClientError):
        client.list_streams()


def test_rules_skip_and_count_and_one_access_key_is_cut_off(server: EmbeddedKinesis, client: Any) -> None:
    refused: list[bool] = []
    with server.add_fault(Refuse(), operations=["ListStreams"], skip=1, count=2) as fault:
        for _ in range(5):
            try:
                client.list_streams()
                refused.append(False)
            except botocore.exceptions.ClientError:
                refused.append(True)
        assert fault.hits == 2
    assert refused == [False, True, True, False, False]
    other = client_of(server, "other")
    with server.refuse_access_key("other"):
        with pytest.raises(other.exceptions.AccessDeniedException):
            other.list_streams()
        client.list_streams()
    other.list_streams()
    other.close()


def test_iterators_expire_on_demand(server: EmbeddedKinesis, client: Any) -> None:
    place = {"StreamName": "s", "ShardId": "shardId-000000000000", "ShardIteratorType": "LATEST"}
    iterator = client.get_shard_iterator(**place)["ShardIterator"]
    server.expire_iterators()
    with pytest.raises(client.exceptions.ExpiredIteratorException):
        client.get_records(ShardIterator=iterator)
    client.get_records(ShardIterator=client.get_shard_iterator(**place)["ShardIterator"])


def test_a_delay_is_waited_out(server: EmbeddedKinesis, client: Any) -> None:
    with server.add_fault(Delay(seconds=0.05, stored=True)) as fault:
        put(client, 1)
        assert fault.hits == 1
    assert stored(server) == 1


def test_the_log_tells_what_was_asked_and_answered(server: EmbeddedKinesis, client: Any) -> None:
    put(client, 3)
    iterator = client.get_shard_iterator(
        StreamName="s", ShardId="shardId-000000000001", ShardIteratorType="TRIM_HORIZON"
    )["ShardIterator"]
    returned = len(client.get_records(ShardIterator=iterator)["Records"])
    [read] = server.calls("GetRecords", shard="shardId-000000000001")
    assert (read.call.stream, read.call.access_key, read.returned, read.code) == ("s", "test", returned, "")
    assert [logged.call.operation for logged in server.calls(stream="s")] == [
        "CreateStream",
        "PutRecords",
        "GetShardIterator",
        "GetRecords",
    ]


def test_botocores_waiters_and_paginators_work_or_fail_as_with_the_service() -> None:
    with start_kinesis(durations=Durations(create=3600), use_existing=False) as server:
        client = client_of(server)
        client.create_stream(StreamName="s", ShardCount=5)
        assert client.describe_stream(StreamName="s")["StreamDescription"]["StreamStatus"] == "CREATING"
        server.advance(3600)
        client.get_waiter("stream_exists").wait(StreamName="s")
        pages = client.get_paginator("describe_stream").paginate(
            StreamName="s", PaginationConfig={"PageSize": 2}
        )
        assert len([shard for page in pages for shard in page["StreamDescription"]["Shards"]]) == 5
        pages = client.get_paginator("list_shards").paginate(StreamName="s", PaginationConfig={"PageSize": 2})
        with pytest.raises(client.exceptions.InvalidArgumentException):  # boto/botocore#2009
            list(pages)
        client.close()


@pytest.mark.parametrize("own_process", [False, True])
def test_signatures_are_checked_where_the_secret_is_known(own_process: bool) -> None:
    with start_kinesis(secret_access_key="test", own_process=own_process, use_existing=False) as server:
        client = client_of(server)
        client.list_streams()
        client.close()
        session: Any = boto3.Session(
            aws_access_key_id="test", aws_secret_access_key="another", region_name=server.region
        )
        client = session.client("kinesis", endpoint_url=server.endpoint_url)
        with pytest.raises(botocore.exceptions.ClientError, match="InvalidSignatureException"):
            client.list_streams()
        client.close()
