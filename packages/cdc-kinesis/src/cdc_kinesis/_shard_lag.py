"""How far a group is behind in one shard: what stands behind its checkpoint, asked of the shard itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, final

import anyio

from cdc_core import UNKNOWN, Unknown

from ._aggregation import deaggregate
from ._aws import Aws
from ._config import KinesisConfig
from ._errors import AwsError
from ._leases import AT_TIMESTAMP, LATEST, Checkpoint
from ._pacing import Pacing
from ._patience import call_patiently

# An answer may be empty although more follows (GetRecords, API reference); so many in a row, and the age that they
# tell of is taken as it is.
_EMPTY_ANSWERS: Final = 4
# A shard's five reads a second are shared with its consumers, which go first.
_PAUSE_SECONDS: Final = 0.5
_TRIES_WHEN_THROTTLED: Final = 3
_LEAST_SECONDS: Final = 0.001
_THROTTLED: Final = "ProvisionedThroughputExceededException"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look at a shard found: the age of the oldest record behind a checkpoint, 0.0 where there is none.

    - `throttled`: the service refused it for want of throughput.
    """

    lag_seconds: float | Unknown
    throttled: bool = False


@final
class ShardProbe:
    """Measures shards of one stream; remembers the checkpoints that it found to be the end of their record.

    - `pacing`: of the process's other readers of the stream, so that a look takes its turn among them.
    - `clock`: seconds since 1970, compared with the service's times of arrival.
    """

    def __init__(
        self, config: KinesisConfig, aws: Aws, pacing: Pacing, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._config = config
        self._pacing = pacing
        self._aws = aws
        self._clock = clock
        self._complete: dict[str, Checkpoint] = {}

    async def look(self, shard_id: str, checkpoint: Checkpoint, *, start_at: datetime | None) -> Look:
        """Return how old the oldest record behind a checkpoint is.

        One that is the last in its shard counts, too: `MillisBehindLatest` is 0 once it is read, acknowledged or not.

        - `start_at`: what AT_TIMESTAMP and LATEST mean for the group; None where that is not known.
        """
        if checkpoint.sequence_number in (AT_TIMESTAMP, LATEST) and start_at is None:
            return Look(lag_seconds=UNKNOWN)
        try:
            seconds = await self._behind(shard_id, checkpoint, start_at)
            if seconds == 0.0 and checkpoint.is_sequence:
                seconds = await self._inside(shard_id, checkpoint)
        except AwsError as error:
            if error.code == _THROTTLED:
                return Look(lag_seconds=UNKNOWN, throttled=True)
            if error.code in ("ResourceNotFoundException", "InvalidArgumentException"):
                return Look(lag_seconds=UNKNOWN)  # the shard, or the checkpoint's record, is trimmed away
            raise
        return Look(lag_seconds=seconds)

    async def _behind(self, shard_id: str, checkpoint: Checkpoint, start_at: datetime | None) -> float:
        parameters: dict[str, Any] = {"ShardIteratorType": "TRIM_HORIZON"}
        if checkpoint.is_sequence:
            parameters = {
                "ShardIteratorType": "AFTER_SEQUENCE_NUMBER",
                "StartingSequenceNumber": checkpoint.sequence_number,
            }
        elif checkpoint.sequence_number in (AT_TIMESTAMP, LATEST) and start_at is not None:
            parameters = {"ShardIteratorType": "AT_TIMESTAMP", "Timestamp": start_at.astimezone(UTC)}
        iterator = await self._iterator(shard_id, parameters)
        behind = 0.0
        for attempt in range(_EMPTY_ANSWERS):
            if attempt:
                await anyio.sleep(_PAUSE_SECONDS)
            answer = await self._get(shard_id, iterator)
            behind = float(answer.get("MillisBehindLatest", 0)) / 1000
            if answer["Records"]:
                return max(behind, self._age(answer["Records"][0]))
            following = answer.get("NextShardIterator")
            if behind == 0.0 or following is None:
                return 0.0
            iterator = following
        return behind

    async def _inside(self, shard_id: str, checkpoint: Checkpoint) -> float:
        """Return the age of the checkpoint's own record where it is an aggregated one with rows that are not done."""
        if self._complete.get(shard_id) == checkpoint:
            return 0.0
        parameters = {
            "ShardIteratorType": "AT_SEQUENCE_NUMBER",
            "StartingSequenceNumber": checkpoint.sequence_number,
        }
        answer = await self._get(shard_id, await self._iterator(shard_id, parameters))
        records: Sequence[Mapping[str, Any]] = answer["Records"]
        if records and records[0]["SequenceNumber"] == checkpoint.sequence_number:
            rows = deaggregate(records[0]["Data"])
            if rows is not None and checkpoint.sub_sequence + 1 < len(rows):
                return self._age(records[0])
        self._complete[shard_id] = checkpoint
        return 0.0

    def _age(self, record: Mapping[str, Any]) -> float:
        arrived_at: float = record["ApproximateArrivalTimestamp"].timestamp()
        # what waits is never 0 seconds old, whatever the two clocks say
        return max(self._clock() - arrived_at, _LEAST_SECONDS)

    async def _iterator(self, shard_id: str, parameters: Mapping[str, Any]) -> str:
        answer = await call_patiently(
            self._aws,
            "kinesis",
            "get_shard_iterator",
            StreamName=self._config.stream_name,
            ShardId=shard_id,
            **parameters,
        )
        iterator: str = answer["ShardIterator"]
        return iterator

    async def _get(self, shard_id: str, iterator: str) -> dict[str, Any]:
        tries = 0
        while True:
            tries += 1
            await self._pacing.of(self._config, shard_id).turn()
            try:
                return await self._aws.call("kinesis", "get_records", ShardIterator=iterator, Limit=1)
            except AwsError as error:
                if error.code != _THROTTLED or tries == _TRIES_WHEN_THROTTLED:
                    raise
            await anyio.sleep(_PAUSE_SECONDS)
