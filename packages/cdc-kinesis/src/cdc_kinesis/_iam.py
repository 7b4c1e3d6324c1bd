"""The least permissions that a role needs, as an IAM policy; a test compares them with what the code calls."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from cdc_core import ConfigError

from ._config import KinesisConfig

PolicyRole = Literal["consumer", "publisher", "provisioner", "operator"]
"""Who is allowed: a pipeline, a reader's publisher, whoever provisions, whoever looks at lag and dead letters."""

_STREAM: Final[Mapping[PolicyRole, tuple[str, ...]]] = {
    "consumer": (
        "DescribeStreamSummary",
        "GetRecords",
        "GetShardIterator",
        "ListShards",
        "ListTagsForStream",  # a pipeline runs the monitor, too
    ),
    "publisher": ("DescribeStreamSummary", "ListTagsForStream", "PutRecords"),
    "provisioner": (
        "AddTagsToStream",
        "CreateStream",
        "DeleteStream",
        "DescribeStreamSummary",
        "IncreaseStreamRetentionPeriod",
        "ListTagsForStream",
    ),
    "operator": (
        "DescribeStreamSummary",
        "GetRecords",
        "GetShardIterator",
        "ListShards",
        "ListTagsForStream",
    ),
}
_DEAD_LETTER_STREAM: Final[Mapping[PolicyRole, tuple[str, ...]]] = {
    # a pipeline that parks keys looks whether their letters are still there
    "consumer": ("DescribeStreamSummary", "GetRecords", "GetShardIterator", "ListShards", "PutRecords"),
    "publisher": (),
    "provisioner": (
        *_STREAM["provisioner"],
        "GetRecords",
        "GetShardIterator",
        "ListShards",
    ),
    "operator": ("DescribeStreamSummary", "GetRecords", "GetShardIterator", "ListShards", "PutRecords"),
}
_LEASE_TABLE: Final[Mapping[PolicyRole, tuple[str, ...]]] = {
    "consumer": ("DeleteItem", "DescribeTable", "GetItem", "PutItem", "Scan", "UpdateItem"),
    "publisher": (),
    "provisioner": ("CreateTable", "DeleteTable", "DescribeTable"),
    "operator": ("DescribeTable", "Scan"),
}
_META_TABLE: Final[Mapping[PolicyRole, tuple[str, ...]]] = {
    "consumer": ("DescribeTable", "GetItem", "PutItem", "UpdateItem"),
    "publisher": (),
    "provisioner": ("CreateTable", "DeleteTable", "DescribeTable", "GetItem", "UpdateItem"),
    "operator": ("DescribeTable", "GetItem"),
}
_KMS: Final[Mapping[PolicyRole, tuple[str, ...]]] = {
    # Who reads decrypts, who writes asks for a data key (Kinesis developer guide, server-side encryption); a
    # consumer and an operator write dead letters.
    "consumer": ("Decrypt", "GenerateDataKey"),
    "publisher": ("GenerateDataKey",),
    "provisioner": ("Decrypt", "DescribeKey"),
    "operator": ("Decrypt", "GenerateDataKey"),
}
# Of the stream, and of the group's consumer: which of the two IAM looks at depends on how a call names the consumer.
_FAN_OUT_STREAM: Final[Mapping[PolicyRole, tuple[str, ...]]] = {
    "consumer": ("DescribeStreamConsumer",),
    "publisher": (),
    "provisioner": ("DeregisterStreamConsumer", "DescribeStreamConsumer", "RegisterStreamConsumer"),
    "operator": (),
}
_FAN_OUT_CONSUMER: Final[Mapping[PolicyRole, tuple[str, ...]]] = {
    "consumer": ("DescribeStreamConsumer", "SubscribeToShard"),
    "publisher": (),
    "provisioner": ("DeregisterStreamConsumer", "DescribeStreamConsumer"),
    "operator": (),
}
_RECOVERY: Final = ("DescribeContinuousBackups", "UpdateContinuousBackups")


def minimal_policy(
    config: KinesisConfig, *, role: PolicyRole, partition: str = "aws", region: str = "*", account: str = "*"
) -> dict[str, Any]:
    """Return the IAM policy with the least that a role needs for a config, as plain data.

    - `role`: `consumer` (a pipeline), `publisher` (a reader), `provisioner`, or `operator` (the monitor, and the dead
      letters' list, show, replay and discard). Who is several of them gets several policies.
    - `partition`, `region`, `account`: of the ARNs; a star where they are not known.

    Which actions those are is checked against what the code calls of local servers; that IAM lets these through,
    only AWS can show.

    Raises:
        ConfigError: there is no such role.
    """
    if role not in _STREAM:
        raise ConfigError(f"there is no role {role!r}", remedy=f"one of {', '.join(_STREAM)}")
    place = f"{region}:{account}"
    stream = f"arn:{partition}:kinesis:{place}:stream/{config.stream_name}"
    letters = f"arn:{partition}:kinesis:{place}:stream/{config.dead_letter_stream}"
    lease_table = f"arn:{partition}:dynamodb:{place}:table/{config.lease_table}"
    meta_table = f"arn:{partition}:dynamodb:{place}:table/{config.meta_table}"
    fan_out = config.enhanced_fan_out
    consumer = f"{stream}/consumer/{config.group_id}:*"
    statements = [
        _allow("kinesis", (*_STREAM[role], *(_FAN_OUT_STREAM[role] if fan_out else ())), stream),
        _allow("kinesis", _FAN_OUT_CONSUMER[role] if fan_out else (), consumer),
        _allow("kinesis", _DEAD_LETTER_STREAM[role], letters),
    ]
    recovery = _RECOVERY if config.point_in_time_recovery and role == "provisioner" else ()
    statements += [
        _allow("dynamodb", (*_LEASE_TABLE[role], *recovery), lease_table),
        _allow("dynamodb", (*_META_TABLE[role], *recovery), meta_table),
    ]
    if role == "provisioner":
        # before it deletes a stream it looks for other groups of that stream
        others = f"arn:{partition}:dynamodb:{place}:table/*-cdc-meta"
        statements += [_allow("dynamodb", ("ListTables",), "*"), _allow("dynamodb", ("Scan",), others)]
    if config.cloudwatch and role in ("consumer", "operator"):
        statements.append(_allow("cloudwatch", ("GetMetricData",), "*"))  # it knows no narrower resource
    statements += _encryption(config, role, partition=partition, place=place, streams=(stream, letters))
    return {"Version": "2012-10-17", "Statement": [one for one in statements if one["Action"]]}


def policy_text(policy: Mapping[str, Any]) -> str:
    """Return a policy as JSON in one line."""
    return json.dumps(policy, separators=(",", ":"))


def _encryption(
    config: KinesisConfig, role: PolicyRole, *, partition: str, place: str, streams: Sequence[str]
) -> list[dict[str, Any]]:
    key = config.encryption_key_id
    if key is None:
        return []
    statements: list[dict[str, Any]] = []
    if role == "provisioner":
        statements += [_allow("kinesis", ("StartStreamEncryption",), stream) for stream in streams]
    if key.startswith("alias/aws/"):  # AWS's own key lets everybody through who may use the stream
        return statements
    if key.startswith("arn:") and ":key/" in key:
        return [*statements, _allow("kms", _KMS[role], key)]
    if not key.startswith(("alias/", "arn:")):
        return [*statements, _allow("kms", _KMS[role], f"arn:{partition}:kms:{place}:key/{key}")]
    allowed = _allow("kms", _KMS[role], f"arn:{partition}:kms:{place}:key/*")
    # a policy cannot name an alias as resource (KMS developer guide, "Using aliases to control access")
    alias = key[key.index("alias/") :]
    allowed["Condition"] = {"ForAnyValue:StringEquals": {"kms:ResourceAliases": alias}}
    return [*statements, allowed]


def _allow(service: str, actions: Sequence[str], resource: str) -> dict[str, Any]:
    return {
        "Effect": "Allow",
        "Action": [f"{service}:{action}" for action in sorted(set(actions))],
        "Resource": resource,
    }
