"""Order per bucket holds through refused entries and lost answers, and nothing is lost; the usual schemes break it."""

from __future__ import annotations

import heapq
import random
from collections import defaultdict, deque
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from service_model import ServiceModel, first_occurrences, kept_by_a_consumer_with_a_mark

from cdc_kinesis._buckets import (
    MAX_REQUEST_BYTES,
    MAX_REQUEST_ENTRIES,
    Buckets,
    Request,
    Sealed,
    explicit_hash_key,
)
from cdc_kinesis._records import PutEntry, Refused, Stored

COUNT = 8
ROUND_TRIP_SECONDS = 0.015
REFUSED = Refused("ProvisionedThroughputExceededException", "")
STORED = Stored("shardId-000000000000", "1")

Rows = Sequence[tuple[int, bytes]]
"""Buckets and data; the data is the row's number."""


def rows_of(count: int, rng: random.Random) -> Rows:
    return [(rng.randrange(COUNT), b"%09d" % number) for number in range(count)]


def make(*, aggregate: bool, max_requests: int = 4, seed: int = 0) -> Buckets[int]:
    return Buckets(
        COUNT,
        max_aggregate_bytes=400 if aggregate else 0,
        max_requests=max_requests,
        rng=random.Random(seed),
    )


def publish_all(buckets: Buckets[int], rows: Rows, service: ServiceModel, rng: random.Random) -> list[int]:
    """Run in virtual time until everything is settled; return the rows in the order of their settlement."""
    now, added = 0.0, 0
    settled: list[int] = []
    answers: list[tuple[float, int, Request[int]]] = []
    for turn in range(200_000):
        for bucket, data in rows[added : added + rng.randrange(20)]:
            buckets.add(bucket, b"key", data, added, 0, now)
            added += 1
        while (request := buckets.take(now)) is not None:
            assert_disjoint(request, [one for _, _, one in answers])
            heapq.heappush(answers, (now + ROUND_TRIP_SECONDS * rng.uniform(0.2, 3), turn, request))
        times = [one for one in (buckets.next_time(), answers[0][0] if answers else None) if one is not None]
        if added < len(rows):
            times.append(now + 0.001)
        if not times:
            break
        now = max(now, min(times))
        while answers and answers[0][0] <= now:
            _, _, request = heapq.heappop(answers)
            outcomes = service.put(request.entries)
            if outcomes is None:
                buckets.lose(request, now)
                continue
            for record in buckets.settle(request, outcomes, now).stored:
                settled += record.owners
    assert buckets.in_flight == 0
    assert buckets.held_bytes == 0
    return settled


def assert_disjoint(request: Request[int], others: Sequence[Request[int]]) -> None:
    busy = [record.bucket for other in others for record in other.records]
    own = [record.bucket for record in request.records]
    assert len(set(own)) == len(own)
    assert not set(own) & set(busy)
    assert len(own) <= MAX_REQUEST_ENTRIES


def faults(service: ServiceModel, rows: Rows) -> list[str]:
    """Return what is wrong with what is stored: a row that is missing, first ones out of order, and what a consumer
    loses that drops by the newest identity."""
    found: list[str] = []
    by_bucket: dict[str, list[bytes]] = defaultdict(list)
    for bucket, data in rows:
        by_bucket[explicit_hash_key(bucket, COUNT)].append(data)
    for hash_key, expected in by_bucket.items():
        stored = service.stored[hash_key]
        if set(stored) != set(expected):
            found.append("lost")
        if first_occurrences(stored) != expected:
            found.append("reordered")
        if len(kept_by_a_consumer_with_a_mark(stored)) != len(expected):
            found.append("lost to the consumer")
    return found


@given(
    seed=st.integers(0, 2**32),
    refused=st.sampled_from([0.0, 0.05, 0.3, 0.8]),
    lost=st.sampled_from([0.0, 0.1, 0.5]),
    late=st.sampled_from([0.0, 0.5]),
    aggregate=st.booleans(),
    count=st.integers(0, 400),
)
def test_whatever_the_service_does_first_occurrences_are_in_order_and_nothing_is_lost(
    seed: int, refused: float, lost: float, late: float, aggregate: bool, count: int
) -> None:
    rng = random.Random(seed)
    service = ServiceModel(rng, refused, lost, late)
    rows = rows_of(count, rng)
    settled = publish_all(make(aggregate=aggregate, seed=seed), rows, service, rng)
    assert faults(service, rows) == []
    assert sorted(settled) == list(range(count))


Scheme = Callable[[Rows, ServiceModel], None]


def retry_first(rows: Rows, service: ServiceModel) -> None:
    """Put what was refused at the front of the queue: what everybody does first."""
    queue = deque(rows)
    while queue:
        batch = [queue.popleft() for _ in range(min(50, len(queue)))]
        outcomes = service.put([entry_of(row) for row in batch])
        if outcomes is None:
            queue.extendleft(reversed(batch))
            continue
        refused = [row for row, one in zip(batch, outcomes, strict=True) if isinstance(one, Refused)]
        queue.extendleft(reversed(refused))


def resend_suffix(rows: Rows, service: ServiceModel) -> None:
    """Send again all from the first refused entry on: nothing is out of order at the end, and yet."""
    queue = deque(rows)
    while queue:
        batch = [queue.popleft() for _ in range(min(50, len(queue)))]
        outcomes = service.put([entry_of(row) for row in batch])
        refused = [] if outcomes is None else [isinstance(one, Refused) for one in outcomes]
        first = 0 if outcomes is None else refused.index(True) if any(refused) else len(batch)
        queue.extendleft(reversed(batch[first:]))


def entry_of(row: tuple[int, bytes]) -> PutEntry:
    return PutEntry(row[1], "key", explicit_hash_key(row[0], COUNT))


@pytest.mark.parametrize("scheme", [retry_first, resend_suffix])
@pytest.mark.parametrize("seed", range(5))
def test_the_usual_schemes_reorder_and_lose_where_a_tenth_is_refused(scheme: Scheme, seed: int) -> None:
    rng = random.Random(seed)
    service = ServiceModel(rng, refused=0.1)
    rows = rows_of(400, rng)
    scheme(rows, service)
    assert {"reordered", "lost to the consumer"} <= set(faults(service, rows))


@pytest.mark.parametrize("scheme", [retry_first, resend_suffix])
def test_the_usual_schemes_pass_where_nothing_fails(scheme: Scheme) -> None:
    rng = random.Random(1)
    service = ServiceModel(rng)
    rows = rows_of(400, rng)
    scheme(rows, service)
    assert faults(service, rows) == []


def test_a_refused_record_holds_back_its_bucket_alone_and_goes_again_with_the_same_bytes() -> None:
    buckets = make(aggregate=True)
    for number in range(3):
        buckets.add(0, b"k", b"a%d" % number, number, 0, 0.0)
    buckets.add(1, b"k", b"b", 9, 0, 0.0)
    first = taken(buckets, 0.0)
    sent = {record.bucket: record.entry for record in first.records}
    buckets.add(0, b"k", b"a3", 3, 0, 0.0)
    buckets.add(1, b"k", b"b1", 10, 0, 0.0)
    outcomes = [REFUSED if record.bucket == 0 else STORED for record in first.records]
    assert [record.owners for record in buckets.settle(first, outcomes, 0.0).stored] == [[9]]
    assert [record.owners for record in taken(buckets, 0.0).records] == [[10]]
    assert buckets.next_time() is not None
    again = taken(buckets, 0.2)
    assert [record.entry for record in again.records] == [sent[0]]
    buckets.settle(again, [STORED], 0.2)
    assert [record.owners for record in taken(buckets, 0.3).records] == [[3]]


def test_pauses_double_up_to_two_seconds_and_begin_anew_after_a_success() -> None:
    buckets = make(aggregate=False)
    buckets.add(0, b"k", b"x", 1, 0, 0.0)
    now, pauses = 0.0, list[float]()
    for _ in range(9):
        buckets.settle(taken(buckets, now), [REFUSED], now)
        at = buckets.next_time()
        assert at is not None
        pauses.append(at - now)
        now = at
    for number, pause in enumerate(pauses):
        nominal = min(0.05 * 2**number, 2.0)
        assert 0.5 * nominal <= pause <= 1.5 * nominal
    buckets.settle(taken(buckets, now), [STORED], now)
    buckets.add(0, b"k", b"y", 2, 0, now)
    buckets.settle(taken(buckets, now), [REFUSED], now)
    at = buckets.next_time()
    assert at is not None
    assert at - now <= 0.075


def test_a_request_holds_five_hundred_records_of_ten_mebibytes_at_most() -> None:
    buckets = Buckets[int](1024, max_aggregate_bytes=0, max_requests=9)
    for number in range(1024):
        buckets.add(number, b"key", b"x", number, 0, 0.0)
    sizes = [len(request.records) for request in all_taken(buckets, 1.0)]
    assert sizes == [500, 500, 24]
    buckets = Buckets[int](1024, max_aggregate_bytes=0, max_requests=9)
    for number in range(4):
        buckets.add(number, b"key", b"x" * (3 * MAX_REQUEST_BYTES // 8), number, 0, 0.0)
    assert [len(request.records) for request in all_taken(buckets, 1.0)] == [2, 2]


def test_the_first_request_leaves_at_once_and_a_small_one_beside_it_waits_for_company() -> None:
    buckets = make(aggregate=True)
    buckets.add(0, b"k", b"x", 1, 0, 0.0)
    assert buckets.take(0.0) is not None
    buckets.add(1, b"k", b"x", 2, 0, 0.001)
    assert buckets.take(0.001) is None
    at = buckets.next_time()
    assert at is not None
    assert at <= 0.011
    assert buckets.take(at) is not None


def test_no_more_requests_are_under_way_than_allowed() -> None:
    buckets = make(aggregate=False, max_requests=2)
    for number in range(3):
        buckets.add(number, b"k", b"x", number, 0, float(number))
        buckets.take(float(number))
    assert buckets.in_flight == 2
    assert buckets.next_time() is None


def test_a_request_refused_as_a_whole_is_taken_apart_down_to_the_row() -> None:
    buckets = make(aggregate=True)
    for number in range(3):
        buckets.add(0, b"key", b"a%d" % number, number, number, 0.0)
    for number in range(3, 5):
        buckets.add(1, b"key", b"b%d" % number, number, number, 0.0)
    stored: list[int] = []
    rejected: list[tuple[int, int]] = []
    now = 0.0
    while (request := buckets.take(now)) is not None:
        now += 1.0
        if any(b"a1" in entry.data for entry in request.entries):
            if (faulty := buckets.isolate(request, now)) is not None:
                rejected += zip(faulty.owners, faulty.indexes, strict=True)
            continue
        for record in buckets.settle(request, [STORED] * len(request.records), now).stored:
            stored += record.owners
    assert rejected == [(1, 1)]
    assert sorted(stored) == [0, 2, 3, 4]
    assert [number for number in stored if number < 3] == [0, 2]
    assert buckets.held_bytes == 0


def test_a_row_larger_than_an_aggregate_is_a_record_of_its_own_in_its_place() -> None:
    buckets = make(aggregate=True)
    for number, data in enumerate([b"a", b"b" * 1000, b"c", b"d"]):
        buckets.add(0, b"key", data, number, 0, 0.0)
    order: list[list[int]] = []
    while (request := buckets.take(0.0)) is not None:
        order += [record.owners for record in buckets.settle(request, [STORED], 0.0).stored]
    assert order == [[0], [1], [2, 3]]


def test_a_hash_key_is_the_middle_of_the_buckets_share() -> None:
    assert [explicit_hash_key(bucket, 2) for bucket in range(2)] == [str(2**126), str(3 * 2**126)]
    assert int(explicit_hash_key(65_535, 65_536)) < 2**128


def taken(buckets: Buckets[int], now: float) -> Request[int]:
    request = buckets.take(now)
    assert request is not None
    return request


def all_taken(buckets: Buckets[int], now: float) -> list[Request[int]]:
    found: list[Request[int]] = []
    while (request := buckets.take(now)) is not None:
        found.append(request)
    return found


def test_what_waits_is_known_by_its_owners() -> None:
    buckets = make(aggregate=True)
    for number in range(3):
        buckets.add(number % 2, b"k", b"x" * 200, number, 0, 0.0)
    record: Sealed[int] = taken(buckets, 0.0).records[0]
    assert record.owners == [0]
    assert set(buckets.unresolved()) == {0, 1, 2}
