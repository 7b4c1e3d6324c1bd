"""What a provisioner creates, what it leaves alone, what it refuses, and what it takes away."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from kinesis_harness import Endpoints, KinesisHarness, fresh_harness
from letter_samples import failed_event

from cdc_core import Action, CheckState, Plan, PlanOutdated, PlanRefused, Step, provision
from cdc_kinesis import AwsAccessError, KinesisConfig, KinesisTransport
from cdc_testing.servers.kinesis import Drop, Durations, EmbeddedAws, Refuse, open_kinesis

pytestmark = pytest.mark.anyio


async def test_a_plan_says_the_exact_calls(stage: KinesisHarness) -> None:
    config = replace(
        stage.config, retention_hours=48, encryption_key_id="alias/shop", point_in_time_recovery=True
    )
    plan = await _plan(stage, config)
    assert [(step.action, step.kind, step.name) for step in plan.steps] == [
        (Action.CREATE, "kinesis stream", config.stream_name),
        (Action.CREATE, "kinesis stream", config.dead_letter_stream),
        (Action.CREATE, "dynamodb table", config.lease_table),
        (Action.CREATE, "dynamodb table", config.meta_table),
        (Action.CHANGE, "stream retention", config.stream_name),
        (Action.CHANGE, "stream encryption", config.stream_name),
        (Action.CHANGE, "stream tags", config.stream_name),
        (Action.CHANGE, "stream retention", config.dead_letter_stream),
        (Action.CHANGE, "stream encryption", config.dead_letter_stream),
        (Action.CHANGE, "stream tags", config.dead_letter_stream),
        (Action.CHANGE, "point-in-time recovery", config.lease_table),
        (Action.CHANGE, "point-in-time recovery", config.meta_table),
    ]
    command = shlex.split(plan.steps[0].statement)
    assert command[:4] == ["aws", "kinesis", "create-stream", "--cli-input-json"]
    assert json.loads(command[4]) == {
        "StreamName": config.stream_name,
        "ShardCount": 2,
        "StreamModeDetails": {"StreamMode": "PROVISIONED"},
    }


async def test_what_a_plan_says_is_what_is_there_afterwards(stage: KinesisHarness) -> None:
    config = replace(
        stage.config, retention_hours=48, encryption_key_id="alias/shop", point_in_time_recovery=True
    )
    await provision(_transport(stage, config))
    stream = await _summary(stage, config.stream_name)
    assert (stream["RetentionPeriodHours"], stream["OpenShardCount"]) == (48, 2)
    assert (stream["EncryptionType"], stream["KeyId"]) == ("KMS", "alias/shop")
    assert await _tags(stage, config.stream_name) == {
        "cdc-buckets": "256/crc32",
        "cdc-created-by": config.lease_table,
    }
    letters = await _summary(stage, config.dead_letter_stream)
    assert (letters["RetentionPeriodHours"], letters["OpenShardCount"]) == (336, 1)
    backups = await stage.aws.call("dynamodb", "describe_continuous_backups", TableName=config.lease_table)
    recovery = backups["ContinuousBackupsDescription"]["PointInTimeRecoveryDescription"]
    assert recovery["PointInTimeRecoveryStatus"] == "ENABLED"
    assert (await _plan(stage, config)).is_done


async def test_a_stream_without_a_shard_count_is_on_demand(stage: KinesisHarness) -> None:
    config = replace(stage.config, shard_count=None)
    await provision(_transport(stage, config))
    assert (await _summary(stage, config.stream_name))["StreamModeDetails"]["StreamMode"] == "ON_DEMAND"
    assert (await _plan(stage, config)).is_done


async def test_objects_that_take_their_time_are_waited_for_and_that_is_said(
    embedded_aws: EmbeddedAws, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("cdc_kinesis._patience._PROGRESS_SECONDS", 0.1)
    durations = Durations(create=0.3, update=0.2, delete=0.2)
    async with open_kinesis(durations=durations, use_existing=False) as kinesis:
        assert kinesis.endpoint_url is not None
        endpoints = replace(Endpoints.of(embedded_aws), kinesis_url=kinesis.endpoint_url)
        async with fresh_harness(endpoints) as stage:
            config = replace(stage.config, retention_hours=48, encryption_key_id="alias/shop")
            with caplog.at_level(logging.INFO, logger="cdc_kinesis"):
                await provision(_transport(stage, config))
            waits = [vars(record) for record in caplog.records if record.message.startswith("waiting")]
            assert {wait["status"] for wait in waits} == {"CREATING", "UPDATING"}
            assert (await _summary(stage, config.stream_name))["StreamStatus"] == "ACTIVE"
            async with _transport(stage, config).provisioner() as provisioner:
                assert (await provisioner.plan()).is_done
                await provisioner.teardown(confirm=config.stream_name)
            assert await stage.objects() == frozenset()


async def test_a_consumer_of_somebody_elses_stream_creates_its_own_things_only(
    stage: KinesisHarness,
) -> None:
    name = stage.config.stream_name
    await stage.aws.call("kinesis", "create_stream", StreamName=name, ShardCount=3)
    await stage.aws.call("kinesis", "add_tags_to_stream", StreamName=name, Tags={"cdc-buckets": "256/crc32"})
    config = replace(stage.config, shard_count=None)
    plan = await provision(_transport(stage, config))
    changed = {(step.kind, step.name) for step in plan.steps if step.action is not Action.KEEP}
    assert not {kind for kind, changed_name in changed if changed_name == name}
    assert (await _summary(stage, name))["OpenShardCount"] == 3
    async with _transport(stage, config).provisioner() as provisioner:
        gone = await provisioner.teardown(confirm=name)
    assert _actions(gone)["kinesis stream", name] is Action.KEEP
    assert _actions(gone)["dynamodb table", config.lease_table] is Action.DROP
    assert await stage.objects() == {f"stream {name}"}


async def test_a_tag_that_may_not_be_written_is_left_out_with_a_warning(
    stage: KinesisHarness, embedded_aws: EmbeddedAws, caplog: pytest.LogCaptureFixture
) -> None:
    name = stage.config.stream_name
    await stage.aws.call("kinesis", "create_stream", StreamName=name, ShardCount=2)
    refusal = Refuse(code="AccessDeniedException", message="not yours", status=400)
    with (
        embedded_aws.kinesis.add_fault(refusal, operations=["AddTagsToStream"], streams=[name]),
        caplog.at_level(logging.WARNING, logger="cdc_kinesis"),
    ):
        await provision(_transport(stage, stage.config))
    assert [record.message for record in caplog.records] == ["a tag was not written"]
    assert await _tags(stage, name) == {}
    assert f"table {stage.config.lease_table}" in await stage.objects()


async def test_only_what_adds_is_changed_on_a_stream_that_exists(stage: KinesisHarness) -> None:
    name = stage.config.stream_name
    await stage.aws.call("kinesis", "create_stream", StreamName=name, ShardCount=3)
    config = replace(stage.config, shard_count=4, retention_hours=72, encryption_key_id="alias/shop")
    plan = await _plan(stage, config)
    actions = _actions(plan)
    assert actions["kinesis stream", name] is Action.KEEP
    assert actions["stream retention", name] is Action.CHANGE
    assert actions["stream encryption", name] is Action.CHANGE
    assert actions["stream tags", name] is Action.CHANGE
    warned = {check.name: check for check in plan.checks if check.state is CheckState.WARN}
    assert list(warned) == ["stream_capacity"]
    assert "3 open shards" in warned["stream_capacity"].why
    assert "update-shard-count" in warned["stream_capacity"].remedy


async def test_nothing_is_taken_from_a_stream_that_has_more(stage: KinesisHarness) -> None:
    generous = replace(stage.config, retention_hours=96, encryption_key_id="alias/one")
    await provision(_transport(stage, generous))
    wanted = replace(stage.config, retention_hours=48, encryption_key_id="alias/two")
    plan = await _plan(stage, wanted)
    assert plan.is_done
    warned = {check.name for check in plan.checks if check.state is CheckState.WARN}
    assert warned == {"stream_retention", "stream_encryption"}


async def test_too_few_buckets_for_the_shards_are_warned_of(stage: KinesisHarness) -> None:
    plan = await _plan(stage, replace(stage.config, shard_count=33))
    [check] = [check for check in plan.checks if check.name == "bucket_count"]
    assert check.state is CheckState.WARN
    assert "512" in check.remedy


async def test_another_number_of_buckets_is_refused(stage: KinesisHarness) -> None:
    await provision(_transport(stage, stage.config))
    plan = await _plan(stage, replace(stage.config, bucket_count=512))
    [step] = plan.refused_steps
    assert step.kind == "stream tags"
    assert "set bucket_count to 256" in step.remedy


async def test_a_stream_that_ignores_keys_is_refused_with_the_way_out(stage: KinesisHarness) -> None:
    name = stage.config.stream_name
    await stage.aws.call(
        "kinesis", "create_stream", StreamName=name, ShardCount=2, RecordDistributionStrategy="AUTO"
    )
    with pytest.raises(PlanRefused, match="AUTO") as caught:
        await provision(_transport(stage, stage.config))
    assert "USER_PARTITION_KEY" in caught.value.remedy
    assert await stage.objects() == {f"stream {name}"}


async def test_a_table_with_another_key_is_refused(stage: KinesisHarness) -> None:
    await stage.aws.call(
        "dynamodb",
        "create_table",
        TableName=stage.config.lease_table,
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    with pytest.raises(PlanRefused, match="with the key id") as caught:
        await provision(_transport(stage, stage.config))
    assert "checkpoint_table_name" in caught.value.remedy


async def test_a_plan_is_outdated_where_somebody_changed_what_it_says(stage: KinesisHarness) -> None:
    async with _transport(stage, stage.config).provisioner() as provisioner:
        plan = await provisioner.plan()
        await stage.aws.call("kinesis", "create_stream", StreamName=stage.config.stream_name, ShardCount=2)
        with pytest.raises(PlanOutdated, match="tags"):  # it would have been tagged as created here
            await provisioner.apply(plan)
    assert await stage.objects() == {f"stream {stage.config.stream_name}"}


async def test_a_lost_answer_to_a_creation_is_recognised_as_its_own(
    stage: KinesisHarness, embedded_aws: EmbeddedAws
) -> None:
    name = stage.config.stream_name
    with embedded_aws.kinesis.add_fault(
        Drop(stored=True), operations=["CreateStream"], streams=[name], count=1
    ) as fault:
        await provision(_transport(stage, stage.config))
        assert fault.hits == 1
    assert (await _tags(stage, name))["cdc-created-by"] == stage.config.lease_table


async def test_a_throttled_control_plane_is_waited_for(
    stage: KinesisHarness, embedded_aws: EmbeddedAws
) -> None:
    refusal = Refuse(code="LimitExceededException", message="Rate exceeded.", status=400)
    with embedded_aws.kinesis.add_fault(
        refusal, streams=[stage.config.stream_name, stage.config.dead_letter_stream], count=6
    ) as fault:
        await provision(_transport(stage, stage.config))
        assert fault.hits == 6


async def test_a_new_table_that_does_not_know_of_backups_yet_is_waited_for(stage: KinesisHarness) -> None:
    session = stage.session()
    refused: list[str] = []

    def refuse_twice(params: Mapping[str, Any], **kwargs: Any) -> tuple[Any, Any] | None:
        if len(refused) == 2:
            return None
        refused.append("once more")
        error = {"Code": "ContinuousBackupsUnavailableException", "Message": "Backups are being enabled"}
        return AWSResponse("", 400, HTTPHeaders(), None), {"Error": error, "ResponseMetadata": {}}

    hooks: Any = session.events  # typed as if an answer of a hook were without effect
    hooks.register("before-call.dynamodb.UpdateContinuousBackups", refuse_twice)
    config = replace(stage.config, point_in_time_recovery=True)
    await provision(KinesisTransport(config, session=session))
    assert len(refused) == 2
    assert (await _plan(stage, config)).is_done


async def test_a_missing_permission_is_said(stage: KinesisHarness, embedded_aws: EmbeddedAws) -> None:
    refusal = Refuse(code="AccessDeniedException", message="not yours", status=400)
    with (
        embedded_aws.kinesis.add_fault(refusal, operations=["CreateStream"]),
        pytest.raises(AwsAccessError, match="not yours"),
    ):
        await provision(_transport(stage, stage.config))


async def test_a_teardown_keeps_a_stream_that_another_group_uses(stage: KinesisHarness) -> None:
    await provision(_transport(stage, stage.config))
    other = replace(stage.config, group_id="shipping")
    await provision(_transport(stage, other))
    async with _transport(stage, stage.config).provisioner() as provisioner:
        gone = await provisioner.teardown(confirm=stage.config.stream_name)
    [kept] = [step for step in gone.steps if step.action is Action.KEEP]
    assert (kept.kind, kept.name) == ("kinesis stream", stage.config.stream_name)
    assert other.lease_table in kept.detail
    async with _transport(stage, other).provisioner() as provisioner:
        gone = await provisioner.teardown(confirm=stage.config.stream_name)
    assert _actions(gone)["kinesis stream", stage.config.stream_name] is Action.KEEP  # it made its own only
    assert await stage.objects() == {f"stream {stage.config.stream_name}"}


async def test_a_teardown_keeps_dead_letters(stage: KinesisHarness) -> None:
    transport = _transport(stage, stage.config)
    await provision(transport)
    async with transport.error_router() as router:
        await router.route([failed_event(1), failed_event(2)])
    async with transport.provisioner() as provisioner:
        gone = await provisioner.teardown(confirm=stage.config.stream_name)
        assert _step(gone, stage.config.dead_letter_stream).detail == "holds 2 dead letters"
        async with transport.dead_letters() as letters:
            await letters.discard([letter.id async for letter in letters.list()], reason="test")
        gone = await provisioner.teardown(confirm=stage.config.stream_name)
    assert [step.action for step in gone.steps] == [Action.DROP]
    assert await stage.objects() == frozenset()


async def test_a_consumer_for_fan_out_is_registered_last_and_deregistered_first(
    embedded_aws: EmbeddedAws,
) -> None:
    async with open_kinesis(
        durations=Durations(create=0.2, update=0.1, delete=0.2), use_existing=False
    ) as kinesis:
        assert kinesis.endpoint_url is not None
        endpoints = replace(Endpoints.of(embedded_aws), kinesis_url=kinesis.endpoint_url)
        async with fresh_harness(endpoints) as stage:
            config = replace(stage.config, enhanced_fan_out=True, group_id="billing")
            plan = await _plan(stage, config)
            step = _step(plan, "billing")
            assert (step.action, step.kind) == (Action.CREATE, "stream consumer")
            assert "register-stream-consumer" in step.statement
            await provision(_transport(stage, config))
            assert (await _consumer(stage, "billing"))["ConsumerStatus"] == "ACTIVE"
            assert (await _plan(stage, config)).is_done
            without = replace(config, enhanced_fan_out=False)  # it is known from what was written down
            async with _transport(stage, without).provisioner() as provisioner:
                gone = await provisioner.teardown(confirm=config.stream_name)
            assert [step.action for step in gone.steps] == [Action.DROP] * 5
            assert await stage.objects() == frozenset()


async def test_a_consumer_that_somebody_else_registered_is_used_and_not_torn_down(
    stage: KinesisHarness,
) -> None:
    config = replace(stage.config, enhanced_fan_out=True, group_id="billing")
    await provision(_transport(stage, replace(config, enhanced_fan_out=False)))
    stream = await _summary(stage, config.stream_name)
    await stage.aws.call(
        "kinesis", "register_stream_consumer", StreamARN=stream["StreamARN"], ConsumerName="billing"
    )
    assert (await _plan(stage, config)).is_done
    async with _transport(stage, config).provisioner() as provisioner:
        gone = await provisioner.teardown(confirm=config.stream_name)
    assert _step(gone, "billing").detail == "was not registered here"
    assert _step(gone, config.stream_name).action is Action.KEEP  # it has a consumer
    assert (await _consumer(stage, "billing"))["ConsumerStatus"] == "ACTIVE"
    await stage.aws.call(
        "kinesis", "delete_stream", StreamName=config.stream_name, EnforceConsumerDeletion=True
    )


async def test_a_lost_answer_to_a_registration_is_recognised_as_its_own(
    stage: KinesisHarness, embedded_aws: EmbeddedAws
) -> None:
    config = replace(stage.config, enhanced_fan_out=True)
    await provision(_transport(stage, replace(config, enhanced_fan_out=False)))
    with embedded_aws.kinesis.add_fault(
        Drop(stored=True),
        operations=["RegisterStreamConsumer"],
        streams=[config.stream_name],
        count=1,
    ) as fault:
        await provision(_transport(stage, config))
        assert fault.hits == 1
    async with _transport(stage, config).provisioner() as provisioner:
        gone = await provisioner.teardown(confirm=config.stream_name)
    assert _step(gone, config.group_id).action is Action.DROP


async def test_a_table_that_was_made_anew_by_somebody_is_not_torn_down(stage: KinesisHarness) -> None:
    transport = _transport(stage, stage.config)
    await provision(transport)
    name = stage.config.lease_table
    await stage.aws.call("dynamodb", "delete_table", TableName=name)
    await stage.aws.call(
        "dynamodb",
        "create_table",
        TableName=name,
        KeySchema=[{"AttributeName": "leaseKey", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "leaseKey", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    async with transport.provisioner() as provisioner:
        gone = await provisioner.teardown(confirm=stage.config.stream_name)
    assert _step(gone, name).action is Action.KEEP
    assert await stage.objects() == {f"table {name}"}


def _transport(stage: KinesisHarness, config: KinesisConfig) -> KinesisTransport:
    return KinesisTransport(config, session=stage.session())


async def _plan(stage: KinesisHarness, config: KinesisConfig) -> Plan:
    async with _transport(stage, config).provisioner() as provisioner:
        return await provisioner.plan()


async def _summary(stage: KinesisHarness, name: str) -> Mapping[str, Any]:
    answer = await stage.aws.call("kinesis", "describe_stream_summary", StreamName=name)
    summary: Mapping[str, Any] = answer["StreamDescriptionSummary"]
    return summary


async def _consumer(stage: KinesisHarness, name: str) -> Mapping[str, Any]:
    stream = await _summary(stage, stage.config.stream_name)
    answer = await stage.aws.call(
        "kinesis", "describe_stream_consumer", StreamARN=stream["StreamARN"], ConsumerName=name
    )
    described: Mapping[str, Any] = answer["ConsumerDescription"]
    return described


async def _tags(stage: KinesisHarness, name: str) -> Mapping[str, str]:
    answer = await stage.aws.call("kinesis", "list_tags_for_stream", StreamName=name)
    return {tag["Key"]: tag["Value"] for tag in answer["Tags"]}


def _actions(plan: Plan) -> Mapping[tuple[str, str], Action]:
    return {(step.kind, step.name): step.action for step in plan.steps}


def _step(plan: Plan, name: str) -> Step:
    [step] = [step for step in plan.steps if step.name == name]
    return step
