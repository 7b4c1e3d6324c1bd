"""Aggregated records are the Kinesis Producer Library's, byte for byte."""

from __future__ import annotations

import base64
import hashlib
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_kinesis._aggregation import Aggregate, SubRecord, aggregate, deaggregate
from cdc_kinesis._buckets import Row
from cdc_kinesis._row_heads import RowHead

HASH_KEY = "170141183460469231731687303715884105728"

keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
# lengths around those whose varint gets another byte, and the length up to which a table of ours reaches
lengths = st.integers(0, 300) | st.sampled_from([0, 1, 113, 127, 128, 2039, 2047, 2048, 16_375, 16_384])
rows = st.lists(st.tuples(keys, lengths.map(lambda length: b"x" * length)), min_size=1, max_size=160)

# Written by protobuf's own encoder from the format's message, so that ours is not its own judge: keys "a", "b";
# hash key "12"; rows (a, 12, "x"), (b, 12, "yy"), (a, none, "z") with a tag k=v on the last.
GOLDEN = bytes.fromhex(
    "f3899ac20a01610a0162120231321a07080010001a01781a08080110001a0279791a0d08001a017a22060a016b1201769a8fa1d9"
)


def reference(name: str) -> Any:
    """Return a module of Amazon's aws_kinesis_agg, the format's reference in Python."""
    if find_spec("aws_kinesis_agg") is None:
        pytest.skip("aws_kinesis_agg is not installed")
    import_module("aws_kinesis_agg.deaggregator")  # adds to the path what its modules import
    return import_module(f"aws_kinesis_agg.{name}")


def aggregated(content: list[tuple[str, bytes]], hash_key: str = HASH_KEY) -> bytes:
    aggregate = Aggregate(hash_key)
    for key, data in content:
        aggregate.add(key.encode(), data)
    return aggregate.finish()


def sealed(message: bytes) -> bytes:
    return b"\xf3\x89\x9a\xc2" + message + hashlib.md5(message).digest()


@settings(deadline=None)
@given(rows)
def test_rows_come_back_as_they_were(content: list[tuple[str, bytes]]) -> None:
    assert deaggregate(aggregated(content)) == [SubRecord(key, HASH_KEY, data) for key, data in content]


@settings(deadline=None)
@given(rows)
def test_the_reference_implementation_reads_what_we_write(content: list[tuple[str, bytes]]) -> None:
    deaggregator = reference("deaggregator")
    record = {
        "kinesis": {
            "kinesisSchemaVersion": "1.0",
            "sequenceNumber": "1",
            "partitionKey": "a",
            "approximateArrivalTimestamp": 1.0,
            "data": base64.b64encode(aggregated(content)).decode(),
        }
    }
    got = deaggregator.deaggregate_records([record])
    assert [
        (one["kinesis"]["partitionKey"], one["kinesis"]["explicitHashKey"], one["kinesis"]["data"])
        for one in got
    ] == [(key, HASH_KEY, base64.b64encode(data)) for key, data in content]


@settings(deadline=None)
@given(rows)
def test_the_bytes_are_those_of_the_reference_implementation(content: list[tuple[str, bytes]]) -> None:
    messages = reference("messages_pb2")
    message = messages.AggregatedRecord()
    table: dict[str, int] = {}
    message.explicit_hash_key_table.append(HASH_KEY)
    for key, data in content:
        if key not in table:
            table[key] = len(table)
            message.partition_key_table.append(key)
        row = message.records.add()
        row.partition_key_index, row.explicit_hash_key_index, row.data = table[key], 0, data
    assert aggregated(content) == sealed(message.SerializeToString())


def test_a_known_record_is_written_and_read() -> None:
    assert deaggregate(sealed(GOLDEN[4:-4])) == [
        SubRecord("a", "12", b"x"),
        SubRecord("b", "12", b"yy"),
        SubRecord("a", None, b"z"),
    ]
    written = aggregated([("a", b"x"), ("b", b"yy")], "12")
    assert written == sealed(bytes.fromhex("0a01610a0162120231321a07080010001a01781a08080110001a027979"))


def test_tables_behind_the_rows_are_read() -> None:
    message = bytes.fromhex("1a07080010001a01780a016112023132")
    assert deaggregate(sealed(message)) == [SubRecord("a", "12", b"x")]


@pytest.mark.parametrize(
    "message",
    [
        b"",
        bytes.fromhex("0a0161"),  # no row
        bytes.fromhex("1a07080010001a0178"),  # no partition key
        bytes.fromhex("0a01611a07080010001a0178"),  # no hash key, and an index of it
        bytes.fromhex("0a01611a03 1a0178"),  # a row without partition key
        bytes.fromhex("0a01611a020800"),  # a row without data
        bytes.fromhex("0a01611a0a08001a0178"),  # longer than its message
        bytes.fromhex("0a02c3281a0508001a0178"),  # a partition key that is no UTF-8
        bytes.fromhex("0bff"),  # a wire type of old
    ],
)
def test_a_message_that_is_none_leaves_the_record_as_it_is(message: bytes) -> None:
    assert deaggregate(sealed(message)) is None


def test_a_wrong_digest_leaves_the_record_as_it_is() -> None:
    data = aggregated([("a", b"x")])
    assert deaggregate(data[:-1] + bytes([data[-1] ^ 1])) is None


@settings(deadline=None)
@given(rows, st.data())
def test_damaged_data_never_raises(content: list[tuple[str, bytes]], data: st.DataObject) -> None:
    message = bytearray(aggregated(content)[4:-16])
    place = data.draw(st.integers(0, len(message) - 1))
    noise = data.draw(st.binary(max_size=5))
    message[place : place + data.draw(st.integers(0, 5))] = noise
    found = deaggregate(sealed(bytes(message)))
    assert found is None or len(found) <= len(message)


@settings(deadline=None)
@given(st.binary(max_size=100))
def test_other_data_is_no_aggregate(data: bytes) -> None:
    assert deaggregate(data) is None


@settings(deadline=None)
@given(rows, st.integers(0, 60_000))
def test_an_aggregate_holds_as_many_rows_as_fit_and_one_at_least(
    content: list[tuple[str, bytes]], max_bytes: int
) -> None:
    gathered = [Row(key.encode(), data, None, 0) for key, data in content]
    written, count = aggregate(gathered, "9" * 39, bucket=1, max_bytes=max_bytes)
    assert deaggregate(written) == [SubRecord(key, "9" * 39, data) for key, data in content[:count]]
    assert count == 1 or len(written) <= max_bytes
    # nearly: what a row takes is estimated
    more = [len(row.key) + len(row.data) + 24 for row in gathered[: count + 1]]
    assert count == len(content) or sum(more) + 100 > max_bytes


heads = st.none() | st.builds(
    RowHead,
    st.integers(0, 2**63 - 1),
    st.integers(0, 10**6),
    st.integers(0, 9),
    st.none() | st.floats(0, 1e11, allow_nan=False),
    st.integers(0, 3),
)


@settings(deadline=None)
@given(st.lists(st.tuples(keys, lengths, heads), min_size=1, max_size=40), st.integers(500, 60_000))
def test_what_an_aggregate_says_of_its_rows_comes_back_and_others_pass_over_it(
    content: list[tuple[str, int, RowHead | None]], max_bytes: int
) -> None:
    gathered = [
        Row(
            key.encode(),
            b"x" * length,
            None,
            0,
            msgspec.json.encode(head),
            b"" if head is None else b'"%d":"shared %d"' % (head.shared, head.shared),
        )
        for key, length, head in content
    ]
    written, count = aggregate(gathered, HASH_KEY, bucket=7, max_bytes=max_bytes)
    assert count == 1 or len(written) <= max_bytes
    got = deaggregate(written)
    assert got is not None
    assert [(one.partition_key, len(one.data), one.head) for one in got] == content[:count]
    for one in got:
        if one.head is not None:
            assert one.heads is not None
            assert (one.heads.bucket, one.heads.shared[one.head.shared]) == (7, f"shared {one.head.shared}")
    messages = reference("messages_pb2")
    message = messages.AggregatedRecord.FromString(written[4:-16])
    assert [len(one.data) for one in message.records] == [length for _, length, _ in content[:count]]


def test_heads_that_do_not_fit_the_rows_say_nothing() -> None:
    row = Row(b"k", b"x", None, 0, b"[1,2,3,4.5,0]", b'"0":"s"')
    written, _ = aggregate([row, row], HASH_KEY, bucket=7, max_bytes=1000)
    message = written[4:-16]
    for damaged in (
        message.replace(b"[1,2,3,4.5,0],[1,2,3,4.5,0]", b"[1,2,3,4.5,0],[1,2,3,4.5],0"),
        message.replace(b"[1,2,3,4.5,0],[1,2,3,4.5,0]", b"[1,2,3,4.5,0] [1,2,3,4.5,0]"),
        message.replace(b"[1,2,3,4.5,0],[1,2,3,4.5,0]", b"[1,2,3,4.5,0] " + b" " * 13),
    ):
        assert damaged != message
        got = deaggregate(sealed(damaged))
        assert got is not None
        assert [(one.data, one.head, one.heads) for one in got] == [(b"x", None, None)] * 2
