"""The service's limits, as botocore 1.44's service model and the developer guide state them."""

from typing import Final, final

import msgspec

KIB: Final = 1024
MIB: Final = 1024 * KIB

MAX_PUT_RECORDS: Final = 500
MAX_PUT_BYTES: Final = 10 * MIB
"""Of one PutRecords request: data and partition keys."""
MAX_PARTITION_KEY_CHARACTERS: Final = 256
MAX_GET_RECORDS: Final = 10_000
MAX_GET_BYTES: Final = 10 * MIB
MAX_HASH_KEY: Final = (1 << 128) - 1
ITERATOR_SECONDS: Final = 300.0
TOKEN_SECONDS: Final = 300.0
MIN_RETENTION_HOURS: Final = 24
MAX_RETENTION_HOURS: Final = 8760
DEFAULT_RECORD_KIB: Final = 1024
ON_DEMAND_SHARDS: Final = 4
MAX_LIST_SHARDS: Final = 10_000
DEFAULT_LIST_SHARDS: Final = 1000
MAX_TAGS: Final = 50
MAX_CONSUMERS: Final = 20
MAX_CREATING_CONSUMERS: Final = 5


@final
class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """What one shard bears in a second; the defaults are the service's.

    Attributes:
        write_records: Records put in a second.
        write_bytes: Bytes of data and partition keys put in a second.
        read_calls: GetRecords calls in a second, all consumers together.
        read_bytes: Bytes of data that GetRecords returns in a second.
        iterator_calls: GetShardIterator calls in a second.
        pause_seconds: For how long a shard refuses to be read after an answer of 10 MiB.
    """

    write_records: int = 1000
    write_bytes: int = MIB
    read_calls: int = 5
    read_bytes: int = 2 * MIB
    iterator_calls: int = 5
    pause_seconds: float = 5.0


@final
class Bucket:
    """A token bucket that holds one second's worth."""

    def __init__(self, per_second: float, now: float) -> None:
        self._per_second = per_second
        self._tokens = per_second
        self._at = now

    def has(self, amount: float, now: float) -> bool:
        """Whether the amount can be taken; more than a second's worth needs a full bucket."""
        self._tokens = min(self._per_second, self._tokens + max(0.0, now - self._at) * self._per_second)
        self._at = now
        return self._tokens >= min(amount, self._per_second)

    def take(self, amount: float) -> None:
        """Take it; a record larger than the bucket leaves a debt, which is how large records burst."""
        self._tokens -= amount


@final
class ShardMeter:
    """What a shard has borne lately."""

    def __init__(self, rates: Rates, now: float) -> None:
        self._write_records = Bucket(rates.write_records, now)
        self._write_bytes = Bucket(rates.write_bytes, now)
        self._read_calls = Bucket(rates.read_calls, now)
        self._read_bytes = Bucket(rates.read_bytes, now)
        self._iterator_calls = Bucket(rates.iterator_calls, now)
        self._pause_seconds = rates.pause_seconds
        self._paused_until = 0.0

    def may_write(self, size: int, now: float) -> bool:
        """Take one record of the size, where the shard bears it."""
        if not (self._write_records.has(1, now) and self._write_bytes.has(size, now)):
            return False
        self._write_records.take(1)
        self._write_bytes.take(size)
        return True

    def may_read(self, now: float) -> bool:
        """Take one GetRecords call."""
        if now < self._paused_until or not self._read_bytes.has(1, now) or not self._read_calls.has(1, now):
            return False
        self._read_calls.take(1)
        return True

    def read(self, size: int, now: float, *, full: bool) -> None:
        """Count what a call returned; `full`: the answer was cut at 10 MiB."""
        self._read_bytes.take(size)
        if full:
            self._paused_until = now + self._pause_seconds

    def may_iterate(self, now: float) -> bool:
        """Take one GetShardIterator call."""
        if not self._iterator_calls.has(1, now):
            return False
        self._iterator_calls.take(1)
        return True
