"""Plans and creates what a group needs at the services: stream, dead-letter stream, and its two tables."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import final

from cdc_core import Action, Check, CheckState, Plan, PlanOutdated, PlanRefused, Step

from ._aws import Aws
from ._config import KinesisConfig
from ._errors import AnswerLost, AwsAccessError, AwsError
from ._iam import PolicyRole, minimal_policy, policy_text
from ._inspection import (
    ConsumerFacts,
    StreamFacts,
    TableFacts,
    inspect_consumer,
    inspect_recovery,
    inspect_stream,
    inspect_table,
)
from ._patience import call_patiently, wait_until
from ._plan_steps import (
    CONSUMER,
    STREAM,
    TABLE,
    TAGS,
    Call,
    Planned,
    changes,
    check_stream,
    plan_consumer,
    plan_recovery,
    plan_stream,
    plan_table,
    wanted_streams,
)
from ._teardown import remember, tear_down

logger = logging.getLogger("cdc_kinesis")

_ROLES: tuple[PolicyRole, ...] = ("consumer", "publisher", "provisioner", "operator")


@asynccontextmanager
async def open_provisioner(config: KinesisConfig, aws: Aws) -> AsyncGenerator[KinesisProvisioner, None]:
    """Open the provisioner of a group and of its stream; nothing is asked before the first plan."""
    yield KinesisProvisioner(config, aws)


@final
class KinesisProvisioner:
    """The provisioner of one `KinesisConfig`.

    What exists stays as it is, but for what only adds: a longer retention, encryption where there is none, the tag
    that names the buckets, point-in-time recovery. Capacity is the operator's; what differs there is a check.

    Streams that it creates carry a tag with the name of the lease table; tables that it creates are written down in
    the table `<lease table>-cdc-meta`. A teardown takes away what says so.
    """

    def __init__(self, config: KinesisConfig, aws: Aws) -> None:
        self._config = config
        self._aws = aws

    def __repr__(self) -> str:
        return f"KinesisProvisioner({self._config.stream_name!r})"

    async def plan(self) -> Plan:
        """Read what exists and what is missing; change nothing.

        Among the checks are the least permissions, as IAM policies, that each role needs.

        Raises:
            AwsError, AwsAccessError, AnswerLost, ConfigError: the services could not be asked.
        """
        return (await self._plan())[0]

    async def apply(self, plan: Plan) -> None:
        """Create what is missing, wait until it is there, then change what the plan says.

        Waiting goes to the log, at intervals. A tag that may not be written is left out, with a warning.

        Raises:
            PlanRefused, PlanOutdated: as the protocol says; nothing was changed. PlanOutdated also where somebody
                creates the same object at the same time; what was created stays, and a new plan finds it.
            AwsError, AwsAccessError, AnswerLost: a service refused; what was done stays, a new plan goes on from it.
        """
        if plan.is_refused:
            raise PlanRefused(plan)
        now, planned = await self._plan()
        if now.is_refused:
            raise PlanRefused(now)
        if (changed := _outdated(plan, now)) is not None:
            raise PlanOutdated(now, f"{changed} is not any more what the plan says")
        doing = changes(planned)
        created = [(step, call) for step, call in doing if step.action is Action.CREATE]
        for step, call in created:
            if step.kind != CONSUMER:
                await self._create(now, step, call)
        for step in now.steps:
            if step.kind in (STREAM, TABLE):
                await self._until_active(step)
        for step, call in doing:
            if step.action is Action.CHANGE:
                await self._change(step, call)
        if created:
            tables = [step.name for step, _ in created if step.kind == TABLE]
            # before the consumer, which may fail by itself: what was created has to be known
            await remember(self._aws, self._config, tables)
        await self._register(now, created)

    async def teardown(self, *, confirm: str) -> Plan:
        """Delete the streams and tables that this group's provisioner created, and deregister its consumer.

        The stream stays if another group uses it or others' consumers with enhanced fan-out are registered, the
        dead-letter stream if it holds letters.

        - `confirm`: the stream's name.

        Raises:
            ConfigError: `confirm` is another name.
            AwsError, AwsAccessError, AnswerLost: a service refused.
        """
        return await tear_down(self._aws, self._config, confirm=confirm)

    async def _plan(self) -> tuple[Plan, Sequence[Planned]]:
        config, aws = self._config, self._aws
        stream = await inspect_stream(aws, config.stream_name, tags=True)
        letters = await inspect_stream(aws, config.dead_letter_stream, tags=True)
        lease_table = await inspect_table(aws, config.lease_table)
        meta_table = await inspect_table(aws, config.meta_table)
        tables = [(config.lease_table, lease_table, "leaseKey"), (config.meta_table, meta_table, "name")]
        wanted = wanted_streams(config)
        of_stream = plan_stream(wanted[0], stream, creator=config.lease_table)
        of_letters = plan_stream(wanted[1], letters, creator=config.lease_table)
        of_tables = [plan_table(name, found, hash_key=key) for name, found, key in tables]
        planned = [of_stream[0], of_letters[0], *of_tables, *of_stream[1:], *of_letters[1:]]
        if config.enhanced_fan_out:
            name = config.group_id
            consumer = None if stream is None else await inspect_consumer(aws, stream.arn, name)
            planned.append(plan_consumer(name, stream, consumer))
        if config.point_in_time_recovery:
            for name, found, _ in tables:
                enabled = None if found is None else await inspect_recovery(aws, name)
                planned.append(plan_recovery(name, exists=found is not None, enabled=enabled))
        checks = (*check_stream(config, stream), *self._policies(stream))
        return Plan(steps=tuple(item.step for item in planned), checks=checks), planned

    def _policies(self, stream: StreamFacts | None) -> Sequence[Check]:
        known: Mapping[str, str] = {}
        if stream is not None:
            _, partition, _, region, account, _ = stream.arn.split(":", 5)
            known = {"partition": partition, "region": region or "*", "account": account or "*"}
        return [
            Check(
                name=f"iam_policy_{role}",
                state=CheckState.OK,
                why=f"the least that the role of a {role} has to be allowed",
                remedy=policy_text(minimal_policy(self._config, role=role, **known)),
            )
            for role in _ROLES
        ]

    async def _create(self, now: Plan, step: Step, call: Call) -> None:
        lost = False
        while True:
            try:
                await call_patiently(
                    self._aws, call.service, call.operation, repeatable=False, **call.parameters
                )
            except AnswerLost:
                if lost:
                    raise
                lost = True
                continue
            except AwsError as error:
                if error.code == "ResourceInUseException" and lost:  # it was created by the call before
                    return
                if error.code == "ResourceInUseException":
                    raise PlanOutdated(now, f"somebody else created {step.kind} {step.name}") from error
                raise
            logger.info("created", extra={"kind": step.kind, "object": step.name})
            return

    async def _register(self, now: Plan, created: Sequence[tuple[Step, Call]]) -> None:
        """Register the consumer, if that is to be done: its stream is there by now."""
        for step, call in created:
            if step.kind != CONSUMER:
                continue
            stream = await inspect_stream(self._aws, self._config.stream_name)
            if stream is None:
                raise PlanOutdated(now, f"somebody deleted {STREAM} {self._config.stream_name}")
            parameters = {**call.parameters, "StreamARN": stream.arn}
            await self._create(now, step, replace(call, parameters=parameters))
            await self._until_active(step, stream_arn=stream.arn)
            consumer = await inspect_consumer(self._aws, stream.arn, step.name)
            if consumer is not None:
                await remember(self._aws, self._config, [], consumer_arn=consumer.arn)

    async def _change(self, step: Step, call: Call) -> None:
        async def attempt() -> str:
            try:
                await call_patiently(self._aws, call.service, call.operation, **call.parameters)
            except AwsError as error:
                # a new table takes a while until it knows of backups (UpdateContinuousBackups, API reference)
                if error.code != "ContinuousBackupsUnavailableException":
                    raise
                return "not ready"
            return "changed"

        try:
            await wait_until(step.kind, step.name, attempt, wanted="changed")
        except AwsAccessError as error:
            if step.kind != TAGS:
                raise
            # The tag is for the checks of others; a consumer of somebody else's stream may not write it.
            logger.warning("a tag was not written", extra={"stream": step.name, "error": error.message})
            return
        logger.info("changed", extra={"kind": step.kind, "object": step.name, "detail": step.detail})
        if call.service == "kinesis":
            await self._until_active(Step(action=Action.KEEP, kind=STREAM, name=step.name))

    async def _until_active(self, step: Step, *, stream_arn: str = "") -> None:
        async def look() -> str:
            found: StreamFacts | TableFacts | ConsumerFacts | None
            if step.kind == CONSUMER:
                found = await inspect_consumer(self._aws, stream_arn, step.name)
            elif step.kind == STREAM:
                found = await inspect_stream(self._aws, step.name)
            else:
                found = await inspect_table(self._aws, step.name)
            return "missing" if found is None else found.status

        await wait_until(step.kind, step.name, look, wanted="ACTIVE")


def _outdated(plan: Plan, now: Plan) -> str | None:
    planned = {(step.kind, step.name): step for step in plan.steps}
    for step in now.steps:
        before = planned.get((step.kind, step.name))
        if step.action is Action.KEEP and before is not None:
            continue  # it was there, or somebody has done meanwhile what the plan would have
        if before is None or (before.action, before.statement) != (step.action, step.statement):
            return f"{step.kind} {step.name}"
    return None
