"""What stands at the services: streams, their shards and tags, and tables, as one looks at them before acting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, final

from ._aws import Aws
from ._config import KinesisConfig
from ._errors import AwsError
from ._patience import call_patiently

BUCKETS_TAG: Final = "cdc-buckets"
"""The stream's tag that names the number of buckets and their hash: consumers of other ones misjudge its lanes."""
CREATED_BY_TAG: Final = "cdc-created-by"
"""The tag of a stream that a provisioner created; its value is the lease table of the provisioner's group."""

_DEFAULT_MAX_RECORD_BYTES: Final = 1 << 20
_TAGS_A_PAGE: Final = 50


def buckets_of(config: KinesisConfig) -> str:
    """Return the value of the tag `cdc-buckets`."""
    return f"{config.bucket_count}/crc32"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFacts:
    """A stream as DescribeStreamSummary tells of it.

    - `encryption_key`: None where it is not encrypted; `max_record_bytes`: of a record's data and partition key.
    - `distribution`: None where the server does not know of it.
    """

    name: str
    arn: str
    status: str
    mode: str
    retention_hours: int
    encryption_key: str | None
    open_shards: int
    max_record_bytes: int
    distribution: str | None
    tags: Mapping[str, str] = field(default_factory=dict[str, str])


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerFacts:
    """A consumer for enhanced fan-out; `arn` tells it from another that had or will have its name."""

    name: str
    arn: str
    status: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TableFacts:
    """A table as DescribeTable tells of it; `token` tells it from another that had or will have its name."""

    name: str
    arn: str
    status: str
    hash_key: str
    token: str


async def inspect_stream(aws: Aws, name: str, *, tags: bool = False) -> StreamFacts | None:
    """Return what is known of a stream, None where there is none; its tags only if asked for."""
    try:
        answer = await call_patiently(aws, "kinesis", "describe_stream_summary", StreamName=name)
        found: Mapping[str, str] = await _tags_of(aws, name) if tags else {}
    except AwsError as error:
        if error.code == "ResourceNotFoundException":
            return None
        raise
    summary: Mapping[str, Any] = answer["StreamDescriptionSummary"]
    encrypted = summary.get("EncryptionType", "NONE") != "NONE"
    kib: int | None = summary.get("MaxRecordSizeInKiB")
    return StreamFacts(
        name=name,
        arn=summary["StreamARN"],
        status=summary["StreamStatus"],
        mode=summary.get("StreamModeDetails", {}).get("StreamMode", "PROVISIONED"),
        retention_hours=summary["RetentionPeriodHours"],
        encryption_key=(summary.get("KeyId") or "unknown") if encrypted else None,
        open_shards=summary["OpenShardCount"],
        max_record_bytes=kib * 1024 if kib else _DEFAULT_MAX_RECORD_BYTES,
        distribution=summary.get("RecordDistributionStrategy"),
        tags=found,
    )


async def inspect_consumer(aws: Aws, stream_arn: str, name: str) -> ConsumerFacts | None:
    """Return what is known of a consumer for enhanced fan-out, None where none is registered."""
    try:
        answer = await call_patiently(
            aws, "kinesis", "describe_stream_consumer", StreamARN=stream_arn, ConsumerName=name
        )
    except AwsError as error:
        if error.code == "ResourceNotFoundException":
            return None
        raise
    described: Mapping[str, Any] = answer["ConsumerDescription"]
    return ConsumerFacts(name=name, arn=described["ConsumerARN"], status=described["ConsumerStatus"])


async def inspect_table(aws: Aws, name: str) -> TableFacts | None:
    """Return what is known of a table, None where there is none."""
    try:
        answer = await call_patiently(aws, "dynamodb", "describe_table", TableName=name)
    except AwsError as error:
        if error.code == "ResourceNotFoundException":
            return None
        raise
    table: Mapping[str, Any] = answer["Table"]
    keys = [key["AttributeName"] for key in table.get("KeySchema", ()) if key["KeyType"] == "HASH"]
    return TableFacts(
        name=name,
        arn=table.get("TableArn", ""),
        status=table["TableStatus"],
        hash_key=keys[0] if len(table.get("KeySchema", ())) == 1 and keys else "",
        token=str(table.get("TableId") or table.get("CreationDateTime", "")),
    )


async def inspect_recovery(aws: Aws, name: str) -> bool | None:
    """Return whether a table has point-in-time recovery; None where the server does not know what that is."""
    try:
        answer = await call_patiently(aws, "dynamodb", "describe_continuous_backups", TableName=name)
    except AwsError as error:
        if error.code in ("UnknownOperationException", "ResourceNotFoundException", "TableNotFoundException"):
            return None
        raise
    description: Mapping[str, Any] = answer["ContinuousBackupsDescription"]
    recovery: Mapping[str, Any] = description.get("PointInTimeRecoveryDescription", {})
    return recovery.get("PointInTimeRecoveryStatus") == "ENABLED"


async def _tags_of(aws: Aws, name: str) -> Mapping[str, str]:
    tags: dict[str, str] = {}
    page: dict[str, Any] = {"StreamName": name, "Limit": _TAGS_A_PAGE}
    while True:
        answer = await call_patiently(aws, "kinesis", "list_tags_for_stream", **page)
        found: Sequence[Mapping[str, str]] = answer.get("Tags", ())
        tags.update((tag["Key"], tag.get("Value", "")) for tag in found)
        if not answer.get("HasMoreTags") or not found:
            return tags
        page["ExclusiveStartTagKey"] = found[-1]["Key"]
