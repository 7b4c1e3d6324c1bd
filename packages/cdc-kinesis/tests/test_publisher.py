"""What is published is stored once or more, in order per key, and a receipt says so and nothing else."""

from __future__ import annotations

import gc
import secrets
import socket
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import anyio
import boto3
import msgspec
import pytest

from cdc_core import (
    ChangeIdentity,
    ConfigError,
    Epoch,
    Event,
    Fence,
    Lane,
    NotProvisioned,
    OpaqueIdentity,
    Operation,
    OutgoingEvent,
    PublishError,
    Receipt,
    TableId,
    WalPublisher,
    bucket_of,
)
from cdc_kinesis import AwsAccessError, KinesisConfig
from cdc_kinesis._aggregation import SubRecord, deaggregate
from cdc_kinesis._aws import Aws
from cdc_kinesis._buckets import explicit_hash_key
from cdc_kinesis._publisher import open_publisher, partition_key
from cdc_kinesis._record_data import RecordDecoder
from cdc_testing.servers.kinesis import (
    Drop,
    Durations,
    EmbeddedKinesis,
    Hold,
    Rates,
    Refuse,
    RejectEntries,
    open_kinesis,
    start_kinesis,
)

pytestmark = pytest.mark.anyio

EPOCH = Epoch("7012345678901234567", 1, "shop", "0")
TABLE = TableId("shop", "orders")
PATIENCE_SECONDS = 60.0


class AdjustableFence:
    """A fence whose time a test sets."""

    def __init__(self, seconds: float = 60.0) -> None:
        self.seconds = seconds

    def remaining_seconds(self) -> float:
        return self.seconds


class Stream:
    """One stream on a server, and ways to look at it."""

    def __init__(self, server: EmbeddedKinesis, name: str) -> None:
        self.server, self.name = server, name
        self.access_key = f"key-{name}"
        session: Any = boto3.Session("unused", "unused", region_name=server.region)
        self.boto3: Any = session.client("kinesis", endpoint_url=server.endpoint_url)

    def config(self, **changes: Any) -> KinesisConfig:
        settings: dict[str, Any] = {
            "stream_name": self.name,
            "kinesis_endpoint_url": self.server.endpoint_url,
            "region": self.server.region,
            **changes,
        }
        return KinesisConfig(**settings)

    @asynccontextmanager
    async def publisher(self, fence: Fence | None = None, **changes: Any) -> AsyncGenerator[WalPublisher]:
        config = self.config(**changes)
        aws = Aws(config, boto3.Session(self.access_key, "secret", region_name=self.server.region))
        async with open_publisher(config, aws, fence or AdjustableFence()) as publisher:
            yield publisher
        aws.client("kinesis").close()  # the transport's, whose connections live as long as it does

    def events(self) -> list[Event]:
        """Return what is stored, in order per shard, repeats and all."""
        decoder = RecordDecoder([Lane(str(number)) for number in range(256)])
        found: list[Event] = []
        for records in self.server.records(self.name).values():
            for record in records:
                whole = SubRecord(record.partition_key, None, record.data)
                rows = deaggregate(record.data) or [whole]
                found += [decoder.decode_row(row, "nowhere") for row in rows]
        return found

    def numbers(self) -> list[int]:
        return [
            event.identity.ordinal for event in self.events() if isinstance(event.identity, ChangeIdentity)
        ]

    def puts(self) -> int:
        return len(self.server.calls("PutRecords", stream=self.name))


@pytest.fixture
async def stream(embedded_kinesis: EmbeddedKinesis, anyio_backend: str) -> AsyncGenerator[Stream]:
    stream = Stream(embedded_kinesis, f"publisher-{secrets.token_hex(4)}")
    stream.boto3.create_stream(StreamName=stream.name, ShardCount=3)
    try:
        yield stream
    finally:
        embedded_kinesis.clear_faults()
        stream.boto3.delete_stream(StreamName=stream.name)
        stream.boto3.close()


def event(number: int, key: str = "k", value: bytes | None = None) -> OutgoingEvent:
    return OutgoingEvent(
        key=b'{"id":"%b"}' % key.encode(),
        value=value or b'{"op":"c","after":{"id":"%b"}}' % key.encode(),
        op=Operation.CREATE,
        table=TABLE,
        identity=ChangeIdentity(EPOCH, 100, number),
        committed_at=1_700_000_000.0,
    )


def batches(count: int, keys: int, size: int) -> list[list[OutgoingEvent]]:
    rows = [event(number, f"key-{number * 7919 % keys}") for number in range(count)]
    return [rows[start : start + size] for start in range(0, count, size)]


def first_by_key(events: Sequence[Event]) -> Mapping[bytes, list[int]]:
    by_key: dict[bytes, dict[int, None]] = defaultdict(dict)
    for one in events:
        assert isinstance(one.identity, ChangeIdentity)
        assert one.key is not None
        by_key[one.key].setdefault(one.identity.ordinal)
    return {key: list(numbers) for key, numbers in by_key.items()}


def assert_complete_and_in_order(stream: Stream, count: int) -> None:
    by_key = first_by_key(stream.events())
    for key, numbers in by_key.items():
        assert numbers == sorted(numbers), key
    assert sorted(number for numbers in by_key.values() for number in numbers) == list(range(count))


@pytest.mark.parametrize("foreign_readers", [False, True])
async def test_rows_arrive_as_they_were_each_in_the_bucket_of_its_key(
    stream: Stream, foreign_readers: bool
) -> None:
    sent = [event(number, f"key-{number % 7}") for number in range(50)]
    unusual = [
        msgspec.structs.replace(event(50), related_key=b'{"id":"old"}'),
        msgspec.structs.replace(event(51), key=b"no JSON"),
        msgspec.structs.replace(event(52), key="é".encode()),
        msgspec.structs.replace(event(53), key=b"x" * 300),
        msgspec.structs.replace(event(54), key=None),
        msgspec.structs.replace(event(55), value=None, op=None),
        msgspec.structs.replace(event(56), value=b"no JSON"),
        msgspec.structs.replace(event(57), identity=OpaqueIdentity("57")),
        msgspec.structs.replace(event(58), committed_at=None),
        msgspec.structs.replace(event(59), table=TableId('sch/"e%ma', "tab.le/2F")),
    ]
    sent += unusual
    async with stream.publisher(foreign_readers=foreign_readers) as publisher:
        assert await (await publisher.publish(sent)) == []
    got = {one.identity: one for one in stream.events()}
    assert len(got) == len(sent)
    for one in sent:
        event_ = got[one.identity]
        for name in ("key", "value", "table", "op", "related_key", "committed_at"):
            assert getattr(event_, name) == getattr(one, name), name
        assert list(event_.headers) == list(one.headers)
        assert event_.lane == str(bucket_of(one.key, TABLE, 256))


async def test_where_foreign_readers_read_a_row_is_a_record(stream: Stream) -> None:
    async with stream.publisher(foreign_readers=True) as publisher:
        await (await publisher.publish([event(number) for number in range(5)]))
    records = [one for shard in stream.server.records(stream.name).values() for one in shard]
    assert [deaggregate(one.data) for one in records] == [None] * 5
    assert {one.partition_key for one in records} == {'{"id":"k"}'}


async def test_every_row_of_an_aggregate_bears_the_hash_key_of_the_bucket(stream: Stream) -> None:
    async with stream.publisher() as publisher:
        await (await publisher.publish([event(number) for number in range(5)]))
    (record,) = [one for shard in stream.server.records(stream.name).values() for one in shard]
    expected = explicit_hash_key(bucket_of(b'{"id":"k"}', TABLE, 256), 256)
    rows = deaggregate(record.data)
    assert rows is not None
    assert {(row.explicit_hash_key, row.partition_key) for row in rows} == {(expected, '{"id":"k"}')}
    # and is the envelope as it came, to whoever reads it
    assert {row.data for row in rows} == {event(0).value}


@pytest.mark.parametrize("foreign_readers", [False, True])
async def test_a_third_refused_and_answers_lost_leave_the_order_and_lose_nothing(
    stream: Stream, foreign_readers: bool
) -> None:
    count = 1500
    faults = [
        stream.server.add_fault(RejectEntries(fraction=0.3, seed=1), streams=[stream.name]),
        stream.server.add_fault(
            Drop(stored=True), operations=["PutRecords"], streams=[stream.name], skip=3, count=2
        ),
        stream.server.add_fault(Drop(), operations=["PutRecords"], streams=[stream.name], skip=7, count=2),
        stream.server.add_fault(
            Refuse(code="InternalFailure", stored=True), operations=["PutRecords"], skip=9, count=2
        ),
    ]
    with anyio.fail_after(PATIENCE_SECONDS):
        async with stream.publisher(foreign_readers=foreign_readers, max_aggregate_bytes=4096) as publisher:
            receipts = [await publisher.publish(batch) for batch in batches(count, 400, 100)]
            for receipt in receipts:
                assert await receipt == []
            assert all(fault.hits for fault in faults)
            assert_complete_and_in_order(stream, count)
            before = stream.puts()
            stream.server.clear_faults()
            # throughput recovers: without faults no row is sent twice
            more = [event(count + number, f"key-{number}") for number in range(400)]
            await (await publisher.publish(more))
    assert_complete_and_in_order(stream, count + len(more))
    assert stream.puts() - before <= 4 * (400 // 100)


async def test_a_throttled_shard_is_never_given_up(anyio_backend: str) -> None:
    rates = Rates(write_records=100, write_bytes=1 << 20)
    async with open_kinesis(throttle=rates, use_existing=False) as server:
        stream = Stream(server, "throttled")
        stream.boto3.create_stream(StreamName=stream.name, ShardCount=2)
        with anyio.fail_after(PATIENCE_SECONDS):
            async with stream.publisher(foreign_readers=True) as publisher:
                receipts = [await publisher.publish(batch) for batch in batches(600, 300, 50)]
                for receipt in receipts:
                    assert await receipt == []
        assert any(call.rejected for call in server.calls("PutRecords"))
        assert_complete_and_in_order(stream, 600)
        stream.boto3.close()


async def test_a_row_that_is_too_large_is_rejected_and_its_neighbours_are_stored(stream: Stream) -> None:
    sent = [event(0), event(1, value=b"x" * (1 << 20)), event(2)]
    async with stream.publisher() as publisher:
        rejected = await (await publisher.publish(sent))
    assert [one.index for one in rejected] == [1]
    assert "1048576" in str(rejected[0].cause)
    assert stream.numbers() == [0, 2]


async def test_the_limit_is_the_streams_own(stream: Stream) -> None:
    arn = stream.boto3.describe_stream_summary(StreamName=stream.name)["StreamDescriptionSummary"][
        "StreamARN"
    ]
    stream.boto3.update_max_record_size(StreamARN=arn, MaxRecordSizeInKiB=3072)
    async with stream.publisher() as publisher:
        rejected = await (await publisher.publish([event(0, value=b"x" * (2 << 20))]))
    assert rejected == []
    assert stream.numbers() == [0]


async def test_a_request_refused_for_one_row_rejects_that_row_alone(stream: Stream) -> None:
    # five times the request as a whole, then the aggregate, then its first row: the others are sound
    stream.server.add_fault(
        Refuse(code="ValidationException", message="a row is bad", status=400),
        operations=["PutRecords"],
        streams=[stream.name],
        count=3,
    )
    sent = [event(0, "a"), event(1, "a"), event(2, "b")]
    async with stream.publisher() as publisher:
        with anyio.fail_after(PATIENCE_SECONDS):
            rejected = await (await publisher.publish(sent))
    assert len(rejected) == 1
    assert "a row is bad" in str(rejected[0].cause)
    assert {0, 1, 2} - {rejected[0].index} == set(stream.numbers())


async def test_rows_refused_one_after_the_other_end_the_publisher(stream: Stream) -> None:
    stream.server.add_fault(
        Refuse(code="ValidationException", status=400), operations=["PutRecords"], streams=[stream.name]
    )
    async with stream.publisher() as publisher:
        receipt = await publisher.publish([event(number, f"key-{number}") for number in range(9)])
        with anyio.fail_after(PATIENCE_SECONDS), pytest.raises(PublishError, match="3 rows in a row"):
            await receipt


async def test_a_refused_access_ends_the_publisher(stream: Stream) -> None:
    async with stream.publisher() as publisher:
        await (await publisher.publish([event(0)]))
        stream.server.refuse_access_key(stream.access_key)
        receipt = await publisher.publish([event(1)])
        with anyio.fail_after(PATIENCE_SECONDS), pytest.raises(PublishError) as caught:
            await receipt
        assert isinstance(caught.value.__cause__, AwsAccessError)
        assert "permissions" in caught.value.remedy
        with pytest.raises(PublishError):
            await publisher.publish([event(2)])


async def test_a_stream_that_goes_away_ends_the_publisher(stream: Stream) -> None:
    async with stream.publisher() as publisher:
        stream.server.add_fault(
            Refuse(code="ResourceNotFoundException", status=400), operations=["PutRecords"]
        )
        with pytest.raises(PublishError, match="ResourceNotFoundException"):
            await (await publisher.publish([event(1)]))


async def test_nothing_is_sent_once_the_fence_has_run_out(stream: Stream) -> None:
    fence = AdjustableFence()
    async with stream.publisher(fence) as publisher:
        await (await publisher.publish([event(0)]))
        with stream.server.add_fault(Hold(), operations=["PutRecords"], streams=[stream.name]) as hold:
            under_way = await publisher.publish([event(1)])
            await hold.wait_async()
            behind = await publisher.publish([event(2)])
            fence.seconds = 0.0
            hold.release()
            with anyio.fail_after(PATIENCE_SECONDS), pytest.raises(PublishError, match="slot"):
                await behind
            with pytest.raises(PublishError):
                await publisher.publish([event(3)])
        assert await under_way == []
    assert stream.numbers() == [0, 1]


async def test_a_request_lasts_no_longer_than_the_fence(stream: Stream) -> None:
    fence = AdjustableFence(0.3)
    async with stream.publisher(fence) as publisher:
        with stream.server.add_fault(Hold(), operations=["PutRecords"], streams=[stream.name], count=1):
            receipt = await publisher.publish([event(0)])
            with anyio.fail_after(5.0):  # far below the timeout of a request
                assert await receipt == []
    assert stream.puts() >= 1


async def test_leaving_waits_for_what_is_under_way_and_sends_nothing_more(stream: Stream) -> None:
    receipts: list[Receipt] = []
    with (
        stream.server.add_fault(Hold(), operations=["PutRecords"], streams=[stream.name]) as hold,
        anyio.CancelScope() as scope,
    ):
        async with stream.publisher() as publisher, anyio.create_task_group() as tasks:
            receipts.append(await publisher.publish([event(0)]))
            receipts.append(await publisher.publish([event(1)]))
            await hold.wait_async()
            tasks.start_soon(release_once_cancelled, hold)
            scope.cancel()
    assert stream.numbers() == [0]
    assert stream.puts() == 1
    assert await receipts[0] == []
    with pytest.raises(PublishError, match="closed"):
        await receipts[1]


async def release_once_cancelled(hold: Any) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        hold.release()


async def test_a_publisher_takes_no_more_than_it_may_hold(stream: Stream) -> None:
    value = b'{"x":"%b"}' % (b"x" * 900_000)
    large = [event(number, f"key-{number}", value) for number in range(40)]
    with stream.server.add_fault(Hold(), operations=["PutRecords"], streams=[stream.name]) as hold:
        async with stream.publisher() as publisher:
            first = await publisher.publish(large)
            await hold.wait_async()
            with anyio.move_on_after(0.2) as waiting:
                await publisher.publish([event(99)])
            assert waiting.cancelled_caught
            hold.release()
            with anyio.fail_after(PATIENCE_SECONDS):
                last = await publisher.publish([event(100)])
                assert await first == []
                assert await last == []


async def test_rows_without_a_key_go_by_their_table(stream: Stream) -> None:
    sent = OutgoingEvent(
        key=None,
        value=b'{"op":"t"}',
        op=Operation.TRUNCATE,
        table=TABLE,
        identity=ChangeIdentity(EPOCH, 1, 0),
    )
    async with stream.publisher() as publisher:
        await (await publisher.publish([sent]))
    (got,) = stream.events()
    assert (got.key, got.op) == (None, Operation.TRUNCATE)
    assert got.lane == str(bucket_of(None, TABLE, 256))
    (record,) = [one for shard in stream.server.records(stream.name).values() for one in shard]
    assert record.partition_key == "shop.orders"


@pytest.mark.parametrize(
    ("key", "table", "expected"),
    [
        (b'{"id":1}', TABLE, b'{"id":1}'),
        ("é".encode() * 256, TABLE, "é".encode() * 256),
        (None, TABLE, b"shop.orders"),
        (None, None, b"-"),
    ],
)
def test_a_partition_key_is_the_text_of_the_key(
    key: bytes | None, table: TableId | None, expected: bytes
) -> None:
    assert partition_key(key, table) == expected


@pytest.mark.parametrize("key", [b"", b"k" * 257, b"\xff\xfe"])
def test_a_key_that_cannot_be_a_partition_key_is_hashed(key: bytes) -> None:
    assert len(partition_key(key, TABLE)) == 32
    assert partition_key(key, TABLE) == partition_key(key, None)


async def test_a_missing_stream_is_not_provisioned(stream: Stream) -> None:
    with pytest.raises(NotProvisioned, match="no such stream"):
        async with stream.publisher(stream_name="nowhere"):
            pass


async def test_a_stream_that_is_being_created_is_waited_for(anyio_backend: str) -> None:
    async with open_kinesis(durations=Durations(create=0.5), use_existing=False) as server:
        stream = Stream(server, "new")
        stream.boto3.create_stream(StreamName=stream.name, ShardCount=1)
        async with stream.publisher() as publisher:
            await (await publisher.publish([event(0)]))
        assert stream.numbers() == [0]
        stream.boto3.close()


async def test_other_buckets_than_the_streams_are_refused(stream: Stream) -> None:
    stream.boto3.add_tags_to_stream(StreamName=stream.name, Tags={"cdc-buckets": "512/crc32"})
    with pytest.raises(ConfigError, match="512/crc32"):
        async with stream.publisher():
            pass
    async with stream.publisher(bucket_count=512):
        pass


async def test_no_task_and_no_connection_is_left_behind(anyio_backend: str) -> None:
    tasks = len(anyio.get_running_tasks())
    with start_kinesis(use_existing=False) as server:
        stream = Stream(server, "clean")
        stream.boto3.create_stream(StreamName=stream.name, ShardCount=1)
        async with stream.publisher() as publisher:
            await (await publisher.publish([event(number, f"{number}") for number in range(99)]))
        stream.boto3.close()
        port = urlsplit(server.endpoint_url or "").port
        gc.collect()
        assert len(anyio.get_running_tasks()) == tasks
        assert [one for one in open_sockets() if peer_port(one) == port] == []


def open_sockets() -> list[socket.socket]:
    return [one for one in gc.get_objects() if isinstance(one, socket.socket) and one.fileno() >= 0]


def peer_port(one: socket.socket) -> int | None:
    try:
        address: Any = one.getpeername()
    except OSError:
        return None
    return None if isinstance(address, str) else int(address[1])
