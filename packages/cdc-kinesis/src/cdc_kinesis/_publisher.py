"""The way in for a reader: rows into buckets, requests over disjoint buckets, receipts settled row by row."""

from __future__ import annotations

import logging
import zlib
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from hashlib import blake2b
from typing import Final, final

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from cdc_core import (
    CdcError,
    ConfigError,
    Fence,
    NotProvisioned,
    OutgoingEvent,
    PublishError,
    TableId,
    WalPublisher,
    bucket_of,
    open_task_group,
)

from ._aws import Aws
from ._buckets import DATA_FAULT_CODES, MAX_REQUEST_BYTES, Buckets, Request, Row
from ._client import open_data_client
from ._config import KinesisConfig
from ._errors import RETRYABLE_CODES, AwsError, refused
from ._inspection import BUCKETS_TAG, StreamFacts, buckets_of, inspect_stream
from ._receipts import BatchReceipt
from ._record_data import RecordEncoder
from ._records import DataClient, PutOutcome, Refused

_logger = logging.getLogger("cdc_kinesis")

# Of batches that are accepted and not settled; enough for 256 full aggregates twice.
_MAX_HELD_BYTES: Final = 32 << 20
# A row's objects beside its value.
_ROW_BYTES: Final = 200
_MAX_PARTITION_KEY_CHARACTERS: Final = 256
# More than a row's head, key and table can take in a record of its own: a name has 63 bytes, a quoted one 189.
_MAX_HEAD_BYTES: Final = 2048
# Streams take less than a minute to be created.
_MAX_CREATING_SECONDS: Final = 120.0
_CREATING_POLL_SECONDS: Final = 0.5
# A stream takes records while its shards are being changed.
_WRITABLE: Final = frozenset({"ACTIVE", "UPDATING"})
# Of single records; another code means that the service has learned something that this code does not know.
_EXPECTED_CODES: Final = RETRYABLE_CODES | DATA_FAULT_CODES
# So many rows refused for good with none stored between them: it is the request, not the rows.
_MAX_REJECTED_IN_A_ROW: Final = 3


@asynccontextmanager
async def open_publisher(config: KinesisConfig, aws: Aws, fence: Fence) -> AsyncGenerator[WalPublisher]:
    """Open the publisher of a stream; leaving waits until what is under way is resolved, and sends nothing more.

    That wait is bounded by the requests' timeouts. A receipt that is open then fails.

    Raises:
        NotProvisioned: there is no such stream.
        ConfigError: a stream that ignores hash keys, or one whose buckets are not the configured ones.
        AwsError, AwsAccessError, AnswerLost: the service could not be asked.
    """
    stream = await _ready_stream(config, aws)
    _check_layout(config, stream)
    async with open_data_client(config, aws) as client:
        publisher: KinesisPublisher | None = None
        try:
            async with open_task_group() as tasks:
                publisher = KinesisPublisher(config, client, fence, tasks, stream.max_record_bytes)
                tasks.start_soon(publisher.watch_clock)
                try:
                    yield publisher
                finally:
                    publisher.stop()
        finally:
            if publisher is not None:
                publisher.fail(PublishError("the publisher was closed before the batch was stored"))


@final
class KinesisPublisher:
    """A `WalPublisher`; made by `open_publisher`."""

    def __init__(
        self,
        config: KinesisConfig,
        client: DataClient,
        fence: Fence,
        tasks: TaskGroup,
        max_record_bytes: int,
    ) -> None:
        self._client, self._fence, self._tasks = client, fence, tasks
        self._timeout_seconds = config.request_timeout_seconds
        self._where = {"stream": config.stream_name}
        self._bucket_count = config.bucket_count
        self._max_record_bytes = min(max_record_bytes, MAX_REQUEST_BYTES)
        # a byte less: the partition key of an aggregate
        most = 0 if config.foreign_readers else min(config.max_aggregate_bytes, self._max_record_bytes - 1)
        self._encoder = RecordEncoder()
        self._buckets: Buckets[BatchReceipt] = Buckets(
            config.bucket_count,
            max_aggregate_bytes=most,
            max_requests=config.max_requests_in_flight,
            encode=self._encoder.encode,
        )
        # so large a row goes by itself
        self._max_described_bytes = most - _MAX_HEAD_BYTES
        self._held_bytes = 0
        self._rejected_in_a_row = 0
        self._error: CdcError | None = None
        self._stopped = False
        self._room = anyio.Event()
        self._clock_moved = anyio.Event()
        self._wakes_at: float | None = None

    async def publish(self, batch: Sequence[OutgoingEvent]) -> BatchReceipt:
        """Take a batch; waits while too much is accepted and not stored.

        Raises:
            PublishError: a request was refused for good, or the fence ran out; nothing is sent any more.
        """
        await anyio.lowlevel.checkpoint()
        while self._error is None and self._held_bytes >= _MAX_HELD_BYTES:
            if self._room.is_set():
                self._room = anyio.Event()
            await self._room.wait()
        if self._error is None and self._fence.remaining_seconds() <= 0:
            self._fence_ran_out()
        if self._error is not None:
            raise self._error
        size = sum([_ROW_BYTES if event.value is None else _ROW_BYTES + len(event.value) for event in batch])
        self._held_bytes += size
        receipt = BatchReceipt(len(batch), partial(self._let_go, size))
        if not batch:
            receipt.settle(0)
        self._take(batch, receipt)
        self._send_what_may()
        return receipt

    def stop(self) -> None:
        """Send nothing more."""
        self._stopped = True

    def fail(self, error: CdcError) -> None:
        """Fail every open receipt and everything to come; without effect once it has failed."""
        if self._error is not None:
            return
        self._error = error
        for receipt in self._buckets.unresolved():
            receipt.fail(error)
        self._room.set()

    async def watch_clock(self) -> None:
        """Send what waited for its time."""
        while True:
            self._clock_moved = anyio.Event()
            self._wakes_at = None if self._error is not None else self._buckets.next_time()
            if self._wakes_at is None:
                await self._clock_moved.wait()
                continue
            with anyio.move_on_at(self._wakes_at):
                await self._clock_moved.wait()
            self._send_what_may()

    def _take(self, batch: Sequence[OutgoingEvent], receipt: BatchReceipt) -> None:
        describe, crc32 = self._encoder.describe, zlib.crc32
        count, most = self._bucket_count, self._max_described_bytes
        by_bucket: defaultdict[int, list[Row[BatchReceipt]]] = defaultdict(list)
        for index, event in enumerate(batch):
            key, value = event.key, event.value
            if key and len(key) <= _MAX_PARTITION_KEY_CHARACTERS and key.isascii():
                bucket = (
                    crc32(key) % count
                )  # as `bucket_of`, whose call costs a tenth of all that is done here
                if value is not None and len(value) <= most and (found := describe(event)) is not None:
                    head, shared = found
                    by_bucket[bucket].append(Row(key, value, receipt, index, head, shared.member, event))
                    continue
            else:
                bucket = bucket_of(key, event.table, count)
                key = partition_key(key, event.table)
            data = self._encoder.encode(event, bucket)
            if len(data) + len(key) <= self._max_record_bytes:
                by_bucket[bucket].append(Row(key, data, receipt, index))
            else:
                receipt.reject(index, self._oversize(len(data) + len(key)))
        now = anyio.current_time()
        for bucket, rows in by_bucket.items():
            self._buckets.add(bucket, rows, now)

    def _let_go(self, size: int) -> None:
        self._held_bytes -= size
        if self._held_bytes < _MAX_HELD_BYTES:
            self._room.set()

    def _oversize(self, size: int) -> PublishError:
        return PublishError(
            f"the record has {size} bytes, and the stream takes {self._max_record_bytes}",
            where=self._where,
            remedy="raise the stream's maximum record size (UpdateMaxRecordSize, 10 MiB at most)",
        )

    def _send_what_may(self) -> None:
        if self._stopped or self._error is not None:
            return
        now = anyio.current_time()
        while (request := self._buckets.take(now)) is not None:
            self._tasks.start_soon(self._send, request)
        next_time = self._buckets.next_time()
        if next_time is not None and (self._wakes_at is None or next_time < self._wakes_at):
            self._clock_moved.set()

    async def _send(self, request: Request[BatchReceipt]) -> None:
        seconds = self._fence.remaining_seconds()
        if seconds <= 0:
            self._fence_ran_out()
        if self._stopped or self._error is not None:
            self._buckets.lose(request, anyio.current_time())
            return
        try:
            outcomes = await self._client.put_records(
                request.entries, timeout_seconds=min(seconds, self._timeout_seconds)
            )
        except CdcError as error:
            self._refused(request, error)
        else:
            self._answered(request, outcomes)
        self._send_what_may()

    def _answered(self, request: Request[BatchReceipt], outcomes: Sequence[PutOutcome]) -> None:
        for one in outcomes:
            if isinstance(one, Refused) and one.code not in _EXPECTED_CODES:
                self._refused(request, refused(one.code, one.message, where=self._where))
                return
        settled = self._buckets.settle(request, outcomes, anyio.current_time())
        if settled.stored:
            self._rejected_in_a_row = 0
        for record in settled.stored:
            # neighbours come from one batch: a call for each would cost as much as all else that is done here
            receipt, rows = record.rows[0].owner, 0
            for row in record.rows:
                if row.owner is not receipt:
                    receipt.settle(rows)
                    receipt, rows = row.owner, 0
                rows += 1
            receipt.settle(rows)
        self._reject(settled.faulty)

    def _refused(self, request: Request[BatchReceipt], error: CdcError) -> None:
        """Act on a request that brought no outcomes of its entries."""
        now = anyio.current_time()
        if error.retryable:  # throttled, or its answer is lost: the same bytes again
            _logger.warning(
                "putting records failed, trying again",
                extra={
                    "stream": self._where["stream"],
                    "error": type(error).__name__,
                    "reason": error.message,
                    "records": len(request.records),
                },
            )
            self._buckets.lose(request, now)
        elif isinstance(error, AwsError) and error.code in DATA_FAULT_CODES:
            self._reject(self._buckets.isolate(request, Refused(error.code, error.message), now).faulty)
        else:
            self._buckets.lose(request, now)
            self._end(f"the stream cannot be written to: {error.message}", error)

    def _reject(self, faulty: Sequence[tuple[Row[BatchReceipt], Refused]]) -> None:
        for row, outcome in faulty:
            cause = refused(outcome.code, outcome.message, where=self._where)
            self._rejected_in_a_row += 1
            if self._rejected_in_a_row >= _MAX_REJECTED_IN_A_ROW:
                self._end(f"{self._rejected_in_a_row} rows in a row were refused: {cause.message}", cause)
                return
            row.owner.reject(row.index, cause)

    def _fence_ran_out(self) -> None:
        message = "the reader may have lost its slot, so nothing more is sent"
        self.fail(PublishError(message, where=self._where, retryable=True))

    def _end(self, message: str, cause: CdcError) -> None:
        error = PublishError(message, where=self._where, remedy=cause.remedy)
        error.__cause__ = cause
        self.fail(error)


def partition_key(key: bytes | None, table: TableId | None) -> bytes:
    """Return the partition key of an event, in UTF-8.

    It is the text of the key where that has 1 to 256 characters (API reference of PutRecords), otherwise the key's
    BLAKE2b in hexadecimal; without a key the table; without a table `-`. It decides nothing: the hash key does.
    """
    if key is None:
        key = b"-" if table is None else str(table).encode()
    try:
        if 0 < len(key.decode()) <= _MAX_PARTITION_KEY_CHARACTERS:
            return key
    except UnicodeDecodeError:
        pass
    return blake2b(key, digest_size=16).hexdigest().encode()


async def _ready_stream(config: KinesisConfig, aws: Aws) -> StreamFacts:
    where = {"stream": config.stream_name}
    give_up_at = anyio.current_time() + _MAX_CREATING_SECONDS
    while True:
        stream = await inspect_stream(aws, config.stream_name)
        if stream is not None and stream.status in _WRITABLE:
            # the tags are not there to be asked for any earlier
            stream = await inspect_stream(aws, config.stream_name, tags=True)
            if stream is not None and stream.status in _WRITABLE:
                return stream
        if stream is None or stream.status == "DELETING":
            raise NotProvisioned("there is no such stream", where=where)
        if anyio.current_time() >= give_up_at:
            raise NotProvisioned(f"the stream is {stream.status} and not ACTIVE", where=where)
        await anyio.sleep(_CREATING_POLL_SECONDS)


def _check_layout(config: KinesisConfig, stream: StreamFacts) -> None:
    where = {"stream": config.stream_name}
    if stream.distribution == "AUTO":
        raise ConfigError(
            "the stream distributes records by itself, whatever their keys: order per key cannot be kept",
            where=where,
            remedy="set its RecordDistributionStrategy to USER_PARTITION_KEY, or take another stream",
        )
    written = stream.tags.get(BUCKETS_TAG)
    if written is not None and written != buckets_of(config):
        raise ConfigError(
            f"the stream's rows lie in the buckets {written}, and the configuration says {buckets_of(config)}",
            where=where,
            remedy=f"set bucket_count as the tag {BUCKETS_TAG} has it; or drain the stream first, and change both",
        )
