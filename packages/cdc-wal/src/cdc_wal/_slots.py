"""Replication slots: look at one, create one without leaving half of it behind, drop one by its exact name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast, final

import anyio

from cdc_core import CdcError, ConfigError
from cdc_pgoutput import Lsn

from ._config import WalConfig
from ._connection import Connection, PasswordProvider, open_connection
from ._conninfo import quote_identifier, quote_literal
from ._errors import (
    Gap,
    MissingPrivilege,
    NoFreeSlot,
    PublicationMissing,
    SlotCreationBlocked,
    SlotInUse,
    SlotLost,
    SlotMissing,
    WalLevelTooLow,
    WrongPlugin,
    sqlstate_of,
)

PLUGIN = "pgoutput"

_NOBODY_LEFT_TIMEOUT_SECONDS = 5.0
_POLL_SECONDS = 0.02


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SlotState:
    """A row of `pg_replication_slots`; what this server's version does not have is None.

    https://www.postgresql.org/docs/current/view-pg-replication-slots.html
    """

    name: str
    slot_type: str
    plugin: str | None
    database: str | None
    temporary: bool
    active: bool
    active_pid: int | None
    restart_lsn: Lsn | None
    confirmed_flush_lsn: Lsn | None
    wal_status: str | None
    safe_wal_size: int | None
    conflicting: bool | None = None
    invalidation_reason: str | None = None
    failover: bool | None = None
    synced: bool | None = None

    @property
    def lost_because(self) -> str | None:
        """Why the slot can deliver nothing any more, None while it can."""
        if self.invalidation_reason:
            return self.invalidation_reason
        if self.conflicting:
            return "it conflicted with recovery"
        return "the log it needs was removed" if self.wal_status == "lost" else None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SystemIdentity:
    """What `IDENTIFY_SYSTEM` says: which cluster and timeline this is, and how far its log is flushed."""

    system_id: str
    timeline: int
    flush_lsn: Lsn
    database: str | None


async def identify_system(connection: Connection) -> SystemIdentity:
    """Ask a replication connection who the server is."""
    ((system_id, timeline, flush_lsn, database),) = (await connection.simple("IDENTIFY_SYSTEM"))[0]
    return SystemIdentity(
        system_id=system_id or "",
        timeline=int(timeline or 0),
        flush_lsn=Lsn.parse(flush_lsn or "0/0"),
        database=database,
    )


async def inspect_slot(connection: Connection, slot_name: str) -> SlotState | None:
    """Read a slot's state, None where there is no slot of that name."""
    row = await connection.fetch_one(
        "SELECT to_jsonb(s)::text FROM pg_replication_slots s WHERE slot_name = $1", [slot_name]
    )
    if row is None or row[0] is None:
        return None
    found = cast(
        "Mapping[str, Any]", json.loads(row[0])
    )  # one column a version: JSON spares a query for each
    return SlotState(
        name=found["slot_name"],
        slot_type=found["slot_type"],
        plugin=found["plugin"],
        database=found["database"],
        temporary=found["temporary"],
        active=found["active"],
        active_pid=found["active_pid"],
        restart_lsn=_lsn(found["restart_lsn"]),
        confirmed_flush_lsn=_lsn(found["confirmed_flush_lsn"]),
        wal_status=found["wal_status"],
        safe_wal_size=found["safe_wal_size"],
        conflicting=found.get("conflicting"),
        invalidation_reason=found.get("invalidation_reason"),
        failover=found.get("failover"),
        synced=found.get("synced"),
    )


async def write_lsn(connection: Connection) -> Lsn:
    """Read where the log's end is; on a standby, how far it was replayed.

    The end of what is written, as a walsender sends no more either: what was inserted since is on no disk yet.
    """
    row = await connection.fetch_one(
        "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END"
    )
    return Lsn.parse((row[0] if row else None) or "0/0")


def verify_slot(state: SlotState | None, *, config: WalConfig, database: str) -> SlotState:
    """Return the slot's state if it can be read from, whoever holds it now.

    Raises:
        SlotMissing, WrongPlugin: as their names say.
        SlotLost: it was invalidated; the gap begins at what it had confirmed.
    """
    name = config.slot_name
    if state is None:
        raise SlotMissing(f"there is no replication slot {name}", where={"slot": name})
    if state.slot_type != "logical" or state.plugin != PLUGIN or state.database != database:
        what = f"{state.slot_type} slot" + (f" of {state.plugin} in {state.database}" if state.plugin else "")
        raise WrongPlugin(
            f"the slot {name} is a {what}",
            where={"slot": name, "database": database},
            remedy=f"set slot_name to another name, or, if nobody needs it, {_drop_statement(name)}",
        )
    if (reason := state.lost_because) is not None:
        raise SlotLost(
            f"the slot {name} is lost: {reason}",
            gap=Gap(from_lsn=state.confirmed_flush_lsn, to_lsn=None, tables=config.table_ids),
            where={"slot": name},
            remedy=_anew(name),
        )
    return state


async def create_slot(
    config: WalConfig, *, password: PasswordProvider | None = None, side: Connection
) -> Lsn:
    """Create the slot, and return the LSN from which it delivers. The publication must exist already.

    The server waits for every transaction that is open when it begins; `lock_timeout_seconds` bounds each of these
    waits, `slot_timeout_seconds` all of it. Whatever ends it early, cancellation too, no slot stays behind.

    - `side`: an ordinary connection, to see who blocks, and to clean up.

    Raises:
        SlotCreationBlocked: it took too long; says which transactions are in the way.
        NoFreeSlot, WalLevelTooLow, MissingPrivilege, PublicationMissing, ConfigError: as their names say.
    """
    if not await side.fetch(
        "SELECT FROM pg_publication WHERE pubname = $1", [config.publication_name]
    ):  # a slot older than its publication fails at every replay
        raise PublicationMissing(
            f"there is no publication {config.publication_name}",
            where={"publication": config.publication_name},
        )
    lock_timeout = f"{max(1, round(config.lock_timeout_seconds * 1000))}ms"
    async with open_connection(
        config.dsn,
        password=password,
        replication=True,
        application_name=config.application_name,
        connect_timeout_seconds=config.connect_timeout_seconds,
        session={"lock_timeout": lock_timeout},
    ) as creating:
        command = _create_command(config, creating.server_version)
        pid = creating.backend_pid
        blockers: tuple[Mapping[str, object], ...] = ()
        try:
            with anyio.fail_after(config.slot_timeout_seconds):
                ((row,),) = await creating.simple(command)
        except TimeoutError:
            blockers = await _blockers(side)
            await _leave_nothing(side, config.slot_name, pid)
            raise _blocked(config, blockers) from None
        except CdcError as error:
            if sqlstate_of(error) == "55P03":
                raise _blocked(config, await _blockers(side)) from error
            if error.retryable:  # the connection broke: whether the slot was made is not known
                await _leave_nothing(side, config.slot_name, pid)
            raise _creation_error(error, config) from error
        except BaseException:
            await _leave_nothing(side, config.slot_name, pid)
            raise
    return Lsn.parse(row[1] or "0/0")


async def drop_slot(
    connection: Connection, slot_name: str, *, terminate: bool = False, timeout_seconds: float = 10.0
) -> bool:
    """Drop the slot of exactly that name; return False where there is none.

    - `terminate`: end the session that holds it first.

    Raises:
        SlotInUse: a reader holds it; nothing was dropped.
    """
    deadline = anyio.current_time() + timeout_seconds
    while (state := await inspect_slot(connection, slot_name)) is not None:
        if state.active_pid is not None and terminate:
            await connection.execute("SELECT pg_terminate_backend($1::int)", [state.active_pid])
        elif state.active_pid is None:
            try:
                await connection.execute("SELECT pg_drop_replication_slot($1)", [slot_name])
            except CdcError as error:
                if sqlstate_of(error) == "42704":  # dropped by somebody else in between
                    return True
                if sqlstate_of(error) != "55006":
                    raise
            else:
                return True
        if not terminate or anyio.current_time() > deadline:
            raise slot_in_use(state.name, state.active_pid)
        await anyio.sleep(_POLL_SECONDS)
    return False


def slot_in_use(slot_name: str, pid: int | None) -> SlotInUse:
    """Make the error of a slot that another reader holds."""
    return SlotInUse(
        f"another reader holds the slot {slot_name}",
        where={"slot": slot_name, "pid": pid} if pid else {"slot": slot_name},
        remedy="stop that reader, set wait_for_slot to wait for it"
        + (f", or end its session: SELECT pg_terminate_backend({pid})" if pid else ""),
    )


def stream_error(error: CdcError, *, config: WalConfig, streaming: bool) -> CdcError:
    """Say what an error of START_REPLICATION (or, `streaming`, of the stream after it) means for this slot."""
    slot, publication = config.slot_name, config.publication_name
    match sqlstate_of(error):
        case "55006" if not streaming:
            return slot_in_use(slot, None)
        case "42704" if not streaming:
            return SlotMissing(f"there is no replication slot {slot}", where={"slot": slot})
        case "42704":
            return PublicationMissing(
                f"there was no publication {publication} where the slot stands in the log",
                where={"publication": publication, "slot": slot},
                remedy="create it, then drop the slot and create it anew: it cannot be read past this point",
            )
        case "55000" | "58P01":
            return SlotLost(
                f"the slot {slot} can deliver nothing any more: {error.message}",
                gap=Gap(from_lsn=None, to_lsn=None, tables=config.table_ids),
                where={"slot": slot},
                remedy=_anew(slot),
            )
        case _:
            return error


def _create_command(config: WalConfig, server_version: int) -> str:
    head = f"CREATE_REPLICATION_SLOT {quote_identifier(config.slot_name)} LOGICAL {PLUGIN}"
    if config.failover and server_version < 170000:
        raise ConfigError(
            f"failover slots exist since PostgreSQL 17, the server is {server_version // 10000}",
            remedy="leave failover out",
        )
    if server_version < 150000:  # the parenthesized options came with 15
        return f"{head} NOEXPORT_SNAPSHOT"
    return f"{head} (SNAPSHOT 'nothing'{', FAILOVER' if config.failover else ''})"


async def _leave_nothing(side: Connection, slot_name: str, pid: int) -> None:
    # A walsender that creates a slot holds its name from the first moment, so until its process is gone the slot can
    # only be its own. It is ended, since one that waits hears nothing of its client's end (electric-sql/electric#4515).
    with anyio.CancelScope(shield=True):
        deadline = anyio.current_time() + _NOBODY_LEFT_TIMEOUT_SECONDS
        await side.execute("SELECT pg_terminate_backend($1::int)", [pid])
        while await side.fetch("SELECT FROM pg_stat_activity WHERE pid = $1::int", [pid]):
            if anyio.current_time() > deadline:
                break
            await anyio.sleep(_POLL_SECONDS)
        with suppress(SlotInUse):  # then somebody else's: ours is held by nobody
            await drop_slot(side, slot_name)


async def _blockers(side: Connection) -> tuple[Mapping[str, object], ...]:
    # pg_locks, since pg_stat_activity hides the xids of other roles' sessions
    rows = await side.fetch(
        "SELECT l.pid, l.transactionid, coalesce(a.application_name, 'prepared ' || p.gid),"
        " extract(epoch FROM now() - coalesce(a.xact_start, p.prepared))::bigint"
        " FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid"
        " LEFT JOIN pg_prepared_xacts p ON p.transaction = l.transactionid"
        " WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted"
        " AND l.pid IS DISTINCT FROM pg_backend_pid()"
        " ORDER BY age(l.transactionid) DESC LIMIT 5"
    )
    return tuple(
        {
            "pid": None if pid is None else int(pid),
            "xid": int(xid or 0),
            "application_name": name or "",
            "age_seconds": None if age is None else int(age),
        }
        for pid, xid, name, age in rows
    )


def _blocked(config: WalConfig, blockers: tuple[Mapping[str, object], ...]) -> SlotCreationBlocked:
    named = "; ".join(
        ", ".join(f"{key} {value}" for key, value in blocker.items() if value not in (None, ""))
        for blocker in blockers
    )
    pids = [blocker["pid"] for blocker in blockers if blocker["pid"] is not None]
    return SlotCreationBlocked(
        f"the slot {config.slot_name} could not be created in time"
        + (f": these transactions are open: {named}" if named else ""),
        blockers=blockers,
        where={"slot": config.slot_name},
        remedy="end them, or wait until they have ended"
        + (f": SELECT pg_terminate_backend({pids[0]})" if pids else ""),
    )


def _creation_error(error: CdcError, config: WalConfig) -> CdcError:
    where = {"slot": config.slot_name}
    match sqlstate_of(error):
        case "53400":
            return NoFreeSlot(
                "all replication slots are taken",
                where=where,
                remedy="drop one that nobody needs: SELECT slot_name FROM pg_replication_slots WHERE NOT active;"
                " or ALTER SYSTEM SET max_replication_slots = ..., and restart the server",
            )
        case "55000":
            return WalLevelTooLow(
                "the server does not write what logical decoding needs",
                where=where,
                remedy="ALTER SYSTEM SET wal_level = 'logical', and restart the server",
            )
        case "42501":
            return MissingPrivilege(
                "the role may not create replication slots",
                where=where,
                remedy="ALTER ROLE ... REPLICATION (on RDS: GRANT rds_replication TO ...)",
            )
        case _:
            return error


def _drop_statement(slot_name: str) -> str:
    return f"SELECT pg_drop_replication_slot({quote_literal(slot_name)})"


def _anew(slot_name: str) -> str:
    return f"{_drop_statement(slot_name)}; then provision again, and read the tables anew"


def _lsn(text: str | None) -> Lsn | None:
    return None if text is None else Lsn.parse(text)
