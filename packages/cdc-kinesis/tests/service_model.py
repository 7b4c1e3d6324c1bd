"""A model of PutRecords: entries refused at random, answers lost, requests carried out late."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

from cdc_core import ChangeIdentity
from cdc_kinesis._aggregation import SubRecord, deaggregate
from cdc_kinesis._record_data import RecordDecoder
from cdc_kinesis._records import PutEntry, PutOutcome, Refused, Stored


@final
@dataclass
class ServiceModel:
    """Stores entries by hash key; the chances are of each entry, and of each request.

    `late`: a request whose answer was lost is carried out after it was given up, with this chance.
    """

    rng: random.Random
    refused: float = 0.0
    lost: float = 0.0
    late: float = 0.0
    stored: dict[str, list[int]] = field(default_factory=lambda: defaultdict[str, list[int]](list))
    _late: list[Sequence[PutEntry]] = field(default_factory=list[Sequence[PutEntry]])

    def put(self, entries: Sequence[PutEntry]) -> Sequence[PutOutcome] | None:
        """Return the answer, None for a lost one."""
        if self._late and self.rng.random() < 0.5:
            self._carry_out(self._late.pop(0))
        if self.rng.random() >= self.lost:
            return self._carry_out(entries)
        if self.rng.random() < self.late:
            self._late.append(entries)
        elif self.rng.random() < 0.5:
            self._carry_out(entries)
        return None

    def _carry_out(self, entries: Sequence[PutEntry]) -> Sequence[PutOutcome]:
        return [self._store(entry) for entry in entries]

    def _store(self, entry: PutEntry) -> PutOutcome:
        if self.rng.random() < self.refused:
            return Refused("ProvisionedThroughputExceededException", "")
        whole = SubRecord(entry.partition_key, None, entry.data)
        self.stored[entry.explicit_hash_key] += map(number_of, deaggregate(entry.data) or [whole])
        return Stored("shardId-000000000000", "1")


def number_of(row: SubRecord) -> int:
    """Return the number of a row, its identity's ordinal."""
    identity = RecordDecoder(()).decode_row(row, "nowhere").identity
    assert isinstance(identity, ChangeIdentity)
    return identity.ordinal


def first_occurrences(stored: Sequence[int]) -> list[int]:
    """Return what is stored without its repeats."""
    return list(dict.fromkeys(stored))


def kept_by_a_consumer_with_a_mark(stored: Sequence[int]) -> list[int]:
    """Return what comes through where a consumer drops what is not newer than the newest it had."""
    kept: list[int] = []
    for number in stored:
        if not kept or number > kept[-1]:
            kept.append(number)
    return kept
