"""What goes over the wire of the data plane, whichever client sends it.

The structs bear the names of the JSON protocol beside ours, so that they are written and read without a dictionary
or base64 string of Python's in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, final

import msgspec


def _pascal_or_arrival(field: str) -> str:
    if field == "arrived_at":
        return "ApproximateArrivalTimestamp"
    return "".join(part.capitalize() for part in field.split("_"))


@final
class PutEntry(msgspec.Struct, frozen=True, gc=False, rename="pascal"):
    """One record to put; `explicit_hash_key` in decimal, the point of the hash space that decides its shard."""

    data: bytes
    partition_key: str
    explicit_hash_key: str


@final
class Stored(msgspec.Struct, frozen=True, gc=False, rename="pascal"):
    """An entry that the service stored."""

    shard_id: str
    sequence_number: str


@final
class Refused(msgspec.Struct, frozen=True, gc=False, rename={"code": "ErrorCode", "message": "ErrorMessage"}):
    """An entry that the service did not store, with its own code: throttling or an internal failure."""

    code: str
    message: str


PutOutcome = Stored | Refused


@final
class GotRecord(msgspec.Struct, frozen=True, gc=False, rename=_pascal_or_arrival):
    """One record as it stands in a shard; `arrived_at` in seconds since 1970."""

    sequence_number: str
    partition_key: str
    data: bytes
    arrived_at: float


@final
class ChildShard(msgspec.Struct, frozen=True, gc=False):
    """A shard that follows a closed one: by a split one parent, by a merge two."""

    shard_id: str
    parents: tuple[str, ...]
    starting_hash_key: str
    ending_hash_key: str


@final
class Page(msgspec.Struct, frozen=True, gc=False):
    """One answer of GetRecords, or one event of SubscribeToShard.

    - `next_iterator`: of GetRecords; None at the end of a closed shard.
    - `millis_behind_latest`: None where the service did not say.
    - `continuation`: of SubscribeToShard, the sequence number behind which it goes on; None at the end as well.
    """

    records: Sequence[GotRecord]
    next_iterator: str | None
    millis_behind_latest: int | None
    children: Sequence[ChildShard] = ()
    continuation: str | None = None

    @property
    def is_last(self) -> bool:
        """Whether a closed shard has nothing behind it."""
        return self.next_iterator is None and self.continuation is None


class DataClient(Protocol):
    """PutRecords and GetRecords; one try each, no retries."""

    async def put_records(
        self, entries: Sequence[PutEntry], *, timeout_seconds: float
    ) -> Sequence[PutOutcome]:
        """Put records, 500 at most; the outcomes stand in the order of the entries.

        Raises:
            AnswerLost: all, some or none may have been stored, now or a little later.
            AwsError, AwsAccessError: the whole request was refused, and nothing stored.
        """
        ...

    async def get_records(self, iterator: str, *, limit: int, timeout_seconds: float) -> Page:
        """Get the next records of a shard.

        Raises:
            AnswerLost: no answer.
            AwsError: its `code` is ExpiredIteratorException, ProvisionedThroughputExceededException and the like.
        """
        ...
