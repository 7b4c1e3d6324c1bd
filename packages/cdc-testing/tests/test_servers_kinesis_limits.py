"""The service without sockets: its limits of sizes and rates."""

from typing import Final

import pytest
from kinesis_caller import HASHES, Caller

from cdc_testing.servers.kinesis import Rates
from cdc_testing.servers.kinesis._operations import OPERATIONS
from cdc_testing.servers.kinesis._refusal import Refusal
from cdc_testing.servers.kinesis._service import Service

_MIB: Final = 1024 * 1024


@pytest.fixture
def call() -> Caller:
    return Caller(Service())


def test_a_shard_bears_a_thousand_records_and_a_mebibyte_a_second() -> None:
    call = Caller(Service(rates=Rates()))
    call("CreateStream", StreamName="s", ShardCount=2)
    # Of shard 0 a thousand at once; of shard 1 as much as it is asked for.
    assert [call.put(*[0] * 500)["FailedRecordCount"] for _ in range(3)] == [0, 0, 500]
    answer = call.put(0, HASHES - 1)
    assert [result.get("ErrorCode") for result in answer["Records"]] == [
        "ProvisionedThroughputExceededException",
        None,
    ]
    assert call.refused("PutRecord", StreamName="s", Data="", PartitionKey="a") == (
        "ProvisionedThroughputExceededException"
    )
    call.now += 0.25
    assert call.put(*[0] * 500)["FailedRecordCount"] == 250


def test_a_shard_is_read_five_times_a_second_and_not_after_ten_mebibytes() -> None:
    call = Caller(Service(rates=Rates(read_bytes=100 * 1024 * 1024, write_bytes=1 << 30)))
    call("CreateStream", StreamName="s", ShardCount=1)
    iterator = call.iterator("shardId-000000000000")
    for _ in range(5):
        call("GetRecords", ShardIterator=iterator)
    assert call.refused("GetRecords", ShardIterator=iterator) == "ProvisionedThroughputExceededException"
    call.now += 1
    mebibyte = "AAAA" * (1024 * 1024 // 3)
    for _ in range(11):
        call.put(0, data=mebibyte)
    page = call("GetRecords", ShardIterator=iterator)
    assert len(page["Records"]) == 10
    call.now += 4.9
    assert call.refused("GetRecords", ShardIterator=page["NextShardIterator"]) == (
        "ProvisionedThroughputExceededException"
    )
    call.now += 0.1
    assert len(call("GetRecords", ShardIterator=page["NextShardIterator"])["Records"]) == 1


@pytest.mark.parametrize(
    ("sizes", "code"),
    [
        ([1] * 500, None),
        ([1] * 501, "ValidationException"),
        ([_MIB - 1], None),
        ([_MIB, 1], "ValidationException"),  # with its key of one byte; the other is refused with it
        ([_MIB - 1] * 10, None),
        ([_MIB - 1] * 10 + [1], "InvalidArgumentException"),
    ],
)
def test_put_records_takes_what_the_service_takes(call: Caller, sizes: list[int], code: str | None) -> None:
    call("CreateStream", StreamName="s", ShardCount=1)
    put = OPERATIONS["PutRecords"]
    request = put.convert(
        {"StreamName": "s", "Records": [{"Data": bytes(size), "PartitionKey": "k"} for size in sizes]}
    )
    if code is None:
        assert put(call.service, request, call.now)["FailedRecordCount"] == 0
    else:
        with pytest.raises(Refusal) as raised:
            put(call.service, request, call.now)
        assert raised.value.code == code
        assert call.read("shardId-000000000000").keys == []


def test_larger_records_are_taken_once_the_stream_is_told_so(call: Caller) -> None:
    call("CreateStream", StreamName="s", ShardCount=1)
    arn = call("DescribeStreamSummary", StreamName="s")["StreamDescriptionSummary"]["StreamARN"]
    call("UpdateMaxRecordSize", StreamARN=arn, MaxRecordSizeInKiB=2048)
    call.put(0, data="AAAA" * (2 * _MIB // 3 - 1))
    assert (
        call("DescribeStreamSummary", StreamName="s")["StreamDescriptionSummary"]["MaxRecordSizeInKiB"]
        == 2048
    )
    assert (
        call.refused("UpdateMaxRecordSize", StreamARN=arn, MaxRecordSizeInKiB=10_241) == "ValidationException"
    )


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        ({"Data": "", "PartitionKey": "k" * 256}, None),
        ({"Data": "", "PartitionKey": "é" * 256}, None),
        ({"Data": "", "PartitionKey": ""}, "ValidationException"),
        ({"Data": "", "PartitionKey": "k" * 257}, "ValidationException"),
        ({"Data": ""}, "ValidationException"),
        ({"Data": "no base64", "PartitionKey": "k"}, "SerializationException"),
        ({"Data": "", "PartitionKey": "k", "ExplicitHashKey": str(HASHES - 1)}, None),
        ({"Data": "", "PartitionKey": "k", "ExplicitHashKey": str(HASHES)}, "InvalidArgumentException"),
        ({"Data": "", "PartitionKey": "k", "ExplicitHashKey": "-1"}, "ValidationException"),
        ({"Data": "", "PartitionKey": "k", "ExplicitHashKey": "01"}, "ValidationException"),
        ({"Data": "", "PartitionKey": "k", "ExplicitHashKey": ""}, "ValidationException"),
    ],
)
def test_a_record_is_taken_as_the_service_takes_it(
    call: Caller, entry: dict[str, str], code: str | None
) -> None:
    call("CreateStream", StreamName="s", ShardCount=1)
    if code is None:
        call("PutRecords", StreamName="s", Records=[entry])
    else:
        assert call.refused("PutRecords", StreamName="s", Records=[entry]) == code


def test_a_record_can_be_put_after_another_and_not_after_one_of_the_future(call: Caller) -> None:
    call("CreateStream", StreamName="s", ShardCount=1)
    put = {"StreamName": "s", "Data": "", "PartitionKey": "k"}
    number = call("PutRecord", **put)["SequenceNumber"]
    later = call("PutRecord", **put, SequenceNumberForOrdering=number)["SequenceNumber"]
    assert int(later) > int(number)
    future = str(int(number) + (60 << 36))
    assert call.refused("PutRecord", **put, SequenceNumberForOrdering=future) == "InvalidArgumentException"
