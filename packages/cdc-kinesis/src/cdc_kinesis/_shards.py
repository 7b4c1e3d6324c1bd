"""Shards and their descent: which need a lease row, which may be read, and whose rows have served. No I/O but a list.

A shard is closed by a split or a merge, and its records stay in it; its children hold what comes after. So a child is
read only once all its parents are done, and its row is there before the last parent's says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, final

from ._aws import Aws
from ._leases import Checkpoint, Lease
from ._records import ChildShard


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One shard as ListShards tells it; `parents`: one after a split, two after a merge, gone or not."""

    shard_id: str
    parents: frozenset[str]
    starting_hash_key: str
    ending_hash_key: str
    is_open: bool


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MissingRow:
    """A row to create.

    - `unexpected`: it must have been there before: somebody deleted it, or the stream's retention passed while nobody
      read. Its shard is read again from the beginning; warn.
    """

    lease: Lease
    unexpected: bool


async def list_shards(aws: Aws, stream_name: str) -> list[Shard]:
    """Return all shards that the stream still holds, open and closed, by id."""
    raise NotImplementedError


def children_of(shard_id: str, shards: Iterable[Shard]) -> list[ChildShard]:
    """Return a shard's children as a list of shards knows them, for where GetRecords did not name them."""
    raise NotImplementedError


def missing_rows(
    shards: Iterable[Shard], leases: Iterable[Lease], *, initial: Checkpoint | None
) -> list[MissingRow]:
    """Return the rows to create, parents first.

    - `shards`, `leases`: listed and scanned right before, in this order.
    - `initial`: where the group starts, as long as its initialisation is not complete; None from then on.
    """
    raise NotImplementedError


def ready(shards: Iterable[Shard], leases: Iterable[Lease]) -> frozenset[str]:
    """Return the ids of the shards whose lease may be taken: not done, and no parent has anything left."""
    raise NotImplementedError


def deletable(shards: Iterable[Shard], leases: Iterable[Lease]) -> list[Lease]:
    """Return the rows of finished shards that nobody needs any more, oldest first."""
    raise NotImplementedError
