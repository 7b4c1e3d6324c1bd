"""Reads letters back: first which there are, then those that are asked for, one in memory at a time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import final

import anyio
import msgspec

from cdc_core import DeadLetter, NotProvisioned

from ._aws import Aws
from ._errors import AwsError
from ._letter_chunks import Facts, decode_frame, decode_letter
from ._letter_index import Entry, LetterIndex, Place
from ._letter_stream import read_shard, shards_in_order
from ._records import GotRecord
from ._shards import Shard

# A record or shard that retention has trimmed away (GetShardIterator's errors).
_TRIMMED = frozenset({"InvalidArgumentException", "ResourceNotFoundException"})


@final
class LetterShelf:
    """Which letters of one source a dead-letter stream holds; what was read once is not read again.

    - `source`: whose letters; those of others in the same stream are passed over.
    """

    def __init__(self, aws: Aws, stream_name: str, *, source: str | None) -> None:
        self._aws = aws
        self._stream_name = stream_name
        self._source = source
        self._lock = anyio.Lock()
        self._reading_since: float | None = None
        self._forget()

    async def letters(self) -> Sequence[Entry]:
        """Return the letters that the stream holds now, in the order in which they were stored.

        Calls that wait for one another share one reading.

        Raises:
            NotProvisioned: there is no such stream.
            AwsError, AwsAccessError, AnswerLost: it could not be read.
        """
        asked_at = anyio.current_time()
        async with self._lock:
            if self._reading_since is None or self._reading_since < asked_at:
                since, self._reading_since = anyio.current_time(), None
                await self._read_on()
                self._reading_since = since
        return self._index.letters

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[LetterReader, None]:
        """Open a reader of letters that were found."""
        reader = LetterReader(self._aws, self._stream_name)
        try:
            yield reader
        finally:
            await reader.close()

    def _forget(self) -> None:
        self._index = LetterIndex(self._is_ours)
        self._read_to: dict[str, GotRecord] = {}
        self._times: dict[str, float] = {}
        self._ended: set[str] = set()

    async def _read_on(self) -> None:
        try:
            for shard in await shards_in_order(self._aws, self._stream_name):
                if shard.shard_id not in self._ended:
                    await self._read_shard(shard)
        except NotProvisioned as error:
            self._forget()
            raise NotProvisioned(
                "the dead-letter stream does not exist", where={"stream": self._stream_name}
            ) from error
        except AwsError:
            # whatever it was, the next reading is a whole one: the stream may have been made anew
            self._forget()
            raise

    async def _read_shard(self, shard: Shard) -> None:
        shard_id = shard.shard_id
        now = max((self._times.get(parent, 0.0) for parent in shard.parents), default=0.0)
        now = max(now, self._times.get(shard_id, 0.0))
        last = self._read_to.get(shard_id)
        pages = read_shard(
            self._aws,
            self._stream_name,
            shard_id,
            start=None if last is None else last.sequence_number,
            after=last is not None,
        )
        async with aclosing(pages):
            async for page in pages:
                for record in page:
                    # these times are approximate; what counts is that they never go back
                    now = max(now, record.arrived_at)
                    _take(self._index, shard_id, record, now)
                self._read_to[shard_id] = msgspec.structs.replace(page[-1], data=b"")
                self._times[shard_id] = now
        if not shard.is_open:
            self._ended.add(shard_id)

    def _is_ours(self, letter: str, facts: Facts) -> bool:
        return self._source is None or facts.source == self._source


@final
class LetterReader:
    """Fetches the bodies of letters, one in memory at a time; for one task."""

    def __init__(self, aws: Aws, stream_name: str) -> None:
        self._aws = aws
        self._stream_name = stream_name
        self._cursors: dict[str, _Cursor] = {}

    async def fetch(self, entry: Entry) -> DeadLetter | None:
        """Return a letter that was found; None where it is trimmed away since.

        Letters cost least in the order in which they were found: neighbours are on one page.
        """
        shard_id = entry.first.shard_id
        cursor = self._cursors.get(shard_id)
        if cursor is None:
            cursor = self._cursors[shard_id] = _Cursor(self._aws, self._stream_name, shard_id)
        try:
            body = await cursor.body_of(entry)
        except AwsError as error:
            if error.code not in _TRIMMED:
                raise
            return None
        return None if body is None else decode_letter(entry.letter, entry.facts, body)

    async def close(self) -> None:
        """Let go of the pages that are held."""
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
