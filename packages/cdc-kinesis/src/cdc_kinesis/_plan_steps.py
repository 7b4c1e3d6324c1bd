"""From what exists and what the config wants to the steps of a plan; decisions only, no calls."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from cdc_core import Action, Check, CheckState, Step

from ._config import KinesisConfig
from ._inspection import BUCKETS_TAG, CREATED_BY_TAG, ConsumerFacts, StreamFacts, TableFacts, buckets_of

STREAM: Final = "kinesis stream"
RETENTION: Final = "stream retention"
ENCRYPTION: Final = "stream encryption"
TAGS: Final = "stream tags"
CONSUMER: Final = "stream consumer"
TABLE: Final = "dynamodb table"
RECOVERY: Final = "point-in-time recovery"

UNKNOWN_ARN: Final = "<the ARN of the stream>"

_NEW_STREAM_RETENTION_HOURS: Final = 24
"""What CreateStream gives every stream."""
_BUCKETS_A_SHARD: Final = 8


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """An operation of a service, with its parameters."""

    service: str
    operation: str
    parameters: Mapping[str, Any]

    @property
    def statement(self) -> str:
        """Return the call as a line for the AWS command line."""
        text = json.dumps(self.parameters, sort_keys=True, separators=(",", ":"))
        command = self.operation.replace("_", "-")
        return f"aws {self.service} {command} --cli-input-json {shlex.quote(text)}"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A step, and the call that carries it out; None where there is nothing to do."""

    step: Step
    call: Call | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the config wants of one stream.

    - `shard_count`: None for on demand; `tags`: what it is to be tagged with whoever made it.
    """

    name: str
    shard_count: int | None
    retention_hours: int
    encryption_key: str | None
    tags: Mapping[str, str]


def wanted_streams(config: KinesisConfig) -> tuple[Wanted, Wanted]:
    """Return what is wanted of the stream, and of the dead-letter stream, for which one shard is plenty."""
    return (
        Wanted(
            name=config.stream_name,
            shard_count=config.shard_count,
            retention_hours=config.retention_hours,
            encryption_key=config.encryption_key_id,
            tags={BUCKETS_TAG: buckets_of(config)},
        ),
        Wanted(
            name=config.dead_letter_stream,
            shard_count=1,
            retention_hours=config.dead_letter_retention_hours,
            encryption_key=config.encryption_key_id,
            tags={},
        ),
    )


def plan_stream(wanted: Wanted, found: StreamFacts | None, *, creator: str) -> tuple[Planned, ...]:
    """Return the steps of one stream: itself, its retention, its encryption, its tags."""
    return (
        _plan_existence(wanted, found),
        _plan_retention(wanted, found),
        _plan_encryption(wanted, found),
        _plan_tags(wanted, found, creator=creator),
    )


def plan_table(name: str, found: TableFacts | None, *, hash_key: str) -> Planned:
    """Return the step of a table with one key, paid by request."""
    if found is None:
        parameters = {
            "TableName": name,
            "KeySchema": [{"AttributeName": hash_key, "KeyType": "HASH"}],
            "AttributeDefinitions": [{"AttributeName": hash_key, "AttributeType": "S"}],
            "BillingMode": "PAY_PER_REQUEST",
        }
        return _act(
            Action.CREATE,
            TABLE,
            name,
            f"key {hash_key}, paid by request",
            Call(service="dynamodb", operation="create_table", parameters=parameters),
        )
    if found.hash_key != hash_key:
        return _refuse(
            TABLE,
            name,
            f"exists with the key {found.hash_key or 'of several attributes'}, and not {hash_key}",
            "set checkpoint_table_name to a name that is free",
        )
    if found.status == "DELETING":
        return _refuse(TABLE, name, "is being deleted", "wait until it is gone, and plan again")
    return _keep(TABLE, name, f"exists, {found.status}")


def plan_consumer(name: str, stream: StreamFacts | None, found: ConsumerFacts | None) -> Planned:
    """Return the step of the consumer that enhanced fan-out reads as.

    Where the stream is still to be created, nobody knows its ARN: the call has a placeholder then.
    """
    if found is None:
        stream_arn = UNKNOWN_ARN if stream is None else stream.arn
        call = Call(
            service="kinesis",
            operation="register_stream_consumer",
            parameters={"StreamARN": stream_arn, "ConsumerName": name},
        )
        return _act(Action.CREATE, CONSUMER, name, "for enhanced fan-out, paid by the hour and shard", call)
    if found.status == "DELETING":
        return _refuse(CONSUMER, name, "is being deregistered", "wait until it is gone, and plan again")
    return _keep(CONSUMER, name, f"is registered, {found.status}")


def plan_recovery(name: str, *, exists: bool, enabled: bool | None) -> Planned:
    """Return the step of a table's point-in-time recovery, which the config wants."""
    if exists and enabled:
        return _keep(RECOVERY, name, "is on")
    if exists and enabled is None:
        return _keep(RECOVERY, name, "is nothing that this server knows")
    parameters = {
        "TableName": name,
        "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": True},
    }
    call = Call(service="dynamodb", operation="update_continuous_backups", parameters=parameters)
    return _act(Action.CHANGE, RECOVERY, name, "is to be on", call)


def check_stream(config: KinesisConfig, found: StreamFacts | None) -> tuple[Check, ...]:
    """Return what one ought to know of the stream, and what is not changed although the config says otherwise."""
    return (
        _check_capacity(config, found),
        _check_retention(config, found),
        _check_encryption(config, found),
        check_bucket_count(config, found),
    )


def check_bucket_count(config: KinesisConfig, found: StreamFacts | None) -> Check:
    """Warn where there are too few buckets to spread over the shards evenly."""
    name = "bucket_count"
    shards = config.shard_count if found is None else found.open_shards
    if shards is None:
        return Check(
            name=name, state=CheckState.OK, why=f"{config.bucket_count} buckets, on demand so many shards"
        )
    why = f"{config.bucket_count} buckets over {shards} shards"
    if config.bucket_count >= _BUCKETS_A_SHARD * shards:
        return Check(name=name, state=CheckState.OK, why=why)
    return Check(
        name=name,
        state=CheckState.WARN,
        why=f"{why}: some get far more than others",
        remedy=f"drain the stream, then set bucket_count to {_power_of_two(_BUCKETS_A_SHARD * shards)}"
        f" and the stream's tag {BUCKETS_TAG} with it",
    )


def _plan_existence(wanted: Wanted, found: StreamFacts | None) -> Planned:
    name = wanted.name
    if found is None:
        parameters: dict[str, Any] = {"StreamName": name}
        if wanted.shard_count is None:
            parameters["StreamModeDetails"] = {"StreamMode": "ON_DEMAND"}
            detail = "capacity on demand"
        else:
            parameters["ShardCount"] = wanted.shard_count
            parameters["StreamModeDetails"] = {"StreamMode": "PROVISIONED"}
            detail = f"{wanted.shard_count} {'shard' if wanted.shard_count == 1 else 'shards'}"
        call = Call(service="kinesis", operation="create_stream", parameters=parameters)
        return _act(Action.CREATE, STREAM, name, detail, call)
    if found.status == "DELETING":
        return _refuse(STREAM, name, "is being deleted", "wait until it is gone, and plan again")
    if found.distribution == "AUTO":
        return _refuse(
            STREAM,
            name,
            "distributes records by itself (RecordDistributionStrategy AUTO) and ignores their keys:"
            " no order of a key would hold",
            f"aws kinesis update-stream-record-distribution-strategy --stream-arn {found.arn}"
            " --record-distribution-strategy USER_PARTITION_KEY, or use another stream",
        )
    return _keep(STREAM, name, f"exists, {found.status}, {found.mode}, {found.open_shards} open shards")


def _plan_retention(wanted: Wanted, found: StreamFacts | None) -> Planned:
    name, hours = wanted.name, wanted.retention_hours
    current = _NEW_STREAM_RETENTION_HOURS if found is None else found.retention_hours
    if hours == current:
        return _keep(RETENTION, name, f"{current} hours")
    if hours < current:
        return _keep(
            RETENTION,
            name,
            f"{current} hours, not lowered to {hours}: that would delete what is older",
        )
    call = Call(
        service="kinesis",
        operation="increase_stream_retention_period",
        parameters={"StreamName": name, "RetentionPeriodHours": hours},
    )
    return _act(Action.CHANGE, RETENTION, name, f"from {current} to {hours} hours", call)


def _plan_encryption(wanted: Wanted, found: StreamFacts | None) -> Planned:
    name, key = wanted.name, wanted.encryption_key
    current = None if found is None else found.encryption_key
    if key is None or current is not None:
        return _keep(ENCRYPTION, name, "none" if current is None else f"with the key {current}")
    call = Call(
        service="kinesis",
        operation="start_stream_encryption",
        parameters={"StreamName": name, "EncryptionType": "KMS", "KeyId": key},
    )
    return _act(Action.CHANGE, ENCRYPTION, name, f"with the key {key}, for records from then on", call)


def _plan_tags(wanted: Wanted, found: StreamFacts | None, *, creator: str) -> Planned:
    name = wanted.name
    current: Mapping[str, str] = {} if found is None else found.tags
    for tag, value in wanted.tags.items():
        if current.get(tag, value) != value:
            return _refuse(
                TAGS,
                name,
                f"{tag} is {current[tag]}, and the config says {value}: another bucket is another order",
                f"set bucket_count to {current[tag].partition('/')[0]}; or drain the stream, stop its readers and"
                f" consumers, then: aws kinesis add-tags-to-stream --stream-name {name} --tags {tag}={value}",
            )
    tags = {tag: value for tag, value in wanted.tags.items() if tag not in current}
    if found is None:
        tags[CREATED_BY_TAG] = creator
    if not tags:
        return _keep(TAGS, name, ", ".join(f"{tag} {value}" for tag, value in sorted(current.items())))
    call = Call(
        service="kinesis", operation="add_tags_to_stream", parameters={"StreamName": name, "Tags": tags}
    )
    return _act(Action.CHANGE, TAGS, name, ", ".join(f"{tag} {value}" for tag, value in tags.items()), call)


def _check_capacity(config: KinesisConfig, found: StreamFacts | None) -> Check:
    name = "stream_capacity"
    if found is None or config.shard_count is None:
        return Check(name=name, state=CheckState.OK, why="as configured, or as the stream has it")
    if found.mode == "ON_DEMAND":
        return Check(
            name=name,
            state=CheckState.WARN,
            why=f"the stream is on demand, shard_count {config.shard_count} is not looked at",
            remedy="take shard_count out of the config, or: aws kinesis update-stream-mode",
        )
    if found.open_shards != config.shard_count:
        return Check(
            name=name,
            state=CheckState.WARN,
            why=f"the stream has {found.open_shards} open shards, the config says {config.shard_count};"
            " who operates a stream scales it, so it is left as it is",
            remedy=f"set shard_count to {found.open_shards}, or: aws kinesis update-shard-count --stream-name"
            f" {found.name} --target-shard-count {config.shard_count} --scaling-type UNIFORM_SCALING",
        )
    return Check(name=name, state=CheckState.OK, why=f"{found.open_shards} open shards")


def _check_retention(config: KinesisConfig, found: StreamFacts | None) -> Check:
    hours = config.retention_hours if found is None else found.retention_hours
    if hours > config.retention_hours > _NEW_STREAM_RETENTION_HOURS:
        return Check(
            name="stream_retention",
            state=CheckState.WARN,
            why=f"the stream keeps {hours} hours, more than the {config.retention_hours} of the config",
            remedy=f"set retention_hours to {hours}, or: aws kinesis decrease-stream-retention-period"
            f" --stream-name {config.stream_name} --retention-period-hours {config.retention_hours}",
        )
    return Check(
        name="stream_retention",
        state=CheckState.OK,
        why=f"a consumer may be away for {max(hours, config.retention_hours)} hours before it loses records",
    )


def _check_encryption(config: KinesisConfig, found: StreamFacts | None) -> Check:
    name, key = "stream_encryption", config.encryption_key_id
    current = None if found is None else found.encryption_key
    if current is not None and key is not None and not _same_key(current, key):
        return Check(
            name=name,
            state=CheckState.WARN,
            why=f"the stream is encrypted with {current}, the config says {key}; it is left as it is, for its"
            " readers may lack permission on another key",
            remedy=f"set encryption_key_id to {current}, or: aws kinesis start-stream-encryption --stream-name"
            f" {config.stream_name} --encryption-type KMS --key-id {key}",
        )
    return Check(name=name, state=CheckState.OK, why="encrypted" if current or key else "not encrypted")


def _same_key(current: str, wanted: str) -> bool:
    """Compare two names of a key: id, alias, or the ARN of either."""
    return current == wanted or current.endswith((f":{wanted}", f"/{wanted}"))


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


def _act(action: Action, kind: str, name: str, detail: str, call: Call) -> Planned:
    step = Step(action=action, kind=kind, name=name, detail=detail, statement=call.statement)
    return Planned(step=step, call=call)


def _keep(kind: str, name: str, detail: str) -> Planned:
    return Planned(step=Step(action=Action.KEEP, kind=kind, name=name, detail=detail))


def _refuse(kind: str, name: str, detail: str, remedy: str) -> Planned:
    return Planned(step=Step(action=Action.REFUSE, kind=kind, name=name, detail=detail, remedy=remedy))


def changes(planned: Sequence[Planned]) -> Sequence[tuple[Step, Call]]:
    """Return the steps that do something, with their calls."""
    return [(item.step, item.call) for item in planned if item.call is not None]
