"""Deletes what a group's provisioner created: what is tagged or written down as its own, and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cdc_core import Action, ConfigError, NotProvisioned, Plan, Step

from ._aws import Aws
from ._config import KinesisConfig
from ._errors import AwsAccessError, AwsError
from ._inspection import CREATED_BY_TAG, TableFacts, inspect_consumer, inspect_stream, inspect_table
from ._letter_shelf import LetterShelf
from ._patience import call_patiently, wait_until
from ._plan_steps import CONSUMER, STREAM, TABLE, Call

logger = logging.getLogger("cdc_kinesis")

_META_SUFFIX: Final = "-cdc-meta"
_CONSUMER: Final = "consumer"
_ROW: Final = {"name": {"S": "provisioned"}}


async def remember(aws: Aws, config: KinesisConfig, tables: Sequence[str], *, consumer_arn: str = "") -> None:
    """Write down in the meta table which tables were created, with what tells them from others of their names.

    - `consumer_arn`: of the consumer that was registered; it tells by itself.
    """
    values = {"stream_name": config.stream_name, "group_id": config.group_id}
    if consumer_arn:
        values[_CONSUMER] = consumer_arn
    for name in tables:
        if (found := await inspect_table(aws, name)) is not None:
            values[_attribute(config, name)] = found.token
    await call_patiently(
        aws,
        "dynamodb",
        "update_item",
        TableName=config.meta_table,
        Key=_ROW,
        UpdateExpression="SET " + ", ".join(f"{name} = :{name}" for name in values),
        ExpressionAttributeValues={f":{name}": {"S": value} for name, value in values.items()},
    )


async def tear_down(aws: Aws, config: KinesisConfig, *, confirm: str) -> Plan:
    """Delete what is ours, the streams first: what tells that the tables are ours goes last."""
    if confirm != config.stream_name:
        raise ConfigError(
            f"teardown was confirmed with {confirm!r}",
            remedy=f"confirm with the stream's name, {config.stream_name!r}",
        )
    recorded = await _recorded(aws, config)
    steps = [
        await _drop_consumer(aws, config, recorded.get(_CONSUMER)),
        await _drop_stream(aws, config, config.stream_name, await _users(aws, config)),
        await _drop_stream(aws, config, config.dead_letter_stream, await _letters(aws, config)),
    ]
    steps += [
        await _drop_table(aws, name, recorded.get(_attribute(config, name)))
        for name in (config.lease_table, config.meta_table)
    ]
    return Plan(steps=tuple(step for step in steps if step is not None))


async def _drop_consumer(aws: Aws, config: KinesisConfig, recorded: str | None) -> Step | None:
    """Deregister the consumer, which would keep the stream; looked for where one may be only."""
    if recorded is None and not config.enhanced_fan_out:
        return None
    stream = await inspect_stream(aws, config.stream_name)
    if stream is None:
        return None
    name, stream_arn = config.group_id, stream.arn
    found = await inspect_consumer(aws, stream_arn, name)
    if found is None:
        return None
    if found.arn != recorded:
        return _kept(CONSUMER, name, "was not registered here")
    call = Call(
        service="kinesis",
        operation="deregister_stream_consumer",
        parameters={"StreamARN": stream_arn, "ConsumerName": name},
    )
    try:
        await call_patiently(aws, call.service, call.operation, **call.parameters)
    except AwsError as error:
        if error.code != "ResourceNotFoundException":
            raise

    async def look() -> str:
        consumer = await inspect_consumer(aws, stream_arn, name)
        return "gone" if consumer is None else consumer.status

    await wait_until(CONSUMER, name, look, wanted="gone")
    logger.info("deleted", extra={"kind": CONSUMER, "object": name})
    return Step(action=Action.DROP, kind=CONSUMER, name=name, statement=call.statement)


async def _drop_stream(aws: Aws, config: KinesisConfig, name: str, reason: str) -> Step | None:
    found = await inspect_stream(aws, name, tags=True)
    if found is None:
        return None
    if found.tags.get(CREATED_BY_TAG) != config.lease_table:
        return _kept(STREAM, name, "was not created here")
    if reason:
        return _kept(STREAM, name, reason)
    call = Call(service="kinesis", operation="delete_stream", parameters={"StreamName": name})
    try:
        await call_patiently(aws, call.service, call.operation, **call.parameters)
    except AwsError as error:
        if error.code == "ResourceInUseException":
            return _kept(STREAM, name, f"is in use: {error.message}")
        if error.code != "ResourceNotFoundException":
            raise

    async def look() -> str:
        stream = await inspect_stream(aws, name)
        return "gone" if stream is None else stream.status

    await wait_until(STREAM, name, look, wanted="gone")
    logger.info("deleted", extra={"kind": STREAM, "object": name})
    return Step(action=Action.DROP, kind=STREAM, name=name, statement=call.statement)


async def _drop_table(aws: Aws, name: str, token: str | None) -> Step | None:
    found = await inspect_table(aws, name)
    if found is None:
        return None
    if found.token != token:
        return _kept(TABLE, name, "was not created here")
    call = Call(service="dynamodb", operation="delete_table", parameters={"TableName": name})
    try:
        await call_patiently(aws, call.service, call.operation, **call.parameters)
    except AwsError as error:
        if error.code != "ResourceNotFoundException":
            raise

    async def look() -> str:
        table: TableFacts | None = await inspect_table(aws, name)
        return "gone" if table is None else table.status

    await wait_until(TABLE, name, look, wanted="gone")
    logger.info("deleted", extra={"kind": TABLE, "object": name})
    return Step(action=Action.DROP, kind=TABLE, name=name, statement=call.statement)


async def _users(aws: Aws, config: KinesisConfig) -> str:
    """Say which other groups use the stream; each has a meta table with a row that names the stream."""
    try:
        names = [name for name in await _tables(aws) if name.endswith(_META_SUFFIX)]
        others = [
            name.removesuffix(_META_SUFFIX)
            for name in names
            if name != config.meta_table and await _names_stream(aws, name, config.stream_name)
        ]
    except AwsAccessError as error:
        return f"other groups may use it, and may not be asked: {error.message}"
    return f"is used by the groups of the lease tables {', '.join(others)}" if others else ""


async def _letters(aws: Aws, config: KinesisConfig) -> str:
    """Say how many dead letters the stream holds, of whichever group."""
    try:
        count = len(await LetterShelf(aws, config.dead_letter_stream, source=None).letters())
    except NotProvisioned:
        return ""
    return f"holds {count} dead letters" if count else ""


async def _tables(aws: Aws) -> Sequence[str]:
    names: list[str] = []
    page: dict[str, Any] = {}
    while True:
        answer = await call_patiently(aws, "dynamodb", "list_tables", **page)
        names += answer["TableNames"]
        if not (last := answer.get("LastEvaluatedTableName")):
            return names
        page["ExclusiveStartTableName"] = last


async def _names_stream(aws: Aws, table: str, stream_name: str) -> bool:
    try:
        answer = await call_patiently(aws, "dynamodb", "scan", TableName=table)
    except AwsError as error:
        if error.code == "ResourceNotFoundException":  # deleted in between
            return False
        raise
    rows: Sequence[Mapping[str, Mapping[str, Any]]] = answer["Items"]
    values = [str(value.get("S", "")) for row in rows for value in row.values()]
    return any(value == stream_name or value.endswith(f":stream/{stream_name}") for value in values)


async def _recorded(aws: Aws, config: KinesisConfig) -> Mapping[str, str]:
    try:
        answer = await call_patiently(
            aws, "dynamodb", "get_item", TableName=config.meta_table, Key=_ROW, ConsistentRead=True
        )
    except AwsError as error:
        if error.code == "ResourceNotFoundException":
            return {}
        raise
    row: Mapping[str, Mapping[str, str]] = answer.get("Item", {})
    return {name: value.get("S", "") for name, value in row.items()}


def _attribute(config: KinesisConfig, table: str) -> str:
    return "lease_table" if table == config.lease_table else "meta_table"


def _kept(kind: str, name: str, detail: str) -> Step:
    return Step(action=Action.KEEP, kind=kind, name=name, detail=detail)
