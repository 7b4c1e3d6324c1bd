"""Shards and their descent: which need a lease row, which may be read, and whose rows have served. No I/O but a list.

A shard is closed by a split or a merge, and its records stay in it; its children hold what comes after. So a child is
read only once all its parents are done, and its row is there before the last parent's says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, final

from cdc_core import NotProvisioned

from ._aws import Aws
from ._errors import AwsError
from ._leases import AT_TIMESTAMP, LATEST, TRIM_HORIZON, Checkpoint, Lease
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

    - `unexpected`: the group knows none of its forebears either, or had its row before: somebody deleted it, or the
      stream's retention passed while nobody read. All that its shard still holds comes, perhaps again: warn.
    """

    lease: Lease
    unexpected: bool


async def list_shards(aws: Aws, stream_name: str) -> list[Shard]:
    """Return all shards that the stream still holds, open and closed, by id.

    No ShardFilter: local servers answer it differently or not at all.

    Raises:
        NotProvisioned: there is no such stream.
        AwsError, AwsAccessError, AnswerLost: see `Aws.call`.
    """
    shards: list[Shard] = []
    page: dict[str, Any] = {"StreamName": stream_name}
    while True:
        try:
            answer = await aws.call("kinesis", "list_shards", **page)
        except AwsError as error:
            if error.code != "ResourceNotFoundException":
                raise
            raise NotProvisioned("the stream does not exist", where={"stream": stream_name}) from error
        shards += [_shard_of(description) for description in answer["Shards"]]
        if not answer.get("NextToken"):
            return sorted(shards, key=lambda shard: shard.shard_id)
        page = {"NextToken": answer["NextToken"]}  # the service refuses the stream's name beside it


def children_of(shard_id: str, shards: Iterable[Shard]) -> list[ChildShard]:
    """Return a shard's children as a list of shards knows them, for where GetRecords did not name them."""
    return [
        ChildShard(
            shard_id=shard.shard_id,
            parents=tuple(sorted(shard.parents)),
            starting_hash_key=shard.starting_hash_key,
            ending_hash_key=shard.ending_hash_key,
        )
        for shard in shards
        if shard_id in shard.parents
    ]


def missing_rows(
    shards: Iterable[Shard], leases: Iterable[Lease], *, initial: Checkpoint | None
) -> list[MissingRow]:
    """Return the rows to create, parents first.

    At the group's initialisation every shard gets a row at `initial`, closed ones too: at AT_TIMESTAMP those that
    were closed before are at their end at once. Later a shard without a row gets one at TRIM_HORIZON, unless it is
    done: then one of its descendants has begun, which it may only after it. (Its own row has been deleted.) Where
    descendants have rows and none has begun, it gets what they have: a KCL that started at LATEST made rows for the
    open shards alone.

    - `shards`, `leases`: shards listed first, the table scanned right afterwards: what is done and deleted between
      the two would be read again.
    - `initial`: where the group starts, as long as its initialisation is not complete; None from then on.
    """
    family = _Family(shards, leases)
    missing: list[MissingRow] = []
    for shard in family.oldest_first():
        if shard.shard_id in family.leases or any(
            lease.checkpoint.has_begun for lease in family.rows_below(shard.shard_id)
        ):
            continue
        checkpoint = initial
        if checkpoint is None:
            below = {lease.checkpoint for lease in family.rows_below(shard.shard_id)}
            checkpoint = min(below & _TIMED, key=str, default=Checkpoint(TRIM_HORIZON))
        lease = Lease(
            shard_id=shard.shard_id,
            checkpoint=checkpoint,
            parents=shard.parents,
            starting_hash_key=shard.starting_hash_key,
            ending_hash_key=shard.ending_hash_key,
        )
        missing.append(
            MissingRow(lease=lease, unexpected=initial is None and not family.is_new(shard.shard_id))
        )
    return missing


def ready(shards: Iterable[Shard], leases: Iterable[Lease]) -> frozenset[str]:
    """Return the ids of the shards whose lease may be taken: they are not done, and all their parents are.

    A parent without a row is done where another of its descendants has begun, or the stream has dropped it, by a list
    that is younger than the child: in an older list a parent may be missing that is yet to be read. Shard ids are
    numbered as they are made, so a list is younger than a shard that it holds, or that a later number of it passes.

    A shard that the stream has dropped before it was done is among them: its reader finds it gone, and reports that.
    """
    family = _Family(shards, leases)
    return frozenset(
        lease.shard_id
        for lease in family.leases.values()
        if not lease.is_done
        and (
            lease.checkpoint.has_begun
            or all(family.is_done(parent, child=lease.shard_id) for parent in family.parents(lease.shard_id))
        )
    )


def deletable(shards: Iterable[Shard], leases: Iterable[Lease]) -> list[Lease]:
    """Return the rows that have served: of shards that are done, and whose children have all begun.

    Parents before their children: a row that is missing between two others would be taken for one never made.
    """
    family = _Family(shards, leases)
    return [
        lease
        for lease in family.leases.values()
        if lease.is_done
        and family.parents(lease.shard_id).isdisjoint(family.leases)
        and family.is_followed(lease.shard_id)
    ]


_TIMED: Final = frozenset({Checkpoint(AT_TIMESTAMP), Checkpoint(LATEST)})


@final
class _Family:
    """Who descends from whom, by what the stream says and what the rows say."""

    def __init__(self, shards: Iterable[Shard], leases: Iterable[Lease]) -> None:
        self.shards = {shard.shard_id: shard for shard in shards}
        self.leases = {lease.shard_id: lease for lease in leases}
        self._parents: dict[str, set[str]] = {}
        self._children: dict[str, set[str]] = {}
        for shard in self.shards.values():
            self._relate(shard.parents, {shard.shard_id})
        for lease in self.leases.values():
            self._relate(lease.parents, {lease.shard_id})
            self._relate({lease.shard_id}, lease.children)

    def parents(self, shard_id: str) -> set[str]:
        return self._parents.get(shard_id, set())

    def oldest_first(self) -> list[Shard]:
        depths: dict[str, int] = {}
        for shard_id in sorted(self.shards):
            self._measure(shard_id, depths)
        return sorted(self.shards.values(), key=lambda shard: (depths[shard.shard_id], shard.shard_id))

    def rows_below(self, shard_id: str) -> Iterator[Lease]:
        for descendant in self._walk(shard_id, self._children):
            if descendant in self.leases:
                yield self.leases[descendant]

    def is_new(self, shard_id: str) -> bool:
        """Return whether a shard without a row follows one that has a row, and was not named by it as its child."""
        known = [
            self.leases[ancestor]
            for ancestor in self._walk(shard_id, self._parents)
            if ancestor in self.leases
        ]
        return bool(known) and not any(lease.is_done and shard_id in lease.children for lease in known)

    def is_done(self, shard_id: str, *, child: str) -> bool:
        lease = self.leases.get(shard_id)
        if lease is not None:
            return lease.is_done
        if any(below.checkpoint.has_begun for below in self.rows_below(shard_id)):
            return True  # which it may only after it; the row was deleted by hand
        return shard_id not in self.shards and child <= max(self.shards, default="")

    def is_followed(self, shard_id: str) -> bool:
        """Return whether all children of a finished shard have begun, and none can be unknown."""
        children = self._children.get(shard_id, set())
        if not children:
            return shard_id not in self.shards
        return all(self._has_begun(child, parent=shard_id) for child in children)

    def _has_begun(self, shard_id: str, *, parent: str) -> bool:
        lease = self.leases.get(shard_id)
        if lease is not None:
            return lease.checkpoint.has_begun
        if any(below.checkpoint.has_begun for below in self.rows_below(shard_id)):
            return True
        return shard_id not in self.shards and parent not in self.shards

    def _relate(self, parents: Iterable[str], children: Iterable[str]) -> None:
        for parent in parents:
            for child in children:
                self._parents.setdefault(child, set()).add(parent)
                self._children.setdefault(parent, set()).add(child)

    def _walk(self, shard_id: str, relation: Mapping[str, set[str]]) -> Iterator[str]:
        seen: set[str] = set()
        waiting = list(relation.get(shard_id, ()))
        while waiting:
            relative = waiting.pop()
            if relative not in seen:
                seen.add(relative)
                waiting += relation.get(relative, ())
                yield relative

    def _measure(self, shard_id: str, depths: dict[str, int]) -> None:
        """Note how many generations stand above a shard; without recursion: a stream may be old."""
        waiting = [shard_id]
        while waiting:
            current = waiting[-1]
            parents = [parent for parent in self.parents(current) if parent in self.shards]
            unmeasured = [parent for parent in parents if parent not in depths]
            if unmeasured and current not in depths:
                waiting += unmeasured
                continue
            depths[current] = 1 + max((depths[parent] for parent in parents), default=0)
            waiting.pop()


def _shard_of(description: Mapping[str, Any]) -> Shard:
    parents = (description.get("ParentShardId"), description.get("AdjacentParentShardId"))
    hash_keys = description["HashKeyRange"]
    return Shard(
        shard_id=description["ShardId"],
        parents=frozenset(parent for parent in parents if parent),
        starting_hash_key=hash_keys["StartingHashKey"],
        ending_hash_key=hash_keys["EndingHashKey"],
        is_open=not description["SequenceNumberRange"].get("EndingSequenceNumber"),
    )
