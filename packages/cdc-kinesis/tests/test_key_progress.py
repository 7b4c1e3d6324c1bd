"""A replay says whose key has had later events, as far as the stream still tells."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from kinesis_harness import KinesisHarness

from cdc_core import Cause, DeadLetters, Event, FailedEvent, ReplayReport, provision
from cdc_kinesis import KinesisTransport
from cdc_testing.checks import consuming, read_row, row_event

pytestmark = pytest.mark.anyio


async def test_a_key_with_a_later_event_has_moved_on_and_others_have_not(stage: KinesisHarness) -> None:
    transport = await _provisioned(stage)
    await stage.write(("a", 0), ("b", 1), ("a", 2), ("c", 3))
    await _set_aside(stage, transport, range(4))
    async with transport.dead_letters() as letters:
        assert await _moved_on(letters) == {0}


async def test_rows_of_one_aggregated_record_are_told_apart(stage: KinesisHarness) -> None:
    transport = await _provisioned(stage)
    events = [row_event("key", number) for number in range(5)]
    async with transport.publisher(_Fence()) as publisher:
        assert not await (await publisher.publish(events))
    await _set_aside(stage, transport, range(5))
    async with transport.dead_letters() as letters:
        assert await _moved_on(letters) == {0, 1, 2, 3}


async def test_a_later_event_in_a_child_of_the_shard_counts(stage: KinesisHarness) -> None:
    transport = await _provisioned(stage)
    await stage.write(("a", 0), ("b", 1))
    await _set_aside(stage, transport, range(2))
    for shard, middle in (("shardId-000000000000", 2**126), ("shardId-000000000001", 3 * 2**126)):
        await stage.aws.call(
            "kinesis",
            "split_shard",
            StreamName=stage.config.stream_name,
            ShardToSplit=shard,
            NewStartingHashKey=str(middle),
        )
    await stage.write(("a", 2))
    async with transport.dead_letters() as letters:
        assert await _moved_on(letters) == {0}


async def test_where_it_cannot_be_told_a_warning_says_so(
    stage: KinesisHarness, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdc_kinesis._key_progress._BYTES", 1)
    transport = await _provisioned(stage)
    await stage.write(*((f"key-{number}", number) for number in range(60)))
    await _set_aside(stage, transport, range(2))
    async with transport.dead_letters() as letters:
        with caplog.at_level(logging.WARNING, logger="cdc_kinesis"):
            assert await _moved_on(letters) == set()
    [record] = [record for record in caplog.records if record.message.startswith("whether keys")]
    assert vars(record)["letters"] == 2


async def test_a_replay_goes_on_where_the_stream_cannot_be_asked(
    stage: KinesisHarness, caplog: pytest.LogCaptureFixture
) -> None:
    transport = await _provisioned(stage)
    await stage.write(("a", 0), ("a", 1))
    await _set_aside(stage, transport, range(2))
    await stage.aws.call("kinesis", "delete_stream", StreamName=stage.config.stream_name)
    async with transport.dead_letters() as letters:
        with caplog.at_level(logging.WARNING, logger="cdc_kinesis"):
            report = await _replayed(letters, {})
    assert len(report.replayed) == 2
    assert any(record.message.startswith("whether keys") for record in caplog.records)


async def _set_aside(stage: KinesisHarness, transport: KinesisTransport, numbers: Sequence[int]) -> None:
    """Consume all that is there, and put rows into the dead letters."""
    async with consuming(stage, transport, acks=True) as consumer:
        await consumer.until_delivered(numbers)
        events = {delivery.number: delivery.event for delivery in consumer.deliveries}
    async with transport.error_router() as router:
        await router.route(
            [
                FailedEvent(
                    event=events[number],
                    cause=Cause(type="test", message="set aside"),
                    pipeline="billing",
                    attempts=1,
                    failed_at=datetime(2024, 2, 29, tzinfo=UTC),
                )
                for number in numbers
            ]
        )


async def _moved_on(letters: DeadLetters) -> set[int]:
    numbers: dict[str, int] = {}
    report = await _replayed(letters, numbers)
    return {numbers[letter] for letter in report.key_moved_on}


async def _replayed(letters: DeadLetters, numbers: dict[str, int]) -> ReplayReport:
    async for letter in letters.list():
        numbers[letter.id] = read_row(letter.event)[1]
    return await letters.replay(list(numbers), to=_nothing)


async def _provisioned(stage: KinesisHarness) -> KinesisTransport:
    transport = KinesisTransport(stage.config, session=stage.session())
    await provision(transport)
    return transport


class _Fence:
    def remaining_seconds(self) -> float:
        return 60.0


async def _nothing(events: Sequence[Event]) -> None:
    pass
