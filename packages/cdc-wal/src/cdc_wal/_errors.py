"""What can go wrong with a PostgreSQL server, each under the core error that says who acts, and what mends it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from cdc_core import AccessError, CdcError, ConfigError, NotProvisioned, SourceError, TableId, redact
from cdc_pgoutput import Lsn


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """The changes that a lost slot can no longer deliver.

    - `from_lsn`: the last LSN that was confirmed; None where nobody knows it any more.
    - `to_lsn`: where the log stood when the loss was seen; None where it could not be read.
    - `tables`: the tables whose changes are missing, as far as they are known.
    """

    from_lsn: int | None
    to_lsn: int | None
    tables: tuple[TableId, ...] = ()


class ConnectionLost(SourceError):
    """The connection to the server broke, or none could be made; connecting again may succeed."""

    retryable = True


class ServerStopping(ConnectionLost):
    """The server ended the session (57P01), crashed (57P02), or is starting up or shutting down (57P03)."""


class SlotLost(SourceError):
    """The slot cannot deliver what it has to: invalidated, recreated, foreign, or not the one that was confirmed.

    `gap` says what is missing; nothing is skipped silently, the operator chooses.
    """

    def __init__(
        self, message: str, *, gap: Gap, where: Mapping[str, object] | None = None, remedy: str = ""
    ) -> None:
        super().__init__(message, where=where, remedy=remedy)
        self.gap = gap


class TruncateNotPublished(SourceError):
    """A TRUNCATE was not published: no broker with partitions can order it with the rows of its tables.

    - `tables`: those that it emptied, as far as the publication has them; `commit_lsn`: of its transaction.
    """

    def __init__(self, *, tables: tuple[TableId, ...], commit_lsn: int, slot_name: str) -> None:
        names = ", ".join(map(str, tables))
        super().__init__(
            f"TRUNCATE of {names} was not published",
            where={"tables": names, "commit_lsn": Lsn(commit_lsn), "slot": slot_name},
            remedy="empty the copies of these tables yourself where they have to be, then go on behind it with"
            " truncate='dead_letter' in WalConfig; or truncate='deliver', where any order will do",
        )
        self.tables = tables
        self.commit_lsn = commit_lsn


class SlotInUse(SourceError):
    """Another reader holds the slot; it is free again when that one leaves, so waiting may help."""

    retryable = True


class SlotMissing(NotProvisioned):
    """The replication slot does not exist."""


class PublicationMissing(NotProvisioned):
    """The publication does not exist, or did not exist yet where the slot stands in the log."""


class WrongPlugin(ConfigError):
    """The slot of that name is physical, of another output plugin, or of another database."""


class WalLevelTooLow(SourceError):
    """The server runs without `wal_level = logical`."""


class NoFreeSlot(SourceError):
    """All of `max_replication_slots` are taken."""


class NoFreeWalSender(SourceError):
    """All of `max_wal_senders` are taken; one becomes free when a replica or reader leaves."""

    retryable = True


class SlotCreationBlocked(SourceError):
    """The slot could not be created in time: it waits for transactions that were open when it began.

    `blockers` names them: pid, xid, age and application name.
    """

    retryable = True

    def __init__(
        self,
        message: str,
        *,
        blockers: tuple[Mapping[str, object], ...] = (),
        where: Mapping[str, object] | None = None,
        remedy: str = "",
    ) -> None:
        super().__init__(message, where=where, remedy=remedy)
        self.blockers = blockers


class MissingPrivilege(AccessError):
    """The role may not do what is asked of it."""


class NoReplicaIdentity(ConfigError):
    """Publishing this table for updates or deletes would make the server refuse the user's own statements."""


class EncodingUnsupported(ConfigError):
    """The database's encoding is SQL_ASCII: its bytes have no known meaning as text."""


class ServerTooOld(ConfigError):
    """The server is older than PostgreSQL 14."""


class StatementFailed(SourceError):
    """The server refused a statement of ours for a reason that none of the other classes names."""


def sqlstate_of(error: BaseException) -> str | None:
    """Return the SQLSTATE that an error of this package came from, None where the server sent none."""
    state = error.where.get("sqlstate") if isinstance(error, CdcError) else None
    return state if isinstance(state, str) else None


def server_error(
    sqlstate: str | None, message: str, *, where: Mapping[str, object] | None = None
) -> CdcError:
    """Make the typed error of a server's error response.

    - `message`: its primary message only (DETAIL may hold a row's values); credentials in it are blotted out.
    """
    state = sqlstate or ""
    kind, retryable, remedy = _BY_STATE.get(state) or _BY_CLASS.get(state[:2]) or (StatementFailed, False, "")
    # class 53 is a shortage of resources; 40 a transaction that may simply be run again
    place = {"sqlstate": sqlstate, **(where or {})} if sqlstate else dict(where or {})
    return kind(
        f"the server refused: {redact(message.strip())}", where=place, remedy=remedy, retryable=retryable
    )


_Row = tuple[type[AccessError] | type[ConfigError] | type[SourceError], bool, str]

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_BY_CLASS: dict[str, _Row] = {
    "08": (ConnectionLost, True, ""),
    "28": (AccessError, False, "check the role, its password and pg_hba.conf"),
    "40": (StatementFailed, True, ""),
    "53": (StatementFailed, True, "free resources on the server, or raise its limits"),
}
_BY_STATE: dict[str, _Row] = {
    "42501": (MissingPrivilege, False, "grant the role what it lacks"),
    "3D000": (ConfigError, False, "create the database, or name another in the dsn"),
    "53300": (StatementFailed, True, "raise max_connections, or close other sessions"),
    "53400": (NoFreeSlot, False, "raise max_replication_slots and restart, or drop a slot that nobody needs"),
    "55P03": (StatementFailed, True, "another session holds a lock; try again when it is gone"),
    "57014": (StatementFailed, True, ""),
    "57P01": (ServerStopping, True, ""),
    "57P02": (ServerStopping, True, ""),
    "57P03": (ServerStopping, True, ""),
    "57P05": (ConnectionLost, True, ""),
}
