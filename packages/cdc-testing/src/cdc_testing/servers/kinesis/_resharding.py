"""SplitShard, MergeShards and UpdateShardCount."""

from . import _requests as requests
from ._refusal import Refusal, invalid, limit_exceeded
from ._service import Answer, Service
from ._stream import Stream
from ._streams import check_shard_limit

_MAX_PROVISIONED_SHARDS = 10_000


def split_shard(service: Service, request: requests.SplitShard, now: float) -> Answer:
    """Split a shard in two; it takes records until its time is over."""
    stream = service.stream(request, now)
    _require_provisioned(stream, "SplitShard")
    shard = stream.open_shard(request.shard_to_split)
    first_hash = int(request.new_starting_hash_key)
    # One plus the start is refused too, as the service does.
    if not shard.first_hash + 1 < first_hash < shard.last_hash:
        raise invalid(
            f"NewStartingHashKey {first_hash} used in SplitShard() on shard {shard.shard_id} in stream "
            f"{stream.name} under account {service.account_id} is not both greater than one plus the shard's "
            f"StartingHashKey {shard.first_hash} and less than the shard's EndingHashKey {shard.last_hash}."
        )
    stream.require_active()
    check_shard_limit(service, 1)
    stream.begin(
        "UPDATING", service.durations.update, now, lambda at: _ignored(stream.split(shard, first_hash, at))
    )
    return {}


def merge_shards(service: Service, request: requests.MergeShards, now: float) -> Answer:
    """Merge two neighbours, the lower one named first; they take records until their time is over."""
    stream = service.stream(request, now)
    _require_provisioned(stream, "MergeShards")
    shard = stream.open_shard(request.shard_to_merge)
    adjacent = stream.open_shard(request.adjacent_shard_to_merge)
    if shard.last_hash + 1 != adjacent.first_hash:
        raise invalid(
            f"Shards {shard.shard_id} and {adjacent.shard_id} in stream {stream.name} under account "
            f"{service.account_id} are not an adjacent pair of shards eligible for merging"
        )
    stream.require_active()
    stream.begin(
        "UPDATING", service.durations.update, now, lambda at: _ignored(stream.merge(shard, adjacent, at))
    )
    return {}


def update_shard_count(service: Service, request: requests.UpdateShardCount, now: float) -> Answer:
    """Split and merge until the target count of equal shards is open."""
    stream = service.stream(request, now)
    _require_provisioned(stream, "UpdateShardCount")
    target, current = request.target_shard_count, len(stream.open_shards)
    counts = f"Current open shard count: {current}, Target shard count: {target}"
    if target > 2 * current:
        raise limit_exceeded(
            f"UpdateShardCount cannot scale up over double your current open shard count. {counts}"
        )
    if 2 * target < current:
        raise limit_exceeded(
            f"UpdateShardCount cannot scale down below half your current open shard count. {counts}"
        )
    if target > _MAX_PROVISIONED_SHARDS:
        raise limit_exceeded(
            f"A provisioned stream may have {_MAX_PROVISIONED_SHARDS} shards at most. {counts}"
        )
    stream.require_active()
    check_shard_limit(service, max(0, target - current))
    stream.begin("UPDATING", service.durations.update, now, lambda at: stream.resize(target, at))
    return {
        "StreamName": stream.name,
        "CurrentShardCount": current,
        "TargetShardCount": target,
        "StreamARN": stream.arn,
    }


def _require_provisioned(stream: Stream, operation: str) -> None:
    if stream.mode != "PROVISIONED":
        raise Refusal(
            "ValidationException",
            f"{operation} is only for streams in PROVISIONED mode; {stream.arn} is not.",
        )


def _ignored(result: object) -> None:
    del result
