"""Where a shard's pages come from: by polling here, by enhanced fan-out in `_fan_out`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, Literal, Protocol, final

import anyio
import msgspec

from ._aws import Aws
from ._config import KinesisConfig
from ._errors import AwsError
from ._pacing import ShardPace
from ._records import DataClient, Page
from ._rows import size_of

# An iterator expires five minutes after it was returned (GetRecords, API reference); backpressure may hold it longer.
_ITERATOR_SECONDS: Final = 240.0


@final
class Place(msgspec.Struct, frozen=True, gc=False):
    """Where in a shard reading starts, in the service's own terms."""

    kind: Literal["TRIM_HORIZON", "AT_TIMESTAMP", "AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER"]
    sequence_number: str | None = None
    timestamp: datetime | None = None


class Feed(Protocol):
    """The pages of one shard, in order. Used by one task: on after an error, only closed once cancelled."""

    @property
    def sent_at(self) -> float:
        """A moment, by the feed's clock, before the service looked at the shard for the latest page."""
        ...

    async def begin(self, place: Place) -> None:
        """Start at a place, whatever was read before.

        Raises:
            AwsError: its `code` is ResourceNotFoundException where the shard or its stream is not there, and
                InvalidArgumentException where the service does not know the sequence number.
            AnswerLost, AwsAccessError, NotProvisioned: as their names say.
        """
        ...

    async def next_page(self) -> Page | None:
        """Wait for the next page; None where reading has to begin anew, behind what it brought.

        Raises:
            AwsError, AwsAccessError, AnswerLost: it may be called again.
        """
        ...

    async def close(self) -> None:
        """Leave no thread and no connection of its own behind."""
        ...


@final
class Polling:
    """Pages by GetShardIterator and GetRecords.

    - `clock`: monotonic seconds.
    """

    def __init__(
        self,
        config: KinesisConfig,
        aws: Aws,
        data: DataClient,
        shard_id: str,
        *,
        pace: ShardPace,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._aws = aws
        self._data = data
        self._shard_id = shard_id
        self._pace = pace
        self._clock = clock
        self._iterator: str | None = None
        self._issued_at = self._sent_at = clock()
        self._is_caught_up = False

    @property
    def sent_at(self) -> float:
        return self._sent_at

    async def begin(self, place: Place) -> None:
        where: dict[str, Any] = {"ShardIteratorType": place.kind}
        if place.sequence_number is not None:
            where["StartingSequenceNumber"] = place.sequence_number
        if place.timestamp is not None:
            where["Timestamp"] = place.timestamp
        answer = await self._aws.call(
            "kinesis",
            "get_shard_iterator",
            StreamName=self._config.stream_name,
            ShardId=self._shard_id,
            **where,
        )
        self._iterator, self._issued_at = answer["ShardIterator"], self._clock()

    async def next_page(self) -> Page | None:
        if self._is_caught_up:
            self._is_caught_up = False
            await anyio.sleep(self._config.poll_interval_seconds)
        if self._iterator is None or self._clock() - self._issued_at > _ITERATOR_SECONDS:
            return None
        await self._pace.turn()
        self._sent_at = self._clock()
        try:
            page = await self._data.get_records(
                self._iterator,
                limit=self._config.max_records_per_shard,
                timeout_seconds=self._config.request_timeout_seconds,
            )
        except AwsError as error:
            # it has expired, or what it stands in is gone: a new one will tell
            if error.code in ("ExpiredIteratorException", "ResourceNotFoundException"):
                return None
            raise
        self._pace.spent(size_of(page.records))
        self._iterator, self._issued_at = page.next_iterator, self._clock()
        behind = page.millis_behind_latest
        self._is_caught_up = behind == 0 or (behind is None and not page.records)
        return page

    async def close(self) -> None:
        self._iterator = None
