"""Which letters a dead-letter stream holds: repeats dropped, incomplete ones left out, removed ones gone. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import final

from cdc_core import ChangeIdentity, parse_identity

from ._letter_chunks import Facts, Frame, Header, position_of
from ._position import KinesisPosition


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a record stands: its shard and sequence number, and when it came there, in seconds since 1970."""

    shard_id: str
    sequence_number: int
    arrived_at: float


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A letter that is there: `first` and `last` are the records of its chunks, of this copy."""

    letter: str
    copy: str
    count: int
    facts: Facts
    first: Place
    last: Place


@dataclass(slots=True)
class _Copy:
    facts: Facts
    first: Place
    missing: set[int] = field(default_factory=set[int])


@final
class LetterIndex:
    """What the records of a stream leave over, fed one by one: each shard from its start, parents before children.

    - `wanted`: which letters to keep; one takes less than a kilobyte, whatever its size.
    """

    def __init__(self, wanted: Callable[[str, Facts], bool]) -> None:
        self._wanted = wanted
        self._copies: dict[tuple[str, str], _Copy] = {}
        self._letters: dict[str, Entry] = {}
        self._whole: set[tuple[str, str]] = set()

    @property
    def letters(self) -> Sequence[Entry]:
        """The letters in the order in which they were stored."""
        # stable: within a shard the order is that of the records, whose times never go back
        return sorted(self._letters.values(), key=lambda entry: entry.last.arrived_at)

    def add(self, place: Place, frame: Frame) -> None:
        """Take note of a record."""
        header = frame.header
        if header.removed is not None:
            self._letters.pop(header.letter, None)
            return
        copy = self._copy_of(header, place)
        if copy is None:
            return
        copy.missing.discard(header.number)
        if copy.missing:
            return
        del self._copies[header.letter, header.copy]
        self._whole.add((header.letter, header.copy))
        if header.letter not in self._letters:  # otherwise it was routed again
            self._letters[header.letter] = Entry(
                letter=header.letter,
                copy=header.copy,
                count=header.count,
                facts=copy.facts,
                first=copy.first,
                last=place,
            )

    def _copy_of(self, header: Header, place: Place) -> _Copy | None:
        if (header.letter, header.copy) in self._whole:
            # a request without an answer was sent again, and is stored twice: even behind a marker it is no new letter
            return None
        known = self._copies.get((header.letter, header.copy))
        if known is not None:
            return known
        # the first chunk is stored before the others are sent; without it the letter is trimmed, or done
        if header.number or header.facts is None or not self._wanted(header.letter, header.facts):
            return None
        copy = self._copies[header.letter, header.copy] = _Copy(header.facts, place, set(range(header.count)))
        return copy


def in_order_of_delivery(entries: Sequence[Entry]) -> Sequence[Entry]:
    """Order letters as their events were delivered, where that can be told, in the places that they have together.

    Changes of one epoch go by their identities, other events of one shard by their positions.
    """
    places: dict[object, list[int]] = {}
    ranks: dict[int, tuple[int, int, int]] = {}
    for place, entry in enumerate(entries):
        group, rank = _rank(entry.facts)
        if rank is not None:
            ranks[place] = rank
            places.setdefault(group, []).append(place)
    ordered = list(entries)
    for taken in places.values():
        by_rank = sorted(taken, key=lambda place: ranks[place])
        for place, source in zip(taken, by_rank, strict=True):
            ordered[place] = entries[source]
    return ordered


def _rank(facts: Facts) -> tuple[object, tuple[int, int, int] | None]:
    identity = None if facts.identity is None else parse_identity(facts.identity)
    if isinstance(identity, ChangeIdentity):
        return identity.epoch, (identity.commit_lsn, identity.ordinal, identity.sub_index)
    position = position_of(facts.position)
    if isinstance(position, KinesisPosition):
        return position.shard_id, (int(position.sequence_number), position.sub_sequence, 0)
    return None, None
