"""Getting records: what every Kinesis must do as AWS does it, and where a local one is known to differ."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from aws_servers import Streams, eventually, on_embedded, on_kinesis, refused, texts_of

MIB = 1 << 20
CUTS_TIMES = "cuts a timestamp to whole seconds before its Kinesis sees it"


@on_kinesis()
def test_trim_horizon_reads_from_the_first_record_and_latest_only_what_follows(kinesis: Streams) -> None:
    stream = kinesis.create()
    shard_id = stream.shards()[0]["ShardId"]
    stream.put("a", "b")
    latest = stream.iterator(shard_id, "LATEST")
    assert stream.read(shard_id) == ["a", "b"]
    stream.put("c")
    assert [text for page in stream.pages(latest) for text in texts_of(page)] == ["c"]


@on_kinesis()
def test_at_and_after_a_sequence_number_read_from_and_behind_its_record(kinesis: Streams) -> None:
    stream = kinesis.create()
    first, second, third = stream.put("a", "b", "c")
    shard_id = first["ShardId"]
    at, after = "AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER"
    for outcome, following in ((first, ["b", "c"]), (second, ["c"]), (third, list[str]())):
        number = outcome["SequenceNumber"]
        assert stream.read(shard_id, after, StartingSequenceNumber=number) == following
        assert stream.read(shard_id, at, StartingSequenceNumber=number)[1:] == following


@on_kinesis()
def test_at_the_number_that_a_shard_starts_with_is_its_beginning(kinesis: Streams) -> None:
    stream = kinesis.create()
    (shard,) = stream.shards()
    stream.put("a", "b")
    number = shard["SequenceNumberRange"]["StartingSequenceNumber"]
    assert stream.read(shard["ShardId"], "AT_SEQUENCE_NUMBER", StartingSequenceNumber=number) == ["a", "b"]


@on_kinesis(kinesis_mock="answers ResourceNotFoundException")
def test_a_number_that_is_no_sequence_number_is_refused(kinesis: Streams) -> None:
    stream = kinesis.create()
    shard_id = stream.shards()[0]["ShardId"]
    for number in ("99", "x"):
        with refused("InvalidArgumentException", "ValidationException"):
            kinesis.client.get_shard_iterator(
                StreamName=stream.name,
                ShardId=shard_id,
                ShardIteratorType="AT_SEQUENCE_NUMBER",
                StartingSequenceNumber=number,
            )


@on_kinesis(localstack=CUTS_TIMES)
def test_at_a_timestamp_reads_what_arrived_then_or_later(kinesis: Streams) -> None:
    stream = kinesis.create()
    stream.put("a")
    shard_id = stream.shards()[0]["ShardId"]
    (first,) = stream.get(stream.iterator(shard_id))["Records"]
    # more than a millisecond, the finest that the service tells apart
    moment = first["ApproximateArrivalTimestamp"] + timedelta(milliseconds=1)

    def put_later() -> list[str] | None:
        stream.put("later")
        return [text for text, arrived in arrivals(stream, shard_id) if arrived >= moment] or None

    expected = eventually(put_later)
    records = arrivals(stream, shard_id)
    assert stream.read(shard_id, "AT_TIMESTAMP", Timestamp=moment) == expected
    past = first["ApproximateArrivalTimestamp"] - timedelta(minutes=5)
    assert stream.read(shard_id, "AT_TIMESTAMP", Timestamp=past) == [text for text, _ in records]


def arrivals(stream: Any, shard_id: str) -> list[tuple[str, Any]]:
    return [
        (record["Data"].decode(), record["ApproximateArrivalTimestamp"])
        for page in stream.pages(stream.iterator(shard_id))
        for record in page["Records"]
    ]


@on_kinesis(localstack=CUTS_TIMES)
def test_at_a_timestamp_behind_every_record_finds_none_and_goes_on(kinesis: Streams) -> None:
    stream = kinesis.create()
    (outcome,) = stream.put("a")
    (record,) = stream.get(stream.iterator(outcome["ShardId"]))["Records"]
    moment = record["ApproximateArrivalTimestamp"] + timedelta(milliseconds=1)
    page = stream.get(stream.iterator(outcome["ShardId"], "AT_TIMESTAMP", Timestamp=moment))
    assert page["Records"] == []
    assert page["NextShardIterator"]


@on_kinesis()
def test_pages_of_a_limit_follow_each_other_without_a_gap_or_a_repeat(kinesis: Streams) -> None:
    stream = kinesis.create()
    shard_id = stream.put(*"abcdefg")[0]["ShardId"]
    pages = list(stream.pages(stream.iterator(shard_id), Limit=3))
    assert all(len(page["Records"]) <= 3 for page in pages)
    assert [text for page in pages for text in texts_of(page)] == list("abcdefg")


@on_kinesis()
def test_a_limit_is_1_to_10000(kinesis: Streams) -> None:
    stream = kinesis.create()
    iterator = stream.iterator(stream.shards()[0]["ShardId"])
    for limit in (0, 10_001):
        with refused("InvalidArgumentException", "ValidationException"):
            kinesis.client.get_records(ShardIterator=iterator, Limit=limit)


@on_kinesis()
def test_an_empty_shard_is_caught_up_and_has_no_end(kinesis: Streams) -> None:
    stream = kinesis.create()
    page = stream.get(stream.iterator(stream.shards()[0]["ShardId"]))
    assert page["Records"] == []
    assert page["MillisBehindLatest"] == 0
    assert page["NextShardIterator"]


@on_kinesis()
def test_a_reader_is_behind_as_long_as_records_are_left_and_caught_up_then(kinesis: Streams) -> None:
    stream = kinesis.create()
    shard_id = stream.put("a", "b", "c")[0]["ShardId"]
    page = stream.get(stream.iterator(shard_id), Limit=1)
    assert texts_of(page) == ["a"]
    assert page["MillisBehindLatest"] > 0
    pages = list(stream.pages(page["NextShardIterator"]))
    assert [text for page in pages for text in texts_of(page)] == ["b", "c"]
    assert pages[-1]["MillisBehindLatest"] == 0


@on_kinesis()
def test_the_same_iterator_reads_the_same_again(kinesis: Streams) -> None:
    stream = kinesis.create()
    shard_id = stream.put("a", "b")[0]["ShardId"]
    iterator = stream.iterator(shard_id)
    assert texts_of(stream.get(iterator)) == texts_of(stream.get(iterator)) == ["a", "b"]


@on_kinesis(kinesis_mock="answers 500 instead of a refusal")
def test_what_is_no_iterator_is_refused(kinesis: Streams) -> None:
    with refused("InvalidArgumentException", "ValidationException"):
        kinesis.client.get_records(ShardIterator="AAAA")


@on_kinesis()
def test_a_shard_that_is_not_there_is_said_not_to_be_there(kinesis: Streams) -> None:
    stream = kinesis.create()
    with refused("ResourceNotFoundException"):
        kinesis.client.get_shard_iterator(
            StreamName=stream.name, ShardId="shardId-000000000099", ShardIteratorType="TRIM_HORIZON"
        )


# The others' clocks cannot be moved.
@on_embedded
def test_an_iterator_expires_after_five_minutes(kinesis: Streams) -> None:
    assert kinesis.server.embedded is not None
    stream = kinesis.create()
    shard_id = stream.put("a")[0]["ShardId"]
    iterator = stream.iterator(shard_id)
    kinesis.server.embedded.advance(299)
    assert texts_of(stream.get(iterator)) == ["a"]
    kinesis.server.embedded.advance(2)
    with refused("ExpiredIteratorException"):
        kinesis.client.get_records(ShardIterator=iterator)


@on_kinesis(kinesis_mock="never throttles")
def test_a_shard_that_is_read_more_than_five_times_a_second_refuses(kinesis: Streams) -> None:
    stream = kinesis.create()
    iterator = stream.iterator(stream.shards()[0]["ShardId"])
    with refused("ProvisionedThroughputExceededException"):
        for _ in range(20):
            kinesis.client.get_records(ShardIterator=iterator)


@on_kinesis(kinesis_mock="NOT RUN: has no limit of an answer's size, and takes more than 5 s for 12 MiB")
def test_an_answer_holds_ten_mebibytes_at_most(kinesis: Streams) -> None:
    stream = kinesis.create()
    shard_id = stream.shards()[0]["ShardId"]
    with kinesis.unthrottled():
        for _ in range(12):
            eventually(
                lambda: (
                    kinesis.client.put_records(
                        StreamName=stream.name, Records=[{"Data": bytes(MIB - 8), "PartitionKey": "k"}]
                    )["FailedRecordCount"]
                    == 0
                    or None
                )
            )
        pages = list(stream.pages(stream.iterator(shard_id)))
    sizes = [sum(len(record["Data"]) for record in page["Records"]) for page in pages]
    assert max(sizes) <= 10 * MIB
    assert sum(sizes) == 12 * (MIB - 8)
