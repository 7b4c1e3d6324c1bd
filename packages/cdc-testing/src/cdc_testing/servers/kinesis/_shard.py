import bisect
from typing import Any, final

import msgspec

from ._limits import Rates, ShardMeter
from ._sequence import Numbering, Sequence


@final
class Record(msgspec.Struct, rename="pascal", frozen=True, gc=False, omit_defaults=True):
    """A stored record, in the service's words; the arrival in seconds since 1970, to the millisecond."""

    sequence_number: str
    approximate_arrival_timestamp: float
    data: bytes
    partition_key: str
    encryption_type: str | None = None


@final
class Shard:
    """A range of the hash space and the records that fell into it, in order."""

    def __init__(
        self,
        number: int,
        first_hash: int,
        last_hash: int,
        *,
        created_at: float,
        generation: int,
        parents: "tuple[Shard, ...]" = (),
    ) -> None:
        self.number = number
        self.shard_id = f"shardId-{number:012d}"
        self.first_hash = first_hash
        self.last_hash = last_hash
        self.created_at = created_at
        self.generation = generation
        self.parents = parents
        self.children: list[Shard] = []
        self.closed_at: float | None = None
        self.records: list[Record] = []
        self.meter: ShardMeter | None = None
        # A child's numbers follow its parents' even when it is made in the same second.
        self.created_second: int = max(int(created_at), *(parent.created_second + 1 for parent in parents), 0)
        self._numbering = Numbering(
            created_second=self.created_second, generation=generation, shard_number=number
        )
        self._first_ordinal = 1
        self.first_sequence = self._numbering.next(created_at)
        self.last_sequence: str | None = None

    @property
    def is_open(self) -> bool:
        return self.closed_at is None

    @property
    def next_position(self) -> int:
        """The position of the record to come; positions count a shard's records, trimmed ones included."""
        return self._first_ordinal + len(self.records)

    def append(self, data: bytes, partition_key: str, now: float, encryption_type: str | None) -> str:
        """Store a record and return its sequence number."""
        number = self._numbering.next(now)
        self.records.append(Record(number, now, data, partition_key, encryption_type))
        return number

    def close(self, now: float) -> None:
        """Take no more records; the last sequence number stands after every record's."""
        self.last_sequence = self._numbering.next(now)
        self.closed_at = now

    def position_of(self, number: str, sequence: Sequence) -> int | None:
        """The position that a sequence number of this shard names; None where it is none of its numbers."""
        shard = (sequence.shard_number, sequence.generation, sequence.created_second)
        if (
            shard != (self.number, self.generation, self.created_second)
            or sequence.ordinal >= self._numbering.given
        ):
            return None
        if sequence.ordinal == 0:
            known: str | None = self.first_sequence
        elif sequence.ordinal < self._first_ordinal:
            known = number  # trimmed: nobody remembers it
        elif sequence.ordinal < self.next_position:
            known = self.records[sequence.ordinal - self._first_ordinal].sequence_number
        else:
            known = self.last_sequence
        return sequence.ordinal if number == known else None

    def trim(self, before: float) -> None:
        """Drop the records that arrived before a time."""
        count = bisect.bisect_left(self.records, before, key=_arrival)
        del self.records[:count]
        self._first_ordinal += count

    def index_at(self, position: int) -> int:
        """The index in `records` of the first one at or after a position."""
        return max(0, position - self._first_ordinal)

    def number_before(self, index: int) -> str:
        """The sequence number after which reading goes on with the record at an index in `records`."""
        return self.records[index - 1].sequence_number if index > 0 else self.first_sequence

    def position_at_time(self, timestamp: float) -> int:
        """The position of the first record that arrived at or after a time."""
        index = bisect.bisect_left(self.records, timestamp, key=_arrival)
        return self._first_ordinal + index

    def measure(self, rates: Rates, now: float) -> ShardMeter:
        """What it has borne lately; kept from the first call on."""
        if self.meter is None:
            self.meter = ShardMeter(rates, now)
        return self.meter

    def describe(self) -> dict[str, Any]:
        """The service's Shard structure."""
        numbers = {"StartingSequenceNumber": self.first_sequence}
        if self.last_sequence is not None:
            numbers["EndingSequenceNumber"] = self.last_sequence
        description: dict[str, Any] = {"ShardId": self.shard_id}
        for name, parent in zip(("ParentShardId", "AdjacentParentShardId"), self.parents, strict=False):
            description[name] = parent.shard_id
        description["HashKeyRange"] = self.hash_key_range()
        description["SequenceNumberRange"] = numbers
        return description

    def describe_child(self) -> dict[str, Any]:
        """The service's ChildShard structure."""
        return {
            "ShardId": self.shard_id,
            "ParentShards": [parent.shard_id for parent in self.parents],
            "HashKeyRange": self.hash_key_range(),
        }

    def hash_key_range(self) -> dict[str, str]:
        return {"StartingHashKey": str(self.first_hash), "EndingHashKey": str(self.last_hash)}


def _arrival(record: Record) -> float:
    return record.approximate_arrival_timestamp
