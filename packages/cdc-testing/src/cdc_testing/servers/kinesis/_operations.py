"""Which operation takes which request, and who carries it out."""

from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, TypeVar, final

import msgspec

from . import _consumers, _listing, _reading, _resharding, _streams, _subscribing, _tags, _writing
from . import _requests as requests
from ._refusal import Refusal
from ._service import Answer, Service

_Request = TypeVar("_Request", bound=requests.Request)


@final
class Operation(Generic[_Request]):
    """An operation of the service."""

    def __init__(self, kind: type[_Request], carry_out: Callable[[Service, _Request, float], Answer]) -> None:
        self.name = kind.__name__
        self.kind = kind
        self._carry_out = carry_out
        self._decoder = msgspec.json.Decoder(kind)

    def decode_json(self, body: bytes) -> _Request:
        """Read a request; raises Refusal, as the service would, where it is malformed."""
        try:
            return self._decoder.decode(body)
        except msgspec.ValidationError as error:
            raise _refused(error) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Refusal("SerializationException", str(error)) from error

    def convert(self, content: object) -> _Request:
        """Read a request that was decoded already, bytes in it being bytes."""
        try:
            return msgspec.convert(content, self.kind, builtin_types=(bytes,))
        except msgspec.ValidationError as error:
            raise _refused(error) from error

    def __call__(self, service: Service, request: _Request, now: float) -> Answer:
        return self._carry_out(service, request, now)


def _refused(error: msgspec.ValidationError) -> Refusal:
    # msgspec tells a wrong type ("Expected `int`, got `str`") and a broken constraint by its text only. The
    # service answers the first before it looks at the second.
    text = str(error)
    if ", got `" in text or "base64" in text:
        if "got `null`" in text:
            return Refusal("ValidationException", f"1 validation error detected: {text}")
        return Refusal("SerializationException", text)
    return Refusal("ValidationException", f"1 validation error detected: {text}")


_ALL: Final[tuple[Operation[Any], ...]] = (
    Operation(requests.AddTagsToStream, _tags.add_tags),
    Operation(requests.CreateStream, _streams.create_stream),
    Operation(requests.DecreaseStreamRetentionPeriod, _streams.decrease_retention),
    Operation(requests.DeleteStream, _streams.delete_stream),
    Operation(requests.DeregisterStreamConsumer, _consumers.deregister),
    Operation(requests.DescribeLimits, _streams.describe_limits),
    Operation(requests.DescribeStream, _streams.describe_stream),
    Operation(requests.DescribeStreamConsumer, _consumers.describe),
    Operation(requests.DescribeStreamSummary, _streams.describe_stream_summary),
    Operation(requests.GetRecords, _reading.get_records),
    Operation(requests.GetShardIterator, _reading.get_shard_iterator),
    Operation(requests.IncreaseStreamRetentionPeriod, _streams.increase_retention),
    Operation(requests.ListShards, _listing.list_shards),
    Operation(requests.ListStreamConsumers, _consumers.list_consumers),
    Operation(requests.ListStreams, _streams.list_streams),
    Operation(requests.ListTagsForResource, _tags.list_tags_of_resource),
    Operation(requests.ListTagsForStream, _tags.list_tags),
    Operation(requests.MergeShards, _resharding.merge_shards),
    Operation(requests.PutRecord, _writing.put_record),
    Operation(requests.PutRecords, _writing.put_records),
    Operation(requests.RegisterStreamConsumer, _consumers.register),
    Operation(requests.RemoveTagsFromStream, _tags.remove_tags),
    Operation(requests.SplitShard, _resharding.split_shard),
    Operation(requests.StartStreamEncryption, _streams.start_encryption),
    Operation(requests.StopStreamEncryption, _streams.stop_encryption),
    Operation(requests.SubscribeToShard, _subscribing.subscribe),
    Operation(requests.TagResource, _tags.tag_resource),
    Operation(requests.UntagResource, _tags.untag_resource),
    Operation(requests.UpdateMaxRecordSize, _streams.update_max_record_size),
    Operation(requests.UpdateShardCount, _resharding.update_shard_count),
    Operation(requests.UpdateStreamMode, _streams.update_stream_mode),
)
OPERATIONS: Final[Mapping[str, Operation[Any]]] = {operation.name: operation for operation in _ALL}
