"""GetShardIterator and GetRecords."""

from typing import Any, Final, final

import msgspec

from . import _requests as requests
from ._limits import ITERATOR_SECONDS, MAX_GET_BYTES, MAX_GET_RECORDS
from ._refusal import Refusal, invalid, throttled
from ._sequence import parse_sequence
from ._service import Answer, Service
from ._shard import Record, Shard
from ._stream import Stream

_BY_NUMBER: Final = ("AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER")


@final
class ShardIterator(msgspec.Struct, frozen=True, array_like=True):
    """What an iterator holds: where in which shard of which stream, since when."""

    stream: str
    generation: int
    shard: str
    position: int
    issued_at: float
    issue: int

    @classmethod
    def make(cls, service: Service, stream: Stream, shard: Shard, position: int, now: float) -> str:
        iterator = cls(stream.name, stream.generation, shard.shard_id, position, now, service.iterator_issue)
        return service.tokens.write(iterator)


def get_shard_iterator(service: Service, request: requests.GetShardIterator, now: float) -> Answer:
    """Say where to start."""
    stream = service.stream(request, now)
    stream.trim(now)
    shard = stream.shard(request.shard_id)
    if service.rates is not None and not shard.measure(service.rates, now).may_iterate(now):
        raise throttled(f"Rate exceeded for shard {shard.shard_id} in stream {stream.name}.")
    position = start_position(
        service,
        stream,
        shard,
        request.shard_iterator_type,
        request.starting_sequence_number,
        request.timestamp,
        now,
    )
    return {"ShardIterator": ShardIterator.make(service, stream, shard, position, now)}


def start_position(
    service: Service,
    stream: Stream,
    shard: Shard,
    kind: requests.IteratorType,
    number: str | None,
    timestamp: float | None,
    now: float,
) -> int:
    """The position that an iterator type and its argument mean.

    Raises:
        Refusal: InvalidArgumentException where the argument is missing, foreign or in the future.
    """
    if kind == "TRIM_HORIZON":
        return 0
    if kind == "LATEST":
        return shard.next_position
    if kind == "AT_TIMESTAMP":
        if timestamp is None:
            raise invalid(
                "Must specify timestampInMillis parameter for iterator of type AT_TIMESTAMP. "
                "Current request has no timestamp parameter."
            )
        # To the millisecond, as arrivals are: a client's clock may be ahead by less than that.
        if round(timestamp, 3) > round(now, 3):
            raise invalid(
                "The timestampInMillis parameter cannot be greater than the currentTimestampInMillis."
            )
        return shard.position_at_time(timestamp)
    if number is None:
        raise invalid(
            f"Must either specify (1) {' or '.join(_BY_NUMBER)} and StartingSequenceNumber or "
            "(2) TRIM_HORIZON or LATEST and no StartingSequenceNumber."
        )
    return _position_of_number(service, stream, shard, number) + (kind == "AFTER_SEQUENCE_NUMBER")


def _position_of_number(service: Service, stream: Stream, shard: Shard, number: str) -> int:
    sequence = parse_sequence(number)
    where = (
        f"StartingSequenceNumber {number} used in GetShardIterator on shard {shard.shard_id} "
        f"in stream {stream.name} under account {service.account_id} is invalid"
    )
    if sequence is None:
        raise invalid(f"{where}.")
    if sequence.generation == stream.generation and sequence.shard_number != shard.number:
        raise invalid(
            f"Invalid StartingSequenceNumber. It encodes shardId-{sequence.shard_number:012d}, "
            f"while it was used in a call to a shard with {shard.shard_id}"
        )
    position = shard.position_of(number, sequence)
    if position is None:
        raise invalid(f"{where} because it did not come from this stream.")
    return position


def get_records(service: Service, request: requests.GetRecords, now: float) -> Answer:
    """Return what follows an iterator; at the end of a closed shard its children, and no next iterator."""
    iterator = service.tokens.read(request.shard_iterator, ShardIterator)
    if iterator is None:
        raise invalid("Invalid ShardIterator.")
    stream = service.stream_named(iterator.stream, now)
    if stream.generation != iterator.generation:
        raise invalid("Invalid ShardIterator: its stream was deleted and created again.")
    if iterator.issue != service.iterator_issue or now - iterator.issued_at > ITERATOR_SECONDS:
        raise Refusal(
            "ExpiredIteratorException",
            f"Iterator expired. The iterator was created at time {iterator.issued_at:.3f} while right now it is "
            f"{now:.3f} which is further in the future than the tolerated delay of {ITERATOR_SECONDS * 1000:.0f} "
            "milliseconds.",
        )
    stream.trim(now)
    shard = stream.shard(iterator.shard)
    if service.rates is not None and not shard.measure(service.rates, now).may_read(now):
        raise throttled(f"Rate exceeded for shard {shard.shard_id} in stream {stream.name}.")
    start = shard.index_at(iterator.position)
    records, size, full = page_of(shard, start, min(request.limit or MAX_GET_RECORDS, MAX_GET_RECORDS))
    if service.rates is not None:
        shard.measure(service.rates, now).read(size, now, full=full)
    end = start + len(records)
    answer: dict[str, Any] = {"Records": records, "MillisBehindLatest": millis_behind(shard, end, now)}
    if end < len(shard.records) or shard.is_open:
        position = max(iterator.position, shard.next_position - len(shard.records) + end)
        answer["NextShardIterator"] = ShardIterator.make(service, stream, shard, position, now)
    else:
        answer["ChildShards"] = [child.describe_child() for child in shard.children]
    return answer


def millis_behind(shard: Shard, end: int, now: float) -> int:
    """How long the next record has been waiting; 0 only where there is none."""
    if end >= len(shard.records):
        return 0
    return max(1, round((now - shard.records[end].approximate_arrival_timestamp) * 1000))


def page_of(shard: Shard, start: int, limit: int = MAX_GET_RECORDS) -> tuple[list[Record], int, bool]:
    """The records from an index on that fit one answer, their bytes, and whether 10 MiB ended it."""
    records = shard.records[start : start + limit]
    size = 0
    for count, record in enumerate(records):
        length = len(record.data)
        if size + length > MAX_GET_BYTES:
            return records[:count], size, True
        size += length
    return records, size, size == MAX_GET_BYTES
