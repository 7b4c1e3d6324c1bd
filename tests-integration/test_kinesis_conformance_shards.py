"""Streams and their shards: what every Kinesis must do as AWS does it, and where a local one is known to differ."""

from __future__ import annotations

from contextlib import closing
from itertools import pairwise
from typing import Any

from aws_servers import MAX_HASH_KEY, Stream, Streams, eventually, hash_range, on_kinesis, refused, texts_of

REFUSALS = ("InvalidArgumentException", "ValidationException")


def ids(shards: list[Any]) -> list[str]:
    return [shard["ShardId"] for shard in shards]


@on_kinesis()
def test_the_shards_of_a_stream_cover_the_hash_space_without_a_hole(kinesis: Streams) -> None:
    shards = kinesis.create(3).shards()
    assert ids(shards) == [f"shardId-{number:012d}" for number in range(3)]
    bounds = [hash_range(shard) for shard in shards]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == MAX_HASH_KEY
    assert all(low == high + 1 for (_, high), (low, _) in pairwise(bounds))


@on_kinesis(kinesis_mock="the borders are off by a few")
def test_the_shards_of_a_stream_are_of_one_size(kinesis: Streams) -> None:
    bounds = [hash_range(shard) for shard in kinesis.create(4).shards()]
    assert [low for low, _ in bounds] == [number * (1 << 126) for number in range(4)]


@on_kinesis()
def test_a_name_is_taken_once_and_free_again_when_its_stream_is_deleted(kinesis: Streams) -> None:
    stream = kinesis.create(2)
    before = stream.summary()
    with refused("ResourceInUseException"):
        kinesis.client.create_stream(StreamName=stream.name, ShardCount=1)
    kinesis.client.delete_stream(StreamName=stream.name)
    eventually(lambda: stream.name not in kinesis.client.list_streams()["StreamNames"] or None)
    with refused("ResourceNotFoundException"):
        stream.summary()
    kinesis.client.create_stream(StreamName=stream.name, ShardCount=2)
    after = stream.wait()
    # what tells a stream that was made anew from the former one, whose shards had the same ids
    assert after["StreamCreationTimestamp"] > before["StreamCreationTimestamp"]
    assert ids(stream.shards()) == ["shardId-000000000000", "shardId-000000000001"]
    assert stream.read("shardId-000000000000") == []


@on_kinesis()
def test_the_summary_counts_open_shards_and_names_mode_and_retention(kinesis: Streams) -> None:
    summary = kinesis.create(2).summary()
    assert summary["OpenShardCount"] == 2
    assert summary["RetentionPeriodHours"] == 24
    assert summary["StreamModeDetails"]["StreamMode"] == "PROVISIONED"
    assert summary["EncryptionType"] == "NONE"
    assert summary["StreamARN"].endswith(f":stream/{summary['StreamName']}")


@on_kinesis()
def test_an_on_demand_stream_starts_with_four_shards(kinesis: Streams) -> None:
    stream = kinesis.create(StreamModeDetails={"StreamMode": "ON_DEMAND"})
    assert len(stream.open_shards()) == 4
    assert stream.summary()["StreamModeDetails"]["StreamMode"] == "ON_DEMAND"


@on_kinesis()
def test_a_split_closes_its_parent_and_shares_its_range_between_two_children(kinesis: Streams) -> None:
    stream = kinesis.create()
    (parent,) = stream.shards()
    children = stream.split(parent, at=1000)
    assert ids(children) == ["shardId-000000000001", "shardId-000000000002"]
    assert [hash_range(child) for child in children] == [(0, 999), (1000, MAX_HASH_KEY)]
    assert all(child["ParentShardId"] == parent["ShardId"] for child in children)
    assert all("AdjacentParentShardId" not in child for child in children)
    assert ids(stream.open_shards()) == ids(children)
    closed = next(shard for shard in stream.shards() if shard["ShardId"] == parent["ShardId"])
    ending = int(closed["SequenceNumberRange"]["EndingSequenceNumber"])
    starts = [int(child["SequenceNumberRange"]["StartingSequenceNumber"]) for child in children]
    assert all(start > ending for start in starts)


@on_kinesis()
def test_a_parent_keeps_its_records_and_its_children_get_what_follows(kinesis: Streams) -> None:
    stream = kinesis.create()
    (parent,) = stream.shards()
    stream.put("a", "b")
    low, high = stream.split(parent)
    stream.put("low", hash_key=0)
    stream.put("high", hash_key=MAX_HASH_KEY)
    assert [text for page in stream.read_to_end(parent["ShardId"]) for text in texts_of(page)] == ["a", "b"]
    assert stream.read(low["ShardId"]) == ["low"]
    assert stream.read(high["ShardId"]) == ["high"]


@on_kinesis()
def test_the_last_page_of_a_closed_shard_names_its_children(kinesis: Streams) -> None:
    stream = kinesis.create()
    (parent,) = stream.shards()
    stream.put("a")
    children = stream.split(parent)
    last = stream.read_to_end(parent["ShardId"])[-1]
    found = sorted(last["ChildShards"], key=lambda child: str(child["ShardId"]))
    assert ids(found) == ids(children)
    assert [child["ParentShards"] for child in found] == [[parent["ShardId"]]] * 2
    assert [hash_range(child) for child in found] == [hash_range(child) for child in children]


@on_kinesis()
def test_an_iterator_of_before_the_split_reads_to_the_end_of_the_parent(kinesis: Streams) -> None:
    stream = kinesis.create()
    (parent,) = stream.shards()
    iterator = stream.iterator(parent["ShardId"], "LATEST")
    stream.put("a")
    stream.split(parent)
    stream.put("b")
    pages = list(stream.pages(iterator))
    assert [text for page in pages for text in texts_of(page)] == ["a"]
    assert pages[-1].get("NextShardIterator") is None


@on_kinesis()
def test_the_latest_of_a_closed_shard_is_its_end(kinesis: Streams) -> None:
    stream = kinesis.create()
    (parent,) = stream.shards()
    stream.put("a")
    stream.split(parent)
    pages = list(stream.pages(stream.iterator(parent["ShardId"], "LATEST")))
    assert [text for page in pages for text in texts_of(page)] == []
    assert pages[-1].get("NextShardIterator") is None


@on_kinesis()
def test_a_merge_closes_both_parents_and_both_name_the_child(kinesis: Streams) -> None:
    stream = kinesis.create(2)
    one, other = stream.shards()
    stream.put("one", hash_key=0)
    stream.put("other", hash_key=MAX_HASH_KEY)
    child = stream.merge(one, other)
    stream.put("child")
    assert {child["ParentShardId"], child["AdjacentParentShardId"]} == set(ids([one, other]))
    assert hash_range(child) == (0, MAX_HASH_KEY)
    assert ids(stream.open_shards()) == [child["ShardId"]]
    for parent, text in ((one, "one"), (other, "other")):
        pages = stream.read_to_end(parent["ShardId"])
        assert [text for page in pages for text in texts_of(page)] == [text]
        (named,) = pages[-1]["ChildShards"]
        assert named["ShardId"] == child["ShardId"]
        assert set(named["ParentShards"]) == set(ids([one, other]))
    assert stream.read(child["ShardId"]) == ["child"]


@on_kinesis()
def test_shards_that_are_no_neighbours_are_not_merged(kinesis: Streams) -> None:
    stream = kinesis.create(3)
    first, _, third = stream.shards()
    with refused(*REFUSALS):
        kinesis.client.merge_shards(
            StreamName=stream.name, ShardToMerge=first["ShardId"], AdjacentShardToMerge=third["ShardId"]
        )


@on_kinesis()
def test_a_shard_is_not_split_outside_its_range(kinesis: Streams) -> None:
    stream = kinesis.create(2)
    first, second = stream.shards()
    with refused(*REFUSALS):
        kinesis.client.split_shard(
            StreamName=stream.name,
            ShardToSplit=first["ShardId"],
            NewStartingHashKey=str(hash_range(second)[0] + 1),
        )


@on_kinesis(kinesis_mock="NOT RUN: splits off an empty range, and the stream cannot be deleted then")
def test_a_shard_is_not_split_at_its_beginning(kinesis: Streams) -> None:
    stream = kinesis.create(1)
    with refused(*REFUSALS):
        kinesis.client.split_shard(
            StreamName=stream.name, ShardToSplit=stream.shards()[0]["ShardId"], NewStartingHashKey="0"
        )


@on_kinesis()
def test_a_closed_shard_is_not_split_again(kinesis: Streams) -> None:
    stream = kinesis.create(1)
    (parent,) = stream.shards()
    stream.split(parent)
    with refused(*REFUSALS, "ResourceInUseException"):
        kinesis.client.split_shard(
            StreamName=stream.name, ShardToSplit=parent["ShardId"], NewStartingHashKey="1000"
        )


def rescale(stream: Stream, count: int) -> list[Any]:
    stream.ask(
        "update_shard_count", StreamName=stream.name, TargetShardCount=count, ScalingType="UNIFORM_SCALING"
    )

    def scaled() -> list[Any] | None:
        summary = stream.wait()
        return stream.open_shards() if summary["OpenShardCount"] == count else None

    return eventually(scaled)


@on_kinesis()
def test_another_shard_count_keeps_every_record_and_every_ancestor(kinesis: Streams) -> None:
    stream = kinesis.create(2)
    points = [number * (1 << 125) for number in range(8)]
    for point in points:
        stream.put(f"before-{point}", hash_key=point)
    assert len(rescale(stream, 4)) == 4
    for point in points:
        stream.put(f"between-{point}", hash_key=point)
    assert len(rescale(stream, 2)) == 2
    for point in points:
        stream.put(f"after-{point}", hash_key=point)
    shards = stream.shards()
    known = set(ids(shards))
    texts = [text for shard in shards for text in stream.read(shard["ShardId"])]
    assert sorted(texts) == sorted(
        f"{when}-{point}" for when in ("before", "between", "after") for point in points
    )
    for shard in stream.open_shards():
        assert shard["ParentShardId"] in known
    bounds = sorted(hash_range(shard) for shard in stream.open_shards())
    assert (bounds[0][0], bounds[-1][1]) == (0, MAX_HASH_KEY)


@on_kinesis()
def test_a_shard_count_can_at_most_double_or_halve(kinesis: Streams) -> None:
    stream = kinesis.create(2)
    for count in (5, 0):
        with refused("InvalidArgumentException", "ValidationException", "LimitExceededException"):
            kinesis.client.update_shard_count(
                StreamName=stream.name, TargetShardCount=count, ScalingType="UNIFORM_SCALING"
            )


@on_kinesis()
def test_the_list_of_shards_has_pages(kinesis: Streams) -> None:
    stream = kinesis.create(5)
    assert ids(stream.shards(MaxResults=2)) == [f"shardId-{number:012d}" for number in range(5)]
    after = stream.shards(ExclusiveStartShardId="shardId-000000000002")
    assert ids(after) == ["shardId-000000000003", "shardId-000000000004"]


@on_kinesis()
def test_the_list_of_shards_can_be_of_the_open_ones_or_of_those_behind_one(kinesis: Streams) -> None:
    stream = kinesis.create(2)
    first, second = stream.shards()
    children = stream.split(first)
    assert ids(stream.shards(ShardFilter={"Type": "AT_LATEST"})) == [second["ShardId"], *ids(children)]
    assert len(stream.shards(ShardFilter={"Type": "FROM_TRIM_HORIZON"})) == 4
    behind = stream.shards(ShardFilter={"Type": "AFTER_SHARD_ID", "ShardId": second["ShardId"]})
    assert ids(behind) == ids(children)


@on_kinesis(kinesis_mock="lists every shard")
def test_the_list_of_shards_at_the_trim_horizon_is_of_those_that_were_open_then(kinesis: Streams) -> None:
    stream = kinesis.create(2)
    first, second = stream.shards()
    stream.split(first)
    found = stream.shards(ShardFilter={"Type": "AT_TRIM_HORIZON"})
    assert ids(found) == [first["ShardId"], second["ShardId"]]


@on_kinesis()
def test_retention_is_24_to_8760_hours(kinesis: Streams) -> None:
    stream = kinesis.create()
    stream.ask("increase_stream_retention_period", StreamName=stream.name, RetentionPeriodHours=48)
    assert stream.wait()["RetentionPeriodHours"] == 48
    stream.ask("decrease_stream_retention_period", StreamName=stream.name, RetentionPeriodHours=24)
    assert stream.wait()["RetentionPeriodHours"] == 24
    with refused("InvalidArgumentException", "ValidationException"):
        kinesis.client.increase_stream_retention_period(StreamName=stream.name, RetentionPeriodHours=8761)
    with refused("InvalidArgumentException", "ValidationException"):
        kinesis.client.decrease_stream_retention_period(StreamName=stream.name, RetentionPeriodHours=23)


@on_kinesis()
def test_encryption_can_be_switched_on_and_off(kinesis: Streams) -> None:
    stream = kinesis.create()
    key = {"EncryptionType": "KMS", "KeyId": "alias/aws/kinesis"}
    stream.ask("start_stream_encryption", StreamName=stream.name, **key)
    eventually(lambda: stream.wait()["EncryptionType"] == "KMS" or None)
    assert stream.summary()["KeyId"] == "alias/aws/kinesis"
    stream.put("a")
    assert stream.read(stream.shards()[0]["ShardId"]) == ["a"]
    stream.ask("stop_stream_encryption", StreamName=stream.name, **key)
    eventually(lambda: stream.wait()["EncryptionType"] == "NONE" or None)


@on_kinesis()
def test_a_stream_keeps_its_tags(kinesis: Streams) -> None:
    stream = kinesis.create()
    stream.ask("add_tags_to_stream", StreamName=stream.name, Tags={"cdc": "yes"})
    tags = stream.ask("list_tags_for_stream", StreamName=stream.name)["Tags"]
    assert tags == [{"Key": "cdc", "Value": "yes"}]


@on_kinesis(
    kinesis_local="NOT RUN: sends events that botocore cannot read (no initial-response), and a socket is left open",
)
def test_a_registered_consumer_is_sent_the_records(kinesis: Streams) -> None:
    stream = kinesis.create()
    stream.put("a", "b")
    (shard,) = stream.shards()
    consumer = stream.ask(
        "register_stream_consumer", StreamARN=stream.summary()["StreamARN"], ConsumerName="one"
    )["Consumer"]
    arn = consumer["ConsumerARN"]

    def status() -> bool | None:
        found = stream.ask("describe_stream_consumer", ConsumerARN=arn)["ConsumerDescription"]
        return found["ConsumerStatus"] == "ACTIVE" or None

    eventually(status)
    answer = kinesis.client.subscribe_to_shard(
        ConsumerARN=arn, ShardId=shard["ShardId"], StartingPosition={"Type": "TRIM_HORIZON"}
    )
    texts: list[str] = []
    with closing(answer["EventStream"]) as events:
        for event in events:
            texts += texts_of(event["SubscribeToShardEvent"])
            if len(texts) >= 2:
                break
    assert texts == ["a", "b"]
