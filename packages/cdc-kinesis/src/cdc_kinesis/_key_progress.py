"""Whether keys have had later events in the stream than those of given letters."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Final, final

import anyio

from cdc_core import CdcError

from ._aggregation import SubRecord, deaggregate
from ._aws import Aws
from ._config import KinesisConfig
from ._errors import AwsError
from ._letter_chunks import Facts, key_digest, position_of
from ._letter_stream import read_shard
from ._position import KinesisPosition
from ._record_data import RecordDecoder
from ._records import GotRecord
from ._shards import list_shards

logger = logging.getLogger("cdc_kinesis")

# What a person who replays waits for, and what is taken of the throughput that belongs to the consumers.
_SECONDS: Final = 10.0
_BYTES: Final = 16 << 20
_PAGE_BYTES: Final = 512 << 10

_Place = tuple[int, int]
_Occupied = tuple[str | None, str | None, str | None]


async def keys_moved_on(config: KinesisConfig, aws: Aws, letters: Mapping[str, Facts]) -> frozenset[str]:
    """Return the letters whose key has later events, read from their positions on, in their shards and what follows.

    Ten seconds and 16 MiB at most. Where that is not enough, or the stream cannot be read, a warning says for how
    many letters it is not known; so it is for letters without a key, or that came from elsewhere.
    """
    search = _Search(config, aws, letters)
    why = "it takes too long"
    with anyio.move_on_after(_SECONDS):
        try:
            await search.run()
            why = search.why_undecided
        except CdcError as error:
            why = error.message
    if why and search.open_letters:
        logger.warning(
            "whether keys have moved on is not known",
            extra={"stream": config.stream_name, "letters": len(search.open_letters), "why": why},
        )
    return frozenset(search.moved_on)


@final
class _Search:
    def __init__(self, config: KinesisConfig, aws: Aws, letters: Mapping[str, Facts]) -> None:
        self._stream_name = config.stream_name
        self._aws = aws
        self._budget = _BYTES
        self._decoder = RecordDecoder(())
        self._places: dict[str, dict[str, _Place]] = {}
        self._wanted: dict[_Occupied, list[str]] = {}
        self.moved_on: set[str] = set()
        self.open_letters: set[str] = set()
        self.why_undecided = ""
        for letter, facts in letters.items():
            position = position_of(facts.position)
            if isinstance(position, KinesisPosition) and facts.key is not None:
                place = (int(position.sequence_number), position.sub_sequence)
                self._places.setdefault(position.shard_id, {})[letter] = place
                self.open_letters.add(letter)
                for key in {facts.key, facts.related_key} - {None}:
                    self._wanted.setdefault((facts.schema, facts.table, key), []).append(letter)

    async def run(self) -> None:
        shards = await list_shards(self._aws, self._stream_name)
        following: dict[str, list[str]] = {}
        for shard in shards:
            for parent in shard.parents:
                following.setdefault(parent, []).append(shard.shard_id)
        for shard_id, places in self._places.items():
            await self._read(shard_id, places)
            below, done = list(following.get(shard_id, ())), set[str]()
            while below and self.open_letters.intersection(places):
                child = below.pop(0)
                if child not in done:
                    done.add(child)
                    below += following.get(child, ())
                    await self._read(child, dict.fromkeys(places, (-1, 0)))

    async def _read(self, shard_id: str, places: Mapping[str, _Place]) -> None:
        """Read a shard from the first of some places, until nothing is open or the budget is spent."""
        if self._budget <= 0:
            return
        first = min(number for number, _ in places.values())
        starts: Sequence[str | None] = [None] if first < 0 else [str(first), None]
        for start in starts:
            try:
                pages = read_shard(
                    self._aws, self._stream_name, shard_id, start=start, page_bytes=_PAGE_BYTES
                )
                async with aclosing(pages):
                    async for page in pages:
                        for record in page:
                            self._look_at(record, shard_id, places)
                        if not self.open_letters.intersection(places) or self._is_spent(page):
                            return
            except AwsError as error:
                if error.code == "InvalidArgumentException" and start is not None:
                    continue  # trimmed away: what is left begins later
                raise
            return

    def _is_spent(self, page: Sequence[GotRecord]) -> bool:
        self._budget -= sum(len(record.data) for record in page)
        if self._budget <= 0:
            self.why_undecided = "there is too much to read"
        return self._budget <= 0

    def _look_at(self, record: GotRecord, shard_id: str, places: Mapping[str, _Place]) -> None:
        number = int(record.sequence_number)
        whole = SubRecord(record.partition_key, None, record.data)
        for sub_sequence, row in enumerate(deaggregate(record.data) or [whole]):
            position = KinesisPosition(shard_id, record.sequence_number, sub_sequence)
            event = self._decoder.decode_row(row, position)
            schema, table = (None, None) if event.table is None else (event.table.schema, event.table.name)
            for key in (event.key, event.related_key):
                for letter in self._wanted.get((schema, table, key_digest(key)), ()):
                    if letter in places and places[letter] < (number, sub_sequence):
                        self.moved_on.add(letter)
                        self.open_letters.discard(letter)
