"""What a group must remember beside its leases: whose they are, of which stream, and where it first started.

It stands in a table of its own: a row without a lease counter in the lease table stops a KCL 2 from starting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, final

from cdc_core import ConfigError, NotProvisioned, SourceError

from ._aws import Aws
from ._config import KinesisConfig
from ._errors import AnswerLost, AwsError
from ._leases import AT_TIMESTAMP, TRIM_HORIZON, Checkpoint

KEY: Final = "name"
_ITEM_NAME: Final = "group"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """What a group's first start wrote down.

    - `bucket_hash`: the name of the hash that spreads keys over the buckets.
    - `initial`: the checkpoint of the rows made at the group's initialisation: TRIM_HORIZON, or AT_TIMESTAMP. (LATEST
      becomes the time of the first start, so that a crash before the first checkpoint loses nothing.)
    - `start_at`: what a row at AT_TIMESTAMP or LATEST means: `config.start_at`, or the time of the first start.
    - `is_initialised`: whether every shard that was there at the first start has its row.
    """

    group_id: str
    stream_name: str
    stream_arn: str
    stream_created_at: datetime
    bucket_count: int
    bucket_hash: str
    first_started_at: datetime
    initial: Checkpoint
    start_at: datetime
    is_initialised: bool


@final
class MetaTable:
    """The table `<lease table>-cdc-meta`, which holds one item.

    Every method raises, besides what it names, `AwsError`, `AwsAccessError`, `AnswerLost` (the same call again is
    safe), and `NotProvisioned` where the table does not exist.
    """

    def __init__(self, aws: Aws, table_name: str) -> None:
        self._aws = aws
        self._table_name = table_name

    async def claim(
        self,
        config: KinesisConfig,
        summary: Mapping[str, Any],
        now: datetime,
        *,
        bucket_hash: str,
        has_leases: bool,
    ) -> Meta:
        """Return what the group's first start wrote down; write it where this is the first.

        - `summary`: the StreamDescriptionSummary of the stream.
        - `now`: aware; best the service's own time (the Date of an answer of its).
        - `has_leases`: whether the lease table had rows before this call: another program began this group then, its
          rows decide, and no initialisation is due.

        Raises:
            ConfigError: the table is another group's or another stream's, the stream was deleted and made anew, or
                the buckets are others.
        """
        wanted = _first_start(config, summary, now, bucket_hash=bucket_hash, is_initialised=has_leases)
        # read first: almost always it is there, and reading needs no permission to write
        found = await self.read() or await self._put(wanted)
        self._compare(found, wanted)
        return found

    async def read(self) -> Meta | None:
        """Return what is written down; None where the group has never started.

        Raises:
            SourceError: the item is incomplete.
        """
        answer = await self._call("get_item", Key={KEY: {"S": _ITEM_NAME}}, ConsistentRead=True)
        if not answer.get("Item"):
            return None
        try:
            return _meta_of(answer["Item"])
        except (KeyError, ValueError) as error:
            raise SourceError(
                f"the item of the meta table is incomplete: {error}",
                where={"table": self._table_name, "item": _ITEM_NAME},
                remedy="restore the table, or delete the item: the group's rows decide then",
            ) from error

    async def mark_initialised(self, meta: Meta) -> Meta:
        """Write down that every shard of the first start has its row: from now on new shards start at TRIM_HORIZON."""
        await self._call(
            "update_item",
            Key={KEY: {"S": _ITEM_NAME}},
            UpdateExpression="SET isInitialised = :true",
            # an item that was deleted meanwhile must not come back as a fragment
            ConditionExpression="attribute_exists(groupId)",
            ExpressionAttributeValues={":true": {"BOOL": True}},
        )
        return replace(meta, is_initialised=True)

    async def _put(self, wanted: Meta) -> Meta:
        try:
            await self._call(
                "put_item",
                Item=_item_of(wanted),
                ConditionExpression="attribute_not_exists(#key)",
                ExpressionAttributeNames={"#key": KEY},
            )
        except AwsError as error:
            if error.code != "ConditionalCheckFailedException":
                raise
        # whoever came first, after a lost answer perhaps we ourselves: what stands there holds
        found = await self.read()
        if found is None:
            raise AnswerLost("the item of the meta table vanished", where={"table": self._table_name})
        return found

    def _compare(self, found: Meta, wanted: Meta) -> None:
        other_tables = "set checkpoint_table_name to tables of this group's own"
        anew = f"delete the tables {self._table_name} and its lease table to start anew, or {other_tables}"
        comparisons = (
            (
                "group",
                found.group_id,
                wanted.group_id,
                f"{other_tables}: a lease table has room for one group",
            ),
            ("stream", found.stream_name, wanted.stream_name, other_tables),
            ("stream", found.stream_arn, wanted.stream_arn, other_tables),
            (
                "a stream made at",
                found.stream_created_at,
                wanted.stream_created_at,
                f"the stream was deleted and made anew, its shards have the old ids: {anew}",
            ),
            (
                "keys in",
                f"{found.bucket_count} buckets by {found.bucket_hash}",
                f"{wanted.bucket_count} buckets by {wanted.bucket_hash}",
                f"set bucket_count to {found.bucket_count}; to change it, stop publishing, let every group read to the "
                f"end, and delete item {_ITEM_NAME!r} of this table",
            ),
        )
        for what, theirs, ours, remedy in comparisons:
            if theirs != ours:
                raise ConfigError(
                    f"the leases are of {what} {theirs}, not {ours}",
                    where={"table": self._table_name},
                    remedy=remedy,
                )

    async def _call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        try:
            return await self._aws.call("dynamodb", operation, TableName=self._table_name, **parameters)
        except AwsError as error:
            if error.code != "ResourceNotFoundException":
                raise
            raise NotProvisioned(
                "the meta table does not exist", where={"table": self._table_name}
            ) from error


def _first_start(
    config: KinesisConfig,
    summary: Mapping[str, Any],
    now: datetime,
    *,
    bucket_hash: str,
    is_initialised: bool,
) -> Meta:
    initial = TRIM_HORIZON if config.iterator_type == "TRIM_HORIZON" else AT_TIMESTAMP
    return Meta(
        group_id=config.group_id,
        stream_name=summary["StreamName"],
        stream_arn=summary["StreamARN"],
        stream_created_at=_to_millis(summary["StreamCreationTimestamp"]),
        bucket_count=config.bucket_count,
        bucket_hash=bucket_hash,
        first_started_at=_to_millis(now),
        initial=Checkpoint(initial),
        start_at=_to_millis(config.start_at or now),
        is_initialised=is_initialised,
    )


def _to_millis(moment: datetime) -> datetime:
    """Return a time as Kinesis keeps times: to the millisecond, downwards, so that none is skipped."""
    utc = moment.astimezone(UTC)
    return utc.replace(microsecond=utc.microsecond // 1000 * 1000)


def _item_of(meta: Meta) -> dict[str, dict[str, Any]]:
    return {
        KEY: {"S": _ITEM_NAME},
        "groupId": {"S": meta.group_id},
        "streamName": {"S": meta.stream_name},
        "streamArn": {"S": meta.stream_arn},
        "streamCreatedAt": {"S": meta.stream_created_at.isoformat()},
        "bucketCount": {"N": str(meta.bucket_count)},
        "bucketHash": {"S": meta.bucket_hash},
        "firstStartedAt": {"S": meta.first_started_at.isoformat()},
        "initialPosition": {"S": meta.initial.sequence_number},
        "startAt": {"S": meta.start_at.isoformat()},
        "isInitialised": {"BOOL": meta.is_initialised},
    }


def _meta_of(item: Mapping[str, Mapping[str, Any]]) -> Meta:
    return Meta(
        group_id=item["groupId"]["S"],
        stream_name=item["streamName"]["S"],
        stream_arn=item["streamArn"]["S"],
        stream_created_at=datetime.fromisoformat(item["streamCreatedAt"]["S"]),
        bucket_count=int(item["bucketCount"]["N"]),
        bucket_hash=item["bucketHash"]["S"],
        first_started_at=datetime.fromisoformat(item["firstStartedAt"]["S"]),
        initial=Checkpoint(item["initialPosition"]["S"]),
        start_at=datetime.fromisoformat(item["startAt"]["S"]),
        is_initialised=item["isInitialised"]["BOOL"],
    )
