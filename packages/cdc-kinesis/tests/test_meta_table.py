from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import anyio
import pytest
from lease_tools import RawTable, Wire

from cdc_core import ConfigError, NotProvisioned, SourceError
from cdc_kinesis import AnswerLost, KinesisConfig
from cdc_kinesis._meta_table import Meta, MetaTable
from cdc_testing.servers.kinesis import EmbeddedAws

pytestmark = pytest.mark.anyio

CONFIG = KinesisConfig(stream_name="shop", group_id="billing")
NOW = datetime(2026, 11, 25, 12, 0, 0, 123_987, tzinfo=timezone(timedelta(hours=2)))
CREATED = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
SUMMARY = {
    "StreamName": "shop",
    "StreamARN": "arn:aws:kinesis:eu-west-1:123456789012:stream/shop",
    "StreamCreationTimestamp": CREATED,
}


@pytest.fixture
def raw(embedded_aws: EmbeddedAws) -> RawTable:
    return RawTable(embedded_aws, key="name")


def meta_table(raw: RawTable, wire: Wire | None = None) -> MetaTable:
    return MetaTable((wire or Wire(raw.server)).aws(), raw.name)


async def claim(
    table: MetaTable,
    config: KinesisConfig = CONFIG,
    *,
    now: datetime = NOW,
    bucket_hash: str = "crc32",
    has_leases: bool = False,
    **summary: Any,
) -> Meta:
    return await table.claim(
        config, {**SUMMARY, **summary}, now, bucket_hash=bucket_hash, has_leases=has_leases
    )


async def test_the_first_start_writes_down_one_item(raw: RawTable) -> None:
    table = meta_table(raw)
    assert await table.read() is None
    meta = await claim(table)
    assert meta == await table.read()
    assert raw.item("group") == {
        "name": {"S": "group"},
        "groupId": {"S": "billing"},
        "streamName": {"S": "shop"},
        "streamArn": {"S": "arn:aws:kinesis:eu-west-1:123456789012:stream/shop"},
        "streamCreatedAt": {"S": "2026-01-02T03:04:05.678000+00:00"},
        "bucketCount": {"N": "256"},
        "bucketHash": {"S": "crc32"},
        "firstStartedAt": {"S": "2026-11-25T10:00:00.123000+00:00"},
        "initialPosition": {"S": "TRIM_HORIZON"},
        "startAt": {"S": "2026-11-25T10:00:00.123000+00:00"},
        "isInitialised": {"BOOL": False},
    }


async def test_latest_means_the_time_of_the_first_start_also_after_a_crash(raw: RawTable) -> None:
    table = meta_table(raw)
    config = replace(CONFIG, iterator_type="LATEST")
    first = await claim(table, config)
    assert (first.initial.sequence_number, first.start_at) == ("AT_TIMESTAMP", first.first_started_at)
    assert first.start_at <= NOW
    assert await claim(table, config, now=NOW + timedelta(hours=1)) == first


async def test_a_timestamp_is_kept_from_the_first_start_on(raw: RawTable) -> None:
    start_at = datetime(2026, 11, 1, tzinfo=UTC)
    table = meta_table(raw)
    meta = await claim(table, replace(CONFIG, iterator_type="AT_TIMESTAMP", start_at=start_at))
    assert (meta.initial.sequence_number, meta.start_at) == ("AT_TIMESTAMP", start_at)
    assert (await claim(table)).start_at == start_at


async def test_of_many_that_start_at_once_the_first_decides_for_all(raw: RawTable) -> None:
    found: list[Meta] = []

    async def start(number: int) -> None:
        found.append(await claim(meta_table(raw), now=NOW + timedelta(seconds=number)))

    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(start, number)
    assert len(found) == 6
    assert len(set(found)) == 1


@pytest.mark.parametrize(
    ("what", "change", "remedy"),
    [
        (
            "group billing, not shipping",
            {"config": replace(CONFIG, group_id="shipping")},
            "checkpoint_table_name",
        ),
        ("stream shop, not other", {"StreamName": "other"}, "checkpoint_table_name"),
        ("stream arn:aws", {"StreamARN": "arn:aws:kinesis:us-east-1:1:stream/shop"}, "checkpoint_table_name"),
        ("a stream made at", {"StreamCreationTimestamp": CREATED + timedelta(seconds=1)}, "made anew"),
        (
            "256 buckets by crc32, not 512",
            {"config": replace(CONFIG, bucket_count=512)},
            "set bucket_count to 256",
        ),
        ("buckets by crc32, not 256 buckets by md5", {"bucket_hash": "md5"}, "stop publishing"),
    ],
)
async def test_leases_of_something_else_are_refused_with_the_remedy(
    raw: RawTable, what: str, change: dict[str, Any], remedy: str
) -> None:
    table = meta_table(raw)
    await claim(table)
    before = raw.item("group")
    with pytest.raises(ConfigError, match=what) as caught:
        await claim(table, **change)
    assert remedy in caught.value.remedy
    assert raw.item("group") == before


async def test_the_stream_is_known_again_in_whatever_zone_its_time_is_told(raw: RawTable) -> None:
    table = meta_table(raw)
    meta = await claim(table)
    elsewhere = CREATED.astimezone(timezone(timedelta(hours=-5)))
    assert await claim(table, StreamCreationTimestamp=elsewhere) == meta


async def test_a_group_that_another_program_began_is_not_initialised_again(raw: RawTable) -> None:
    assert (await claim(meta_table(raw), has_leases=True)).is_initialised


async def test_the_end_of_the_initialisation_is_remembered(raw: RawTable) -> None:
    table = meta_table(raw)
    meta = await claim(table)
    assert not meta.is_initialised
    assert (await table.mark_initialised(meta)).is_initialised
    assert (await claim(table, has_leases=True)).is_initialised


@pytest.mark.parametrize("fault", ["request", "answer"])
async def test_a_start_whose_answer_was_lost_can_be_made_again(raw: RawTable, fault: Any) -> None:
    wire = Wire(raw.server)
    table = meta_table(raw, wire)
    wire.fail("PutItem", fault)
    with pytest.raises(AnswerLost):
        await claim(table)
    assert (await claim(table)) == await table.read()


async def test_what_is_missing_is_named(raw: RawTable) -> None:
    raw.put({"name": {"S": "group"}, "groupId": {"S": "billing"}})
    with pytest.raises(SourceError, match="streamName"):
        await meta_table(raw).read()
    with pytest.raises(NotProvisioned, match="no-such-table"):
        await MetaTable(Wire(raw.server).aws(), "no-such-table").read()
