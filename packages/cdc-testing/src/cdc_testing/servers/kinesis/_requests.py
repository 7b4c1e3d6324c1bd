"""The requests, with the constraints that the service model puts on each member (botocore 1.44, 2013-12-02).

A class has the name of its operation. What only the state can refuse is checked where it is carried out.
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

_SPECIAL: Final = {"stream_arn": "StreamARN", "consumer_arn": "ConsumerARN", "resource_arn": "ResourceARN"}


def _wire_name(field: str) -> str:
    if field in _SPECIAL:
        return _SPECIAL[field]
    return "".join(word.capitalize() for word in field.split("_")).replace("InKib", "InKiB")


StreamName = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[a-zA-Z0-9_.-]+$")]
StreamArn = Annotated[
    str, Meta(min_length=1, max_length=2048, pattern=r"^arn:aws.*:kinesis:.*:\d{12}:stream/\S+$")
]
ConsumerArn = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=2048,
        pattern=r"^arn:aws.*:kinesis:.*:\d{12}:stream/[^:]+/consumer/[^:]+:\d+$",
    ),
]
ConsumerName = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[a-zA-Z0-9_.-]+$")]
ShardId = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[a-zA-Z0-9_.-]+$")]
HashKey = Annotated[str, Meta(pattern=r"^(0|([1-9]\d{0,38}))$")]
SequenceNumber = Annotated[str, Meta(pattern=r"^(0|([1-9]\d{0,128}))$")]
PartitionKey = Annotated[str, Meta(min_length=1, max_length=256)]
ShardIterator = Annotated[str, Meta(min_length=1, max_length=512)]
NextToken = Annotated[str, Meta(min_length=1, max_length=1_048_576)]
Positive = Annotated[int, Meta(ge=1)]
ListLimit = Annotated[int, Meta(ge=1, le=10_000)]
RecordKib = Annotated[int, Meta(ge=1024, le=10_240)]
Timestamp = float
TagMap = Annotated[dict[str, str], Meta(min_length=1, max_length=200)]
Mode = Literal["PROVISIONED", "ON_DEMAND"]
Distribution = Literal["AUTO", "USER_PARTITION_KEY"]
IteratorType = Literal[
    "AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER", "TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"
]
FilterType = Literal[
    "AFTER_SHARD_ID", "AT_TRIM_HORIZON", "FROM_TRIM_HORIZON", "AT_LATEST", "AT_TIMESTAMP", "FROM_TIMESTAMP"
]


class Request(msgspec.Struct, rename=_wire_name, frozen=True, kw_only=True):
    """What every request is (each says again that it is frozen: checkers know msgspec's classes as dataclasses)."""


class StreamRequest(Request, frozen=True, kw_only=True):
    """A request about one stream, named by its name, its ARN or both."""

    stream_name: StreamName | None = None
    stream_arn: StreamArn | None = None


class StreamModeDetails(Request, frozen=True, kw_only=True):
    stream_mode: Mode


class CreateStream(Request, frozen=True, kw_only=True):
    stream_name: StreamName
    shard_count: Positive | None = None
    stream_mode_details: StreamModeDetails | None = None
    tags: TagMap | None = None
    max_record_size_in_kib: RecordKib | None = None
    record_distribution_strategy: Distribution | None = None
    warm_throughput_mi_bps: Annotated[int, Meta(ge=0)] | None = None


class DeleteStream(StreamRequest, frozen=True, kw_only=True):
    enforce_consumer_deletion: bool = False


class DescribeStream(StreamRequest, frozen=True, kw_only=True):
    limit: ListLimit | None = None
    exclusive_start_shard_id: ShardId | None = None


class DescribeStreamSummary(StreamRequest, frozen=True, kw_only=True):
    pass


class ListStreams(Request, frozen=True, kw_only=True):
    limit: ListLimit | None = None
    exclusive_start_stream_name: StreamName | None = None
    next_token: NextToken | None = None


class ShardFilter(Request, frozen=True, kw_only=True):
    type: FilterType
    shard_id: ShardId | None = None
    timestamp: Timestamp | None = None


class ListShards(StreamRequest, frozen=True, kw_only=True):
    next_token: NextToken | None = None
    exclusive_start_shard_id: ShardId | None = None
    max_results: ListLimit | None = None
    stream_creation_timestamp: Timestamp | None = None
    shard_filter: ShardFilter | None = None


class Entry(Request, frozen=True, kw_only=True, gc=False):
    data: bytes
    partition_key: PartitionKey
    # Its form is checked where it becomes a number: a pattern here would cost as much as all of the storing.
    explicit_hash_key: str | None = None


class PutRecords(StreamRequest, frozen=True, kw_only=True):
    # The limit of 500 is checked with the records' sizes: both refuse the whole request.
    records: Annotated[list[Entry], Meta(min_length=1)]


class PutRecord(StreamRequest, frozen=True, kw_only=True):
    data: bytes
    partition_key: PartitionKey
    explicit_hash_key: str | None = None
    sequence_number_for_ordering: SequenceNumber | None = None


class GetShardIterator(StreamRequest, frozen=True, kw_only=True):
    shard_id: ShardId
    shard_iterator_type: IteratorType
    starting_sequence_number: SequenceNumber | None = None
    timestamp: Timestamp | None = None


class GetRecords(Request, frozen=True, kw_only=True):
    shard_iterator: ShardIterator
    limit: ListLimit | None = None
    stream_arn: StreamArn | None = None


class SplitShard(StreamRequest, frozen=True, kw_only=True):
    shard_to_split: ShardId
    new_starting_hash_key: HashKey


class MergeShards(StreamRequest, frozen=True, kw_only=True):
    shard_to_merge: ShardId
    adjacent_shard_to_merge: ShardId


class UpdateShardCount(StreamRequest, frozen=True, kw_only=True):
    target_shard_count: Positive
    scaling_type: Literal["UNIFORM_SCALING"]


class IncreaseStreamRetentionPeriod(StreamRequest, frozen=True, kw_only=True):
    retention_period_hours: int


class DecreaseStreamRetentionPeriod(StreamRequest, frozen=True, kw_only=True):
    retention_period_hours: int


class UpdateMaxRecordSize(Request, frozen=True, kw_only=True):
    stream_arn: StreamArn
    max_record_size_in_kib: RecordKib


class UpdateStreamMode(Request, frozen=True, kw_only=True):
    stream_arn: StreamArn
    stream_mode_details: StreamModeDetails
    warm_throughput_mi_bps: Annotated[int, Meta(ge=0)] | None = None


class StartStreamEncryption(StreamRequest, frozen=True, kw_only=True):
    encryption_type: Literal["KMS", "NONE"]
    key_id: Annotated[str, Meta(min_length=1, max_length=2048)]


class StopStreamEncryption(StreamRequest, frozen=True, kw_only=True):
    encryption_type: Literal["KMS", "NONE"]
    key_id: Annotated[str, Meta(min_length=1, max_length=2048)]


class AddTagsToStream(StreamRequest, frozen=True, kw_only=True):
    tags: TagMap


class RemoveTagsFromStream(StreamRequest, frozen=True, kw_only=True):
    tag_keys: Annotated[list[str], Meta(min_length=1, max_length=50)]


class ListTagsForStream(StreamRequest, frozen=True, kw_only=True):
    exclusive_start_tag_key: str | None = None
    limit: Annotated[int, Meta(ge=1, le=50)] | None = None


class TagResource(Request, frozen=True, kw_only=True):
    resource_arn: str
    tags: TagMap


class UntagResource(Request, frozen=True, kw_only=True):
    resource_arn: str
    tag_keys: Annotated[list[str], Meta(min_length=1, max_length=50)]


class ListTagsForResource(Request, frozen=True, kw_only=True):
    resource_arn: str


class DescribeLimits(Request, frozen=True, kw_only=True):
    pass


class RegisterStreamConsumer(Request, frozen=True, kw_only=True):
    stream_arn: StreamArn
    consumer_name: ConsumerName
    tags: TagMap | None = None


class DescribeStreamConsumer(Request, frozen=True, kw_only=True):
    stream_arn: StreamArn | None = None
    consumer_name: ConsumerName | None = None
    consumer_arn: ConsumerArn | None = None


class DeregisterStreamConsumer(Request, frozen=True, kw_only=True):
    stream_arn: StreamArn | None = None
    consumer_name: ConsumerName | None = None
    consumer_arn: ConsumerArn | None = None


class ListStreamConsumers(Request, frozen=True, kw_only=True):
    stream_arn: StreamArn
    next_token: NextToken | None = None
    max_results: ListLimit | None = None
    stream_creation_timestamp: Timestamp | None = None


class StartingPosition(Request, frozen=True, kw_only=True):
    type: IteratorType
    sequence_number: SequenceNumber | None = None
    timestamp: Timestamp | None = None


class SubscribeToShard(Request, frozen=True, kw_only=True):
    consumer_arn: ConsumerArn
    shard_id: ShardId
    starting_position: StartingPosition
