"""One frozen class per message of the logical replication protocol. Do not subclass them.

`xid` is the (sub)transaction of a message inside a stream block (protocol 2 and later), otherwise None: there
the transaction is named by the `Begin` before.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TypeAlias, final

from ._lsn import Lsn
from ._tuples import Row

__all__ = [
    "AnyMessage",
    "Begin",
    "BeginPrepare",
    "Column",
    "Commit",
    "CommitPrepared",
    "Delete",
    "Insert",
    "Message",
    "Origin",
    "Prepare",
    "Relation",
    "ReplicaIdentity",
    "RollbackPrepared",
    "StreamAbort",
    "StreamCommit",
    "StreamPrepare",
    "StreamStart",
    "StreamStop",
    "Truncate",
    "Type",
    "Update",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _moment(unix_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=unix_us)


@final
class ReplicaIdentity(Enum):
    """What the server sends of the old row of an update or delete (`pg_class.relreplident`)."""

    DEFAULT = "d"
    NOTHING = "n"
    FULL = "f"
    INDEX = "i"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column as the server announces it. `is_key` says that it belongs to the replica identity."""

    name: str
    type_oid: int
    type_modifier: int
    is_key: bool


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """Start of a transaction; `commit_lsn` is where it will commit, known before its first row."""

    commit_lsn: Lsn
    commit_time_us: int
    xid: int

    @property
    def commit_time(self) -> datetime:
        """Raises: OverflowError for a time beyond the year 9999."""
        return _moment(self.commit_time_us)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """End of a transaction. What is confirmed is `end_lsn`: the next transaction may begin exactly there."""

    flags: int
    commit_lsn: Lsn
    end_lsn: Lsn
    commit_time_us: int

    @property
    def commit_time(self) -> datetime:
        """Raises: OverflowError for a time beyond the year 9999."""
        return _moment(self.commit_time_us)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The transaction came from another node: its replication origin and the commit's LSN there."""

    commit_lsn: Lsn
    name: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """The shape of a table, in force for the rows that follow until the next one with the same
    `relation_id`.
    """

    relation_id: int
    schema: str
    name: str
    replica_identity: ReplicaIdentity
    columns: tuple[Column, ...]
    xid: int | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Type:
    """The name of a type that is not built in; sent before the Relation that uses it."""

    type_oid: int
    schema: str
    name: str
    xid: int | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Insert:
    """A row was inserted."""

    relation: Relation
    new: Row
    xid: int | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """`old` is None when the replica identity did not change and is not FULL; `old.is_key_only` tells a key
    from a row.

    Values that `new` did not receive because they are unchanged are filled from `old` where that has them.
    """

    relation: Relation
    old: Row | None
    new: Row
    xid: int | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """A row was deleted; `old.is_key_only` tells a key from a row."""

    relation: Relation
    old: Row
    xid: int | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Truncate:
    """Tables were emptied by one statement: those of them that are published."""

    relations: tuple[Relation, ...]
    cascade: bool
    restart_identity: bool
    xid: int | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What `pg_logical_emit_message` wrote."""

    transactional: bool
    lsn: Lsn
    prefix: str
    content: bytes
    xid: int | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStart:
    """A block of a transaction that still runs begins; `first_segment` says that it is the transaction's
    first.
    """

    xid: int
    first_segment: bool


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStop:
    """The block ends; the transaction does not."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StreamCommit:
    """A transaction that was sent in stream blocks commits."""

    xid: int
    flags: int
    commit_lsn: Lsn
    end_lsn: Lsn
    commit_time_us: int

    @property
    def commit_time(self) -> datetime:
        """Raises: OverflowError for a time beyond the year 9999."""
        return _moment(self.commit_time_us)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StreamAbort:
    """`sub_xid` equals `xid` when the whole transaction aborted. The last two are sent with `streaming =
    parallel` only.
    """

    xid: int
    sub_xid: int
    abort_lsn: Lsn | None = None
    abort_time_us: int | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BeginPrepare:
    """Start of a transaction that ends in `Prepare` instead of `Commit`."""

    prepare_lsn: Lsn
    end_lsn: Lsn
    prepare_time_us: int
    xid: int
    gid: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare:
    """End of a transaction that is prepared for a commit in two phases, and does not commit yet."""

    flags: int
    prepare_lsn: Lsn
    end_lsn: Lsn
    prepare_time_us: int
    xid: int
    gid: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CommitPrepared:
    """A transaction that was prepared commits."""

    flags: int
    commit_lsn: Lsn
    end_lsn: Lsn
    commit_time_us: int
    xid: int
    gid: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackPrepared:
    """A transaction that was prepared is rolled back."""

    flags: int
    prepare_end_lsn: Lsn
    rollback_end_lsn: Lsn
    prepare_time_us: int
    rollback_time_us: int
    xid: int
    gid: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPrepare:
    """A transaction that was sent in stream blocks is prepared."""

    flags: int
    prepare_lsn: Lsn
    end_lsn: Lsn
    prepare_time_us: int
    xid: int
    gid: str


AnyMessage: TypeAlias = (
    Begin
    | Commit
    | Origin
    | Relation
    | Type
    | Insert
    | Update
    | Delete
    | Truncate
    | Message
    | StreamStart
    | StreamStop
    | StreamCommit
    | StreamAbort
    | BeginPrepare
    | Prepare
    | CommitPrepared
    | RollbackPrepared
    | StreamPrepare
)
