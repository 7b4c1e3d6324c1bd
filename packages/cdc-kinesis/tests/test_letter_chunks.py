"""A dead letter's records: what went in comes out, whatever it is and however it is cut."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from letter_samples import failed_event

from cdc_core import FailedEvent
from cdc_kinesis._letter_chunks import (
    LetterTooLarge,
    Removal,
    decode_frame,
    decode_letter,
    encode_letter,
    encode_removal,
    hash_key_of,
    letter_id,
    partition_key_of,
)

SOURCE = "shop/billing"
LEAST_RECORD_BYTES = 2048


@given(
    key=st.none() | st.binary(max_size=40),
    value=st.none() | st.binary(max_size=9000),
    headers=st.lists(st.tuples(st.text(max_size=8), st.none() | st.binary(max_size=8)), max_size=4),
    limit=st.integers(LEAST_RECORD_BYTES, 5000),
)
def test_a_letter_comes_out_of_its_records_as_it_went_in(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]], limit: int
) -> None:
    failed = _replaced(failed_event(1), key=key, value=value, headers=tuple(headers))
    records = encode_letter(failed, source=SOURCE, copy="c", max_record_bytes=limit)
    letter = letter_id(SOURCE, failed)
    assert all(len(record) + len(partition_key_of(letter)) <= limit for record in records)
    frames = [frame for record in records if (frame := decode_frame(record)) is not None]
    assert [frame.header.number for frame in frames] == list(range(len(records)))
    assert {frame.header.count for frame in frames} == {len(records)}
    facts = frames[0].header.facts
    assert facts is not None
    found = decode_letter(letter, facts, b"".join(frame.chunk for frame in frames))
    assert found.event == msgspec.structs.replace(failed.event, replayed=True)
    assert (found.cause, found.pipeline, found.attempts, found.failed_at, found.parked) == (
        failed.cause,
        failed.pipeline,
        failed.attempts,
        failed.failed_at,
        failed.parked,
    )


def test_a_large_letter_fills_its_records() -> None:
    failed = failed_event(1, value=b"x" * 3_000_000)
    records = encode_letter(failed, source=SOURCE, copy="c", max_record_bytes=1 << 20)
    assert [len(record) > 0.99 * (1 << 20) for record in records] == [True, True, False]


def test_a_letter_whose_names_alone_fill_a_record_is_refused() -> None:
    with pytest.raises(LetterTooLarge, match="512 bytes"):
        encode_letter(failed_event(1, pipeline="p" * 500), source=SOURCE, copy="c", max_record_bytes=512)


def test_what_quotes_a_lone_surrogate_can_be_stored() -> None:
    failed = failed_event(1)
    cause = type(failed.cause)(type="t", message="bad \ud800 text")
    records = encode_letter(
        FailedEvent(event=failed.event, cause=cause, pipeline="p", attempts=1, failed_at=failed.failed_at),
        source=SOURCE,
        copy="c",
        max_record_bytes=LEAST_RECORD_BYTES,
    )
    assert len(records) == 1


def test_letters_are_told_apart_by_pipeline_source_and_event_and_by_nothing_else() -> None:
    same = {letter_id(SOURCE, failed_event(1, value=value)) for value in (b"1", b"2")}
    others = {
        letter_id(SOURCE, failed_event(1, pipeline="other")),
        letter_id("shop/other", failed_event(1)),
        letter_id(SOURCE, failed_event(2)),
        letter_id(SOURCE, failed_event(1, identified=False)),
        letter_id(SOURCE, failed_event(2, identified=False)),
    }
    assert len(same) == 1
    assert len(others | same) == 6


def test_letters_of_one_key_go_to_one_place_of_the_hash_space() -> None:
    first, second = letter_id(SOURCE, failed_event(1)), letter_id(SOURCE, failed_event(2))
    other = letter_id(SOURCE, failed_event(3, key=b'{"id":2}'))
    assert partition_key_of(first) == partition_key_of(second) != partition_key_of(other)
    assert hash_key_of(first) == hash_key_of(second) != hash_key_of(other)
    assert 0 <= hash_key_of(other) < 2**128


@given(st.binary(max_size=64) | st.binary(max_size=64).map(lambda data: b"CDCL\x01" + data))
def test_what_is_none_of_ours_is_passed_over(data: bytes) -> None:
    decode_frame(data)  # does not raise
    assert decode_frame(b"x" + encode_removal("a" * 32, _REMOVAL)) is None


def test_a_marker_is_short_whatever_its_reason() -> None:
    removal = msgspec.structs.replace(_REMOVAL, reason="\ud800" + "why " * 10**6)
    assert len(encode_removal("a" * 32, removal)) < 20_000


_REMOVAL = Removal(how="discarded", reason="test data", removed_at="2024-02-29T12:00:00+00:00")


def _replaced(failed: FailedEvent, **fields: object) -> FailedEvent:
    return FailedEvent(
        event=msgspec.structs.replace(failed.event, **fields),
        cause=failed.cause,
        pipeline=failed.pipeline,
        attempts=failed.attempts,
        failed_at=failed.failed_at,
    )
