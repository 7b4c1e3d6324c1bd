"""Measures at the database how far a slot is behind, and what it holds back."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import final

from cdc_core import UNKNOWN, CdcError, Check, CheckState, Health, Partition, PartitionLag, Unknown

from ._config import WalConfig
from ._connection import Connection, PasswordProvider
from ._conninfo import parse_dsn
from ._publications import inspect_publication
from ._side_connection import SideConnection, open_side_connection
from ._slots import SlotState, inspect_slot, write_lsn


@asynccontextmanager
async def open_monitor(
    config: WalConfig,
    *,
    password: PasswordProvider | None = None,
    clock: Callable[[], float] = time.time,
) -> AsyncGenerator[PostgresMonitor, None]:
    """Open the monitor of a slot; it connects when it is first asked."""
    async with open_side_connection(config, password=password) as side:
        yield PostgresMonitor(config, side, clock)


def partition_of(config: WalConfig, database: str) -> Partition:
    """Return the partition's name: the database, and the slot in it."""
    return Partition(database, config.slot_name)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RetainedWal:
    """What a slot holds back of the server's log, in bytes.

    - `retained_bytes`: from its restart LSN to the log's end.
    - `bytes_until_lost`: what may still be written before the server invalidates it; UNKNOWN where no limit is set.
    """

    retained_bytes: int | Unknown = UNKNOWN
    bytes_until_lost: int | Unknown = UNKNOWN


@final
class PostgresMonitor:
    """The monitor of one slot; looks afresh at each call."""

    def __init__(self, config: WalConfig, side: SideConnection, clock: Callable[[], float]) -> None:
        self._config = config
        self._side = side
        self._clock = clock
        self._since: dict[str, tuple[CheckState, float]] = {}

    async def lag(self) -> Sequence[PartitionLag]:
        """Measure the slot's lag: the log's end (on a standby, its replay) less what the slot has confirmed.

        How many events that is, only reading them tells. For how long they have waited nobody wrote down either, so
        `lag_seconds` is 0.0 when nothing waits and otherwise UNKNOWN. Where the database cannot be asked, or the
        slot is missing or lost, all is UNKNOWN.
        """
        config = self._config
        try:
            async with self._side.use() as connection:
                partition = partition_of(config, connection.database)
                state = await inspect_slot(connection, config.slot_name)
                end = await write_lsn(connection)
        except CdcError:
            return [PartitionLag(partition=partition_of(config, parse_dsn(config.dsn).get("dbname", "")))]
        if state is None or state.lost_because is not None or state.confirmed_flush_lsn is None:
            return [PartitionLag(partition=partition)]
        # the two are read in turn, and the slot may have moved in between
        behind = max(0, end - state.confirmed_flush_lsn)
        return [PartitionLag(partition=partition, lag_bytes=behind, lag_seconds=UNKNOWN if behind else 0.0)]

    async def retained(self) -> RetainedWal:
        """Measure what the slot holds back; UNKNOWN where that cannot be seen."""
        try:
            async with self._side.use() as connection:
                state = await inspect_slot(connection, self._config.slot_name)
                return _retained(state, await write_lsn(connection))
        except CdcError:
            return RetainedWal()

    async def health(self) -> Health:
        """Check the server, the publication, the slot, its reader and what it holds back."""
        config = self._config
        try:
            async with self._side.use() as connection:
                state = await inspect_slot(connection, config.slot_name)
                checks: tuple[Check, ...] = (
                    Check(name="server", state=CheckState.OK, why="the database answers"),
                    await _publication(connection, config),
                    _slot(state, config),
                    _reader(state),
                    _retention(state, _retained(state, await write_lsn(connection)), config),
                )
        except CdcError as error:
            checks = (
                Check(name="server", state=CheckState.FAIL, why=error.message, remedy=error.remedy),
                *(
                    Check(name=name, state=CheckState.UNKNOWN, why="the database could not be asked")
                    for name in ("publication", "slot", "reader", "retained_wal")
                ),
            )
        return Health(checks=tuple(self._dated(check) for check in checks), sampled_at=self._clock())

    def _dated(self, check: Check) -> Check:
        state, since = self._since.get(check.name, (None, 0.0))
        if state is not check.state:
            since = self._clock()
            self._since[check.name] = (check.state, since)
        return Check(name=check.name, state=check.state, why=check.why, remedy=check.remedy, since=since)


async def _publication(connection: Connection, config: WalConfig) -> Check:
    name = config.publication_name
    if await inspect_publication(connection, name) is None:
        return Check(
            name="publication",
            state=CheckState.FAIL,
            why=f"there is no publication {name}",
            remedy="provision again; a slot that passed its drop in the log must be made anew",
        )
    return Check(name="publication", state=CheckState.OK, why=f"{name} exists")


def _slot(state: SlotState | None, config: WalConfig) -> Check:
    if state is None:
        return Check(
            name="slot",
            state=CheckState.FAIL,
            why=f"there is no replication slot {config.slot_name}",
            remedy="run the provisioner: plan, then apply",
        )
    if (reason := state.lost_because) is not None:
        return Check(
            name="slot",
            state=CheckState.FAIL,
            why=f"the slot {state.name} is lost: {reason}",
            remedy=f"SELECT pg_drop_replication_slot('{state.name}'), provision again, and read the tables anew",
        )
    return Check(name="slot", state=CheckState.OK, why=f"confirmed up to {state.confirmed_flush_lsn}")


def _reader(state: SlotState | None) -> Check:
    if state is None:
        return Check(name="reader", state=CheckState.UNKNOWN, why="there is no slot")
    if state.active:
        return Check(name="reader", state=CheckState.OK, why=f"process {state.active_pid} reads the slot")
    return Check(
        name="reader",
        state=CheckState.WARN,
        why="nobody reads the slot, and it holds back the log",
        remedy="start its reader, or tear the slot down",
    )


def _retention(state: SlotState | None, retained: RetainedWal, config: WalConfig) -> Check:
    held, left = retained.retained_bytes, retained.bytes_until_lost
    if state is None or held is UNKNOWN:
        return Check(
            name="retained_wal", state=CheckState.UNKNOWN, why="the slot holds nothing that can be seen"
        )
    why = f"the slot holds back {held} bytes of the log"
    if left is not UNKNOWN:
        why += f", and is lost after {left} more"
    found = CheckState.OK
    if state.wal_status in (
        "extended",
        "unreserved",
    ):  # beyond max_wal_size; the latter may go at the next checkpoint
        found = CheckState.WARN
    if config.max_retained_bytes is not None and held > config.max_retained_bytes:
        found, why = CheckState.FAIL, f"{why}, more than max_retained_bytes {config.max_retained_bytes}"
    remedy = (
        "" if found is CheckState.OK else "speed the reader up, end a long transaction, or raise the limit"
    )
    return Check(name="retained_wal", state=found, why=why, remedy=remedy)


def _retained(state: SlotState | None, end: int) -> RetainedWal:
    if state is None or state.restart_lsn is None:
        return RetainedWal()
    left = UNKNOWN if state.safe_wal_size is None else max(0, state.safe_wal_size)
    return RetainedWal(retained_bytes=max(0, end - state.restart_lsn), bytes_until_lost=left)
