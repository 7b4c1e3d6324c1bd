"""How far behind a group is, and how well: measured at the servers, or UNKNOWN."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from kinesis_harness import KinesisHarness

from cdc_core import UNKNOWN, Check, CheckState, PartitionLag, Unknown, provision
from cdc_kinesis import KinesisConfig, KinesisTransport
from cdc_kinesis._aggregation import Aggregate
from cdc_kinesis._lease_table import LeaseTable
from cdc_kinesis._leases import SHARD_END, TRIM_HORIZON, Checkpoint, Lease
from cdc_kinesis._monitor import KinesisMonitor, open_monitor
from cdc_testing.servers.kinesis import EmbeddedAws, Refuse

pytestmark = pytest.mark.anyio

FIRST, SECOND = "shardId-000000000000", "shardId-000000000001"


async def test_a_record_that_waits_alone_has_an_age(stage: KinesisHarness) -> None:
    async with _monitor(stage) as monitor:
        shard, number = await _put(stage, b"one")
        other = SECOND if shard == FIRST else FIRST
        lags = await _lags(monitor)
        assert lags[other] == 0.0
        assert _known(lags[shard]) > 0
        await _checkpoint(stage, shard, number)
        assert (await _lags(monitor))[shard] == 0.0
        await _put(stage, b"two", shard_of=shard)
        assert _known((await _lags(monitor))[shard]) > 0


async def test_the_age_is_that_of_the_oldest_record_behind_the_checkpoint(
    stage: KinesisHarness, embedded_aws: EmbeddedAws
) -> None:
    now = _now(embedded_aws) + 1000
    async with _monitor(stage, clock=now) as monitor:
        shard, _ = await _put(stage, b"one")
        assert 990 < _known((await _lags(monitor))[shard]) < 1010


async def test_rows_of_an_aggregated_record_that_are_not_done_wait(stage: KinesisHarness) -> None:
    async with _monitor(stage) as monitor:
        aggregate = Aggregate("1")
        for row in range(3):
            aggregate.add(b"key", b"row %d" % row)
        shard, number = await _put(stage, aggregate.finish())
        await _checkpoint(stage, shard, number, sub_sequence=1)
        assert _known((await _lags(monitor))[shard]) > 0
        await _checkpoint(stage, shard, number, sub_sequence=2)
        assert (await _lags(monitor))[shard] == 0.0


async def test_shards_that_are_done_have_no_lag_and_their_children_have_theirs(stage: KinesisHarness) -> None:
    async with _monitor(stage) as monitor:
        await stage.aws.call(
            "kinesis",
            "split_shard",
            StreamName=stage.config.stream_name,
            ShardToSplit=FIRST,
            NewStartingHashKey=str(2**126),
        )
        children = {"shardId-000000000002", "shardId-000000000003"}
        assert set(await _lags(monitor)) == {FIRST, SECOND, *children}
        await _put(stage, b"one", hash_key=1)
        await _create(stage, SECOND, TRIM_HORIZON)
        await _create(stage, FIRST, SHARD_END)
        lags = await _lags(monitor)
        assert set(lags) == {SECOND, *children}
        assert _known(lags["shardId-000000000002"]) > 0
        for child in children:
            await _create(stage, child, TRIM_HORIZON)
        table = LeaseTable(stage.aws, stage.config.lease_table)
        [parent] = [lease for lease in await table.scan() if lease.shard_id == FIRST]
        await table.delete(parent)
        assert set(await _lags(monitor)) == {SECOND, *children}


async def test_where_it_is_not_decided_where_a_group_starts_its_lag_is_unknown(
    stage: KinesisHarness, embedded_aws: EmbeddedAws
) -> None:
    await provision(KinesisTransport(stage.config, session=stage.session()))
    await _put(stage, b"one")
    latest = replace(stage.config, iterator_type="LATEST")
    async with _monitor(stage, latest) as monitor:
        assert set((await _lags(monitor)).values()) == {UNKNOWN}
    before = replace(
        stage.config, iterator_type="AT_TIMESTAMP", start_at=_time(embedded_aws) - timedelta(hours=1)
    )
    async with _monitor(stage, before) as monitor:
        assert any(_known(lag) > 0 for lag in (await _lags(monitor)).values())
    after = replace(before, start_at=_time(embedded_aws))  # behind the record
    async with _monitor(stage, after) as monitor:
        assert set((await _lags(monitor)).values()) == {0.0}


async def test_a_throttled_look_is_unknown_and_shows_in_health(
    stage: KinesisHarness, embedded_aws: EmbeddedAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdc_kinesis._shard_lag._PAUSE_SECONDS", 0.01)
    refusal = Refuse(code="ProvisionedThroughputExceededException", message="Rate exceeded.", status=400)
    async with _monitor(stage) as monitor:
        with embedded_aws.kinesis.add_fault(
            refusal, operations=["GetRecords"], streams=[stage.config.stream_name]
        ):
            assert set((await _lags(monitor)).values()) == {UNKNOWN}
        assert (await _checks(monitor))["throttling"].state is CheckState.WARN


async def test_health_names_what_is_missing(stage: KinesisHarness) -> None:
    async with open_monitor(stage.config, stage.aws) as monitor:
        checks = await _checks(monitor)
        for name in ("stream", "lease_table", "meta_table", "dead_letter_stream"):
            assert checks[name].state is CheckState.FAIL
            assert "provisioner" in checks[name].remedy
        assert checks["leases"].state is CheckState.UNKNOWN
        assert checks["retention"].state is CheckState.UNKNOWN


async def test_health_is_bad_where_the_services_cannot_be_asked(stage: KinesisHarness) -> None:
    config = replace(stage.config, kinesis_endpoint_url="http://127.0.0.1:9", request_timeout_seconds=0.2)
    async with KinesisTransport(config, session=stage.session()).monitor() as monitor:
        health = await monitor.health()
        assert not health.ready
        states = {check.name: check.state for check in health.checks}
        assert states.pop("service") is CheckState.FAIL
        assert set(states.values()) == {CheckState.UNKNOWN}


async def test_health_compares_the_buckets(stage: KinesisHarness) -> None:
    async with _monitor(stage) as monitor:
        assert (await _checks(monitor))["buckets"].state is CheckState.OK
    async with open_monitor(replace(stage.config, bucket_count=512), stage.aws) as monitor:
        check = (await _checks(monitor))["buckets"]
        assert check.state is CheckState.FAIL
        assert "256" in check.remedy


async def test_a_lease_that_nobody_renews_is_told_once_it_was_watched_for_long_enough(
    stage: KinesisHarness,
) -> None:
    times = iter(float(number) for number in range(0, 1000, 5))
    async with _monitor(stage, monotonic=times) as monitor:
        assert (await _checks(monitor))["leases"].state is CheckState.WARN  # nobody has ever started
        await _create(stage, FIRST, TRIM_HORIZON, owner="one")
        await _create(stage, SECOND, TRIM_HORIZON, owner="one")
        await _checks(monitor)
        check = (await _checks(monitor))["leases"]
        assert check.state is CheckState.WARN
        assert FIRST in check.why
        await _put(stage, b"one")
        await monitor.lag()
        assert (await _checks(monitor))["leases"].state is CheckState.FAIL


async def test_whether_leases_are_renewed_is_unknown_at_the_first_look(stage: KinesisHarness) -> None:
    async with _monitor(stage, replace(stage.config, failover_seconds=600.0)) as monitor:
        await _create(stage, FIRST, TRIM_HORIZON, owner="one")
        assert (await _checks(monitor))["leases"].state is CheckState.UNKNOWN


async def test_health_warns_before_what_waits_is_trimmed_away(
    stage: KinesisHarness, embedded_aws: EmbeddedAws
) -> None:
    for hours, expected in ((11, CheckState.OK), (13, CheckState.WARN), (23, CheckState.FAIL)):
        now = _now(embedded_aws) + 3600 * hours
        async with _monitor(stage, clock=now) as monitor:
            await _put(stage, b"one")
            check = (await _checks(monitor))["retention"]
            assert check.state is expected
            assert ("--retention-period-hours 48" in check.remedy) is (expected is not CheckState.OK)


async def test_what_cloudwatch_says_is_told(
    stage: KinesisHarness, embedded_aws: EmbeddedAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert embedded_aws.dynamodb_endpoint_url is not None
    monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDWATCH", embedded_aws.dynamodb_endpoint_url)
    config = replace(stage.config, cloudwatch=True)
    transport = KinesisTransport(config, session=stage.session())
    await provision(transport)
    async with transport.monitor() as monitor:
        health = {check.name: check for check in (await monitor.health()).checks}
        assert health["iterator_age"].state is CheckState.UNKNOWN
        data = [
            {
                "MetricName": name,
                "Value": value,
                "Dimensions": [{"Name": "StreamName", "Value": config.stream_name}],
            }
            for name, value in (
                ("GetRecords.IteratorAgeMilliseconds", 90_000.0),
                ("WriteProvisionedThroughputExceeded", 3.0),
            )
        ]
        await stage.aws.call("cloudwatch", "put_metric_data", Namespace="AWS/Kinesis", MetricData=data)
        health = {check.name: check for check in (await monitor.health()).checks}
        assert "90 seconds" in health["iterator_age"].why
        assert "3 writes" in health["throttling"].why


async def test_a_cloudwatch_that_cannot_be_asked_is_unknown_and_no_error(
    stage: KinesisHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDWATCH", "http://127.0.0.1:9")
    transport = KinesisTransport(replace(stage.config, cloudwatch=True), session=stage.session())
    await provision(transport)
    async with transport.monitor() as monitor:
        health = await monitor.health()
        assert health.ready
        [check] = [check for check in health.checks if check.name == "iterator_age"]
        assert check.state is CheckState.UNKNOWN


@asynccontextmanager
async def _monitor(
    stage: KinesisHarness,
    config: KinesisConfig | None = None,
    *,
    clock: float | None = None,
    monotonic: Iterator[float] | None = None,
) -> AsyncGenerator[KinesisMonitor]:
    """Open the monitor of a group whose things are there; `clock` stands still, `monotonic` goes on by each look."""
    await provision(KinesisTransport(stage.config, session=stage.session()))
    async with open_monitor(
        config or stage.config,
        stage.aws,
        clock=time.time if clock is None else lambda: clock,
        monotonic=time.monotonic if monotonic is None else lambda: next(monotonic),
    ) as monitor:
        yield monitor


async def _put(
    stage: KinesisHarness, data: bytes, *, shard_of: str | None = None, hash_key: int | None = None
) -> tuple[str, str]:
    """Put a record; return its shard and sequence number."""
    if hash_key is None:
        hash_key = 1 if shard_of in (None, FIRST) else 2**128 - 1
    answer = await stage.aws.call(
        "kinesis",
        "put_record",
        StreamName=stage.config.stream_name,
        Data=data,
        PartitionKey="key",
        ExplicitHashKey=str(hash_key),
    )
    return answer["ShardId"], answer["SequenceNumber"]


async def _create(
    stage: KinesisHarness, shard_id: str, word: str, *, sub_sequence: int = 0, owner: str | None = None
) -> None:
    lease = Lease(shard_id=shard_id, checkpoint=Checkpoint(word, sub_sequence))
    table = LeaseTable(stage.aws, stage.config.lease_table)
    assert await table.create(lease)
    if owner is not None:
        assert await table.take(lease, owner)


async def _checkpoint(stage: KinesisHarness, shard_id: str, number: str, *, sub_sequence: int = 0) -> None:
    """Have the group be done up to a record in one shard, and nowhere else."""
    table = LeaseTable(stage.aws, stage.config.lease_table)
    for lease in await table.scan():
        await stage.aws.call(
            "dynamodb",
            "delete_item",
            TableName=stage.config.lease_table,
            Key={"leaseKey": {"S": lease.shard_id}},
        )
    await _create(stage, shard_id, number, sub_sequence=sub_sequence)


async def _lags(monitor: KinesisMonitor) -> Mapping[str, float | Unknown]:
    lags: Sequence[PartitionLag] = await monitor.lag()
    assert all(lag.lag_events is UNKNOWN and lag.lag_bytes is UNKNOWN for lag in lags)
    return {lag.partition.id: lag.lag_seconds for lag in lags}


async def _checks(monitor: KinesisMonitor) -> Mapping[str, Check]:
    return {check.name: check for check in (await monitor.health()).checks}


def _known(lag: float | Unknown) -> float:
    assert lag is not UNKNOWN
    return lag


def _now(servers: EmbeddedAws) -> float:
    """Return the time of the service, which other tests may have moved on."""
    return servers.kinesis.now() if servers.kinesis.managed else time.time()


def _time(servers: EmbeddedAws) -> datetime:
    return datetime.fromtimestamp(_now(servers), UTC)
