"""The rows of a shard between the reader and the worker: records taken apart as late as possible, events made later."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final, final, overload

import msgspec

from cdc_core import Event

from ._aggregation import deaggregate
from ._leases import Checkpoint
from ._position import KinesisPosition
from ._record_data import RecordDecoder
from ._records import GotRecord
from ._row_heads import RowHead, RowHeads


@final
class SubRow(msgspec.Struct, frozen=True, gc=False):
    """One row of an aggregated record; `sub_sequence` is its number there, from 0. The rest is `SubRecord`'s."""

    sequence_number: str
    sub_sequence: int
    partition_key: str
    data: bytes
    head: RowHead | None
    heads: RowHeads | None


Row = GotRecord | SubRow


@final
class RowBuffer:
    """Records as they came, given out as rows.

    - `done`: the rows of this record up to its number are not given out: they were handled before.
    """

    def __init__(self, *, done: Checkpoint | None = None) -> None:
        self._done = done
        self._records: deque[GotRecord] = deque()
        self._rows: list[Row] = []
        self.size = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to take, however it was counted."""
        return not self._rows and not self._records

    def add(self, records: Sequence[GotRecord]) -> None:
        """Put records behind those that are there."""
        self.size += size_of(records)
        self._records.extend(records)

    def clear(self) -> None:
        """Forget everything."""
        self._records.clear()
        self._rows = []
        self.size = 0

    def take(self, *, max_rows: int, max_bytes: int) -> list[Row]:
        """Take the next rows; one that is larger than allowed comes alone. Empty where there are none."""
        self._expand(max_rows)
        rows = self._rows[:max_rows]
        if size_of(rows) > max_bytes:
            rows = rows[: _fitting(rows, max_bytes)]
        self._rows = self._rows[len(rows) :]
        self.size -= size_of(rows)
        return rows

    def _expand(self, wanted: int) -> None:
        rows, records = self._rows, self._records
        while len(rows) < wanted and records:
            record = records.popleft()
            parts = take_apart(record)
            done = self._done
            if done is not None and record.sequence_number == done.sequence_number:
                parts = _behind(parts, done.sub_sequence)
            if parts is None:
                rows.append(record)
            else:
                self.size += size_of(parts) - size_of((record,))
                rows.extend(parts)


@final
class EventBatch(Sequence[Event]):
    """Events that are made when somebody looks at them, each once.

    - `first_delivery`: the number of the first one in its stream.
    """

    __slots__ = ("_decoder", "_events", "_fence", "_rows", "_shard_id", "first_delivery")

    def __init__(
        self, rows: Sequence[Row], shard_id: str, decoder: RecordDecoder, fence: int, first_delivery: int
    ) -> None:
        self.first_delivery: Final = first_delivery
        self._rows = rows
        self._shard_id = shard_id
        self._decoder = decoder
        self._fence = fence
        self._events: list[Event | None] = [None] * len(rows)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int, /) -> Event: ...
    @overload
    def __getitem__(self, index: slice, /) -> Sequence[Event]: ...
    def __getitem__(self, index: int | slice, /) -> Event | Sequence[Event]:
        if isinstance(index, slice):
            return [self._event(number) for number in range(*index.indices(len(self._rows)))]
        return self._event(range(len(self._rows))[index])

    def __iter__(self) -> Iterator[Event]:
        return map(self._event, range(len(self._rows)))

    def checkpoint(self, number: int) -> Checkpoint:
        """Return the place of the event with this delivery number."""
        row = self._rows[number - self.first_delivery]
        return Checkpoint(row.sequence_number, _sub_sequence(row))

    def _event(self, index: int) -> Event:
        event = self._events[index]
        if event is None:
            event = self._events[index] = self._made(self._rows[index], self.first_delivery + index)
        return event

    def _made(self, row: Row, delivery: int) -> Event:
        number = row.sequence_number
        if isinstance(row, SubRow):
            position = KinesisPosition(self._shard_id, number, row.sub_sequence)
            return self._decoder.decode_row(row, position, self._fence, delivery)
        position = KinesisPosition(self._shard_id, number)
        return self._decoder.decode(row.data, row.partition_key, position, self._fence, delivery)


def take_apart(record: GotRecord) -> Sequence[SubRow] | None:
    """Return the rows of an aggregated record, None where it is none.

    A row whose hash key is outside of the shard comes like any other, where the KCL drops the whole record.
    """
    parts = deaggregate(record.data)
    if parts is None:
        return None
    number = record.sequence_number
    return [
        SubRow(number, sub, part.partition_key, part.data, part.head, part.heads)
        for sub, part in enumerate(parts)
    ]


def size_of(rows: Sequence[Row]) -> int:
    """Return the size of rows in bytes, as the service counts it."""
    return sum([len(row.data) + len(row.partition_key) for row in rows])


def _sub_sequence(row: Row) -> int:
    return row.sub_sequence if isinstance(row, SubRow) else 0


def _fitting(rows: Sequence[Row], max_bytes: int) -> int:
    """Return how many of the first rows fit; at least one."""
    size = 0
    for count, row in enumerate(rows):
        size += len(row.data) + len(row.partition_key)
        if size > max_bytes and count:
            return count
    return len(rows)


def _behind(parts: Sequence[SubRow] | None, sub_sequence: int) -> Sequence[SubRow]:
    """Return the rows behind one of a record; a record that is not aggregated has only the one."""
    return () if parts is None else parts[sub_sequence + 1 :]
