"""Which letters a stream holds, against a model that keeps everything."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from letter_samples import failed_event

from cdc_core import FailedEvent
from cdc_kinesis._letter_chunks import (
    Frame,
    Removal,
    decode_frame,
    encode_letter,
    encode_removal,
    letter_id,
)
from cdc_kinesis._letter_index import LetterIndex, Place, in_order_of_delivery

SOURCE = "shop/billing"
REMOVAL = Removal(how="replayed", reason="handled", removed_at="2024-02-29T12:00:00+00:00")


def test_a_letter_is_there_once_all_of_its_chunks_are() -> None:
    index = LetterIndex(lambda letter, facts: True)
    first, second, third = _frames(failed_event(1, value=b"x" * 5000))
    _feed(index, [first, second])
    assert not index.letters
    _feed(index, [third])
    assert [entry.count for entry in index.letters] == [3]


def test_a_letter_whose_first_chunk_is_trimmed_away_is_gone() -> None:
    index = LetterIndex(lambda letter, facts: True)
    _feed(index, _frames(failed_event(1, value=b"x" * 5000))[1:])
    assert not index.letters


def test_a_marker_takes_away_what_came_before_it_and_nothing_that_comes_after() -> None:
    index = LetterIndex(lambda letter, facts: True)
    _feed(index, [*_frames(failed_event(1)), *_frames(failed_event(1), copy="again"), _marker(1)])
    assert not index.letters
    _feed(index, _frames(failed_event(1), copy="anew"))
    assert [entry.copy for entry in index.letters] == ["anew"]


def test_a_request_that_is_carried_out_late_and_twice_brings_no_letter_back() -> None:
    index = LetterIndex(lambda letter, facts: True)
    _feed(index, [*_frames(failed_event(1)), _marker(1), *_frames(failed_event(1))])
    assert not index.letters


def test_two_copies_that_are_stored_at_the_same_time_are_one_letter() -> None:
    index = LetterIndex(lambda letter, facts: True)
    ours, theirs = (_frames(failed_event(1, value=b"x" * 5000), copy=copy) for copy in ("a", "b"))
    _feed(index, [frame for pair in zip(ours, theirs, strict=True) for frame in pair])
    assert [entry.copy for entry in index.letters] == ["a"]


_STEPS = st.lists(st.tuples(st.sampled_from(["whole", "part", "gone"]), st.integers(0, 3)), max_size=25)


@given(_STEPS)
def test_what_is_left_is_what_was_stored_whole_since_it_was_last_removed(
    steps: list[tuple[str, int]],
) -> None:
    index, model = LetterIndex(lambda letter, facts: True), dict[int, None]()
    for place, (what, number) in enumerate(steps):
        frames = _frames(failed_event(number, value=b"x" * 3000), copy=str(place))
        if what == "gone":
            model.pop(number, None)
            _feed(index, [_marker(number)])
        elif what == "whole":
            model.setdefault(number)
            _feed(index, [*frames, frames[0]])  # a chunk whose answer was lost is sent again
        else:
            _feed(index, frames[:-1])
    assert [entry.letter for entry in index.letters] == [
        letter_id(SOURCE, failed_event(number)) for number in model
    ]


def test_letters_are_ordered_by_delivery_within_what_can_be_compared() -> None:
    index = LetterIndex(lambda letter, facts: True)
    unidentified = [failed_event(number, identified=False) for number in (8, 5)]
    for failed in (failed_event(3), unidentified[0], failed_event(1), unidentified[1], failed_event(2)):
        _feed(index, _frames(failed))
    ordered = [entry.facts.position for entry in in_order_of_delivery(index.letters)]
    assert [int(position.split(":")[1]) - 10**20 for position in ordered] == [1, 5, 2, 8, 3]


def _frames(failed: FailedEvent, copy: str = "copy") -> Sequence[Frame]:
    records = encode_letter(failed, source=SOURCE, copy=copy, max_record_bytes=2048)
    return [frame for record in records if (frame := decode_frame(record)) is not None]


def _marker(number: int) -> Frame:
    frame = decode_frame(encode_removal(letter_id(SOURCE, failed_event(number)), REMOVAL))
    assert frame is not None
    return frame


def _feed(index: LetterIndex, frames: Sequence[Frame]) -> None:
    for frame in frames:
        index.add(Place(shard_id="shardId-000000000000", sequence_number=1, arrived_at=0.0), frame)
