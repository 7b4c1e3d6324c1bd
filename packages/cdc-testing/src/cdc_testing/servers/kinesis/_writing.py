"""PutRecord and PutRecords."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Final

from . import _requests as requests
from ._limits import KIB, MAX_HASH_KEY, MAX_PUT_BYTES, MAX_PUT_RECORDS
from ._refusal import Refusal, invalid, malformed, throttled
from ._sequence import parse_sequence
from ._service import Answer, Service
from ._shard import Shard
from ._stream import Stream

Rejecting = Callable[[Shard, requests.Entry], "tuple[str, str] | None"]
"""A fault's say on one record: the code and message to reject it with, or None."""

THROTTLED: Final = "ProvisionedThroughputExceededException"


def put_records(
    service: Service, request: requests.PutRecords, now: float, rejecting: Rejecting | None = None
) -> Answer:
    """Store what the shards bear; each record has a result, in the order of the request."""
    stream = service.stream(request, now)
    _check_size(request.records, stream.max_record_kib)
    results: list[dict[str, str]] = []
    failed = 0
    for entry, hash_key in zip(request.records, _hash_keys(stream, request.records), strict=True):
        shard = stream.shard_for(hash_key)
        rejected = _rejected(service, stream, shard, entry, now, rejecting)
        if rejected is None:
            number = shard.append(entry.data, entry.partition_key, now, stream.encryption_type)
            results.append({"SequenceNumber": number, "ShardId": shard.shard_id})
        else:
            failed += 1
            results.append({"ErrorCode": rejected[0], "ErrorMessage": rejected[1]})
    return _sealed(stream, {"FailedRecordCount": failed, "Records": results})


def put_record(
    service: Service, request: requests.PutRecord, now: float, rejecting: Rejecting | None = None
) -> Answer:
    """Store one record, or refuse the request."""
    stream = service.stream(request, now)
    entry = requests.Entry(
        data=request.data,
        partition_key=request.partition_key,
        explicit_hash_key=request.explicit_hash_key,
    )
    _check_size([entry], stream.max_record_kib)
    shard = stream.shard_for(_hash_keys(stream, [entry])[0])
    _check_ordering(stream, request.sequence_number_for_ordering, now)
    rejected = _rejected(service, stream, shard, entry, now, rejecting)
    if rejected is not None:
        code, message = rejected
        raise throttled(message) if code == THROTTLED else Refusal("InternalFailure", message, status=500)
    number = shard.append(entry.data, entry.partition_key, now, stream.encryption_type)
    return _sealed(stream, {"ShardId": shard.shard_id, "SequenceNumber": number})


def size_of(entry: requests.Entry) -> int:
    """What a record counts for: its data and the bytes of its partition key."""
    return len(entry.data) + len(entry.partition_key.encode())


def _check_size(entries: Sequence[requests.Entry], max_record_kib: int) -> None:
    if len(entries) > MAX_PUT_RECORDS:
        raise malformed(
            "Value at 'records' failed to satisfy constraint: "
            f"Member must have length less than or equal to {MAX_PUT_RECORDS}"
        )
    total = 0
    for number, entry in enumerate(entries, start=1):
        size = size_of(entry)
        total += size
        # One record too large refuses all of them, as the service does.
        if size > max_record_kib * KIB:
            raise malformed(
                f"Value at 'records.{number}.member.data' failed to satisfy constraint: "
                f"Member must have length less than or equal to {max_record_kib * KIB}"
            )
    if total > MAX_PUT_BYTES:
        raise invalid(f"Records size exceeds {MAX_PUT_BYTES // KIB // KIB} MB limit")


def _hash_keys(stream: Stream, entries: Sequence[requests.Entry]) -> list[int]:
    if stream.distribution == "AUTO":
        # Such a stream spreads records as it likes, whatever their keys: here over its shards in turn.
        return [next(stream.spread).first_hash for _ in entries]
    keys: list[int] = []
    for entry in entries:
        if entry.explicit_hash_key is None:
            # The service's own partitioner (PutRecords in the API reference): MD5 as a 128-bit integer.
            digest = hashlib.md5(entry.partition_key.encode(), usedforsecurity=False).digest()
            keys.append(int.from_bytes(digest, "big"))
            continue
        keys.append(_explicit(entry.explicit_hash_key))
    return keys


def _explicit(text: str) -> int:
    if not (text.isdecimal() and text.isascii()) or (text[0] == "0" and len(text) > 1) or len(text) > 39:
        raise malformed(
            f"Value '{text}' at 'explicitHashKey' failed to satisfy constraint: "
            r"Member must satisfy regular expression pattern: 0|([1-9]\d{0,38})"
        )
    key = int(text)
    if key > MAX_HASH_KEY:
        raise invalid(
            "Invalid ExplicitHashKey. ExplicitHashKey must be in the range: [0, 2^128-1]. "
            f"Specified value was {key}"
        )
    return key


def _check_ordering(stream: Stream, number: str | None, now: float) -> None:
    # Every number given out is smaller than the next one of its shard: nothing else to do than to check it.
    if number is None:
        return
    sequence = parse_sequence(number)
    if sequence is None or sequence.generation != stream.generation or sequence.arrived_second > now:
        raise invalid(
            f"ExclusiveMinimumSequenceNumber {number} used in PutRecord on stream {stream.name} is invalid."
        )


def _rejected(
    service: Service,
    stream: Stream,
    shard: Shard,
    entry: requests.Entry,
    now: float,
    rejecting: Rejecting | None,
) -> tuple[str, str] | None:
    if rejecting is not None and (fault := rejecting(shard, entry)) is not None:
        return fault
    rates = service.rates
    if rates is not None and not shard.measure(rates, now).may_write(size_of(entry), now):
        where = f"shard {shard.shard_id} in stream {stream.name} under account {service.account_id}"
        return THROTTLED, f"Rate exceeded for {where}."
    return None


def _sealed(stream: Stream, answer: dict[str, Any]) -> Answer:
    if stream.encryption_type is not None:
        answer["EncryptionType"] = stream.encryption_type
    return answer
