"""The process of one subject: `python _kinesis_client.py JOB`, JOB being a `KinesisJob` as JSON; prints its outcome.

What is measured begins when connections and rows are there, and ends with the last row's receipt or acknowledgement.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, final

import anyio
import boto3
from _jobs import Outcome
from _kinesis_jobs import (
    GET,
    GET_BOTO3,
    GET_RAW,
    PUT,
    PUT_AGGREGATED,
    PUT_BOTO3,
    PUT_RAW,
    PUT_RAW_AGGREGATED,
    KinesisJob,
)
from _kinesis_rows import key_of, value_of

from cdc_core import (
    ChangeIdentity,
    Epoch,
    Event,
    Operation,
    OutgoingEvent,
    Pipeline,
    Receipt,
    TableId,
    provision,
)
from cdc_kinesis import KinesisConfig, KinesisTransport
from cdc_kinesis._aggregation import Aggregate
from cdc_kinesis._aws import Aws
from cdc_kinesis._buckets import explicit_hash_key
from cdc_kinesis._client import open_data_client
from cdc_kinesis._pacing import Pacing
from cdc_kinesis._publisher import open_publisher
from cdc_kinesis._records import PutEntry

_EPOCH: Final = Epoch("7012345678901234567", 1, "bench", "0a1b2c3d")
_TABLE: Final = TableId("shop", "orders")
_BATCH: Final = 1000
_OPEN_RECEIPTS: Final = 64
_REQUEST_ENTRIES: Final = 500
_ROWS_A_RECORD: Final = 80


@final
class Clock:
    """Wall and CPU time of this process since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def outcome(self, rows: int) -> Outcome:
        """Return what `rows` rows took."""
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert found is not None
        return Outcome(rows=rows, seconds=wall, cpu_seconds=cpu, rss_mib=int(found[1]) / 1024)


class AlwaysOwner:
    """A fence that never runs out."""

    def remaining_seconds(self) -> float:
        """Return a minute."""
        return 60.0


async def put(job: KinesisJob) -> Outcome:
    """Publish as a reader does: batches, many receipts open; every one is awaited."""
    config = _config(job, foreign_readers=job.subject == PUT)
    events = [_event(number) for number in range(job.rows + 1)]
    async with open_publisher(config, _aws(config), AlwaysOwner()) as publisher:
        await (await publisher.publish(events[job.rows :]))  # the connection is there
        receipts: deque[Receipt] = deque()
        clock = Clock()
        for start in range(0, job.rows, _BATCH):
            receipts.append(await publisher.publish(events[start : min(start + _BATCH, job.rows)]))
            if len(receipts) > _OPEN_RECEIPTS:
                _assert_stored(await receipts.popleft())
        for receipt in receipts:
            _assert_stored(await receipt)
        return clock.outcome(job.rows)


async def put_raw(job: KinesisJob) -> Outcome:
    """Put requests of 500 records one after the other: signed and sent as ours, without order, buckets or receipts."""
    config = _config(job)
    rows = list(_rows(job))
    async with open_data_client(config, _aws(config)) as client:
        await client.put_records([_entry(*rows[0])], timeout_seconds=10.0)
        clock = Clock()
        if job.subject == PUT_RAW:
            entries: Iterator[PutEntry] = (_entry(key, value) for key, value in rows)
        else:
            entries = _aggregates(rows)
        size = _REQUEST_ENTRIES if job.subject == PUT_RAW else _REQUEST_ENTRIES // _ROWS_A_RECORD * 10
        while request := [entry for entry, _ in zip(entries, range(size), strict=False)]:
            await client.put_records(request, timeout_seconds=10.0)
        return clock.outcome(job.rows)


async def put_boto3(job: KinesisJob) -> Outcome:
    """Put requests of 500 records one after the other, as one would write it down first."""
    rows = list(_rows(job))
    client = _boto3(job)
    client.put_records(StreamName=job.stream, Records=[{"Data": rows[0][1], "PartitionKey": rows[0][0]}])
    clock = Clock()
    for start in range(0, job.rows, _REQUEST_ENTRIES):
        records = [
            {"Data": value, "PartitionKey": key} for key, value in rows[start : start + _REQUEST_ENTRIES]
        ]
        answer = client.put_records(StreamName=job.stream, Records=records)
        assert not answer["FailedRecordCount"]
    return clock.outcome(job.rows)


async def get(job: KinesisJob) -> Outcome:
    """Run a `Pipeline` whose handler looks at every event: leases, repeats, acknowledgement and all."""
    config = _config(job)
    transport = KinesisTransport(config, session=_session(job))
    # the local server has no limit a shard; ours would make this a measurement of sleep
    transport._pacing = Pacing(calls_per_second=1e6, bytes_per_second=1e12)  # pyright: ignore[reportPrivateUsage]
    await provision(transport)
    seen = 0
    all_seen = anyio.Event()

    async def handle(events: Sequence[Event]) -> None:
        nonlocal seen
        for event in events:
            assert event.table == _TABLE
        seen += len(events)
        if seen >= job.rows:
            all_seen.set()

    pipeline = Pipeline(name="bench", transport=transport, handler=handle)
    clock = Clock()
    async with pipeline.running():
        await all_seen.wait()
        return clock.outcome(job.rows)


async def get_raw(job: KinesisJob) -> Outcome:
    """Get all records and look at none."""
    config = _config(job)
    iterators = _iterators(job)
    async with open_data_client(config, _aws(config)) as client:
        clock = Clock()
        records = 0
        for first in iterators:
            iterator: str | None = first
            while iterator is not None:
                page = await client.get_records(iterator, limit=10_000, timeout_seconds=10.0)
                records += len(page.records)
                iterator = page.next_iterator if page.millis_behind_latest else None
        return clock.outcome(job.rows)


async def get_boto3(job: KinesisJob) -> Outcome:
    """Get all records in a loop over the shards, as one would write it down first."""
    client = _boto3(job)
    iterators = _iterators(job)
    clock = Clock()
    records = 0
    for iterator in iterators:
        while True:
            answer = client.get_records(ShardIterator=iterator, Limit=10_000)
            records += len(answer["Records"])
            if not answer["MillisBehindLatest"]:
                break
            iterator = answer["NextShardIterator"]
    return clock.outcome(job.rows)


_SUBJECTS: Final[dict[str, Callable[[KinesisJob], Awaitable[Outcome]]]] = {
    PUT: put,
    PUT_AGGREGATED: put,
    PUT_RAW: put_raw,
    PUT_RAW_AGGREGATED: put_raw,
    PUT_BOTO3: put_boto3,
    GET: get,
    GET_RAW: get_raw,
    GET_BOTO3: get_boto3,
}


def main() -> None:
    """Run the subject that the command line names."""
    job = KinesisJob(**json.loads(sys.argv[1]))
    outcome: Any = anyio.run(_SUBJECTS[job.subject], job, backend=job.backend)
    print(json.dumps(asdict(outcome)))


def _event(number: int) -> OutgoingEvent:
    transaction, ordinal = divmod(number, 10)
    return OutgoingEvent(
        key=key_of(number).encode(),
        value=value_of(number).encode(),
        op=Operation.UPDATE,
        table=_TABLE,
        identity=ChangeIdentity(_EPOCH, 26_000_000_000 + transaction * 1000, ordinal),
        committed_at=1_700_000_000.0 + transaction / 1000,
    )


def _rows(job: KinesisJob) -> Iterator[tuple[str, bytes]]:
    return ((key_of(number), value_of(number).encode()) for number in range(job.rows))


def _entry(key: str, value: bytes) -> PutEntry:
    return PutEntry(value, key, "170141183460469231731687303715884105728")


def _aggregates(rows: Sequence[tuple[str, bytes]]) -> Iterator[PutEntry]:
    for number, start in enumerate(range(0, len(rows), _ROWS_A_RECORD)):
        hash_key = explicit_hash_key(number % 256, 256)
        aggregate = Aggregate(hash_key)
        for key, value in rows[start : start + _ROWS_A_RECORD]:
            aggregate.add(key.encode(), value)
        yield PutEntry(aggregate.finish(), "a", hash_key)


def _assert_stored(rejected: Sequence[object]) -> None:
    assert not rejected


def _config(job: KinesisJob, *, foreign_readers: bool = False) -> KinesisConfig:
    return KinesisConfig(
        stream_name=job.stream,
        region=job.region,
        kinesis_endpoint_url=job.kinesis_url,
        dynamodb_endpoint_url=job.dynamodb_url,
        group_id=job.group,
        bucket_count=job.buckets,
        foreign_readers=foreign_readers,
    )


def _session(job: KinesisJob) -> boto3.Session:
    return boto3.Session("bench", "bench", region_name=job.region)


def _aws(config: KinesisConfig) -> Aws:
    return Aws(config, boto3.Session("bench", "bench", region_name=config.region))


def _boto3(job: KinesisJob) -> Any:
    session: Any = _session(job)
    return session.client("kinesis", endpoint_url=job.kinesis_url)


def _iterators(job: KinesisJob) -> list[str]:
    client = _boto3(job)
    shards = client.list_shards(StreamName=job.stream)["Shards"]
    return [
        client.get_shard_iterator(
            StreamName=job.stream, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        for shard in shards
    ]


if __name__ == "__main__":
    main()
