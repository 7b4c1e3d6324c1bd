"""Rows of one bucket made into one Kinesis record, whose bytes are final from then on."""

from __future__ import annotations

from collections import deque
from hashlib import blake2b
from typing import Final, final

from cdc_core import OutgoingEvent, TableId

from ._aggregation import EMPTY_BYTES, ROW_OVERHEAD_BYTES, Aggregate
from ._record_data import RecordEncoder
from ._records import PutEntry

_AGGREGATE_KEY: Final = "a"
_MAX_PARTITION_KEY_CHARACTERS: Final = 256


@final
class Sealer:
    """Takes rows from the left of a bucket.

    - `max_aggregate_bytes`: of an aggregated record; 0 for a record for each row.
    - `max_record_bytes`: what the stream takes: data and partition key.
    """

    def __init__(self, *, max_aggregate_bytes: int, max_record_bytes: int) -> None:
        self._max_record_bytes = max_record_bytes
        self._max_aggregate_bytes = min(max_aggregate_bytes, max_record_bytes - len(_AGGREGATE_KEY))
        self._encoder = RecordEncoder()

    def seal(
        self, rows: deque[OutgoingEvent], bucket: int, hash_key: str, *, single: bool = False
    ) -> tuple[PutEntry | None, list[OutgoingEvent], int]:
        """Take the next rows; return their record, the rows, and the record's size: data and partition key.

        There has to be a row. One that is too large for the stream comes alone, with None for its record.

        - `single`: take one row only.
        """
        aggregate = Aggregate(hash_key)
        keys, written = aggregate.partition_keys, aggregate.rows
        encode, size = self._encoder.encode, EMPTY_BYTES
        limit = 0 if single else self._max_aggregate_bytes
        for row in rows:
            key = row.key
            if not key or len(key) > _MAX_PARTITION_KEY_CHARACTERS or not key.isascii():
                key = partition_key(key, row.table)
            data = encode(row, bucket)
            size += len(data) + len(key) + ROW_OVERHEAD_BYTES
            if size > limit and keys:
                break
            keys.append(key)
            written.append(data)
            if size > limit:
                break
        taken = [rows.popleft() for _ in keys]
        if len(taken) > 1:
            # as the KPL does: the partition key of an aggregate decides nothing
            entry = PutEntry(aggregate.finish(), _AGGREGATE_KEY, hash_key)
            return entry, taken, len(entry.data) + len(_AGGREGATE_KEY)
        # the KPL does not aggregate a single row either
        size = len(written[0]) + len(keys[0])
        fits = size <= self._max_record_bytes
        return PutEntry(written[0], keys[0].decode(), hash_key) if fits else None, taken, size


def partition_key(key: bytes | None, table: TableId | None) -> bytes:
    """Return the partition key of an event, in UTF-8.

    It is the text of the key where that has 1 to 256 characters (API reference of PutRecords), otherwise the key's
    BLAKE2b in hexadecimal; without a key the table; without a table `-`. It decides nothing: the hash key does.
    """
    if key is None:
        key = b"-" if table is None else str(table).encode()
    try:
        if 0 < len(key.decode()) <= _MAX_PARTITION_KEY_CHARACTERS:
            return key
    except UnicodeDecodeError:
        pass
    return blake2b(key, digest_size=16).hexdigest().encode()
