"""Opens a session: connects, checks the slot and whose it is, decides where to start, and leaves cleanly."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import anyio

from cdc_core import CdcError, Epoch, open_task_group
from cdc_pgoutput import Lsn

from ._changes import MakeEvent
from ._config import WalConfig
from ._connection import PasswordProvider, open_connection
from ._errors import Gap, PublicationMissing, SlotLost
from ._replication import ReplicationStream
from ._schema_changes import SchemaChangeHook
from ._session import Resume, SlotSession
from ._side_connection import SideConnection, open_side_connection
from ._slots import SlotState, identify_system, inspect_slot, slot_in_use, stream_error, verify_slot

T = TypeVar("T")

_LEAVE_TIMEOUT_SECONDS: Final = 5.0


@asynccontextmanager
async def open_session(
    config: WalConfig,
    *,
    password: PasswordProvider | None,
    resume: Resume | None,
    make: Callable[[Epoch], MakeEvent[T]],
    mark_end: Callable[[T], T] | None = None,
    on_schema_change: SchemaChangeHook | None = None,
) -> AsyncGenerator[SlotSession[T]]:
    """Connect to the slot and stream it; leaving confirms what is done, ends the stream and disconnects.

    - `resume`: where to go on; None on the first start, where the slot itself knows.
    - `make`: makes the maker of events for this connection's epoch; `mark_end`: marks a transaction's last event.

    Raises:
        SlotInUse: another reader holds the slot.
        SlotMissing, PublicationMissing, WrongPlugin, SlotLost: as their names say.
        ConnectionLost, AccessError, ConfigError: as `open_connection`.
    """
    timeout_ms = round(config.wal_sender_timeout_seconds * 1000)
    async with (
        open_connection(
            config.dsn,
            password=password,
            replication=True,
            application_name=config.application_name,
            connect_timeout_seconds=config.connect_timeout_seconds,
            session={"wal_sender_timeout": f"{timeout_ms}ms"},
        ) as connection,
        open_side_connection(config, password=password) as side,
    ):
        system = await identify_system(connection)
        epoch = Epoch(system.system_id, system.timeline, config.slot_name, fingerprint(config))
        slot = await check_slot(side, config)
        if slot.active:
            raise slot_in_use(config.slot_name, slot.active_pid)
        slot_lsn = slot.confirmed_flush_lsn or Lsn(0)
        start = _start_lsn(config, resume, epoch, slot_lsn)
        stream = ReplicationStream(connection)
        try:
            await stream.start(config.slot_name, start, _options(config))
        except CdcError as error:
            raise stream_error(error, config=config, streaming=False) from error
        session = SlotSession(
            config,
            stream,
            side,
            epoch=epoch,
            database=system.database or "",
            start=max(start, slot_lsn),
            make=make(epoch),
            mark_end=mark_end,
            password=password,
            on_schema_change=on_schema_change,
            shapes={} if resume is None else resume.shapes,
        )
        async with open_task_group() as tasks:
            session.run_in(tasks)
            try:
                yield session
            finally:
                with anyio.move_on_after(_LEAVE_TIMEOUT_SECONDS, shield=True):
                    await session.leave()


def fingerprint(config: WalConfig) -> str:
    """Digest the options that change what the server sends: with others, ordinals mean something else."""
    text = f"publications={config.publication_name};messages=true"
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def _options(config: WalConfig) -> dict[str, str]:
    name = config.publication_name.replace('"', '""')
    return {"proto_version": "1", "publication_names": f'"{name}"', "messages": "true"}


def _start_lsn(config: WalConfig, resume: Resume | None, epoch: Epoch, slot_lsn: Lsn | None) -> Lsn:
    """Return where to start: what this run confirmed itself, since the server keeps the slot's own LSN lazily."""
    if resume is None:
        return Lsn(0)
    if resume.epoch.system_id != epoch.system_id:
        raise SlotLost(
            "another database cluster answers under the same address",
            gap=Gap(from_lsn=resume.confirmed_lsn, to_lsn=slot_lsn),
            where={
                "slot": config.slot_name,
                "system_id": epoch.system_id,
                "expected": resume.epoch.system_id,
            },
            remedy="point the dsn at the cluster that the slot belongs to, or begin anew on this one",
        )
    if resume.epoch != epoch:
        return Lsn(0)  # a new timeline: positions of the old one mean nothing on it
    return resume.confirmed_lsn


async def check_slot(side: SideConnection, config: WalConfig) -> SlotState:
    """Check that the slot can be read, whoever holds it now, and that its publication exists; return its state.

    Raises:
        SlotMissing, PublicationMissing, WrongPlugin, SlotLost: as their names say.
    """
    async with side.use() as connection:
        database = await connection.fetch_one("SELECT current_database()")
        state = verify_slot(
            await inspect_slot(connection, config.slot_name),
            config=config,
            database=(database[0] if database else None) or "",
        )
        sql = "SELECT FROM pg_publication WHERE pubname = $1"
        if await connection.fetch_one(sql, (config.publication_name,)) is None:
            raise PublicationMissing(
                f"there is no publication {config.publication_name}",
                where={"publication": config.publication_name, "slot": config.slot_name},
            )
    return state
