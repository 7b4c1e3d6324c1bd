"""Where a delivery stands: the shard, the record's sequence number, and the place inside an aggregated record."""

from __future__ import annotations

from typing import final

import msgspec


@final
class KinesisPosition(msgspec.Struct, frozen=True, gc=False):
    """The place of one delivery.

    - `shard_id`; `sequence_number`: decimal, growing within the shard, unique there only.
    - `sub_sequence`: the number inside an aggregated record, from 0; 0 for a record that is none.
    """

    shard_id: str
    sequence_number: str
    sub_sequence: int = 0

    def __str__(self) -> str:
        return f"{self.shard_id}:{self.sequence_number}:{self.sub_sequence}"
