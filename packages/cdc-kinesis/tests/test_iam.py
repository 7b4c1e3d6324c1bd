"""The least permissions of each role, against what the code calls in its place: neither may have more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, final

import anyio
import boto3
import pytest
from kinesis_harness import SECRET, KinesisHarness
from letter_samples import failed_event

from cdc_core import ConfigError, Event, Pipeline, Poison, RetryPolicy, provision
from cdc_kinesis import KinesisConfig, KinesisTransport, minimal_policy
from cdc_kinesis._iam import PolicyRole
from cdc_testing.checks import read_row, row_event
from cdc_testing.servers.kinesis import EmbeddedAws

# What a consumer calls after a lost answer, and a while after its children have begun.
_SELDOM = {("dynamodb", "GetItem", "lease table"), ("dynamodb", "DeleteItem", "lease table")}


@final
class Recorder:
    """Which operations a client called, on what: Kinesis by the server's log, DynamoDB by botocore's events."""

    def __init__(self, stage: KinesisHarness, servers: EmbeddedAws, role: str, config: KinesisConfig) -> None:
        self._servers = servers
        self._access_key = f"{role}-{config.stream_name}"
        self._names = {
            config.stream_name: "stream",
            config.dead_letter_stream: "dead-letter stream",
            config.lease_table: "lease table",
            config.meta_table: "meta table",
        }
        self._dynamodb: set[tuple[str, str]] = set()
        session = boto3.Session(
            aws_access_key_id=self._access_key,
            aws_secret_access_key=SECRET,
            region_name=stage.config.region,
        )
        session.events.register("provide-client-params.dynamodb", self._note)
        self.transport = KinesisTransport(config, session=session)

    @property
    def called(self) -> set[tuple[str, str, str]]:
        """Service, operation and which of the group's things."""
        kinesis = {
            ("kinesis", logged.call.operation, self._names[logged.call.stream])
            for logged in self._servers.kinesis.calls()
            if logged.call.access_key == self._access_key
        }
        return kinesis | {
            ("dynamodb", operation, self._names.get(table, "other tables"))
            for operation, table in self._dynamodb
        }

    def allowed(self, config: KinesisConfig, role: PolicyRole) -> set[tuple[str, str, str]]:
        """What the policy lets through, in the same terms; KMS is called by Kinesis and not by us."""
        found: set[tuple[str, str, str]] = set()
        for statement in minimal_policy(config, role=role)["Statement"]:
            name = statement["Resource"].partition("/consumer/")[0].rpartition("/")[2]
            for action in statement["Action"]:
                service, operation = action.split(":")
                if service != "kms":
                    found.add((service, operation, self._names.get(name, "other tables")))
        return found

    def _note(self, params: dict[str, Any], model: Any, **kwargs: Any) -> None:
        self._dynamodb.add((model.name, params.get("TableName", "")))


@pytest.mark.anyio
async def test_the_policy_of_a_provisioner_is_what_it_calls(
    stage: KinesisHarness, embedded_aws: EmbeddedAws
) -> None:
    config = replace(
        stage.config,
        retention_hours=48,
        encryption_key_id="alias/shop",
        point_in_time_recovery=True,
        enhanced_fan_out=True,
    )
    recorder = Recorder(stage, embedded_aws, "provisioner", config)
    await provision(KinesisTransport(replace(config, group_id="another"), session=stage.session()))
    await _delete_stream(stage)
    await provision(recorder.transport)
    assert (await provision(recorder.transport)).is_done
    async with recorder.transport.provisioner() as provisioner:
        await provisioner.teardown(confirm=config.stream_name)  # the other group keeps the stream
    await stage.aws.call("dynamodb", "delete_table", TableName=f"{config.stream_name}-another-cdc-meta")
    await _delete_stream(stage)
    await provision(recorder.transport)
    async with recorder.transport.provisioner() as provisioner:
        await provisioner.teardown(confirm=config.stream_name)
    assert recorder.called == recorder.allowed(config, "provisioner")


@pytest.mark.anyio
async def test_the_policy_of_an_operator_is_what_the_monitor_and_the_dead_letters_call(
    stage: KinesisHarness, embedded_aws: EmbeddedAws
) -> None:
    recorder = Recorder(stage, embedded_aws, "operator", stage.config)
    await provision(KinesisTransport(stage.config, session=stage.session()))
    await stage.write(("a", 1))
    async with KinesisTransport(stage.config, session=stage.session()).error_router() as router:
        await router.route([failed_event(1)])
    async with recorder.transport.monitor() as monitor, recorder.transport.dead_letters() as letters:
        await monitor.lag()
        await monitor.health()
        ids = [letter.id async for letter in letters.list()]
        await letters.show(ids[0])
        await letters.replay(ids, to=_nothing)
        await letters.discard(ids, reason="test")
    assert recorder.called == recorder.allowed(stage.config, "operator")


@pytest.mark.anyio
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("anyio_backend", "fan_out"),
    [("asyncio", False), ("trio", False), ("trio", True)],
    ids=["asyncio", "trio", "fan-out"],
)
async def test_the_policy_of_a_consumer_is_what_a_pipeline_calls(
    stage: KinesisHarness, embedded_aws: EmbeddedAws, fan_out: bool
) -> None:
    config = replace(stage.config, checkpoint_interval_seconds=0.2, enhanced_fan_out=fan_out)
    recorder = Recorder(stage, embedded_aws, "consumer", config)
    await provision(KinesisTransport(config, session=stage.session()))
    handled: set[int] = set()

    async def handle(events: Sequence[Event]) -> None:
        for event in events:
            _, number = read_row(event)
            if number == 2:
                raise Poison("on purpose", event=event)
            handled.add(number)

    pipeline = Pipeline(
        name="billing",
        transport=recorder.transport,
        handler=handle,
        poisoned_keys="park",
        retry=RetryPolicy(max_attempts=1),
        monitor_interval_seconds=1.0,
    )
    async with pipeline.running():
        await stage.write(*(("key", number) for number in range(2)), ("poisoned", 2))
        for shard in ("shardId-000000000000", "shardId-000000000001"):
            await stage.aws.call(
                "kinesis",
                "split_shard",
                StreamName=config.stream_name,
                ShardToSplit=shard,
                NewStartingHashKey=str(2**126 if shard.endswith("0") else 3 * 2**126),
            )
        await stage.write(*((f"key-{number}", number) for number in range(3, 20)))
        await _until(lambda: {0, 1, *range(3, 20)} <= handled)
        allowed = recorder.allowed(config, "consumer")
        await _until(lambda: allowed - recorder.called <= _SELDOM)
    assert recorder.called <= allowed


@pytest.mark.anyio
async def test_the_policy_of_a_publisher_is_what_it_calls(
    stage: KinesisHarness, embedded_aws: EmbeddedAws
) -> None:
    recorder = Recorder(stage, embedded_aws, "publisher", stage.config)
    await provision(KinesisTransport(stage.config, session=stage.session()))
    async with recorder.transport.publisher(_Fence()) as publisher:
        assert not await (await publisher.publish([row_event("key", 1)]))
    assert recorder.called == recorder.allowed(stage.config, "publisher")


@pytest.mark.anyio
async def test_who_asks_cloudwatch_is_allowed_to(
    stage: KinesisHarness, embedded_aws: EmbeddedAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDWATCH", str(embedded_aws.dynamodb_endpoint_url))
    config = replace(stage.config, cloudwatch=True)
    called: list[str] = []
    session = stage.session()

    def note(params: dict[str, Any], model: Any, **kwargs: Any) -> None:
        called.append(f"cloudwatch:{model.name}")

    session.events.register("provide-client-params.cloudwatch", note)
    transport = KinesisTransport(config, session=session)
    await provision(transport)
    async with transport.monitor() as monitor:
        await monitor.health()
    for role in ("consumer", "operator"):
        statements = minimal_policy(config, role=role)["Statement"]
        assert {"Effect": "Allow", "Action": called, "Resource": "*"} in statements


def test_a_policy_names_the_groups_own_things() -> None:
    config = KinesisConfig(stream_name="shop", group_id="billing", encryption_key_id="alias/shop")
    policy = minimal_policy(config, role="consumer", region="eu-west-1", account="123456789012")
    resources = [statement["Resource"] for statement in policy["Statement"]]
    assert resources == [
        "arn:aws:kinesis:eu-west-1:123456789012:stream/shop",
        "arn:aws:kinesis:eu-west-1:123456789012:stream/shop-billing-dead-letters",
        "arn:aws:dynamodb:eu-west-1:123456789012:table/shop-billing",
        "arn:aws:dynamodb:eu-west-1:123456789012:table/shop-billing-cdc-meta",
        "arn:aws:kms:eu-west-1:123456789012:key/*",
    ]
    assert policy["Statement"][-1]["Condition"] == {
        "ForAnyValue:StringEquals": {"kms:ResourceAliases": "alias/shop"}
    }


@pytest.mark.parametrize(
    ("key", "resource"),
    [
        ("1234abcd-12ab-34cd-56ef-1234567890ab", "arn:aws:kms:*:*:key/1234abcd-12ab-34cd-56ef-1234567890ab"),
        ("arn:aws:kms:eu-west-1:1:key/1234", "arn:aws:kms:eu-west-1:1:key/1234"),
        ("arn:aws:kms:eu-west-1:1:alias/shop", "arn:aws:kms:*:*:key/*"),
        ("alias/aws/kinesis", None),
    ],
)
def test_a_key_is_named_as_iam_knows_it(key: str, resource: str | None) -> None:
    config = KinesisConfig(stream_name="shop", encryption_key_id=key)
    statements = minimal_policy(config, role="publisher")["Statement"]
    named = [one["Resource"] for one in statements if one["Action"] == ["kms:GenerateDataKey"]]
    assert named == ([] if resource is None else [resource])


def test_an_unknown_role_is_refused() -> None:
    role: Any = "owner"
    with pytest.raises(ConfigError, match="owner"):
        minimal_policy(KinesisConfig(stream_name="shop"), role=role)


@pytest.mark.parametrize("role", ["consumer", "publisher", "provisioner", "operator"])
def test_only_a_config_with_fan_out_asks_for_its_permissions(role: PolicyRole) -> None:
    config = KinesisConfig(stream_name="shop", group_id="billing")
    without, having = (
        {
            (statement["Resource"], action)
            for statement in minimal_policy(each, role=role)["Statement"]
            for action in statement["Action"]
        }
        for each in (config, replace(config, enhanced_fan_out=True))
    )
    assert not any("Consumer" in action or "Subscribe" in action for _, action in without)
    assert bool(having - without) is (role in ("consumer", "provisioner"))
    consumer = "arn:aws:kinesis:*:*:stream/shop/consumer/billing:*"
    assert ((consumer, "kinesis:SubscribeToShard") in having) is (role == "consumer")


class _Fence:
    def remaining_seconds(self) -> float:
        return 60.0


async def _delete_stream(stage: KinesisHarness) -> None:
    await stage.aws.call(
        "kinesis", "delete_stream", StreamName=stage.config.stream_name, EnforceConsumerDeletion=True
    )


async def _nothing(events: Sequence[Event]) -> None:
    pass


async def _until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(60):
        while not condition():  # noqa: ASYNC110 - an event of the server
            await anyio.sleep(0.05)
