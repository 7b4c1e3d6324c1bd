"""Reads one shard: iterators, GetRecords, what is missing, and the end of the shard."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Literal, TypeVar, final

import anyio
import msgspec

from cdc_core import AccessError, Backoff, CdcError, NotProvisioned, RetryPolicy

from ._aws import Aws
from ._config import KinesisConfig
from ._errors import AwsError
from ._leases import Checkpoint
from ._pacing import ShardPace
from ._records import ChildShard, DataClient, Page
from ._retention import Retention
from ._rows import size_of
from ._shard_stream import ShardStream

T = TypeVar("T")

_logger = logging.getLogger("cdc_kinesis")

# An iterator expires five minutes after it was returned (GetRecords, API reference); backpressure may hold it longer.
_ITERATOR_SECONDS: Final = 240.0
_RETRIES: Final = RetryPolicy(initial_delay_seconds=0.25, max_delay_seconds=10.0)
# Credentials may be renewed just now, and a permission take its time to arrive; after so many tries nobody helps.
_ACCESS_TRIES: Final = 5
# So many pages without a record, at the tip or at the oldest record, say that the checkpoint's is not there.
_EMPTY_PAGES: Final = 3


@final
class Start(msgspec.Struct, frozen=True, gc=False):
    """Where reading starts: at what is the oldest, at a time (seconds since 1970), or behind a checkpoint."""

    kind: Literal["TRIM_HORIZON", "AT_TIMESTAMP", "CHECKPOINT"]
    timestamp: float = 0.0
    checkpoint: Checkpoint | None = None


@final
class ShardLag(msgspec.Struct, frozen=True, gc=False):
    """How far the last read of a shard was behind its tip, as the service said, and when that was (since 1970)."""

    millis_behind_latest: int
    measured_at: float


@final
class ShardReader:
    """Reads a shard from a start to its end, into its stream.

    - `lags`: where the last MillisBehindLatest of each shard is told.
    - `retention`: what is known of the shard and of how long the stream keeps records.
    """

    def __init__(
        self,
        config: KinesisConfig,
        aws: Aws,
        data: DataClient,
        stream: ShardStream,
        *,
        start: Start,
        pace: ShardPace,
        lags: dict[str, ShardLag],
        retention: Retention,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.children: Sequence[ChildShard] = ()
        self.last_arrived_at: float | None = None
        self._config = config
        self._aws = aws
        self._data = data
        self._stream = stream
        self._shard_id = stream.partition.id
        self._start = start
        self._pace = pace
        self._lags = lags
        self._retention = retention
        self._clock = clock
        self._last: str | None = None
        self._empty_pages = 0
        self._sent_at = clock()
        self._backoff = Backoff(_RETRIES)
        self._access_failures = 0

    async def run(self) -> None:
        """Read to the end of the shard; until cancelled where there is none yet.

        Raises:
            ShardGap: records are gone, or may be, that were not read.
            NotProvisioned: the stream does not exist any more.
            CdcError: what no further try can mend.
        """
        try:
            while (iterator := await self._insist(self._new_iterator)) is not None:
                if await self._read(iterator):
                    break
        finally:
            self._lags.pop(self._shard_id, None)
        self._stream.end()

    async def _read(self, iterator: str) -> bool:
        """Read from an iterator on; return True at the end of the shard, False where a new iterator is needed."""
        issued_at = self._clock()
        while True:
            if self._clock() - issued_at > _ITERATOR_SECONDS:
                return False
            page = await self._insist(partial(self._get, iterator))
            if page is None or not await self._insist(partial(self._is_complete, page)):
                return False
            issued_at = self._clock()
            self._take_note(page)
            if page.records:
                await self._stream.put(page.records)
            if page.next_iterator is None:
                self.children = page.children
                return True
            iterator = page.next_iterator
            if page.millis_behind_latest == 0 or (page.millis_behind_latest is None and not page.records):
                await anyio.sleep(self._config.poll_interval_seconds)

    async def _get(self, iterator: str) -> Page | None:
        """Get a page; None where the iterator has expired, or what it stands in is gone: a new one will tell."""
        await self._pace.turn()
        self._sent_at = self._clock()
        try:
            page = await self._data.get_records(
                iterator,
                limit=self._config.max_records_per_shard,
                timeout_seconds=self._config.request_timeout_seconds,
            )
        except AwsError as error:
            if error.code in ("ExpiredIteratorException", "ResourceNotFoundException"):
                return None
            raise
        self._pace.spent(size_of(page.records))
        return page

    def _take_note(self, page: Page) -> None:
        records, behind = page.records, page.millis_behind_latest
        if records:
            self._last = records[-1].sequence_number
            self.last_arrived_at = records[-1].arrived_at
        if behind is not None:
            self._lags[self._shard_id] = ShardLag(behind, time.time())
        if self._last is not None or self._start.checkpoint is None:
            # not before the record of the checkpoint was met: what may be missing stands between the two
            self._retention.was_read(sent_at=self._sent_at, millis_behind_latest=behind)

    async def _is_complete(self, page: Page) -> bool:
        """Say whether a page follows what was read before; False where reading must go on from the oldest record.

        So must the end of a shard: a closed one outlives its records (it goes a retention after its closing), and is
        at its end as well where they were trimmed before they were read.

        The first record behind a checkpoint is the checkpoint's own: the iterator stands AT it, since the row of a
        lease does not say whether its record holds more rows. Where that record is gone, others may be as well.

        Raises:
            ShardGap: nothing shows that none is missing.
        """
        checkpoint = self._start.checkpoint
        if self._last is not None or checkpoint is None:
            if self._last is not None and (page.records or page.next_iterator is None):
                following = page.records[0].sequence_number if page.records else None
                await self._retention.check(self._last, following)
            return True
        first = page.records[0].sequence_number if page.records else None
        if first == checkpoint.sequence_number:
            return True
        if first is None and page.next_iterator is not None:
            # an empty page says nothing: the next one may hold it
            is_over = self._retention.is_over(page.millis_behind_latest)
            self._empty_pages = self._empty_pages + 1 if is_over else 0
            if self._empty_pages < _EMPTY_PAGES:
                return True
        await self._retention.check(checkpoint.sequence_number, first)
        _logger.info(
            "the record of the checkpoint is trimmed, and nothing came behind it",
            extra={"shard": self._shard_id, "sequence_number": checkpoint.sequence_number},
        )
        self._start = Start("TRIM_HORIZON")
        # an iterator at a trimmed record may stand still for long: a new one starts at the oldest
        return first is not None

    async def _new_iterator(self) -> str | None:
        """Get an iterator; None where the shard is gone from the stream, and nothing of it is missing."""
        place = self._place()
        try:
            answer = await self._aws.call(
                "kinesis",
                "get_shard_iterator",
                StreamName=self._config.stream_name,
                ShardId=self._shard_id,
                **place,
            )
        except AwsError as error:
            at = place.get("StartingSequenceNumber")
            if error.code == "ResourceNotFoundException":
                await self._require_stream()
                await self._retention.check(at, None, shard_is_gone=True)
                return None
            if error.code == "InvalidArgumentException" and at is not None:
                # what a sequence number may get that the service does not know any more
                await self._retention.check(at, None)
                self._start, self._last = Start("TRIM_HORIZON"), None
                return await self._new_iterator()
            raise
        iterator: str = answer["ShardIterator"]
        return iterator

    def _place(self) -> dict[str, Any]:
        if self._last is not None:
            # whole records were delivered, so that nothing of this one is left
            return {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": self._last}
        start = self._start
        if start.checkpoint is not None:
            at = start.checkpoint.sequence_number
            return {"ShardIteratorType": "AT_SEQUENCE_NUMBER", "StartingSequenceNumber": at}
        if start.kind == "AT_TIMESTAMP":
            when = datetime.fromtimestamp(start.timestamp, UTC)
            return {"ShardIteratorType": "AT_TIMESTAMP", "Timestamp": when}
        return {"ShardIteratorType": "TRIM_HORIZON"}

    async def _require_stream(self) -> None:
        name = self._config.stream_name
        try:
            await self._aws.call("kinesis", "describe_stream_summary", StreamName=name)
        except AwsError as error:
            if error.code == "ResourceNotFoundException":
                raise NotProvisioned("the stream does not exist", where={"stream": name}) from error
            raise

    async def _insist(self, action: Callable[[], Awaitable[T]]) -> T:
        """Do something, again without end while its error may pass."""
        while True:
            try:
                result = await action()
            except CdcError as error:
                if isinstance(error, AccessError):
                    self._access_failures += 1
                    if self._access_failures >= _ACCESS_TRIES:
                        raise
                elif not error.retryable:
                    raise
                delay = self._backoff.next_delay_seconds()
                _logger.warning(
                    "reading a shard failed, trying again",
                    extra={
                        "shard": self._shard_id,
                        "error": type(error).__name__,
                        "reason": error.message,
                        "delay_seconds": delay,
                    },
                )
                await anyio.sleep(delay)
            else:
                self._backoff.reset()
                self._access_failures = 0
                return result
