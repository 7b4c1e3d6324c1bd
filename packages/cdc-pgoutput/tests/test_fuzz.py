"""Whatever the bytes are: a message, or DecodeError."""

from __future__ import annotations

import json
from functools import cache

import pgoutput_captures as captures
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_pgoutput import (
    AnyMessage,
    DecodeError,
    Decoder,
    Delete,
    Insert,
    Relation,
    Row,
    Update,
    XLogData,
    parse_replication_message,
)


@cache
def short_payloads(name: str) -> tuple[bytes, ...]:
    return tuple(payload for payload in captures.payloads(name) if len(payload) < 2000)


def rows(message: AnyMessage) -> list[Row]:
    match message:
        case Insert(new=new):
            return [new]
        case Update(old=None, new=new):
            return [new]
        case Update(old=Row() as old, new=new):
            return [old, new]
        case Delete(old=old):
            return [old]
        case _:
            return []


def feed(decoder: Decoder, payload: bytes) -> None:
    try:
        message = decoder.decode(payload)
    except DecodeError as error:
        check_error(error, payload)
        return
    for row in rows(message):
        row_texts(row)
    if isinstance(message, Relation):
        decoder.unknown_types(message)


def row_texts(row: Row) -> None:
    names = {column.name for column in row.relation.columns}
    try:
        text = row.to_json()
    except DecodeError as error:
        check_column(error, names)
    else:
        assert set(json.loads(text)) == names
    try:
        row.values()
    except DecodeError as error:
        check_column(error, names)


def check_error(error: DecodeError, payload: bytes) -> None:
    assert 0 <= error.offset <= len(payload)
    assert str(error)


def check_column(error: DecodeError, names: set[str]) -> None:
    assert error.column in names


@st.composite
def mutations(draw: st.DrawFn, payload: bytes) -> bytes:
    """A payload with a few bytes replaced, dropped, doubled or added."""
    data = bytearray(payload)
    for _ in range(draw(st.integers(1, 3))):
        position = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["replace", "drop", "insert", "truncate", "double", "bit"])):
            case "replace":
                data[position : position + 1] = draw(st.binary(min_size=1, max_size=4))
            case "drop":
                del data[position : position + draw(st.integers(1, 4))]
            case "insert":
                data[position:position] = draw(st.binary(min_size=1, max_size=4))
            case "truncate":
                del data[position:]
            case "double":
                data[position:position] = data[position : position + draw(st.integers(1, 8))]
            case _ if position < len(data):
                data[position] ^= 1 << draw(st.integers(0, 7))
            case _:
                pass
    return bytes(data)


@given(st.data())
@settings(max_examples=1000, deadline=None)
def test_a_mutated_recorded_session_gives_messages_or_decode_errors(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(captures.NAMES))
    stream = short_payloads(name)
    start = data.draw(st.integers(0, len(stream) - 1))
    decoder = captures.decoder(name)
    relations = [payload for payload in stream[:start] if payload[:1] == b"R"]
    for payload in relations[-3:]:
        feed(decoder, payload)
    for payload in stream[start : start + 4]:
        feed(decoder, data.draw(mutations(payload)) if data.draw(st.booleans()) else payload)


@settings(deadline=None)
@given(st.integers(1, 4), st.lists(st.binary(max_size=40), max_size=5))
def test_random_bytes_give_messages_or_decode_errors(version: int, stream: list[bytes]) -> None:
    decoder = Decoder(version)
    for payload in stream:
        feed(decoder, payload)


@settings(deadline=None)
@given(st.integers(1, 4), st.sampled_from(b"BCORYIUDTMSEcAbPKrp"), st.binary(max_size=60))
def test_random_bytes_behind_a_known_tag_give_messages_or_decode_errors(
    version: int, tag: int, rest: bytes
) -> None:
    feed(Decoder(version), bytes([tag]) + rest)


@given(
    st.binary(max_size=60) | st.builds(bytes.__add__, st.sampled_from([b"w", b"k"]), st.binary(max_size=30))
)
def test_random_frames_are_read_or_refused(data: bytes) -> None:
    try:
        frame = parse_replication_message(data)
    except DecodeError as error:
        check_error(error, data)
    else:
        assert not isinstance(frame, XLogData) or frame.payload == data[25:]
