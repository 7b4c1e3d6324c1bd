"""Order per bucket holds through refused entries and lost answers, and nothing is lost; the usual schemes break it."""

from __future__ import annotations

import heapq
import random
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from service_model import ServiceModel, first_occurrences, kept_by_a_consumer_with_a_mark

from cdc_core import ChangeIdentity, Epoch, OutgoingEvent
from cdc_kinesis._buckets import MAX_REQUEST_ENTRIES, Buckets, Request, Row, Sealed, explicit_hash_key
from cdc_kinesis._record_data import RecordEncoder, encode_record
from cdc_kinesis._records import PutEntry, Refused, Stored

COUNT = 8
ROUND_TRIP_SECONDS = 0.015
REFUSED = Refused("ProvisionedThroughputExceededException", "")
STORED = Stored("shardId-000000000000", "1")

EPOCH = Epoch("7012345678901234567", 1, "shop", "0")

Rows = Sequence[tuple[int, Row[int]]]
"""Buckets and rows; the number of a row is its identity's ordinal."""


def row(number: int, value: bytes = b"{}") -> Row[int]:
    """Return a row; every third is one whose aggregate says nothing of it."""
    event = OutgoingEvent(
        key=b"key", value=value, op=None, table=None, identity=ChangeIdentity(EPOCH, 1, number)
    )
    described = RecordEncoder().describe(event)
    assert described is not None
    if number % 3 == 0:
        return Row(b"key", encode_record(event, bucket=0), number, 0)
    return Row(b"key", value, number, 0, described[0], described[1].member, event)


def rows_of(count: int, rng: random.Random) -> Rows:
    return [(rng.randrange(COUNT), row(number)) for number in range(count)]


def make(*, aggregate: bool, count: int = COUNT, max_requests: int = 4, seed: int = 0) -> Buckets[int]:
    return Buckets(
        count,
        max_aggregate_bytes=700 if aggregate else 0,
        max_requests=max_requests,
        encode=RecordEncoder().encode,
        rng=random.Random(seed),
    )


def publish_all(buckets: Buckets[int], rows: Rows, service: ServiceModel, rng: random.Random) -> list[int]:
    """Run in virtual time until everything is settled; return the owners in the order of their settlement."""
    now, added = 0.0, 0
    settled: list[int] = []
    answers: list[tuple[float, int, Request[int]]] = []
    for turn in range(200_000):
        for bucket, one in rows[added : added + rng.randrange(20)]:
            buckets.add(bucket, [one], now)
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
            else:
                settled += owners_of(buckets.settle(request, outcomes, now).stored)
    assert buckets.in_flight == 0
    return settled


def owners_of(records: Sequence[Sealed[int]]) -> list[int]:
    return [one.owner for record in records for one in record.rows]


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
    by_bucket: dict[str, list[int]] = defaultdict(list)
    for number, (bucket, _) in enumerate(rows):
        by_bucket[explicit_hash_key(bucket, COUNT)].append(number)
    for hash_key, expected in by_bucket.items():
        stored = service.stored[hash_key]
        if set(stored) != set(expected):
            found.append("lost")
        if first_occurrences(stored) != expected:
            found.append("reordered")
        if len(kept_by_a_consumer_with_a_mark(stored)) != len(expected):
            found.append("lost to the consumer")
    return found


@settings(deadline=None)
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
        outcomes = service.put([entry_of(one) for one in batch])
        if outcomes is None:
            queue.extendleft(reversed(batch))
            continue
        refused = [sent for sent, one in zip(batch, outcomes, strict=True) if isinstance(one, Refused)]
        queue.extendleft(reversed(refused))


def resend_suffix(rows: Rows, service: ServiceModel) -> None:
    """Send again all from the first refused entry on: nothing is out of order at the end, and yet."""
    queue = deque(rows)
    while queue:
        batch = [queue.popleft() for _ in range(min(50, len(queue)))]
        outcomes = service.put([entry_of(one) for one in batch])
        refused = [] if outcomes is None else [isinstance(one, Refused) for one in outcomes]
        first = 0 if outcomes is None else refused.index(True) if any(refused) else len(batch)
        queue.extendleft(reversed(batch[first:]))


def entry_of(sent: tuple[int, Row[int]]) -> PutEntry:
    bucket, one = sent
    data = one.data if one.event is None else encode_record(one.event, bucket=bucket)
    return PutEntry(data, "key", explicit_hash_key(bucket, COUNT))


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
    for number in range(2):
        buckets.add(0, [row(number)], 0.0)
    buckets.add(1, [row(9)], 0.0)
    first = taken(buckets, 0.0)
    sent = {record.bucket: record.entry for record in first.records}
    buckets.add(0, [row(3)], 0.0)
    buckets.add(1, [row(10)], 0.0)
    outcomes = [REFUSED if record.bucket == 0 else STORED for record in first.records]
    assert owners_of(buckets.settle(first, outcomes, 0.0).stored) == [9]
    assert owners_of(taken(buckets, 0.0).records) == [10]
    assert buckets.next_time() is not None
    again = taken(buckets, 0.2)
    assert [record.entry for record in again.records] == [sent[0]]
    buckets.settle(again, [STORED], 0.2)
    assert owners_of(taken(buckets, 0.3).records) == [3]


def test_pauses_double_up_to_two_seconds_and_begin_anew_after_a_success() -> None:
    buckets = make(aggregate=False)
    buckets.add(0, [row(0)], 0.0)
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
    buckets.add(0, [row(1)], now)
    buckets.settle(taken(buckets, now), [REFUSED], now)
    at = buckets.next_time()
    assert at is not None
    assert at - now <= 0.075


def test_requests_whose_answers_are_lost_become_smaller_and_grow_again_when_one_is_answered() -> None:
    buckets = make(aggregate=False, count=64, max_requests=1)
    for number in range(64):
        for _ in range(9):
            buckets.add(number, [row(number, large_value(20 << 10))], 0.0)
    now, sizes = 0.0, list[int]()
    for _ in range(7):
        request = taken(buckets, now)
        sizes.append(sum(record.size for record in request.records))
        buckets.lose(request, now)
        now += 9.0
    assert sizes[0] > 1 << 20, "what would never get through a slow link"
    assert all(after < before or after < 64 << 10 for before, after in pairwise(sizes)), sizes
    assert sizes[-1] < 64 << 10
    for _ in range(9):
        request = taken(buckets, now)
        buckets.settle(request, [STORED] * len(request.records), now)
        sizes.append(sum(record.size for record in request.records))
        now += 9.0
    assert sizes[-1] > 512 << 10, sizes


def test_a_request_holds_five_hundred_records_of_ten_mebibytes_at_most() -> None:
    buckets = make(aggregate=False, count=1024, max_requests=9)
    for number in range(1024):
        buckets.add(number, [row(number)], 0.0)
    assert [len(request.records) for request in all_taken(buckets, 1.0)] == [500, 500, 24]
    buckets = make(aggregate=False, max_requests=9)
    buckets.add(0, [row(0, large_value(2000))], 0.0)
    buckets.add(1, [row(1, large_value(10 << 20))], 0.0)
    requests = all_taken(buckets, 1.0)
    assert [len(request.records) for request in requests] == [1, 1]
    assert requests[1].records[0].size <= 10 << 20


def large_value(record_bytes: int) -> bytes:
    """Return a value whose record is a little smaller than so many bytes."""
    return b'{"x":"%b"}' % (b"x" * (record_bytes - 300))


def test_the_first_request_leaves_at_once_and_a_small_one_beside_it_waits_for_company() -> None:
    buckets = make(aggregate=True)
    buckets.add(0, [row(0)], 0.0)
    assert buckets.take(0.0) is not None
    buckets.add(1, [row(1)], 0.001)
    assert buckets.take(0.001) is None
    at = buckets.next_time()
    assert at is not None
    assert at <= 0.011
    assert buckets.take(at) is not None


def test_a_large_request_beside_another_leaves_at_once() -> None:
    buckets = make(aggregate=True)
    buckets.add(0, [row(0)], 0.0)
    assert buckets.take(0.0) is not None
    buckets.add(1, [row(1, large_value(2 << 20))], 0.0)
    assert buckets.take(0.0) is not None


def test_no_more_requests_are_under_way_than_allowed() -> None:
    buckets = make(aggregate=False, max_requests=2)
    for number in range(3):
        buckets.add(number, [row(number)], float(number))
        buckets.take(float(number))
    assert buckets.in_flight == 2
    assert buckets.next_time() is None


@pytest.mark.parametrize("by_entry", [False, True])
def test_what_is_refused_for_one_row_is_taken_apart_down_to_the_row(by_entry: bool) -> None:
    buckets = make(aggregate=True)
    for number in range(5):
        buckets.add(number // 3, [row(number, b'{"bad":1}' if number == 1 else b"{}")], 0.0)
    fault = Refused("ValidationException", "bad")
    stored: list[int] = []
    faulty: list[int] = []
    now = 0.0
    while (request := buckets.take(now)) is not None:
        now += 1.0
        bad = [b"bad" in entry.data for entry in request.entries]
        if any(bad) and not by_entry:
            settled = buckets.isolate(request, fault, now)
        else:
            settled = buckets.settle(request, [fault if one else STORED for one in bad], now)
        faulty += [one.owner for one, _ in settled.faulty]
        stored += owners_of(settled.stored)
    assert faulty == [1]
    assert sorted(stored) == [0, 2, 3, 4]
    assert [number for number in stored if number < 3] == [0, 2]


def test_a_row_larger_than_an_aggregate_is_a_record_of_its_own_in_its_place() -> None:
    buckets = make(aggregate=True)
    for number in range(5):
        buckets.add(0, [row(number, large_value(2000) if number == 2 else b"{}")], 0.0)
    order: list[list[int]] = []
    while (request := buckets.take(0.0)) is not None:
        settled = buckets.settle(request, [STORED], 0.0)
        order += [owners_of([record]) for record in settled.stored]
    assert order == [[0, 1], [2], [3, 4]]


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
        buckets.add(number % 2, [row(number, large_value(800))], 0.0)
    assert owners_of(taken(buckets, 0.0).records) == [0, 1]
    assert set(buckets.unresolved()) == {0, 1, 2}
