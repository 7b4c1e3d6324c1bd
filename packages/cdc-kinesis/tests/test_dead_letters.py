"""The dead-letter stream on a server: what is routed is durable, in order, once, and leaves when it is told to."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import anyio
import pytest
from kinesis_harness import Endpoints, KinesisHarness, fresh_harness
from letter_samples import FAILED_AT, failed_event, number_of, numbers

from cdc_core import Event, NotProvisioned, RoutingError, TableId, Transport, provision
from cdc_kinesis import KinesisConfig, KinesisTransport
from cdc_kinesis._dead_letters import KinesisDeadLetters, KinesisErrorRouter
from cdc_testing.servers.kinesis import Drop, EmbeddedAws, Refuse, RejectEntries, open_kinesis

pytestmark = pytest.mark.anyio


async def test_a_letter_larger_than_a_record_is_kept_in_chunks(stage: KinesisHarness) -> None:
    transport = await _provisioned(stage)
    value = bytes(range(256)) * 12_000
    async with transport.error_router() as router, transport.dead_letters() as letters:
        await router.route([failed_event(1, value=value), failed_event(2)])
        found = [letter async for letter in letters.list()]
        assert [number_of(letter) for letter in found] == [1, 2]
        assert found[0].value == value
        assert (await letters.show(found[0].id)).value == value


async def test_chunks_follow_the_record_limit_of_the_stream(
    stage: KinesisHarness, embedded_aws: EmbeddedAws
) -> None:
    transport = await _provisioned(stage)
    name = stage.config.dead_letter_stream
    summary = await stage.aws.call("kinesis", "describe_stream_summary", StreamName=name)
    arn = summary["StreamDescriptionSummary"]["StreamARN"]
    await stage.aws.call("kinesis", "update_max_record_size", StreamARN=arn, MaxRecordSizeInKiB=4096)
    async with transport.error_router() as router:
        await router.route([failed_event(1, value=b"x" * 3_000_000)])
    assert [len(records) for records in embedded_aws.kinesis.records(name).values()] == [1]


async def test_letters_of_a_key_keep_their_order_through_refused_entries_and_lost_answers(
    stage: KinesisHarness, embedded_aws: EmbeddedAws
) -> None:
    transport = await _provisioned(stage)
    kinesis, name = embedded_aws.kinesis, stage.config.dead_letter_stream
    failed = [
        failed_event(number, key=b'{"id":%d}' % (number % 3), value=b"x" * (10 if number % 2 else 1_500_000))
        for number in range(9)
    ]
    async with transport.error_router() as router, transport.dead_letters() as letters:
        with (
            kinesis.add_fault(RejectEntries(fraction=0.4, seed=3), streams=[name]) as rejecting,
            kinesis.add_fault(Drop(stored=True), operations=["PutRecords"], streams=[name], count=2) as lost,
        ):
            await router.route(failed)
            assert rejecting.hits
            assert lost.hits == 2
        for key in range(3):
            found = await numbers(letters.list(key=b'{"id":%d}' % key))
            assert found == [number for number in range(9) if number % 3 == key]


async def test_routing_fails_for_good_where_there_is_no_stream(stage: KinesisHarness) -> None:
    transport = stage.transport()
    async with transport.error_router() as router, transport.dead_letters() as letters:
        with pytest.raises(RoutingError) as caught:
            await router.route([failed_event(1)])
        assert not caught.value.retryable
        assert "provisioner" in caught.value.remedy
        with pytest.raises(NotProvisioned):
            await numbers(letters.list())


async def test_routing_may_be_tried_again_where_the_stream_takes_nothing(
    stage: KinesisHarness, embedded_aws: EmbeddedAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdc_kinesis._letter_stream._PATIENCE_SECONDS", 0.5)
    transport = await _provisioned(stage)
    async with transport.error_router() as router, transport.dead_letters() as letters:
        with embedded_aws.kinesis.add_fault(RejectEntries(), streams=[stage.config.dead_letter_stream]):
            with pytest.raises(RoutingError, match="Throughput") as caught:
                await router.route([failed_event(1)])
            assert caught.value.retryable
        assert await numbers(letters.list()) == []
        await router.route([failed_event(1)])
        assert await numbers(letters.list()) == [1]


async def test_an_event_that_fails_again_after_its_letter_was_removed_is_a_letter_again(
    stage: KinesisHarness,
) -> None:
    transport = await _provisioned(stage)
    async with transport.error_router() as router, transport.dead_letters() as letters:
        await router.route([failed_event(1)])
        [letter] = [letter async for letter in letters.list()]
        await letters.discard([letter.id, "0" * 32], reason="test data")
        assert await numbers(letters.list()) == []
        with pytest.raises(LookupError):
            await letters.show(letter.id)
        await router.route([failed_event(1)])
        assert [again.id async for again in letters.list()] == [letter.id]


async def test_lists_are_filtered_by_what_the_letters_say(stage: KinesisHarness) -> None:
    transport = await _provisioned(stage)
    later = FAILED_AT + timedelta(seconds=1)
    failed = [
        failed_event(1),
        failed_event(2, key=b'{"id":2}', related_key=b'{"id":1}'),
        failed_event(3, table=TableId("shop", "customers"), failed_at=later),
        failed_event(4, pipeline="shipping"),
    ]
    async with transport.error_router() as router, transport.dead_letters() as letters:
        await router.route(failed)
        assert await numbers(letters.list()) == [1, 2, 3, 4]
        assert await numbers(letters.list(limit=2)) == [1, 2]
        assert await numbers(letters.list(limit=0)) == []
        assert await numbers(letters.list(key=b'{"id":1}', pipeline="billing")) == [1, 2, 3]
        assert await numbers(letters.list(table=TableId("shop", "customers"))) == [3]
        assert await numbers(letters.list(since=later)) == [3]
        assert await numbers(letters.list(pipeline="shipping", limit=9)) == [4]


async def test_another_group_that_shares_the_stream_sees_its_own_letters_only(
    stage: KinesisHarness,
) -> None:
    await _provisioned(stage)
    shared = stage.config.dead_letter_stream
    ours, theirs = (_of_group(stage, group, shared) for group in ("billing", "shipping"))
    for router, number in ((ours[0], 1), (theirs[0], 2)):
        await router.route([failed_event(number)])
    assert await numbers(ours[1].list()) == [1]
    assert await numbers(theirs[1].list()) == [2]
    [letter] = [letter async for letter in theirs[1].list()]
    await ours[1].discard([letter.id], reason="not ours")
    assert await numbers(theirs[1].list()) == [2]


async def test_letters_of_a_key_stay_in_order_while_their_stream_is_split(stage: KinesisHarness) -> None:
    transport = await _provisioned(stage)
    name = stage.config.dead_letter_stream
    async with transport.error_router() as router, transport.dead_letters() as letters:
        for half in (range(6), range(6, 12)):
            await router.route([failed_event(n, key=b'{"id":%d}' % (n % 4)) for n in half])
            if half.start == 0:
                await stage.aws.call(
                    "kinesis",
                    "split_shard",
                    StreamName=name,
                    ShardToSplit="shardId-000000000000",
                    NewStartingHashKey=str(2**127),
                )
        for key in range(4):
            found = await numbers(letters.list(key=b'{"id":%d}' % key))
            assert found == [number for number in range(12) if number % 4 == key]
        [letter] = [letter async for letter in letters.list() if number_of(letter) == 1]
        await letters.discard([letter.id], reason="its marker is in a child of its shard")
        assert sorted(await numbers(letters.list())) == [0, *range(2, 12)]


async def test_a_replay_follows_the_changes_and_not_the_order_of_their_failures(
    stage: KinesisHarness,
) -> None:
    transport = await _provisioned(stage)
    handled: list[int] = []

    async def handle(events: Sequence[Event]) -> None:
        [event] = events
        assert event.replayed
        handled.append(event.delivery)
        if event.delivery == 2:
            raise LookupError("still failing")

    async with transport.error_router() as router, transport.dead_letters() as letters:
        await router.route(
            [failed_event(3), failed_event(1), failed_event(2), failed_event(4, key=b'{"id":4}')]
        )
        ids = {number_of(letter): letter.id async for letter in letters.list()}
        report = await letters.replay([*ids.values(), "f" * 32], to=handle)
        assert handled == [1, 2, 4]
        assert set(report.replayed) == {ids[1], ids[4]}
        assert [failure.id for failure in report.failed] == [ids[2], ids[3]]
        assert report.failed[0].cause.type == "LookupError"
        assert report.missing == ("f" * 32,)
        assert sorted(await numbers(letters.list())) == [2, 3]


async def test_a_letter_of_an_update_that_changed_its_key_holds_back_letters_of_both_keys(
    stage: KinesisHarness,
) -> None:
    transport = await _provisioned(stage)

    async def fail(events: Sequence[Event]) -> None:
        raise LookupError("still failing")

    async with transport.error_router() as router, transport.dead_letters() as letters:
        moved = failed_event(1, key=b'{"id":2}', related_key=b'{"id":1}')
        await router.route([moved, failed_event(2, key=b'{"id":1}'), failed_event(3, key=b'{"id":2}')])
        report = await letters.replay([letter.id async for letter in letters.list()], to=fail)
        assert [failure.cause.type for failure in report.failed] == ["LookupError", "behind", "behind"]


async def test_what_retention_has_trimmed_away_is_missing_and_no_error(embedded_aws: EmbeddedAws) -> None:
    async def handle(events: Sequence[Event]) -> None:
        pass

    async with open_kinesis(use_existing=False) as kinesis:  # its clock is moved on
        assert kinesis.endpoint_url is not None
        endpoints = replace(Endpoints.of(embedded_aws), kinesis_url=kinesis.endpoint_url)
        async with fresh_harness(endpoints) as stage:
            transport = await _provisioned(stage)
            async with transport.error_router() as router, transport.dead_letters() as letters:
                await router.route([failed_event(1)])
                [letter] = [letter async for letter in letters.list()]
                kinesis.advance(stage.config.dead_letter_retention_hours * 3600 + 60)
                await router.route([failed_event(2)])
                assert await numbers(letters.list()) == [2]
                assert (await letters.replay([letter.id], to=handle)).missing == (letter.id,)


async def test_a_reading_goes_on_where_its_iterator_expired(
    stage: KinesisHarness, embedded_aws: EmbeddedAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdc_kinesis._letter_stream._MAX_GET_RECORDS", 2)
    transport = await _provisioned(stage)
    name = stage.config.dead_letter_stream
    async with transport.error_router() as router, transport.dead_letters() as letters:
        await router.route([failed_event(number) for number in range(7)])
        refusal = Refuse(code="ExpiredIteratorException", message="Iterator expired.")
        with embedded_aws.kinesis.add_fault(
            refusal, operations=["GetRecords"], streams=[name], skip=1, count=1
        ) as fault:
            assert await numbers(letters.list()) == list(range(7))
            assert fault.hits == 1


async def test_a_discarded_letter_is_said_with_its_reason(
    stage: KinesisHarness, caplog: pytest.LogCaptureFixture
) -> None:
    transport = await _provisioned(stage)
    async with transport.error_router() as router, transport.dead_letters() as letters:
        await router.route([failed_event(1)])
        ids = [letter.id async for letter in letters.list()]
        with caplog.at_level(logging.INFO, logger="cdc_kinesis"):
            await letters.discard(ids, reason="test data")
    [record] = [record for record in caplog.records if record.message == "dead letters discarded"]
    assert vars(record)["reason"] == "test data"
    assert vars(record)["discarded"] == 1


async def test_several_routers_at_once_store_each_letter_once(stage: KinesisHarness) -> None:
    transport = await _provisioned(stage)

    async def route(start: int) -> None:
        async with transport.error_router() as router:
            await router.route([failed_event(number) for number in range(start, start + 6)])

    async with anyio.create_task_group() as tasks:
        for start in range(0, 9, 3):
            tasks.start_soon(route, start)
    async with transport.dead_letters() as letters:
        assert sorted(await numbers(letters.list())) == list(range(12))


async def test_what_was_read_once_is_not_read_again(stage: KinesisHarness, embedded_aws: EmbeddedAws) -> None:
    transport = await _provisioned(stage)
    name = stage.config.dead_letter_stream

    def returned() -> int:
        calls = embedded_aws.kinesis.calls("GetRecords", stream=name)
        return sum(call.returned for call in calls)

    async with transport.error_router() as router, transport.dead_letters() as letters:
        await router.route([failed_event(number) for number in range(5)])
        await letters.discard(["0" * 32], reason="there is none")
        assert returned() == 5
        await router.route([failed_event(5)])
        await letters.discard(["0" * 32], reason="there is none")
        assert returned() == 6


async def test_tasks_may_list_at_the_same_time(stage: KinesisHarness) -> None:
    transport = await _provisioned(stage)
    found: list[list[int]] = []
    async with transport.error_router() as router, transport.dead_letters() as letters:
        await router.route([failed_event(number) for number in range(5)])

        async def read() -> None:
            found.append(await numbers(letters.list()))

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(read)
    assert found == [list(range(5))] * 4


async def _provisioned(stage: KinesisHarness) -> Transport:
    transport = KinesisTransport(stage.config, session=stage.session())
    await provision(transport)
    return transport


def _of_group(
    stage: KinesisHarness, group_id: str, dead_letter_stream: str
) -> tuple[KinesisErrorRouter, KinesisDeadLetters]:
    config = KinesisConfig(
        stream_name=stage.config.stream_name,
        group_id=group_id,
        dead_letter_stream_name=dead_letter_stream,
        kinesis_endpoint_url=stage.config.kinesis_endpoint_url,
        dynamodb_endpoint_url=stage.config.dynamodb_endpoint_url,
    )
    return KinesisErrorRouter(config, stage.aws), KinesisDeadLetters(config, stage.aws)
