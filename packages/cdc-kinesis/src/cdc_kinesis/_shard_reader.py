"""Reads one shard: where it starts, what is missing, and the end of the shard."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final, Literal, TypeVar, final

import anyio
import msgspec

from cdc_core import AccessError, Backoff, CdcError, NotProvisioned, RetryPolicy

from ._aws import Aws
from ._config import KinesisConfig
from ._errors import AwsError
from ._feed import Feed, Place
from ._leases import Checkpoint
from ._records import ChildShard, Page
from ._retention import Retention
from ._shard_stream import ShardStream

T = TypeVar("T")

_logger = logging.getLogger("cdc_kinesis")

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

    - `feed`: where its pages come from.
    - `lags`: where the last MillisBehindLatest of each shard is told.
    - `retention`: what is known of the shard and of how long the stream keeps records.
    """

    def __init__(
        self,
        config: KinesisConfig,
        aws: Aws,
        feed: Feed,
        stream: ShardStream,
        *,
        start: Start,
        lags: dict[str, ShardLag],
        retention: Retention,
    ) -> None:
        self.children: Sequence[ChildShard] = ()
        self.last_arrived_at: float | None = None
        self._config = config
        self._aws = aws
        self._feed = feed
        self._stream = stream
        self._shard_id = stream.partition.id
        self._start = start
        self._lags = lags
        self._retention = retention
        self._last: str | None = None
        self._continuation: str | None = None
        self._empty_pages = 0
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
            while await self._insist(self._begin):
                if await self._read():
                    break
        finally:
            self._lags.pop(self._shard_id, None)
            await self._feed.close()
        self._stream.end()

    async def _read(self) -> bool:
        """Read on; return True at the end of the shard, False where reading has to begin anew."""
        while True:
            page = await self._insist(self._feed.next_page)
            if page is None or not await self._insist(partial(self._is_complete, page)):
                return False
            self._take_note(page)
            if page.records:
                await self._stream.put(page.records)
            if page.is_last:
                self.children = page.children
                return True

    def _take_note(self, page: Page) -> None:
        records, behind = page.records, page.millis_behind_latest
        if records:
            self._last = records[-1].sequence_number
            self.last_arrived_at = records[-1].arrived_at
        self._continuation = page.continuation
        if behind is not None:
            self._lags[self._shard_id] = ShardLag(behind, time.time())
        if self._last is not None or self._start.checkpoint is None:
            # not before the record of the checkpoint was met: what may be missing stands between the two
            self._retention.was_read(sent_at=self._feed.sent_at, millis_behind_latest=behind)

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
            if self._last is not None and (page.records or page.is_last):
                following = page.records[0].sequence_number if page.records else None
                await self._retention.check(self._last, following)
            return True
        first = page.records[0].sequence_number if page.records else None
        if first == checkpoint.sequence_number:
            return True
        if first is None and not page.is_last:
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
        self._start, self._continuation = Start("TRIM_HORIZON"), None
        # an iterator at a trimmed record may stand still for long: a new one starts at the oldest
        return first is not None

    async def _begin(self) -> bool:
        """Begin where reading stands; False where the shard is gone from the stream, and nothing of it is missing."""
        place = self._place()
        try:
            await self._feed.begin(place)
        except AwsError as error:
            at = place.sequence_number
            if error.code == "ResourceNotFoundException":
                await self._require_stream()
                await self._retention.check(at, None, shard_is_gone=True)
                return False
            if error.code == "InvalidArgumentException" and at is not None:
                # what a sequence number may get that the service does not know any more
                await self._retention.check(at, None)
                self._start, self._last, self._continuation = Start("TRIM_HORIZON"), None, None
                return await self._begin()
            raise
        return True

    def _place(self) -> Place:
        start = self._start
        if self._continuation is not None and (self._last is not None or start.checkpoint is None):
            # Progress without records counts: a quiet shard is not searched again. The KCL reconnects AFTER it, too.
            return Place("AFTER_SEQUENCE_NUMBER", self._continuation)
        if self._last is not None:
            # whole records were delivered, so that nothing of this one is left
            return Place("AFTER_SEQUENCE_NUMBER", self._last)
        if start.checkpoint is not None:
            return Place("AT_SEQUENCE_NUMBER", start.checkpoint.sequence_number)
        if start.kind == "AT_TIMESTAMP":
            return Place("AT_TIMESTAMP", timestamp=datetime.fromtimestamp(start.timestamp, UTC))
        return Place("TRIM_HORIZON")

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
