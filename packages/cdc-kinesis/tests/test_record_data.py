"""An event comes back from a record's data as it was, byte for byte."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_core import (
    ChangeIdentity,
    Epoch,
    Lane,
    OpaqueIdentity,
    Operation,
    OutgoingEvent,
    SnapshotIdentity,
    TableId,
)
from cdc_kinesis import KinesisPosition
from cdc_kinesis._record_data import decode_record, encode_record

LANES = [Lane(f"stream/{number}") for number in range(4)]
POSITION = KinesisPosition(
    "shardId-000000000000", "49590338271490256608559692538361571095921575989136588898", 3
)

names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
numbers = st.integers(0, 2**63 - 1)
epochs = st.builds(
    Epoch,
    st.integers(1, 2**63).map(str),
    st.integers(1, 99),
    st.from_regex(r"[a-z0-9_]{1,20}", fullmatch=True),
    names,
)
identities = st.one_of(
    st.builds(ChangeIdentity, epochs, numbers, numbers, st.integers(0, 9)),
    st.builds(
        SnapshotIdentity,
        st.from_regex(r"[a-z0-9]{1,9}", fullmatch=True),
        names.filter(str.isascii),
        numbers,
        numbers,
    ),
    st.builds(OpaqueIdentity, names),
)
keys = st.one_of(
    st.none(),
    st.dictionaries(names, numbers | names, min_size=1).map(msgspec.json.encode),
    st.binary(max_size=30),
).filter(lambda key: key is None or not key.startswith(b"{") or _is_json(key))
values = st.one_of(
    st.none(),
    st.binary(),
    st.just(b"{}"),
    st.dictionaries(names, names | numbers).map(msgspec.json.encode),
)
events = st.builds(
    OutgoingEvent,
    key=keys,
    value=values,
    op=st.none() | st.sampled_from(Operation),
    table=st.none() | st.builds(TableId, names, names),
    identity=identities,
    related_key=keys,
    committed_at=st.none() | st.floats(0, 1e11, allow_nan=False),
)


def _is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError:
        return False
    return True


@given(events, st.integers(0, 3))
def test_every_event_comes_back_as_it_was(event: OutgoingEvent, bucket: int) -> None:
    data = encode_record(event, bucket=bucket)
    got = decode_record(data, partition_key="p", position=POSITION, lanes=LANES, fence=7, delivery=5)
    for name in ("key", "value", "op", "table", "identity", "related_key", "committed_at"):
        assert getattr(got, name) == getattr(event, name), name
    assert list(got.headers) == list(event.headers)
    assert (got.lane, got.position, got.fence, got.delivery) == (LANES[bucket], POSITION, 7, 5)


@given(events)
def test_a_record_is_json_for_a_foreign_reader(event: OutgoingEvent) -> None:
    value = event.value
    if value is not None and (not _is_json(value) or b'"cdc"' in value):
        event = msgspec.structs.replace(event, value=b'{"op":"c","after":{"id":1}}')
    record = json.loads(encode_record(event, bucket=1))
    assert record.pop("cdc")[3] == 1  # the bucket
    assert record == (json.loads(event.value) if event.value and event.value.startswith(b"{") else {})


@given(st.binary(max_size=200))
def test_a_foreign_record_is_an_event_without_identity(data: bytes) -> None:
    got = decode_record(data, partition_key="k", position=POSITION, lanes=LANES)
    assert (got.key, got.value, got.identity, got.lane) == (b"k", data, None, None)


@given(events, st.integers(0, 400), st.binary(min_size=1, max_size=3))
def test_a_damaged_record_never_raises(event: OutgoingEvent, place: int, noise: bytes) -> None:
    data = bytearray(encode_record(event, bucket=1))
    place %= len(data)
    data[place : place + len(noise)] = noise
    decode_record(bytes(data), partition_key="k", position=POSITION, lanes=LANES)


@pytest.mark.parametrize("bucket", [4, 4000])
def test_a_bucket_beyond_the_known_ones_has_no_lane(bucket: int) -> None:
    event = OutgoingEvent(
        key=None, value=b"{}", op=None, table=None, identity=ChangeIdentity(Epoch("1", 1, "s", "0"), 1, 0)
    )
    data = encode_record(event, bucket=bucket)
    assert decode_record(data, partition_key="k", position=POSITION, lanes=LANES).lane is None
