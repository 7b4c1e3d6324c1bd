"""Sequence numbers: 56 decimal digits, as the service's; growing within a shard, different between shards.

The layout is ours, and opaque to clients: from the top, the digit 2, the second in which the shard was
created (36 bits), the ordinal in the shard (64), the stream's generation (12), the second of arrival (36), the
shard's number (32), the digit 2. The creation time stands first so that a child's numbers follow its parents'.
"""

import re
from typing import NamedTuple, final

_LEAD = 2 << 184
_MARK = 2
_NUMBER = re.compile(r"0|[1-9]\d{0,128}")
GENERATIONS = 1 << 12
"""So many streams of one server have numbers of their own; then they repeat."""


class Sequence(NamedTuple):
    """What a sequence number says."""

    created_second: int
    ordinal: int
    generation: int
    arrived_second: int
    shard_number: int


@final
class Numbering:
    """Gives out one shard's sequence numbers."""

    def __init__(self, *, created_second: int, generation: int, shard_number: int) -> None:
        self.given = 0
        self._base = _LEAD | (created_second << 148) | (generation << 72) | (shard_number << 4) | _MARK

    def next(self, now: float) -> str:
        """The next number, for what arrives at a time."""
        ordinal = self.given
        self.given += 1
        return str(self._base + (ordinal << 84) + (int(now) << 36))


def parse_sequence(text: str) -> Sequence | None:
    """Take a sequence number apart; None where it cannot be one of this server's."""
    if not _NUMBER.fullmatch(text):
        return None
    value = int(text)
    if value >> 184 != 2 or value & 0xF != _MARK:
        return None
    return Sequence(
        created_second=(value >> 148) & (1 << 36) - 1,
        ordinal=(value >> 84) & (1 << 64) - 1,
        generation=(value >> 72) & (1 << 12) - 1,
        arrived_second=(value >> 36) & (1 << 36) - 1,
        shard_number=(value >> 4) & (1 << 32) - 1,
    )
