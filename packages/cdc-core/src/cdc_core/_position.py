"""The two identities of an event: where this delivery was read from, and which change it is."""

from __future__ import annotations

import re
from typing import NewType, Protocol, final

import msgspec

from ._errors import CdcError

Lane = NewType("Lane", str)
"""The narrowest unit within which identities only grow: a Kafka partition, ordering key, bucket or slot."""


class Position(Protocol):
    """The place of one delivery in its source: opaque, hashable, printable; known without decoding.

    Each transport has its own: an LSN and ordinal, a topic's partition and offset, a shard and sequence number.
    """

    def __hash__(self) -> int: ...

    def __str__(self) -> str: ...


@final
class Partition(msgspec.Struct, frozen=True):
    """The name of a unit of ownership.

    - `source`: the topic, stream, subscription or database it belongs to.
    - `id`: what names it there: a partition number, a shard id, a slot name.
    """

    source: str
    id: str

    def __str__(self) -> str:
        return f"{self.source}/{self.id}"


class IncomparableIdentities(CdcError):
    """Two identities of different epochs or kinds were compared: neither is older than the other."""


@final
class Epoch(msgspec.Struct, frozen=True):
    """Within one epoch, the identities of a slot's changes are comparable; across epochs they are not.

    - `system_id`: the cluster's system identifier (`IDENTIFY_SYSTEM`), decimal.
    - `timeline`: the timeline that the server wrote on.
    - `slot`: the replication slot's name.
    - `fingerprint`: a digest of the options that change what the server sends (publication names, origin).
    """

    system_id: str
    timeline: int
    slot: str
    fingerprint: str

    def __str__(self) -> str:
        return f"{self.system_id}:{self.timeline}:{self.slot}:{self.fingerprint}"


@final
class ChangeIdentity(msgspec.Struct, frozen=True, gc=False):
    """A change read from the write-ahead log: the same on every repeat (an LSN alone is none: rows share it).

    - `commit_lsn`: the LSN of the transaction's commit record, or of a non-transactional message itself.
    - `ordinal`: the number of the row message in its transaction, from 0, counted before any filter of ours.
    - `sub_index`: where one message makes several events: a change of the key is 0 delete, 1 tombstone, 2 create;
      a truncate's i-th table is i.

    Identities of one epoch are ordered; comparing across epochs raises `IncomparableIdentities`.
    """

    epoch: Epoch
    commit_lsn: int
    ordinal: int
    sub_index: int = 0

    def __lt__(self, other: ChangeIdentity) -> bool:
        return self._key(other) < (other.commit_lsn, other.ordinal, other.sub_index)

    def __le__(self, other: ChangeIdentity) -> bool:
        return self._key(other) <= (other.commit_lsn, other.ordinal, other.sub_index)

    def __gt__(self, other: ChangeIdentity) -> bool:
        return not self <= other

    def __ge__(self, other: ChangeIdentity) -> bool:
        return not self < other

    def __str__(self) -> str:
        lsn = f"{self.commit_lsn >> 32:X}/{self.commit_lsn & 0xFFFFFFFF:X}"
        return f"{self.epoch}:{lsn}:{self.ordinal}.{self.sub_index}"

    def _key(self, other: ChangeIdentity) -> tuple[int, int, int]:
        if self.epoch != other.epoch:
            raise IncomparableIdentities(
                "identities of different epochs have no order",
                where={"epoch": self.epoch, "other epoch": other.epoch},
                remedy="compare within one epoch, and start anew when the epoch changes",
            )
        return (self.commit_lsn, self.ordinal, self.sub_index)


@final
class SnapshotIdentity(msgspec.Struct, frozen=True):
    """A row read by a snapshot; not comparable with changes.

    - `run`: the snapshot run's id; `table`: `schema.name`; `chunk` and `row`: numbers from 0.
    """

    run: str
    table: str
    chunk: int
    row: int

    def __str__(self) -> str:
        return f"snapshot:{self.run}:{self.chunk}:{self.row}:{self.table}"


@final
class OpaqueIdentity(msgspec.Struct, frozen=True):
    """A change of a foreign reader (Debezium): equal or not, never ordered."""

    value: str

    def __str__(self) -> str:
        return f"opaque:{self.value}"


Identity = ChangeIdentity | SnapshotIdentity | OpaqueIdentity
"""The change itself, the same on every repeat; `str()` of it is stable and `parse_identity` reads it back."""

_CHANGE = re.compile(
    r"(\d+):(\d+):([a-z0-9_]+):([^:]*):([0-9A-F]{1,8})/([0-9A-F]{1,8}):(\d+)\.(\d+)", re.ASCII
)
_SNAPSHOT = re.compile(r"snapshot:([^:]+):(\d+):(\d+):(.+)", re.ASCII | re.DOTALL)


def parse_identity(text: str) -> Identity:
    """Read an identity back from `str(identity)`.

    Raises:
        ValueError: the text is none that an identity prints.
    """
    if (found := _CHANGE.fullmatch(text)) is not None:
        system_id, timeline, slot, fingerprint, high, low, ordinal, sub_index = found.groups()
        epoch = Epoch(system_id, int(timeline), slot, fingerprint)
        return ChangeIdentity(epoch, (int(high, 16) << 32) | int(low, 16), int(ordinal), int(sub_index))
    if (found := _SNAPSHOT.fullmatch(text)) is not None:
        return SnapshotIdentity(found[1], found[4], int(found[2]), int(found[3]))
    if text.startswith("opaque:"):
        return OpaqueIdentity(text.removeprefix("opaque:"))
    raise ValueError(f"not an identity: {text[:80]!r}")
