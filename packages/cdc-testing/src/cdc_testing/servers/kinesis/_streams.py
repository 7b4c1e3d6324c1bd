"""Streams: created, described, listed, changed and deleted."""

import re
from typing import Any, Final

from . import _requests as requests
from ._limits import MAX_RETENTION_HOURS, MAX_TAGS, MIN_RETENTION_HOURS, ON_DEMAND_SHARDS
from ._refusal import Refusal, in_use, invalid, limit_exceeded, malformed
from ._service import Answer, Service
from ._stream import Stream

_DESCRIBED_SHARDS: Final = 100
_LISTED_STREAMS: Final = 100
_KEY_ID: Final = re.compile(
    r"alias/[a-zA-Z0-9/_-]+|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|"
    r"arn:aws[^:]*:kms:[^:]+:\d{12}:(alias/[a-zA-Z0-9/_-]+|key/[0-9a-f-]+)"
)


def create_stream(service: Service, request: requests.CreateStream, now: float) -> Answer:
    """Make a stream; CREATING until its time is over."""
    service.settle(now)
    name = request.stream_name
    if name in service.streams:
        raise in_use(f"Stream {name} under account {service.account_id} already exists.")
    mode = "PROVISIONED" if request.stream_mode_details is None else request.stream_mode_details.stream_mode
    if mode == "ON_DEMAND" and request.shard_count is not None:
        raise malformed("ShardCount must not be given for a stream in ON_DEMAND mode")
    if mode == "PROVISIONED" and request.shard_count is None:
        raise malformed(
            "Value null at 'shardCount' failed to satisfy constraint: Member must not be null in PROVISIONED mode"
        )
    count = request.shard_count or ON_DEMAND_SHARDS
    check_shard_limit(service, count)
    if request.tags is not None and len(request.tags) > MAX_TAGS:
        raise invalid(f"A stream may have {MAX_TAGS} tags at most.")
    stream = Stream(
        name, service.arn(name), generation=service.next_generation(), mode=mode, shards=count, now=now
    )
    stream.tags.update(request.tags or {})
    stream.distribution = request.record_distribution_strategy
    if request.max_record_size_in_kib is not None:
        stream.max_record_kib = request.max_record_size_in_kib
    service.streams[name] = stream
    stream.begin("CREATING", service.durations.create, now, _nothing)
    return {}


def delete_stream(service: Service, request: requests.DeleteStream, now: float) -> Answer:
    """Let a stream go; it takes records and reads until its time is over."""
    stream = service.stream(request, now, creating=True)
    if stream.consumers and not request.enforce_consumer_deletion:
        raise in_use(
            f"Stream {stream.name} has registered consumers; deregister them or enforce their deletion."
        )
    if stream.status != "DELETING":
        stream.begin("DELETING", service.durations.delete, now, lambda _: service.forget(stream))
    return {}


def describe_stream(service: Service, request: requests.DescribeStream, now: float) -> Answer:
    """Describe a stream with its shards, a page at a time."""
    stream = service.stream(request, now, creating=True)
    stream.trim(now)
    after = request.exclusive_start_shard_id or ""
    shards = [shard for shard in stream.shards.values() if shard.shard_id > after]
    if stream.status == "CREATING":
        shards = []
    page = shards[: min(request.limit or _DESCRIBED_SHARDS, _LISTED_STREAMS * _DESCRIBED_SHARDS)]
    description = {
        **stream.details(),
        "Shards": [shard.describe() for shard in page],
        "HasMoreShards": len(page) < len(shards),
    }
    return {"StreamDescription": description}


def describe_stream_summary(service: Service, request: requests.DescribeStreamSummary, now: float) -> Answer:
    """Describe a stream without its shards."""
    stream = service.stream(request, now, creating=True)
    summary: dict[str, Any] = {
        **stream.details(),
        "StreamId": f"{stream.generation:012x}",
        "OpenShardCount": 0 if stream.status == "CREATING" else len(stream.open_shards),
        "ConsumerCount": len(stream.consumers),
        "MaxRecordSizeInKiB": stream.max_record_kib,
    }
    if stream.distribution is not None:
        summary["RecordDistributionStrategy"] = stream.distribution
    return {"StreamDescriptionSummary": summary}


def list_streams(service: Service, request: requests.ListStreams, now: float) -> Answer:
    """List streams by name, a page at a time."""
    service.settle(now)
    after = request.exclusive_start_stream_name or request.next_token or ""
    names = sorted(name for name in service.streams if name > after)
    page = names[: request.limit or _LISTED_STREAMS]
    more = len(page) < len(names)
    answer: dict[str, Any] = {
        "StreamNames": page,
        "HasMoreStreams": more,
        "StreamSummaries": [service.streams[name].summary() for name in page],
    }
    if more:
        answer["NextToken"] = page[-1]
    return answer


def describe_limits(service: Service, request: requests.DescribeLimits, now: float) -> Answer:
    """Say how many shards there are and may be."""
    del request
    service.settle(now)
    on_demand = sum(stream.mode == "ON_DEMAND" for stream in service.streams.values())
    return {
        "ShardLimit": service.shard_limit,
        "OpenShardCount": _open_shards(service),
        "OnDemandStreamCount": on_demand,
        "OnDemandStreamCountLimit": 50,
    }


def increase_retention(
    service: Service, request: requests.IncreaseStreamRetentionPeriod, now: float
) -> Answer:
    """Keep records for longer."""
    stream = service.stream(request, now)
    hours = _retention(request.retention_period_hours)
    if hours < stream.retention_hours:
        raise invalid(
            f"Requested retention period ({hours} hours) for stream {stream.name} can not be shorter than "
            f"existing retention period ({stream.retention_hours} hours). Use DecreaseRetentionPeriod API."
        )
    return _set_retention(service, stream, hours, now)


def decrease_retention(
    service: Service, request: requests.DecreaseStreamRetentionPeriod, now: float
) -> Answer:
    """Keep records for less long; what is older is gone."""
    stream = service.stream(request, now)
    hours = _retention(request.retention_period_hours)
    if hours > stream.retention_hours:
        raise invalid(
            f"Requested retention period ({hours} hours) for stream {stream.name} can not be longer than "
            f"existing retention period ({stream.retention_hours} hours). Use IncreaseRetentionPeriod API."
        )
    return _set_retention(service, stream, hours, now)


def update_max_record_size(service: Service, request: requests.UpdateMaxRecordSize, now: float) -> Answer:
    """Take larger records, or smaller ones only."""
    stream = service.stream_named(service.name_of(request.stream_arn), now)
    stream.require_active()
    kib = request.max_record_size_in_kib
    stream.begin("UPDATING", service.durations.update, now, lambda _: setattr(stream, "max_record_kib", kib))
    return {}


def update_stream_mode(service: Service, request: requests.UpdateStreamMode, now: float) -> Answer:
    """Change between provisioned and on-demand capacity."""
    stream = service.stream_named(service.name_of(request.stream_arn), now)
    stream.require_active()
    mode = request.stream_mode_details.stream_mode
    stream.begin("UPDATING", service.durations.update, now, lambda _: setattr(stream, "mode", mode))
    return {}


def start_encryption(service: Service, request: requests.StartStreamEncryption, now: float) -> Answer:
    """Encrypt records from now on, as far as answers tell; nothing is encrypted here."""
    stream = service.stream(request, now)
    stream.require_active()
    if request.encryption_type != "KMS":
        raise invalid("EncryptionType must be KMS.")
    if not _KEY_ID.fullmatch(request.key_id):
        raise Refusal("KMSNotFoundException", f"{request.key_id} is not a key of AWS KMS.")
    key_id = request.key_id
    stream.begin("UPDATING", service.durations.update, now, lambda _: setattr(stream, "key_id", key_id))
    return {}


def stop_encryption(service: Service, request: requests.StopStreamEncryption, now: float) -> Answer:
    """Encrypt no more records."""
    stream = service.stream(request, now)
    stream.require_active()
    stream.begin("UPDATING", service.durations.update, now, lambda _: setattr(stream, "key_id", None))
    return {}


def check_shard_limit(service: Service, more: int) -> None:
    """Raises LimitExceededException where an account would have too many open shards."""
    count = _open_shards(service)
    if count + more > service.shard_limit:
        raise limit_exceeded(
            f"This request would exceed the shard limit for the account {service.account_id}. "
            f"Current shard count: {count}. Limit: {service.shard_limit}. Additional shards: {more}."
        )


def _open_shards(service: Service) -> int:
    return sum(len(stream.open_shards) for stream in service.streams.values())


def _retention(hours: int) -> int:
    if not MIN_RETENTION_HOURS <= hours <= MAX_RETENTION_HOURS:
        raise invalid(
            f"Retention period must be between {MIN_RETENTION_HOURS} and {MAX_RETENTION_HOURS} hours: {hours}."
        )
    return hours


def _set_retention(service: Service, stream: Stream, hours: int, now: float) -> Answer:
    stream.require_active()
    stream.begin(
        "UPDATING", service.durations.update, now, lambda _: setattr(stream, "retention_hours", hours)
    )
    return {}


def _nothing(now: float) -> None:
    del now
