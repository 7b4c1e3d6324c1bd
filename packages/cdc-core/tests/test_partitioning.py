"""The stable hash: the same for ever, since stored layouts depend on it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_core import TableId, bucket_of, stable_hash


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xCBF43926),  # the check value that every description of CRC-32 gives
        (b'{"id":1}', 1147009221),
        (b'{"tenant":"a","id":9007199254740993}', 4089244202),
    ],
)
def test_the_hash_is_what_it_always_was(data: bytes, expected: int) -> None:
    assert stable_hash(data) == expected


@pytest.mark.parametrize(
    ("key", "table", "count", "expected"),
    [
        (b'{"id":1}', TableId("shop", "orders"), 16, 5),
        (b'{"id":1}', None, 16, 5),
        (None, TableId("shop", "orders"), 16, 1),
        (None, TableId("shop", "orders"), 1000, 761),
        (None, None, 16, 0),
    ],
)
def test_a_key_goes_to_the_bucket_it_always_went_to(
    key: bytes | None, table: TableId | None, count: int, expected: int
) -> None:
    assert bucket_of(key, table, count) == expected


def test_another_process_with_another_hash_seed_agrees() -> None:
    program = "from cdc_core import stable_hash; print(stable_hash(b'key'))"
    found = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "12345"},
    )
    assert int(found.stdout) == stable_hash(b"key")


@given(st.none() | st.binary(), st.integers(1, 10_000))
def test_a_bucket_is_within_its_count(key: bytes | None, count: int) -> None:
    assert 0 <= bucket_of(key, TableId("s", "t"), count) < count


@pytest.mark.parametrize("count", [3, 16, 64, 256])
@pytest.mark.parametrize("step", [1, 1000])
def test_counters_spread_evenly(count: int, step: int) -> None:
    found = [0] * count
    for number in range(0, 20_000 * step, step):
        found[bucket_of(b'{"id":%d}' % number, None, count)] += 1
    even = 20_000 / count
    assert all(0.6 * even < size < 1.4 * even for size in found)


def test_no_buckets_are_an_error() -> None:
    with pytest.raises(ValueError, match="0 buckets"):
        bucket_of(b"", None, 0)
