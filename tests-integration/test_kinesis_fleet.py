"""Consumers of one group come, go, freeze and wake while the stream is split and merged under load."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import anyio
import anyio.to_thread
import pytest

from cdc_core import (
    ChangeIdentity,
    Epoch,
    Operation,
    OutgoingEvent,
    TableId,
    encode_change,
    encode_key,
    open_task_group,
    provision,
)
from cdc_kinesis import KinesisConfig, KinesisTransport
from cdc_testing.servers.kinesis import EmbeddedAws

pytestmark = pytest.mark.anyio

PROGRAM: Final = Path(__file__).parent / "programs" / "kinesis_consumer.py"
EPOCH: Final = Epoch("7012345678901234567", 1, "fleet", "0")
TABLE: Final = TableId("fleet", "rows")
KEYS: Final = 200
FAILOVER_SECONDS: Final = 2.0


@pytest.mark.timeout(300)
async def test_rules_15_17_18_a_fleet_that_grows_freezes_and_shrinks_loses_nothing_and_keeps_the_order(
    embedded_aws: EmbeddedAws, anyio_backend: str, tmp_path: Path
) -> None:
    config = fleet_config(embedded_aws, f"fleet-{anyio_backend}")
    await provision(KinesisTransport(config, session=embedded_aws.boto3_session()))
    log = Log(tmp_path / "handled")
    stream = Stream(embedded_aws, config.stream_name)
    start = partial(consumer, anyio_backend, log, config, embedded_aws)
    async with (
        watching_checkpoints(embedded_aws, config) as moved_back,
        loading(embedded_aws, config) as load,
    ):
        with start("one") as one:
            await until(lambda: log.count("one") > 300, one, what="the first consumer handles rows")
            with start("two") as two:
                await stream.split()
                await stream.split()
                await until(lambda: log.count("two") > 300, one, two, what="the second gets shards")
                with start("three") as three:
                    await stream.merge()
                    await until(lambda: log.count("three") > 300, one, two, three, what="so does the third")
                    two.send_signal(signal.SIGSTOP)
                    frozen = log.shards_of("two") & await stream.open_shards()
                    assert frozen
                    await until(
                        lambda: all(log.owner(shard) != "two" for shard in frozen),
                        one,
                        three,
                        what="the shards of the frozen one get other owners",
                    )
                    two.send_signal(signal.SIGCONT)
                    await stream.split()
                    awake = log.count("two") + 100
                    await until(lambda: log.count("two") > awake, two, what="the woken one gets shards again")
                    await stop(three)
                await stop(two)
            await load.stop()
            await until(lambda: load.numbers <= log.numbers(), one, what="all rows are handled")
            await stop(one)

    lines = log.lines()
    assert {line.number for line in lines} == load.numbers, "nothing is lost, and nothing invented"
    assert_first_deliveries_are_in_order(lines)
    assert moved_back == [], "no position moves back"
    assert_late_owners_finish_at_most_a_batch(lines)


def assert_first_deliveries_are_in_order(lines: list[Line]) -> None:
    identities: dict[int, str] = {}
    first: dict[str, list[int]] = defaultdict(list)
    for line in lines:
        if line.number not in identities:
            identities[line.number] = line.identity
            first[line.key].append(line.number)
        assert identities[line.number] == line.identity, "a repeat has the identity of its first delivery"
    for key, numbers in first.items():
        assert numbers == sorted(numbers), f"first deliveries of {key}"


def assert_late_owners_finish_at_most_a_batch(lines: list[Line]) -> None:
    newest: dict[str, int] = {}
    late: dict[tuple[str, str, int], set[int]] = defaultdict(set)
    for line in lines:
        newest[line.shard] = max(newest.get(line.shard, 0), line.fence)
        if line.fence < newest[line.shard]:
            late[line.name, line.shard, line.fence].add(line.call)
    for (name, shard, _), calls in late.items():
        assert len(calls) == 1, f"{name} made {len(calls)} calls for {shard} after it had lost it"


class Line(NamedTuple):
    """One handled event, as programs/kinesis_consumer.py writes it."""

    name: str
    call: int
    shard: str
    fence: int
    identity: str
    key: str
    number: int


class Log:
    """What all consumers handled, in the order in which they did."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        self._read = 0
        self._lines: list[Line] = []

    def lines(self) -> list[Line]:
        with self.path.open("rb") as file:
            file.seek(self._read)
            for raw in file:
                if not raw.endswith(b"\n"):  # it is being written just now
                    break
                self._read += len(raw)
                name, call, shard, fence, identity, key, number = raw.decode().rstrip("\n").split("\t")
                self._lines.append(Line(name, int(call), shard, int(fence), identity, key, int(number)))
        return self._lines

    def count(self, name: str) -> int:
        return sum(line.name == name for line in self.lines())

    def numbers(self) -> set[int]:
        return {line.number for line in self.lines()}

    def owner(self, shard: str) -> str:
        """Return who handled the last row of a shard: with rows for all shards all the time, its owner."""
        return next(line.name for line in reversed(self.lines()) if line.shard == shard)

    def shards_of(self, name: str) -> set[str]:
        return {shard for shard in {line.shard for line in self.lines()} if self.owner(shard) == name}


class Stream:
    """Resharding of the stream, step by step."""

    def __init__(self, aws: EmbeddedAws, name: str) -> None:
        self._name = name
        self._client: Any = client_of(aws, "kinesis")

    async def split(self) -> None:
        """Split the widest shard in the middle."""

        def act() -> None:
            widest = max(self._open(), key=_width)
            low, high = _range(widest)
            self._client.split_shard(
                StreamName=self._name,
                ShardToSplit=widest["ShardId"],
                NewStartingHashKey=str((low + high) // 2 + 1),
            )

        await self._reshard(act)

    async def open_shards(self) -> set[str]:
        """Return the ids of the shards that take records."""
        return {shard["ShardId"] for shard in await anyio.to_thread.run_sync(self._open)}

    async def merge(self) -> None:
        """Merge the two neighbours that are narrowest together."""

        def act() -> None:
            shards = sorted(self._open(), key=_range)
            left, right = min(itertools.pairwise(shards), key=lambda pair: sum(map(_width, pair)))
            self._client.merge_shards(
                StreamName=self._name,
                ShardToMerge=left["ShardId"],
                AdjacentShardToMerge=right["ShardId"],
            )

        await self._reshard(act)

    def _open(self) -> list[dict[str, Any]]:
        shards = self._client.list_shards(StreamName=self._name)["Shards"]
        return [shard for shard in shards if "EndingSequenceNumber" not in shard["SequenceNumberRange"]]

    def _is_active(self) -> bool:
        summary = self._client.describe_stream_summary(StreamName=self._name)["StreamDescriptionSummary"]
        return bool(summary["StreamStatus"] == "ACTIVE")

    async def _reshard(self, act: Callable[[], None]) -> None:
        await anyio.to_thread.run_sync(act)
        with anyio.fail_after(20):
            while not await anyio.to_thread.run_sync(self._is_active):  # noqa: ASYNC110 - another's state
                await anyio.sleep(0.05)


class Load:
    """Rows published without end: each key's numbers grow."""

    def __init__(self) -> None:
        self.numbers: set[int] = set()
        self.ended = anyio.Event()
        self._stopping = False

    async def stop(self) -> None:
        self._stopping = True
        await self.ended.wait()

    async def publish(self, aws: EmbeddedAws, config: KinesisConfig) -> None:
        number = 0
        try:
            transport = KinesisTransport(config, session=aws.boto3_session())
            async with transport.publisher(OpenFence()) as publisher:
                while not self._stopping:
                    batch = [row_event(number + offset) for offset in range(100)]
                    number += len(batch)
                    assert not await (await publisher.publish(batch))
                    self.numbers.update(range(number - len(batch), number))
                    await anyio.sleep(0.05)
        finally:
            self.ended.set()


class OpenFence:
    """A reader that is sure of its slot."""

    def remaining_seconds(self) -> float:
        return 60.0


def row_event(number: int) -> OutgoingEvent:
    row = {"id": number % KEYS, "number": number}
    value = encode_change(
        op=Operation.UPDATE,
        table=TABLE,
        after=row,
        source={"commit_lsn": number + 1, "ordinal": 0},
        ts_us=1_700_000_000_000_000,
    )
    identity = ChangeIdentity(EPOCH, number + 1, 0)
    return OutgoingEvent(
        key=encode_key(row, ["id"]), value=value, op=Operation.UPDATE, table=TABLE, identity=identity
    )


def fleet_config(aws: EmbeddedAws, name: str) -> KinesisConfig:
    return KinesisConfig(
        stream_name=name,
        group_id="fleet",
        region=aws.region,
        kinesis_endpoint_url=aws.kinesis_endpoint_url,
        dynamodb_endpoint_url=aws.dynamodb_endpoint_url,
        shard_count=8,
        failover_seconds=FAILOVER_SECONDS,
        checkpoint_interval_seconds=0.5,
        poll_interval_seconds=0.25,
        max_batch_events=20,
    )


def client_of(aws: EmbeddedAws, service: str) -> Any:
    session: Any = aws.boto3_session()
    endpoints = {"kinesis": aws.kinesis_endpoint_url, "dynamodb": aws.dynamodb_endpoint_url}
    return session.client(service, region_name=aws.region, endpoint_url=endpoints[service])


@contextmanager
def consumer(
    backend: str, log: Log, config: KinesisConfig, aws: EmbeddedAws, name: str
) -> Generator[subprocess.Popen[bytes]]:
    told = json.dumps(asdict(config))
    command = [sys.executable, str(PROGRAM), backend, name, str(log.path), told]
    process = subprocess.Popen(command, env={**os.environ, **aws.environment()})
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


async def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    assert await anyio.to_thread.run_sync(partial(process.wait, 40)) == 0


async def until(condition: Callable[[], bool], *processes: subprocess.Popen[bytes], what: str) -> None:
    with anyio.move_on_after(60):
        while not condition():
            assert all(process.poll() is None for process in processes), "a consumer ended by itself"
            await anyio.sleep(0.05)
        return
    raise AssertionError(f"not within a minute: {what}")


@asynccontextmanager
async def loading(aws: EmbeddedAws, config: KinesisConfig) -> AsyncGenerator[Load]:
    load = Load()
    async with open_task_group() as tasks:
        tasks.start_soon(load.publish, aws, config)
        yield load


@asynccontextmanager
async def watching_checkpoints(aws: EmbeddedAws, config: KinesisConfig) -> AsyncGenerator[list[str]]:
    """Read the lease table all the time, and note each position that was moved back."""
    client = client_of(aws, "dynamodb")
    positions: dict[str, tuple[float, float]] = {}
    moved_back: list[str] = []

    def look() -> None:
        for row in client.scan(TableName=config.lease_table, ConsistentRead=True)["Items"]:
            shard, position = row["leaseKey"]["S"], _position(row)
            if position < positions.get(shard, position):
                moved_back.append(f"{shard}: from {positions[shard]} to {position}")
            positions[shard] = position

    async def watch() -> None:
        while True:
            await anyio.to_thread.run_sync(look)
            await anyio.sleep(0.1)

    async with open_task_group() as tasks:
        tasks.start_soon(watch)
        yield moved_back


def _position(row: dict[str, Any]) -> tuple[float, float]:
    text = row["checkpoint"]["S"]
    if text == "SHARD_END":
        return (float("inf"), 0)
    return (int(text), int(row["checkpointSubSequenceNumber"]["N"])) if text.isdigit() else (-1, 0)


def _range(shard: dict[str, Any]) -> tuple[int, int]:
    keys = shard["HashKeyRange"]
    return int(keys["StartingHashKey"]), int(keys["EndingHashKey"])


def _width(shard: dict[str, Any]) -> int:
    low, high = _range(shard)
    return high - low
