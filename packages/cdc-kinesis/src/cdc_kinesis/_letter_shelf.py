"""Reads letters back: first which there are, then those that are asked for, one in memory at a time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import final

from cdc_core import DeadLetter, NotProvisioned

from ._aws import Aws
from ._errors import AwsError
from ._letter_chunks import Facts, decode_frame, decode_letter
from ._letter_index import Entry, LetterIndex, Place
from ._letter_stream import read_shard, shards_in_order
from ._records import GotRecord

# A record or shard that retention has trimmed away (GetShardIterator's errors).
_TRIMMED = frozenset({"InvalidArgumentException", "ResourceNotFoundException"})


@final
class LetterShelf:
    """The letters of one dead-letter stream; `close` it, for it may hold a shard's page."""

    def __init__(self, aws: Aws, stream_name: str) -> None:
        self._aws = aws
        self._stream_name = stream_name
        self._cursors: dict[str, _Cursor] = {}

    async def find(self, wanted: Callable[[str, Facts], bool]) -> Sequence[Entry]:
        """Read the stream from its oldest record to its newest, and return what it holds of what is wanted.

        Raises:
            NotProvisioned: there is no such stream.
            AwsError, AwsAccessError, AnswerLost: it could not be read.
        """
        index = LetterIndex(wanted)
        ended_at: dict[str, float] = {}
        try:
            for shard in await shards_in_order(self._aws, self._stream_name):
                now = max((ended_at.get(parent, 0.0) for parent in shard.parents), default=0.0)
                async with aclosing(read_shard(self._aws, self._stream_name, shard.shard_id)) as pages:
                    async for page in pages:
                        for record in page:
                            # these times are approximate; what counts is that they never go back
                            now = max(now, record.arrived_at)
                            _take(index, shard.shard_id, record, now)
                ended_at[shard.shard_id] = now
        except AwsError as error:
            if error.code != "ResourceNotFoundException":
                raise
            raise NotProvisioned(
                "the dead-letter stream does not exist", where={"stream": self._stream_name}
            ) from error
        return index.letters

    async def fetch(self, entry: Entry) -> DeadLetter | None:
        """Return a letter that was found; None where it is trimmed away since.

        Letters cost least in the order in which they were found: neighbours are on one page.
        """
        cursor = self._cursors.setdefault(
            entry.first.shard_id, _Cursor(self._aws, self._stream_name, entry.first.shard_id)
        )
        try:
            body = await cursor.body_of(entry)
        except AwsError as error:
            if error.code not in _TRIMMED:
                raise
            return None
        return None if body is None else decode_letter(entry.letter, entry.facts, body)

    async def close(self) -> None:
        """Let go of what is held."""
        for cursor in self._cursors.values():
            await cursor.close()


@final
class _Cursor:
    """A place in a shard, with the page around it."""

    def __init__(self, aws: Aws, stream_name: str, shard_id: str) -> None:
        self._aws = aws
        self._stream_name = stream_name
        self._shard_id = shard_id
        self._pages: AsyncGenerator[Sequence[GotRecord], None] | None = None
        self._page: Sequence[GotRecord] = ()
        self._next = 0

    async def body_of(self, entry: Entry) -> bytes | None:
        await self._go_to(entry.first.sequence_number)
        chunks: dict[int, bytes] = {}
        while len(chunks) < entry.count:
            record = await self._take()
            if record is None or int(record.sequence_number) > entry.last.sequence_number:
                return None
            frame = decode_frame(record.data)
            if frame is not None and (frame.header.letter, frame.header.copy) == (entry.letter, entry.copy):
                chunks[frame.header.number] = frame.chunk
        return b"".join(chunks[number] for number in range(entry.count))

    async def close(self) -> None:
        if self._pages is not None:
            await self._pages.aclose()
            self._pages = None
        self._page, self._next = (), 0

    async def _go_to(self, sequence_number: int) -> None:
        for place, record in enumerate(self._page):
            if int(record.sequence_number) == sequence_number:
                self._next = place
                return
        await self.close()
        self._pages = read_shard(self._aws, self._stream_name, self._shard_id, start=str(sequence_number))

    async def _take(self) -> GotRecord | None:
        while self._next >= len(self._page):
            page = None if self._pages is None else await anext(self._pages, None)
            if page is None:
                return None
            self._page, self._next = page, 0
        self._next += 1
        return self._page[self._next - 1]


def _take(index: LetterIndex, shard_id: str, record: GotRecord, arrived_at: float) -> None:
    if (frame := decode_frame(record.data)) is not None:
        place = Place(shard_id=shard_id, sequence_number=int(record.sequence_number), arrived_at=arrived_at)
        index.add(place, frame)
