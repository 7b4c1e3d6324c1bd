"""The service without sockets: what it takes, keeps and refuses."""

from typing import Any

import pytest
from kinesis_caller import HASHES, Caller

from cdc_testing.servers.kinesis import Durations
from cdc_testing.servers.kinesis._service import Service


@pytest.fixture
def call() -> Caller:
    return Caller(Service())


def test_records_go_by_the_md5_of_their_partition_key_where_no_hash_key_is_given(call: Caller) -> None:
    call("CreateStream", StreamName="s", ShardCount=2)
    # md5("a") = 0cc1..., md5("b") = 92eb...
    entries = [{"Data": "", "PartitionKey": "a"}, {"Data": "", "PartitionKey": "b"}]
    results = call("PutRecords", StreamName="s", Records=entries)["Records"]
    assert [result["ShardId"] for result in results] == ["shardId-000000000000", "shardId-000000000001"]


def test_a_stream_that_spreads_records_by_itself_ignores_their_keys(call: Caller) -> None:
    call("CreateStream", StreamName="s", ShardCount=2, RecordDistributionStrategy="AUTO")
    summary = call("DescribeStreamSummary", StreamName="s")["StreamDescriptionSummary"]
    assert summary["RecordDistributionStrategy"] == "AUTO"
    assert len({result["ShardId"] for result in call.put(7, 7)["Records"]}) == 2


def test_sequence_numbers_have_56_digits_and_differ_between_shards_and_streams(call: Caller) -> None:
    numbers: list[str] = []
    for stream in ("s", "t"):
        call("CreateStream", StreamName=stream, ShardCount=2)
        numbers += [
            result["SequenceNumber"]
            for _ in range(3)
            for result in call.put(0, HASHES - 1, stream=stream)["Records"]
        ]
    assert {len(number) for number in numbers} == {56}
    assert len(set(numbers)) == len(numbers)


def test_each_iterator_type_starts_where_it_says(call: Caller) -> None:
    call("CreateStream", StreamName="s", ShardCount=1)
    numbers: list[str] = []
    for key in (1, 2, 3):
        numbers += [result["SequenceNumber"] for result in call.put(key)["Records"]]
        call.now += 10
    shard = "shardId-000000000000"
    assert call.read(shard).keys == [1, 2, 3]
    assert call.read(shard, "AT_SEQUENCE_NUMBER", StartingSequenceNumber=numbers[1]).keys == [2, 3]
    assert call.read(shard, "AFTER_SEQUENCE_NUMBER", StartingSequenceNumber=numbers[1]).keys == [3]
    assert call.read(shard, "AT_TIMESTAMP", Timestamp=call.now - 20).keys == [2, 3]
    assert call.read(shard, "AT_TIMESTAMP", Timestamp=call.now - 19.999).keys == [3]
    assert call.read(shard, "AT_TIMESTAMP", Timestamp=call.now).keys == []
    assert call.read(shard, "LATEST").keys == []
    latest = call.iterator(shard, "LATEST")
    call.put(4)
    assert [record.partition_key for record in call("GetRecords", ShardIterator=latest)["Records"]] == ["4"]


def test_a_shards_own_first_number_is_a_place_to_start(call: Caller) -> None:
    call("CreateStream", StreamName="s", ShardCount=1)
    call.put(1)
    [shard] = call.shards()
    first = shard["SequenceNumberRange"]["StartingSequenceNumber"]
    assert call.read(shard["ShardId"], "AT_SEQUENCE_NUMBER", StartingSequenceNumber=first).keys == [1]


@pytest.mark.parametrize("kind", ["AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER"])
def test_a_foreign_or_invented_sequence_number_is_refused(call: Caller, kind: str) -> None:
    for stream in ("s", "t"):
        call("CreateStream", StreamName=stream, ShardCount=2)
    of_other_shard = call.put(HASHES - 1)["Records"][0]["SequenceNumber"]
    of_other_stream = call.put(0, stream="t")["Records"][0]["SequenceNumber"]
    own = call.put(0)["Records"][0]["SequenceNumber"]
    shard = {"StreamName": "s", "ShardId": "shardId-000000000000", "ShardIteratorType": kind}
    for number in (of_other_shard, of_other_stream, "0", "17", str(int(own) + (1 << 84)), str(int(own) + 1)):
        code = call.refused("GetShardIterator", **shard, StartingSequenceNumber=number)
        assert code == "InvalidArgumentException", number
    assert call.refused("GetShardIterator", **shard) == "InvalidArgumentException"
    assert call.refused("GetShardIterator", **shard, StartingSequenceNumber="x") == "ValidationException"


def test_a_number_of_an_earlier_stream_of_the_same_name_is_refused(call: Caller) -> None:
    call("CreateStream", StreamName="s", ShardCount=1)
    number = call.put(1)["Records"][0]["SequenceNumber"]
    iterator = call.iterator("shardId-000000000000")
    call("DeleteStream", StreamName="s")
    call("CreateStream", StreamName="s", ShardCount=1)
    call.put(2)
    code = call.refused(
        "GetShardIterator",
        StreamName="s",
        ShardId="shardId-000000000000",
        ShardIteratorType="AT_SEQUENCE_NUMBER",
        StartingSequenceNumber=number,
    )
    assert code == "InvalidArgumentException"
    assert call.refused("GetRecords", ShardIterator=iterator) == "InvalidArgumentException"


def test_an_iterator_lives_for_five_minutes_and_cannot_be_made_up(call: Caller) -> None:
    call("CreateStream", StreamName="s", ShardCount=1)
    iterator = call.iterator("shardId-000000000000")
    call.now += 300
    call("GetRecords", ShardIterator=iterator)
    call.now += 0.001
    assert call.refused("GetRecords", ShardIterator=iterator) == "ExpiredIteratorException"
    for garbage in ("x", "AAAA", "é", iterator[:-4] + "BBBB"):
        assert call.refused("GetRecords", ShardIterator=garbage) == "InvalidArgumentException"


def test_how_far_a_reader_is_behind_is_the_age_of_the_next_record(call: Caller) -> None:
    call("CreateStream", StreamName="s", ShardCount=1)
    for key in (1, 2):
        call.put(key)
        call.now += 10
    page = call("GetRecords", ShardIterator=call.iterator("shardId-000000000000"), Limit=1)
    assert page["MillisBehindLatest"] == 10_000
    page = call("GetRecords", ShardIterator=page["NextShardIterator"], Limit=1)
    assert page["MillisBehindLatest"] == 0
    call.put(3, 4)
    page = call("GetRecords", ShardIterator=page["NextShardIterator"], Limit=1)
    assert page["MillisBehindLatest"] == 1  # there is more, at this very moment


def test_records_and_closed_shards_are_gone_after_the_retention(call: Caller) -> None:
    call("CreateStream", StreamName="s", ShardCount=1)
    number = call.put(1)["Records"][0]["SequenceNumber"]
    call.now += 12 * 3600
    call.put(2)
    parent = "shardId-000000000000"
    call("SplitShard", StreamName="s", ShardToSplit=parent, NewStartingHashKey=str(1 << 127))
    call.now += 12 * 3600
    assert call.read(parent).keys == [1, 2]
    call.now += 0.001
    assert call.read(parent).keys == [2]
    # A position that was trimmed starts at the horizon.
    assert call.read(parent, "AT_SEQUENCE_NUMBER", StartingSequenceNumber=number).keys == [2]
    assert len(call.shards(ShardFilter={"Type": "AT_TRIM_HORIZON"})) == 1
    call.now += 13 * 3600
    assert [shard["ShardId"] for shard in call.shards()] == ["shardId-000000000001", "shardId-000000000002"]
    assert len(call.shards(ShardFilter={"Type": "AT_TRIM_HORIZON"})) == 2
    code = call.refused("GetShardIterator", StreamName="s", ShardId=parent, ShardIteratorType="TRIM_HORIZON")
    assert code == "ResourceNotFoundException"


def test_a_longer_retention_keeps_what_a_shorter_one_loses(call: Caller) -> None:
    call("CreateStream", StreamName="s", ShardCount=1)
    call("IncreaseStreamRetentionPeriod", StreamName="s", RetentionPeriodHours=48)
    call.put(1)
    call.now += 40 * 3600
    assert call.read("shardId-000000000000").keys == [1]
    assert call.refused("IncreaseStreamRetentionPeriod", StreamName="s", RetentionPeriodHours=24) == (
        "InvalidArgumentException"
    )
    assert call.refused("DecreaseStreamRetentionPeriod", StreamName="s", RetentionPeriodHours=23) == (
        "InvalidArgumentException"
    )
    call("DecreaseStreamRetentionPeriod", StreamName="s", RetentionPeriodHours=24)
    assert call.read("shardId-000000000000").keys == []


def test_changes_take_their_time_and_the_stream_works_meanwhile() -> None:
    call = Caller(Service(durations=Durations(create=5, update=7, delete=9)))
    call("CreateStream", StreamName="s", ShardCount=1)

    def status() -> str:
        return str(call("DescribeStreamSummary", StreamName="s")["StreamDescriptionSummary"]["StreamStatus"])

    assert status() == "CREATING"
    assert call.refused("PutRecord", StreamName="s", Data="", PartitionKey="a") == "ResourceNotFoundException"
    assert call.refused("ListShards", StreamName="s") == "ResourceInUseException"
    call.now += 5
    assert status() == "ACTIVE"
    split = {"StreamName": "s", "ShardToSplit": "shardId-000000000000", "NewStartingHashKey": str(1 << 127)}
    call("SplitShard", **split)
    assert status() == "UPDATING"
    assert call.refused("SplitShard", **split) == "ResourceInUseException"
    assert call.put(1)["Records"][0]["ShardId"] == "shardId-000000000000"
    call.now += 7
    assert status() == "ACTIVE"
    assert call.put(1)["Records"][0]["ShardId"] == "shardId-000000000001"
    call("DeleteStream", StreamName="s")
    assert status() == "DELETING"
    assert call.put(1)["FailedRecordCount"] == 0
    call.now += 9
    assert call.refused("DescribeStreamSummary", StreamName="s") == "ResourceNotFoundException"


def test_the_filters_of_list_shards_follow_the_shards_lives(call: Caller) -> None:
    call("CreateStream", StreamName="s", ShardCount=1)
    created = call.now
    call.now += 10
    call("UpdateShardCount", StreamName="s", TargetShardCount=2, ScalingType="UNIFORM_SCALING")
    split = call.now
    call.now += 10

    def listed(kind: str, **members: Any) -> list[int]:
        shards = call.shards(ShardFilter={"Type": kind, **members})
        return [int(shard["ShardId"].removeprefix("shardId-")) for shard in shards]

    assert listed("FROM_TRIM_HORIZON") == [0, 1, 2]
    assert listed("AT_TRIM_HORIZON") == [0]
    assert listed("AT_LATEST") == [1, 2]
    assert listed("AFTER_SHARD_ID", ShardId="shardId-000000000001") == [2]
    assert listed("AT_TIMESTAMP", Timestamp=created + 5) == [0]
    assert listed("AT_TIMESTAMP", Timestamp=split) == [0, 1, 2]  # both ends included
    assert listed("AT_TIMESTAMP", Timestamp=split + 1) == [1, 2]
    assert listed("FROM_TIMESTAMP", Timestamp=created - 100) == [0, 1, 2]
    assert listed("FROM_TIMESTAMP", Timestamp=split + 1) == [1, 2]


def test_list_shards_is_read_page_by_page(call: Caller) -> None:
    call("CreateStream", StreamName="s", ShardCount=5)
    page = call("ListShards", StreamName="s", MaxResults=2)
    token = last = page["NextToken"]
    seen = [shard["ShardId"] for shard in page["Shards"]]
    while token is not None:
        page = call("ListShards", NextToken=token, MaxResults=2)
        seen += [shard["ShardId"] for shard in page["Shards"]]
        last, token = token, page.get("NextToken")
    assert seen == [f"shardId-{number:012d}" for number in range(5)]
    assert call.refused("ListShards", NextToken=last, StreamName="s") == "InvalidArgumentException"
    assert call.refused("ListShards", NextToken="x") == "InvalidArgumentException"
    call.now += 301
    assert call.refused("ListShards", NextToken=last) == "ExpiredNextTokenException"


def test_resharding_is_refused_where_the_service_refuses_it(call: Caller) -> None:
    call("CreateStream", StreamName="s", ShardCount=3)
    third = HASHES // 3
    for key in ("0", "1", str(third - 1), str(third)):
        code = call.refused(
            "SplitShard", StreamName="s", ShardToSplit="shardId-000000000000", NewStartingHashKey=key
        )
        assert code == "InvalidArgumentException", key
    for first, second in ((0, 2), (1, 0)):
        code = call.refused(
            "MergeShards",
            StreamName="s",
            ShardToMerge=f"shardId-{first:012d}",
            AdjacentShardToMerge=f"shardId-{second:012d}",
        )
        assert code == "InvalidArgumentException"
    for target in (1, 7):
        code = call.refused(
            "UpdateShardCount", StreamName="s", TargetShardCount=target, ScalingType="UNIFORM_SCALING"
        )
        assert code == "LimitExceededException"
    call("SplitShard", StreamName="s", ShardToSplit="shardId-000000000000", NewStartingHashKey="5")
    code = call.refused(
        "SplitShard", StreamName="s", ShardToSplit="shardId-000000000000", NewStartingHashKey="6"
    )
    assert code == "InvalidArgumentException"
    code = call.refused(
        "SplitShard", StreamName="s", ShardToSplit="shardId-000000000099", NewStartingHashKey="6"
    )
    assert code == "ResourceNotFoundException"


def test_an_on_demand_stream_begins_with_four_shards_and_is_not_resharded_by_hand(call: Caller) -> None:
    call("CreateStream", StreamName="s", StreamModeDetails={"StreamMode": "ON_DEMAND"})
    assert len(call.shards()) == 4
    code = call.refused("UpdateShardCount", StreamName="s", TargetShardCount=8, ScalingType="UNIFORM_SCALING")
    assert code == "ValidationException"
    arn = call("DescribeStreamSummary", StreamName="s")["StreamDescriptionSummary"]["StreamARN"]
    call("UpdateStreamMode", StreamARN=arn, StreamModeDetails={"StreamMode": "PROVISIONED"})
    call("UpdateShardCount", StreamName="s", TargetShardCount=8, ScalingType="UNIFORM_SCALING")
    assert len(call.open_shards()) == 8


def test_consumers_are_registered_described_and_let_go() -> None:
    call = Caller(Service(durations=Durations(create=5, delete=5)))
    call("CreateStream", StreamName="s", ShardCount=1)
    call.now += 5
    arn = call("DescribeStreamSummary", StreamName="s")["StreamDescriptionSummary"]["StreamARN"]
    registered = call("RegisterStreamConsumer", StreamARN=arn, ConsumerName="c")["Consumer"]
    assert registered["ConsumerStatus"] == "CREATING"
    assert call.refused("RegisterStreamConsumer", StreamARN=arn, ConsumerName="c") == "ResourceInUseException"
    call.now += 5
    named = call("DescribeStreamConsumer", ConsumerARN=registered["ConsumerARN"])["ConsumerDescription"]
    assert (named["ConsumerStatus"], named["StreamARN"]) == ("ACTIVE", arn)
    assert call.refused("DeleteStream", StreamName="s") == "ResourceInUseException"
    call("DeregisterStreamConsumer", StreamARN=arn, ConsumerName="c")
    assert [each["ConsumerStatus"] for each in call("ListStreamConsumers", StreamARN=arn)["Consumers"]] == [
        "DELETING"
    ]
    call.now += 5
    assert call("ListStreamConsumers", StreamARN=arn)["Consumers"] == []


def test_tags_are_set_listed_and_removed_by_name_and_by_arn(call: Caller) -> None:
    call("CreateStream", StreamName="s", ShardCount=1, Tags={"a": "1"})
    arn = call("DescribeStreamSummary", StreamName="s")["StreamDescriptionSummary"]["StreamARN"]
    call("AddTagsToStream", StreamName="s", Tags={"b": "2"})
    call("TagResource", ResourceARN=arn, Tags={"c": "3"})
    page = call("ListTagsForStream", StreamName="s", Limit=2)
    assert page == {"Tags": [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2"}], "HasMoreTags": True}
    call("RemoveTagsFromStream", StreamName="s", TagKeys=["a"])
    call("UntagResource", ResourceARN=arn, TagKeys=["b"])
    assert call("ListTagsForResource", ResourceARN=arn)["Tags"] == [{"Key": "c", "Value": "3"}]


def test_encryption_shows_in_descriptions_and_records(call: Caller) -> None:
    call("CreateStream", StreamName="s", ShardCount=1)
    encrypt = {"StreamName": "s", "EncryptionType": "KMS", "KeyId": "alias/aws/kinesis"}
    call("StartStreamEncryption", **encrypt)
    assert call.put(1)["EncryptionType"] == "KMS"
    description = call("DescribeStream", StreamName="s")["StreamDescription"]
    assert (description["EncryptionType"], description["KeyId"]) == ("KMS", "alias/aws/kinesis")
    page = call("GetRecords", ShardIterator=call.iterator("shardId-000000000000"))
    assert page["Records"][0].encryption_type == "KMS"
    call("StopStreamEncryption", **encrypt)
    assert "EncryptionType" not in call.put(1)
    assert call.refused("StartStreamEncryption", **{**encrypt, "KeyId": "nonsense"}) == "KMSNotFoundException"


def test_streams_are_listed_and_described_page_by_page(call: Caller) -> None:
    for name in ("s", "a", "b"):
        call("CreateStream", StreamName=name, ShardCount=3)
    page = call("ListStreams", Limit=2)
    assert (page["StreamNames"], page["HasMoreStreams"]) == (["a", "b"], True)
    page = call("ListStreams", NextToken=page["NextToken"])
    assert (page["StreamNames"], page["HasMoreStreams"]) == (["s"], False)
    description = call("DescribeStream", StreamName="s", Limit=2)["StreamDescription"]
    assert description["HasMoreShards"]
    last = description["Shards"][-1]["ShardId"]
    description = call("DescribeStream", StreamName="s", ExclusiveStartShardId=last)["StreamDescription"]
    assert (len(description["Shards"]), description["HasMoreShards"]) == (1, False)
    assert call("DescribeLimits")["OpenShardCount"] == 9
    assert call.refused("CreateStream", StreamName="s", ShardCount=1) == "ResourceInUseException"
