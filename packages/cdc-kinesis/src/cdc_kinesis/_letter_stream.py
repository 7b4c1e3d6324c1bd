"""The dead-letter stream itself: records go in, each partition key's in order, and come out, shard by shard."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import anyio

from cdc_core import SourceError

from ._aws import Aws
from ._errors import RETRYABLE_CODES, AwsError
from ._letter_chunks import hash_key_of, partition_key_of
from ._patience import call_patiently
from ._records import GotRecord
from ._shards import Shard, list_shards

# PutRecords takes 500 records and 10 MiB (service model, PutRecords); less is one try's loss.
_MAX_PUT_RECORDS: Final = 500
_MAX_PUT_BYTES: Final = 4 << 20
_PATIENCE_SECONDS: Final = 30.0
_FIRST_PAUSE_SECONDS: Final = 0.05
_MAX_PAUSE_SECONDS: Final = 2.0
# Five reads a second and shard, of all its readers together (service model, GetRecords).
_READ_PAUSE_SECONDS: Final = 0.21
_MAX_GET_RECORDS: Final = 1000
_FIRST_GET_RECORDS: Final = 25
_ARRIVAL: Final = "ApproximateArrivalTimestamp"


@final
class NotStored(SourceError):
    """Records were not stored, or nobody knows; all of them may be put again."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LetterRecord:
    """A record to put: a chunk of a letter, or a marker."""

    letter: str
    data: bytes


async def put_in_order(aws: Aws, stream_name: str, records: Sequence[LetterRecord]) -> None:
    """Put records, those of one partition key one after the other; return once all are stored.

    A request holds one record of a key at most, and the next one of that key waits for its answer: what is refused
    or has no answer is sent again before anything that follows it.

    Raises:
        NotStored: nothing more was stored for 30 seconds; retryable.
        AwsError, AwsAccessError, ConfigError: a request was refused for good.
    """
    waiting: dict[str, deque[LetterRecord]] = {}
    for record in records:
        waiting.setdefault(partition_key_of(record.letter), deque()).append(record)
    pause = _FIRST_PAUSE_SECONDS
    moved_at = anyio.current_time()
    while waiting:
        keys = _next_request(waiting)
        stored, why = await _put(aws, stream_name, [waiting[key][0] for key in keys])
        for key, is_stored in zip(keys, stored, strict=True):
            if is_stored:
                waiting[key].popleft()
                if not waiting[key]:
                    del waiting[key]
        if any(stored):
            pause, moved_at = _FIRST_PAUSE_SECONDS, anyio.current_time()
        if all(stored):
            continue
        if anyio.current_time() - moved_at >= _PATIENCE_SECONDS:
            raise NotStored(
                f"the dead-letter stream took nothing for {_PATIENCE_SECONDS:g} seconds: {why}",
                where={"stream": stream_name},
                remedy="give the stream more shards if it is throttled",
                retryable=True,
            )
        await anyio.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(2 * pause, _MAX_PAUSE_SECONDS)


async def shards_in_order(aws: Aws, stream_name: str) -> Sequence[Shard]:
    """Return the shards, parents before their children."""
    shards = {shard.shard_id: shard for shard in await list_shards(aws, stream_name)}
    ordered: dict[str, Shard] = {}

    def take(shard: Shard) -> None:
        for parent in shard.parents:
            if parent in shards and parent not in ordered:
                take(shards[parent])
        ordered.setdefault(shard.shard_id, shard)

    for shard in shards.values():
        take(shard)
    return list(ordered.values())


async def read_shard(
    aws: Aws,
    stream_name: str,
    shard_id: str,
    *,
    start: str | None = None,
    after: bool = False,
    page_bytes: int | None = None,
) -> AsyncGenerator[Sequence[GotRecord], None]:
    """Read a shard page by page until its end, or until nothing more is there.

    - `start`: the sequence number of the first record to read, or of the one before it; None for the oldest.
    - `page_bytes`: what a page shall hold, roughly; None for what the service gives, up to 10 MiB.

    Raises:
        AwsError: among others where `start` is trimmed away; AwsAccessError, AnswerLost.
    """
    iterator: str | None = await _iterator(aws, stream_name, shard_id, at=start, after=after)
    last: str | None = None
    limit = _MAX_GET_RECORDS if page_bytes is None else _FIRST_GET_RECORDS
    while iterator is not None:
        try:
            answer = await call_patiently(aws, "kinesis", "get_records", ShardIterator=iterator, Limit=limit)
        except AwsError as error:
            if error.code != "ExpiredIteratorException":  # five minutes old: whoever takes the pages is slow
                raise
            iterator = await _iterator(
                aws, stream_name, shard_id, at=last or start, after=after or last is not None
            )
            continue
        page = [_record(record) for record in answer["Records"]]
        if page:
            last = page[-1].sequence_number
            if page_bytes is not None:
                average = sum(len(record.data) for record in page) // len(page) + 1
                limit = max(1, min(page_bytes // average, _MAX_GET_RECORDS))
            yield page
        if answer.get("MillisBehindLatest", 0) == 0:
            return
        iterator = answer.get("NextShardIterator")
        await anyio.sleep(_READ_PAUSE_SECONDS)


def _next_request(waiting: Mapping[str, deque[LetterRecord]]) -> Sequence[str]:
    keys: list[str] = []
    size = 0
    for key, records in waiting.items():
        size += len(records[0].data) + len(key)
        if keys and (size > _MAX_PUT_BYTES or len(keys) == _MAX_PUT_RECORDS):
            break
        keys.append(key)
    return keys


async def _put(aws: Aws, stream_name: str, records: Sequence[LetterRecord]) -> tuple[Sequence[bool], str]:
    entries = [
        {
            "Data": record.data,
            "PartitionKey": partition_key_of(record.letter),
            "ExplicitHashKey": str(hash_key_of(record.letter)),
        }
        for record in records
    ]
    try:
        answer = await aws.call("kinesis", "put_records", StreamName=stream_name, Records=entries)
    except SourceError as error:
        if not error.retryable:
            raise
        return [False] * len(records), error.message
    outcomes: Sequence[Mapping[str, Any]] = answer["Records"]
    codes = [outcome.get("ErrorCode") for outcome in outcomes]
    for code, outcome in zip(codes, outcomes, strict=True):
        if code is not None and code not in RETRYABLE_CODES:
            raise AwsError(
                f"{code}: {outcome.get('ErrorMessage', '')}", code=code, where={"stream": stream_name}
            )
    return [code is None for code in codes], next((code for code in codes if code is not None), "")


async def _iterator(aws: Aws, stream_name: str, shard_id: str, *, at: str | None, after: bool = False) -> str:
    parameters: dict[str, Any] = {"StreamName": stream_name, "ShardId": shard_id}
    if at is None:
        parameters["ShardIteratorType"] = "TRIM_HORIZON"
    else:
        parameters["ShardIteratorType"] = "AFTER_SEQUENCE_NUMBER" if after else "AT_SEQUENCE_NUMBER"
        parameters["StartingSequenceNumber"] = at
    answer = await call_patiently(aws, "kinesis", "get_shard_iterator", **parameters)
    iterator: str = answer["ShardIterator"]
    return iterator


def _record(record: Mapping[str, Any]) -> GotRecord:
    return GotRecord(
        sequence_number=record["SequenceNumber"],
        partition_key=record["PartitionKey"],
        data=record["Data"],
        arrived_at=record[_ARRIVAL].timestamp(),
    )
