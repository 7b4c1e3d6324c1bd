"""Putting records: what every Kinesis must do as AWS does it, and where a local one is known to differ.

What only AWS can show (the exact throttling, order inside one request, permissions) is claimed nowhere: the rest was
written from the service's model and its documentation, and has been run against local servers only.
"""

from __future__ import annotations

import hashlib
import threading
from typing import Any

from aws_servers import MAX_HASH_KEY, Streams, eventually, hash_range, on_kinesis, refused, texts_of

MIB = 1 << 20


def entries(count: int, *, data: bytes = b"x", hash_key: int = 0) -> list[dict[str, Any]]:
    return [{"Data": data, "PartitionKey": f"k{n}", "ExplicitHashKey": str(hash_key)} for n in range(count)]


@on_kinesis()
def test_five_hundred_records_are_stored_and_answered_in_their_order(kinesis: Streams) -> None:
    stream = kinesis.create(2)
    edge = hash_range(stream.shards()[1])[0]
    records = [
        {"Data": b"%d" % number, "PartitionKey": "k", "ExplicitHashKey": str(edge if number % 3 else 0)}
        for number in range(500)
    ]
    answer = stream.ask("put_records", StreamName=stream.name, Records=records)
    assert answer["FailedRecordCount"] == 0
    first, second = (shard["ShardId"] for shard in stream.shards())
    assert [outcome["ShardId"] for outcome in answer["Records"]] == [
        second if number % 3 else first for number in range(500)
    ]
    stored = {text for shard in (first, second) for text in stream.read(shard)}
    assert stored == {str(number) for number in range(500)}


@on_kinesis(kinesis_mock="accepts more than 500 records in a request")
def test_five_hundred_and_one_records_are_refused_and_none_is_stored(kinesis: Streams) -> None:
    stream = kinesis.create()
    with refused("ValidationException", "InvalidArgumentException"):
        kinesis.client.put_records(StreamName=stream.name, Records=entries(501))
    assert stream.read(stream.shards()[0]["ShardId"]) == []


@on_kinesis(kinesis_mock="answers 500 instead of a refusal")
def test_no_records_are_refused(kinesis: Streams) -> None:
    stream = kinesis.create()
    with refused("ValidationException", "InvalidArgumentException"):
        kinesis.client.put_records(StreamName=stream.name, Records=[])


@on_kinesis(kinesis_mock="NOT RUN: has no limit of a request's size, and takes 20 s to store 11 MiB")
def test_more_than_ten_mebibytes_in_a_request_are_refused(kinesis: Streams) -> None:
    stream = kinesis.create()
    with kinesis.unthrottled(), refused("InvalidArgumentException", "ValidationException"):
        kinesis.client.put_records(StreamName=stream.name, Records=entries(11, data=bytes(MIB - 8)))


@on_kinesis()
def test_a_record_may_have_a_mebibyte_with_its_key(kinesis: Streams) -> None:
    stream = kinesis.create()
    with kinesis.unthrottled():
        answer = kinesis.client.put_records(StreamName=stream.name, Records=entries(1, data=bytes(MIB - 2)))
    assert answer["FailedRecordCount"] == 0


@on_kinesis(
    kinesis_local="fails the record alone, with a code that the API does not have, and stores the others"
)
def test_one_record_that_is_too_large_refuses_the_whole_request(kinesis: Streams) -> None:
    stream = kinesis.create()
    records = [*entries(1, data=b"small"), *entries(1, data=bytes(MIB + 1))]
    with kinesis.unthrottled(), refused("ValidationException", "InvalidArgumentException"):
        kinesis.client.put_records(StreamName=stream.name, Records=records)
    assert stream.read(stream.shards()[0]["ShardId"]) == []


@on_kinesis(localstack="its model of the service is older than UpdateMaxRecordSize")
def test_a_stream_takes_larger_records_once_its_limit_is_raised(kinesis: Streams) -> None:
    stream = kinesis.create()
    kinesis.client.update_max_record_size(StreamARN=stream.summary()["StreamARN"], MaxRecordSizeInKiB=4096)
    assert eventually(lambda: stream.wait().get("MaxRecordSizeInKiB")) == 4096
    with kinesis.unthrottled():
        answer = kinesis.client.put_records(
            StreamName=stream.name, Records=entries(1, data=bytes(MIB * 3 // 2))
        )
    assert answer["FailedRecordCount"] == 0
    assert [len(text) for text in stream.read(stream.shards()[0]["ShardId"])] == [MIB * 3 // 2]


@on_kinesis()
def test_a_partition_key_has_1_to_256_characters(kinesis: Streams) -> None:
    stream = kinesis.create()
    for key in ("", "k" * 257):
        with refused("ValidationException", "InvalidArgumentException"):
            kinesis.client.put_records(StreamName=stream.name, Records=[{"Data": b"x", "PartitionKey": key}])
    stream.put("stored", key="\u00e9" * 256)
    assert stream.read(stream.shards()[0]["ShardId"]) == ["stored"]


@on_kinesis()
def test_the_explicit_hash_key_decides_the_shard(kinesis: Streams) -> None:
    stream = kinesis.create(4)
    for shard in stream.shards():
        for point in hash_range(shard):
            (outcome,) = stream.put("x", hash_key=point)
            assert outcome["ShardId"] == shard["ShardId"]


@on_kinesis()
def test_without_one_the_md5_of_the_partition_key_decides(kinesis: Streams) -> None:
    stream = kinesis.create(4)
    keys = ["a", "b", "c", "d", "\u00e9", "\u4e2d" * 10, "k" * 256]
    records = [{"Data": b"x", "PartitionKey": key} for key in keys]
    answer = stream.ask("put_records", StreamName=stream.name, Records=records)
    for key, outcome in zip(keys, answer["Records"], strict=True):
        point = int.from_bytes(hashlib.md5(key.encode(), usedforsecurity=False).digest())
        (shard,) = [s for s in stream.shards() if hash_range(s)[0] <= point <= hash_range(s)[1]]
        assert outcome["ShardId"] == shard["ShardId"]


@on_kinesis(kinesis_mock="answers 500 instead of a refusal")
def test_a_hash_key_outside_the_hash_space_is_refused(kinesis: Streams) -> None:
    stream = kinesis.create()
    for hash_key in (str(MAX_HASH_KEY + 1), "-1", "01", "x"):
        with refused("ValidationException", "InvalidArgumentException"):
            kinesis.client.put_records(
                StreamName=stream.name,
                Records=[{"Data": b"x", "PartitionKey": "k", "ExplicitHashKey": hash_key}],
            )


@on_kinesis()
def test_sequence_numbers_are_decimal_and_grow_within_a_shard(kinesis: Streams) -> None:
    stream = kinesis.create()
    numbers = [outcome["SequenceNumber"] for outcome in stream.put(*"abcdef")]
    assert all(number.isdigit() for number in numbers)
    assert sorted(set(map(int, numbers))) == list(map(int, numbers))


@on_kinesis()
def test_a_stream_that_is_not_there_is_said_not_to_be_there(kinesis: Streams) -> None:
    with refused("ResourceNotFoundException"):
        kinesis.client.put_records(StreamName="conformance-nobody-made-it", Records=entries(1))


@on_kinesis(kinesis_mock="never throttles")
def test_a_shard_that_is_written_to_too_fast_rejects_records_one_by_one(kinesis: Streams) -> None:
    stream = kinesis.create()
    shard_id = stream.shards()[0]["ShardId"]
    # 2 MB at once, where a shard bears 1 MB a second
    records = [{"Data": b"%d" % number + bytes(500_000), "PartitionKey": "k"} for number in range(4)]
    answer = kinesis.client.put_records(StreamName=stream.name, Records=records)
    outcomes = answer["Records"]
    failed = [outcome for outcome in outcomes if "ErrorCode" in outcome]
    assert answer["FailedRecordCount"] == len(failed)
    assert {outcome["ErrorCode"] for outcome in failed} == {"ProvisionedThroughputExceededException"}
    stored = [str(n) for n, outcome in enumerate(outcomes) if "SequenceNumber" in outcome]
    assert [text.rstrip("\0") for text in stream.read(shard_id)] == stored


@on_kinesis()
def test_eight_writers_at_once_lose_nothing(kinesis: Streams) -> None:
    stream = kinesis.create(2)
    edge = hash_range(stream.shards()[1])[0]
    acknowledged: dict[tuple[str, str], str] = {}
    lock = threading.Lock()

    def write(writer: int) -> None:
        client = kinesis.server.client("kinesis")
        for request in range(5):
            records: list[dict[str, Any]] = [
                {
                    "Data": b"%d-%d-%d" % (writer, request, number),
                    "PartitionKey": "k",
                    "ExplicitHashKey": str(edge if number % 2 else 0),
                }
                for number in range(20)
            ]
            answer = client.put_records(StreamName=stream.name, Records=records)
            for record, outcome in zip(records, answer["Records"], strict=True):
                if "SequenceNumber" in outcome:
                    with lock:
                        acknowledged[outcome["ShardId"], outcome["SequenceNumber"]] = str(
                            record["Data"], "ascii"
                        )
        client.close()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(acknowledged) == 800
    found = {
        (shard["ShardId"], record["SequenceNumber"]): record["Data"].decode()
        for shard in stream.shards()
        for page in stream.pages(stream.iterator(shard["ShardId"]))
        for record in page["Records"]
    }
    assert found == acknowledged


@on_kinesis()
def test_bytes_keys_and_arrival_times_come_back_as_they_were(kinesis: Streams) -> None:
    stream = kinesis.create()
    data = bytes(range(256))
    (outcome,) = stream.ask(
        "put_records", StreamName=stream.name, Records=[{"Data": data, "PartitionKey": "k\u00e9\u4e2d"}]
    )["Records"]
    page = stream.get(stream.iterator(outcome["ShardId"]))
    (record,) = page["Records"]
    assert record["Data"] == data
    assert record["PartitionKey"] == "k\u00e9\u4e2d"
    assert record["SequenceNumber"] == outcome["SequenceNumber"]
    arrived = record["ApproximateArrivalTimestamp"]
    created = stream.summary()["StreamCreationTimestamp"]
    assert -5.0 < (arrived - created).total_seconds() < 120.0


@on_kinesis()
def test_a_single_record_may_be_put_after_a_sequence_number(kinesis: Streams) -> None:
    stream = kinesis.create()
    (first,) = stream.put("first")
    answer = stream.ask(
        "put_record",
        StreamName=stream.name,
        Data=b"second",
        PartitionKey="k",
        SequenceNumberForOrdering=first["SequenceNumber"],
    )
    assert int(answer["SequenceNumber"]) > int(first["SequenceNumber"])
    assert texts_of(stream.get(stream.iterator(first["ShardId"]))) == ["first", "second"]
