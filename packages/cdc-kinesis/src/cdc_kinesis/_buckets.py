"""Which record leaves when: order per bucket through partial failure. No I/O: time comes as an argument.

A key belongs to one of a fixed number of buckets, and a bucket is one point of the hash space (its explicit hash key),
so it lives in exactly one open shard, whatever is split or merged. Of a bucket at most one Kinesis record is
unresolved at any time, aggregated or not. A record that was refused, or whose answer was lost, is sent again with
the same bytes before anything that follows it in its bucket; the other buckets do not wait for it.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar, final

import msgspec

from cdc_core import OutgoingEvent

from ._aggregation import aggregate
from ._records import PutEntry, PutOutcome, Refused, Stored

Owner = TypeVar("Owner")

MAX_REQUEST_ENTRIES: Final = 500
"""Of PutRecords (API reference)."""
MAX_REQUEST_BYTES: Final = 10 << 20
"""Of PutRecords: data and partition keys, before base64 (API reference)."""
DATA_FAULT_CODES: Final = frozenset(
    {"InvalidArgumentException", "SerializationException", "ValidationException"}
)
"""What the service says where something in a request is not as it has to be."""
# As the KPL does: the partition key of an aggregate decides nothing.
_AGGREGATE_KEY: Final = "a"
# Making aggregates of a mebibyte takes some 2 ms, in which the event loop does nothing else.
_ENOUGH_BYTES: Final = 2 << 20
# On a link that cannot carry a request in its time, the same bytes again and again would never get through (1.4 MB took
# 5 s, then 17, 30 and 60 s, measured): after a lost answer requests are half as large, down to this.
_LEAST_BYTES: Final = 32 << 10
# Throttling is by the second; the first pause is some round trips.
_FIRST_PAUSE_SECONDS: Final = 0.05
_MAX_PAUSE_SECONDS: Final = 2.0
# A request costs 0.3 ms of CPU time whatever is in it, as much as 100 rows. So while another is under way, one that
# would be small waits this long for company; the first one never waits.
_COMPANY_SECONDS: Final = 0.005
_WORTH_BYTES: Final = 1 << 20


def explicit_hash_key(bucket: int, count: int) -> str:
    """Return the point of the hash space that a bucket is: the middle of its share, in decimal."""
    return str(((2 * bucket + 1) << 127) // count)


@final
class Row(msgspec.Struct, Generic[Owner], frozen=True, gc=False):
    """A row as it goes into a record.

    - `key`: its partition key in UTF-8; `data`: its bytes.
    - `owner`: whoever waits for it; `index`: its number there.
    - `head`, `shared`: what an aggregate says of it (see `AggregateRow`); then `event` is what a record of its own is
      made from, in which all of it has to be. None where `data` is such a record already.
    """

    key: bytes
    data: bytes
    owner: Owner
    index: int
    head: bytes = b"null"
    shared: bytes = b""
    event: OutgoingEvent | None = None


@final
class Sealed(msgspec.Struct, Generic[Owner], gc=False):
    """A Kinesis record that waits or is under way, its bytes final.

    - `size`: its part of a request: data and partition key.
    - `alone`: whether it goes in a request of its own, since one that it was in was refused as a whole.
    """

    bucket: int
    entry: PutEntry
    rows: list[Row[Owner]]
    size: int
    alone: bool


@final
@dataclass(frozen=True, slots=True)
class Request(Generic[Owner]):
    """Records of different buckets that leave together."""

    records: list[Sealed[Owner]]

    @property
    def entries(self) -> list[PutEntry]:
        """What goes over the wire."""
        return [record.entry for record in self.records]


@final
@dataclass(frozen=True, slots=True)
class Settled(Generic[Owner]):
    """What became of a request: what is `stored`, and rows that never will be, each with the service's reason."""

    stored: list[Sealed[Owner]] = field(default_factory=list[Sealed[Owner]])
    faulty: list[tuple[Row[Owner], Refused]] = field(default_factory=list[tuple[Row[Owner], Refused]])


@final
class Buckets(Generic[Owner]):
    """The rows of all buckets, on their way into requests.

    - `count`: of the buckets.
    - `max_aggregate_bytes`: of an aggregated record; 0 for a record for each row.
    - `max_requests`: under way at once.
    - `encode`: makes a record of an event by itself, for a bucket.
    - `rng`: of the pauses' jitter.
    """

    def __init__(
        self,
        count: int,
        *,
        max_aggregate_bytes: int,
        max_requests: int,
        encode: Callable[[OutgoingEvent, int], bytes],
        rng: random.Random | None = None,
    ) -> None:
        self._buckets = [_Bucket[Owner](number, explicit_hash_key(number, count)) for number in range(count)]
        self._max_aggregate_bytes = max_aggregate_bytes
        self._max_requests = max_requests
        self._encode = encode
        self._random = rng or random.Random()
        self._worth_entries = min(count, MAX_REQUEST_ENTRIES) * 3 // 4
        # Each bucket with rows is in one of these, or in a request: ready by age, pausing by the end of its pause.
        self._ready: deque[_Bucket[Owner]] = deque()
        self._pausing: list[tuple[float, int, _Bucket[Owner]]] = []
        self._requests = 0
        self._enough_bytes = _ENOUGH_BYTES

    @property
    def in_flight(self) -> int:
        """How many requests are under way."""
        return self._requests

    def add(self, bucket: int, rows: Iterable[Row[Owner]], now: float) -> None:
        """Take rows, one at least, at the end of their bucket."""
        to = self._buckets[bucket]
        to.rows.extend(rows)
        if to.idle:
            to.idle = False
            self._make_ready(to, now)

    def take(self, now: float) -> Request[Owner] | None:
        """Return the next request that may leave now; its buckets are not touched before it is resolved."""
        while self._pausing and self._pausing[0][0] <= now:
            ended_at, _, bucket = heapq.heappop(self._pausing)
            self._make_ready(bucket, ended_at)
        if not self._ready or self._requests >= self._max_requests:
            return None
        if self._requests and not self._worth_a_request(now):
            return None
        self._requests += 1
        return Request(self._gather())

    def next_time(self) -> float | None:
        """Return when `take` may have something that it has not now, without `add` or a resolved request."""
        if self._requests >= self._max_requests:
            return None
        times = [self._pausing[0][0]] if self._pausing else []
        if self._ready:
            times.append(self._ready[0].ready_at + (_COMPANY_SECONDS if self._requests else 0.0))
        return min(times, default=None)

    def settle(self, request: Request[Owner], outcomes: Sequence[PutOutcome], now: float) -> Settled[Owner]:
        """Resolve a request by the service's answer; what was refused for now pauses, each record by itself."""
        self._requests -= 1
        self._enough_bytes = min(_ENOUGH_BYTES, 2 * self._enough_bytes)
        settled: Settled[Owner] = Settled()
        for record, outcome in zip(request.records, outcomes, strict=True):
            if isinstance(outcome, Stored):
                settled.stored.append(record)
                self._done(record, now)
            elif outcome.code in DATA_FAULT_CODES:
                settled.faulty.extend(self._taken_apart(record, outcome, now))
            else:
                self._pause(self._buckets[record.bucket], now, self._random.uniform(0.5, 1.5))
        return settled

    def lose(self, request: Request[Owner], now: float) -> None:
        """Resolve a request that nothing is known of, or that was refused for now: all of it pauses, together.

        The next requests are half as large, until one is answered.
        """
        self._requests -= 1
        size = sum(record.size for record in request.records)
        self._enough_bytes = max(_LEAST_BYTES, min(self._enough_bytes, size // 2))
        jitter = self._random.uniform(0.5, 1.5)
        for record in request.records:
            self._pause(self._buckets[record.bucket], now, jitter)

    def isolate(self, request: Request[Owner], refused: Refused, now: float) -> Settled[Owner]:
        """Resolve a request that was refused for good, maybe for one row of it.

        Its records go again, each in a request of its own; the rows of an aggregate as records of their own. If it
        was one row, that is the faulty one.
        """
        self._requests -= 1
        if len(request.records) == 1:
            return Settled([], self._taken_apart(request.records[0], refused, now))
        for record in request.records:
            record.alone = True
            self._make_ready(self._buckets[record.bucket], now)
        return Settled()

    def unresolved(self) -> Iterable[Owner]:
        """Return who waits for a row, maybe several times."""
        for bucket in self._buckets:
            for row in bucket.rows:
                yield row.owner
            if bucket.sealed is not None:
                for row in bucket.sealed.rows:
                    yield row.owner

    def _worth_a_request(self, now: float) -> bool:
        ready = self._ready
        if len(ready) >= self._worth_entries or now >= ready[0].ready_at + _COMPANY_SECONDS:
            return True
        # few buckets with much in them
        return sum(bucket.waiting_bytes(self._max_aggregate_bytes) for bucket in ready) >= _WORTH_BYTES

    def _gather(self) -> list[Sealed[Owner]]:
        records: list[Sealed[Owner]] = []
        size = 0
        ready = self._ready
        while ready and len(records) < MAX_REQUEST_ENTRIES and size < self._enough_bytes:
            record = ready[0].sealed or self._seal(ready[0])
            if records and (size + record.size > MAX_REQUEST_BYTES or record.alone):
                break
            ready.popleft()
            records.append(record)
            size += record.size
            if record.alone:
                break
        return records

    def _seal(self, bucket: _Bucket[Owner]) -> Sealed[Owner]:
        waiting, single = bucket.rows, bucket.singles > 0
        data, count = b"", 1
        if self._max_aggregate_bytes and len(waiting) > 1 and not single:
            data, count = aggregate(
                waiting, bucket.hash_key, bucket=bucket.number, max_bytes=self._max_aggregate_bytes
            )
        if count > 1:
            rows = [waiting.popleft() for _ in range(count)]
            entry = PutEntry(data, _AGGREGATE_KEY, bucket.hash_key)
            size = len(data) + len(_AGGREGATE_KEY)
        else:  # the KPL does not aggregate a single row either
            row = waiting.popleft()
            rows = [row]
            data = row.data if row.event is None else self._encode(row.event, bucket.number)
            entry = PutEntry(data, row.key.decode(), bucket.hash_key)
            size = len(data) + len(row.key)
            bucket.singles -= single
        bucket.sealed = Sealed(bucket.number, entry, rows, size, single)
        return bucket.sealed

    def _taken_apart(
        self, record: Sealed[Owner], refused: Refused, now: float
    ) -> list[tuple[Row[Owner], Refused]]:
        """Put an aggregate's rows back, to go one by one; or take a single row out, and return it."""
        if len(record.rows) == 1:
            self._done(record, now)
            return [(record.rows[0], refused)]
        bucket = self._buckets[record.bucket]
        bucket.rows.extendleft(reversed(record.rows))
        bucket.singles = len(record.rows)
        bucket.sealed = None
        self._make_ready(bucket, now)
        return []

    def _pause(self, bucket: _Bucket[Owner], now: float, jitter: float) -> None:
        heapq.heappush(self._pausing, (now + bucket.pause * jitter, bucket.number, bucket))
        bucket.pause = min(2 * bucket.pause, _MAX_PAUSE_SECONDS)

    def _done(self, record: Sealed[Owner], now: float) -> None:
        bucket = self._buckets[record.bucket]
        bucket.sealed = None
        bucket.pause = _FIRST_PAUSE_SECONDS
        if bucket.rows:
            self._make_ready(bucket, now)
        else:
            bucket.idle = True

    def _make_ready(self, bucket: _Bucket[Owner], now: float) -> None:
        bucket.ready_at = now
        self._ready.append(bucket)


@final
class _Bucket(Generic[Owner]):
    """One bucket: the record that is sealed, and maybe under way, and the rows behind it.

    - `singles`: so many of the rows are each to be a record of its own, in a request of its own.
    """

    __slots__ = ("hash_key", "idle", "number", "pause", "ready_at", "rows", "sealed", "singles")

    def __init__(self, number: int, hash_key: str) -> None:
        self.number = number
        self.hash_key = hash_key
        self.sealed: Sealed[Owner] | None = None
        self.rows: deque[Row[Owner]] = deque()
        self.singles = 0
        self.idle = True
        self.ready_at = 0.0
        self.pause = _FIRST_PAUSE_SECONDS

    def waiting_bytes(self, max_aggregate_bytes: int) -> int:
        """Return about how much it would send; the rows of a bucket are taken to be alike."""
        if self.sealed is not None:
            return self.sealed.size
        first = len(self.rows[0].data)
        return max(first, min(max_aggregate_bytes, len(self.rows) * first))
