"""What a user of a stream is told: frozen data, no YAML, no environment, no credential."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, Literal

from annotated_types import Ge, Gt, Le, MaxLen, MinLen

from cdc_core import ConfigError, check_constraints

Seconds = Annotated[float, Gt(0)]
Name = Annotated[str, MinLen(1), MaxLen(128)]
TableName = Annotated[str, MinLen(3), MaxLen(255)]

_NAME: Final = re.compile(r"[a-zA-Z0-9_.-]+")
_ENDPOINT: Final = re.compile(r"https?://(?:[^\s/?#:\[\]]+|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?(?:/\S*)?")
# CreateStream and CreateTable, API references.
_MAX_STREAM_NAME: Final = 128
_MAX_TABLE_NAME: Final = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class KinesisConfig:
    """One stream, and one group of consumers on it. Credentials and endpoints are found as botocore finds them.

    The stream:

    - `stream_name`: as Kinesis demands: letters, digits, `_`, `.`, `-`.
    - `region`: None for the one of the session or the environment.
    - `kinesis_endpoint_url`, `dynamodb_endpoint_url`: other servers than AWS; None for what botocore finds
      (`AWS_ENDPOINT_URL_KINESIS` and the like). Without credentials in them.
    - `shard_count`: created with so many shards; None for on-demand capacity. A stream that exists keeps its own.
    - `retention_hours`: of the stream; 24 to 8760. `encryption_key_id`: a KMS key, id or alias; None for no encryption.

    The group:

    - `group_id`: consumers of one group share the shards; each group has its own lease table.
    - `checkpoint_table_name`: the lease table; None for `<stream_name>-<group_id>`. What must be remembered beside the
      leases stands in `<checkpoint_table_name>-cdc-meta`.
    - `point_in_time_recovery`: switched on for the group's tables.
    - `cloudwatch`: whether its monitor also asks CloudWatch what it says of the stream.
    - `iterator_type`: where a group starts for the first time; `start_at` belongs to AT_TIMESTAMP, aware.
    - `failover_seconds`: a consumer that has not renewed its lease for so long has lost it.
    - `checkpoint_interval_seconds`: what is acknowledged is written down within it.
    - `poll_interval_seconds`: between two reads of a shard that is caught up.
    - `max_records_per_shard`: of one read, before de-aggregation; 10,000 at most.
    - `max_batch_events`, `max_batch_bytes`: of one batch given to a handler; `max_buffered_bytes`: of all records of a
      shard that wait for it.
    - `enhanced_fan_out`: read by SubscribeToShard instead of polling, as a consumer registered with the group's name.
      Experimental: AWS says that SubscribeToShard over HTTP/1.1, which is all that boto3 speaks, is not supported and
      may break at any time. Checked against the embedded server only.
    - `dead_letter_stream_name`: None for `<stream_name>-<group_id>-dead-letters`; `dead_letter_retention_hours`.

    The publisher:

    - `bucket_count`: the virtual buckets that keys are hashed to: a power of two, at least eight times the shards.
      Another number is a migration: drain first.
    - `foreign_readers`: whether readers read the stream that do not de-aggregate KPL records; then each row is a
      record of its own.
    - `max_aggregate_bytes`: of one aggregated record; `max_requests_in_flight`: PutRecords requests at once.
    - `request_timeout_seconds`: of one request. `data_path`: how records are put and got, `raw` or `boto3`.
    """

    stream_name: Name
    region: str | None = None
    kinesis_endpoint_url: str | None = None
    dynamodb_endpoint_url: str | None = None
    shard_count: Annotated[int, Ge(1)] | None = None
    retention_hours: Annotated[int, Ge(24), Le(8760)] = 24
    encryption_key_id: str | None = None
    group_id: Name = "cdc"
    checkpoint_table_name: TableName | None = None
    point_in_time_recovery: bool = False
    cloudwatch: bool = False
    iterator_type: Literal["TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"] = "TRIM_HORIZON"
    start_at: datetime | None = None
    failover_seconds: Annotated[float, Ge(1)] = 10.0
    checkpoint_interval_seconds: Annotated[float, Ge(0)] = 5.0
    poll_interval_seconds: Seconds = 1.0
    max_records_per_shard: Annotated[int, Ge(1), Le(10_000)] = 10_000
    max_batch_events: Annotated[int, Ge(1)] = 1000
    max_batch_bytes: Annotated[int, Ge(1)] = 1 << 20
    max_buffered_bytes: Annotated[int, Ge(1)] = 16 << 20
    enhanced_fan_out: bool = False
    dead_letter_stream_name: Name | None = None
    dead_letter_retention_hours: Annotated[int, Ge(24), Le(8760)] = 336
    bucket_count: Annotated[int, Ge(1), Le(65_536)] = 256
    foreign_readers: bool = False
    max_aggregate_bytes: Annotated[int, Ge(1024), Le(1 << 20)] = 50 << 10
    max_requests_in_flight: Annotated[int, Ge(1), Le(64)] = 4
    request_timeout_seconds: Seconds = 10.0
    data_path: Literal["raw", "boto3"] = "raw"

    def __post_init__(self) -> None:
        check_constraints(self)
        for field in ("stream_name", "group_id", "checkpoint_table_name", "dead_letter_stream_name"):
            value: str | None = getattr(self, field)
            if value is not None and _NAME.fullmatch(value) is None:
                raise ConfigError(
                    f"{field} is {value!r}", remedy="use letters, digits, '_', '.' and '-' only"
                )
        if self.bucket_count & (self.bucket_count - 1):
            raise ConfigError(f"bucket_count is {self.bucket_count}", remedy="use a power of two")
        for field, allowed in _CHOICES.items():
            if (chosen := getattr(self, field)) not in allowed:
                raise ConfigError(f"{field} is {chosen!r}", remedy=f"one of {', '.join(allowed)}")
        self._check_endpoints()
        self._check_made_names()
        self._check_start()

    @property
    def lease_table(self) -> str:
        """The name of the lease table."""
        return self.checkpoint_table_name or f"{self.stream_name}-{self.group_id}"

    @property
    def meta_table(self) -> str:
        """The name of the table for what must be remembered beside the leases."""
        return f"{self.lease_table}-cdc-meta"

    @property
    def dead_letter_stream(self) -> str:
        """The name of the dead-letter stream."""
        return self.dead_letter_stream_name or f"{self.stream_name}-{self.group_id}-dead-letters"

    def _check_endpoints(self) -> None:
        for field in ("kinesis_endpoint_url", "dynamodb_endpoint_url"):
            url: str | None = getattr(self, field)
            if url is None:
                continue
            if "@" in url:  # the URL itself is in logs, reprs and errors, so it is not shown here
                raise ConfigError(
                    f"{field} holds credentials",
                    remedy="leave them out: credentials are found as botocore does",
                )
            if _ENDPOINT.fullmatch(url) is None:
                raise ConfigError(f"{field} is {url!r}", remedy="a URL, as http://localhost:4566")

    def _check_made_names(self) -> None:
        for field, name, most in (
            ("dead_letter_stream_name", self.dead_letter_stream, _MAX_STREAM_NAME),
            ("checkpoint_table_name", self.meta_table, _MAX_TABLE_NAME),
        ):
            if len(name) > most:
                raise ConfigError(
                    f"the name {name} has {len(name)} characters, and {most} are allowed",
                    remedy=f"set {field} to a shorter name, or shorten stream_name or group_id",
                )

    def _check_start(self) -> None:
        if (self.iterator_type == "AT_TIMESTAMP") is (self.start_at is None):
            raise ConfigError(
                f"iterator_type is {self.iterator_type} and start_at is {self.start_at}",
                remedy="start_at belongs to AT_TIMESTAMP, and to nothing else",
            )
        if self.start_at is not None and self.start_at.tzinfo is None:
            raise ConfigError("start_at has no time zone", remedy="use an aware datetime")


_CHOICES: Final = {
    "iterator_type": ("TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"),
    "data_path": ("raw", "boto3"),
}
