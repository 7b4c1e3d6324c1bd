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
from collections.abc import Iterable, Sequence
from typing import Final, Generic, TypeVar, final

from ._aggregation import EMPTY_BYTES, ROW_OVERHEAD_BYTES, Aggregate, deaggregate
from ._records import PutEntry, PutOutcome, Refused, Stored

O = TypeVar("O")  # noqa: E741 -- whoever waits for a row

MAX_REQUEST_ENTRIES: Final = 500
"""Of PutRecords (API reference)."""
MAX_REQUEST_BYTES: Final = 10 << 20
"""Of PutRecords: data and partition keys, before base64 (API reference)."""
DATA_FAULT_CODES: Final = frozenset(
    {"InvalidArgumentException", "SerializationException", "ValidationException"}
)
"""What the service says where something in a request is not as it has to be."""
_AGGREGATE_KEY: Final = "a"
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
class Sealed(Generic[O]):
    """A Kinesis record that waits or is under way, its bytes final.

    - `owners`, `indexes`: of its rows: whoever waits for the row, and the row's number there.
    - `size`: its part of a request, data and partition key; `held`: what it counts for in `Buckets.held_bytes`.
    - `alone`: whether it goes in a request of its own, since one that it was in was refused as a whole.
    """

    __slots__ = ("alone", "bucket", "entry", "held", "indexes", "owners", "size")

    def __init__(
        self, bucket: int, entry: PutEntry, owners: list[O], indexes: list[int], size: int, held: int
    ) -> None:
        self.bucket, self.entry, self.owners, self.indexes = bucket, entry, owners, indexes
        self.size, self.held = size, held
        self.alone = False


@final
class Request(Generic[O]):
    """Records of different buckets that leave together."""

    __slots__ = ("records",)

    def __init__(self, records: list[Sealed[O]]) -> None:
        self.records = records

    @property
    def entries(self) -> list[PutEntry]:
        """What goes over the wire."""
        return [record.entry for record in self.records]


@final
class Settled(Generic[O]):
    """What became of a request: what is `stored`, and rows that never will be, with the service's reason: `faulty`."""

    __slots__ = ("faulty", "stored")

    def __init__(self, stored: list[Sealed[O]], faulty: list[tuple[Sealed[O], Refused]]) -> None:
        self.stored, self.faulty = stored, faulty


@final
class Buckets(Generic[O]):
    """The rows of all buckets, on their way into requests.

    - `count`: of the buckets.
    - `max_aggregate_bytes`: of an aggregated record; 0 for a record for each row.
    - `max_requests`: under way at once.
    - `rng`: of the pauses' jitter.
    """

    def __init__(
        self, count: int, *, max_aggregate_bytes: int, max_requests: int, rng: random.Random | None = None
    ) -> None:
        self._buckets = [_Bucket[O](number, explicit_hash_key(number, count)) for number in range(count)]
        self._max_aggregate_bytes = max_aggregate_bytes
        self._max_requests = max_requests
        self._random = rng or random.Random()
        self._worth_entries = min(count, MAX_REQUEST_ENTRIES) * 3 // 4
        # Each bucket with rows is in one of these, or in a request: ready by age, pausing by the end of its pause.
        self._ready: deque[_Bucket[O]] = deque()
        self._pausing: list[tuple[float, int, _Bucket[O]]] = []
        self._requests = 0
        self.held_bytes = 0

    @property
    def in_flight(self) -> int:
        """How many requests are under way."""
        return self._requests

    def add(self, bucket: int, key: bytes, data: bytes, owner: O, index: int, now: float) -> None:
        """Take a row at the end of its bucket; `key` is its partition key in UTF-8."""
        to = self._buckets[bucket]
        size = len(data) + len(key) + ROW_OVERHEAD_BYTES
        self.held_bytes += size
        limit = self._max_aggregate_bytes
        if size + EMPTY_BYTES <= limit:
            aggregate = to.aggregate
            if aggregate is None or aggregate.size + size > limit:
                aggregate = to.begin()
            aggregate.add(key, data)
            if aggregate.count == 1:
                to.first_key, to.first_data = key, data
            to.owners.append(owner)
            to.indexes.append(index)
        else:
            to.seal()
            entry = PutEntry(data, key.decode(), to.hash_key)
            to.waiting.append(Sealed(bucket, entry, [owner], [index], size - ROW_OVERHEAD_BYTES, size))
        if to.idle:
            to.idle = False
            to.ready_at = now
            self._ready.append(to)

    def take(self, now: float) -> Request[O] | None:
        """Return the next request that may leave now; its buckets are not touched before it is resolved."""
        self._end_pauses(now)
        if not self._ready or self._requests >= self._max_requests:
            return None
        if self._requests and not self._worth_a_request(now):
            return None
        records: list[Sealed[O]] = []
        size = 0
        ready = self._ready
        while ready and len(records) < MAX_REQUEST_ENTRIES:
            record = ready[0].front()
            if records and (size + record.size > MAX_REQUEST_BYTES or record.alone):
                break
            ready.popleft()
            records.append(record)
            size += record.size
            if record.alone:
                break
        self._requests += 1
        return Request(records)

    def next_time(self) -> float | None:
        """Return when `take` may have something that it has not now, without `add` or a resolved request."""
        if self._requests >= self._max_requests:
            return None
        times = [self._pausing[0][0]] if self._pausing else []
        if self._ready:
            times.append(self._ready[0].ready_at + (_COMPANY_SECONDS if self._requests else 0.0))
        return min(times, default=None)

    def settle(self, request: Request[O], outcomes: Sequence[PutOutcome], now: float) -> Settled[O]:
        """Resolve a request by the service's answer; what was refused for now pauses, each record by itself."""
        self._requests -= 1
        settled = Settled[O]([], [])
        for record, outcome in zip(request.records, outcomes, strict=True):
            if outcome.__class__ is Stored:
                settled.stored.append(record)
                self._done(record, now)
            elif isinstance(outcome, Refused) and outcome.code in DATA_FAULT_CODES:
                if self._taken_apart(record, now):
                    settled.faulty.append((record, outcome))
            else:
                self._pause(self._buckets[record.bucket], now, self._random.uniform(0.5, 1.5))
        return settled

    def lose(self, request: Request[O], now: float) -> None:
        """Resolve a request that nothing is known of, or that was refused for now: all of it pauses, together."""
        self._requests -= 1
        jitter = self._random.uniform(0.5, 1.5)
        for record in request.records:
            self._pause(self._buckets[record.bucket], now, jitter)

    def isolate(self, request: Request[O], now: float) -> Sealed[O] | None:
        """Resolve a request that was refused for good, maybe for one row of it.

        Its records go again, each in a request of its own; the rows of an aggregate as records of their own. If it
        was one row, that is taken out and returned.
        """
        self._requests -= 1
        if len(request.records) > 1:
            for record in request.records:
                record.alone = True
            self._make_ready((self._buckets[record.bucket] for record in request.records), now)
            return None
        record = request.records[0]
        return record if self._taken_apart(record, now) else None

    def unresolved(self) -> Iterable[O]:
        """Return who waits for a row, maybe several times."""
        for bucket in self._buckets:
            yield from bucket.owners
            for record in bucket.waiting:
                yield from record.owners

    def _taken_apart(self, record: Sealed[O], now: float) -> bool:
        """Put an aggregate's rows in its place; or take a single row out, and return True."""
        if len(record.owners) > 1:
            self._buckets[record.bucket].split(record)
            self._make_ready([self._buckets[record.bucket]], now)
            return False
        self._done(record, now)
        return True

    def _worth_a_request(self, now: float) -> bool:
        ready = self._ready
        if len(ready) >= self._worth_entries or now >= ready[0].ready_at + _COMPANY_SECONDS:
            return True
        size = 0
        for bucket in ready:
            size += bucket.front_bytes()
            if size >= _WORTH_BYTES:
                return True
        return False

    def _end_pauses(self, now: float) -> None:
        while self._pausing and self._pausing[0][0] <= now:
            ended_at, _, bucket = heapq.heappop(self._pausing)
            bucket.ready_at = ended_at
            self._ready.append(bucket)

    def _pause(self, bucket: _Bucket[O], now: float, jitter: float) -> None:
        heapq.heappush(self._pausing, (now + bucket.pause * jitter, bucket.number, bucket))
        bucket.pause = min(2 * bucket.pause, _MAX_PAUSE_SECONDS)

    def _done(self, record: Sealed[O], now: float) -> None:
        bucket = self._buckets[record.bucket]
        bucket.waiting.popleft()
        bucket.pause = _FIRST_PAUSE_SECONDS
        self.held_bytes -= record.held
        if bucket.waiting or bucket.aggregate is not None:
            bucket.ready_at = now
            self._ready.append(bucket)
        else:
            bucket.idle = True

    def _make_ready(self, buckets: Iterable[_Bucket[O]], now: float) -> None:
        for bucket in buckets:
            bucket.ready_at = now
            self._ready.append(bucket)


@final
class _Bucket(Generic[O]):
    """One bucket: sealed records by age, of which the first may be under way, then rows that gather in an aggregate."""

    __slots__ = (
        "aggregate",
        "first_data",
        "first_key",
        "hash_key",
        "idle",
        "indexes",
        "number",
        "owners",
        "pause",
        "ready_at",
        "waiting",
    )

    def __init__(self, number: int, hash_key: str) -> None:
        self.number = number
        self.hash_key = hash_key
        self.waiting: deque[Sealed[O]] = deque()
        self.aggregate: Aggregate | None = None
        self.first_key = self.first_data = b""
        self.owners: list[O] = []
        self.indexes: list[int] = []
        self.idle = True
        self.ready_at = 0.0
        self.pause = _FIRST_PAUSE_SECONDS

    def begin(self) -> Aggregate:
        self.seal()
        self.aggregate = Aggregate(self.hash_key)
        return self.aggregate

    def front(self) -> Sealed[O]:
        if not self.waiting:
            self.seal()
        return self.waiting[0]

    def front_bytes(self) -> int:
        if self.waiting:
            return self.waiting[0].size
        return 0 if self.aggregate is None else self.aggregate.size

    def seal(self) -> None:
        aggregate = self.aggregate
        if aggregate is None:
            return
        if aggregate.count == 1:  # then the KPL does not aggregate either
            entry = PutEntry(self.first_data, self.first_key.decode(), self.hash_key)
        else:
            # as the KPL does: the partition key of an aggregate decides nothing
            entry = PutEntry(aggregate.finish(), _AGGREGATE_KEY, self.hash_key)
        held = aggregate.size - EMPTY_BYTES
        size = len(entry.data) + max(1, len(self.first_key))
        self.waiting.append(Sealed(self.number, entry, self.owners, self.indexes, size, held))
        self.aggregate, self.owners, self.indexes = None, [], []

    def split(self, record: Sealed[O]) -> None:
        """Put the rows of the first record, an aggregate, in its place."""
        rows = deaggregate(record.entry.data) or []
        self.waiting.popleft()
        for row, owner, index in reversed(list(zip(rows, record.owners, record.indexes, strict=True))):
            entry = PutEntry(row.data, row.partition_key, self.hash_key)
            size = len(row.data) + len(row.partition_key.encode())
            alone = Sealed(self.number, entry, [owner], [index], size, size + ROW_OVERHEAD_BYTES)
            alone.alone = True
            self.waiting.appendleft(alone)
