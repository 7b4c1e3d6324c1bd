"""The dead letters of a store: the way in, and the way to read, replay and discard them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime
from typing import Final, final

import anyio.lowlevel
import msgspec

from cdc_core import Cause, DeadLetter, Event, FailedEvent, ReplayFailure, ReplayReport, TableId

from .faults import CrashPoint
from .memory_log import MemoryPosition, MemoryStore
from .memory_source import Process

_logger: Final = logging.getLogger("cdc_testing")


@final
class MemoryErrorRouter:
    """An `ErrorRouter` into a store."""

    def __init__(self, store: MemoryStore, process: Process) -> None:
        self._store, self._process = store, process

    async def route(self, failed: Sequence[FailedEvent]) -> None:
        """Store events, each once per identity and pipeline."""
        await anyio.lowlevel.checkpoint()
        self._process.ensure_alive()
        self._process.crash_if_due(CrashPoint.ROUTE, self._numbers_of(failed))
        for one in failed:
            letter_id = f"{one.pipeline}/{one.event.identity or one.event.position}"
            self._store.letters.setdefault(letter_id, _letter_of(one, letter_id))

    def _numbers_of(self, failed: Sequence[FailedEvent]) -> list[int]:
        positions = [one.event.position for one in failed]
        return [
            self._store.logs[position.partition].records[position.offset].number
            for position in positions
            if isinstance(position, MemoryPosition)
        ]


@final
class MemoryDeadLetters:
    """The `DeadLetters` of a store."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def list(
        self,
        *,
        pipeline: str | None = None,
        table: TableId | None = None,
        key: bytes | None = None,
        since: datetime | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[DeadLetter]:
        """Iterate over letters in the order in which they were delivered."""
        await anyio.lowlevel.checkpoint()
        found = [
            letter
            for letter in self._in_order()
            if (pipeline is None or letter.pipeline == pipeline)
            and (table is None or letter.event.table == table)
            and (key is None or letter.key == key)
            and (since is None or letter.failed_at >= since)
        ]
        for letter in found[:limit]:
            yield letter

    async def show(self, letter_id: str) -> DeadLetter:
        """Return one letter.

        Raises:
            LookupError: there is none of that id.
        """
        await anyio.lowlevel.checkpoint()
        return self._store.letters[letter_id]

    async def replay(
        self, letter_ids: Sequence[str], *, to: Callable[[Sequence[Event]], Awaitable[None]]
    ) -> ReplayReport:
        """Give letters to a handler one at a time; remove those it handles."""
        wanted = set(letter_ids)
        replayed: list[str] = []
        failed: list[ReplayFailure] = []
        moved_on: list[str] = []
        blocked: dict[tuple[TableId | None, bytes], str] = {}
        for letter in [letter for letter in self._in_order() if letter.id in wanted]:
            key = None if letter.key is None else (letter.event.table, letter.key)
            if key is not None and key in blocked:
                cause = Cause(type="parked", message=f"waits behind letter {blocked[key]} of its key")
                failed.append(ReplayFailure(id=letter.id, cause=cause))
                continue
            if self._has_later_event(letter):
                moved_on.append(letter.id)
            try:
                await to([letter.event])
            except Exception as error:  # noqa: BLE001 - whatever a handler raises is this letter's new cause
                failed.append(ReplayFailure(id=letter.id, cause=Cause.of(error)))
                if key is not None:
                    blocked[key] = letter.id
            else:
                replayed.append(letter.id)
                self._store.letters.pop(letter.id, None)
        seen = {*replayed, *(failure.id for failure in failed)}
        missing = tuple(one for one in letter_ids if one not in seen)
        return ReplayReport(
            replayed=tuple(replayed), failed=tuple(failed), missing=missing, key_moved_on=tuple(moved_on)
        )

    async def discard(self, letter_ids: Sequence[str], *, reason: str) -> None:
        """Remove letters for good."""
        await anyio.lowlevel.checkpoint()
        for letter_id in letter_ids:
            if self._store.letters.pop(letter_id, None) is not None:
                _logger.warning("dead letter discarded", extra={"letter": letter_id, "reason": reason})

    def _in_order(self) -> Sequence[DeadLetter]:
        return sorted(self._store.letters.values(), key=_place)

    def _has_later_event(self, letter: DeadLetter) -> bool:
        position = letter.event.position
        if letter.key is None or not isinstance(position, MemoryPosition):
            return False
        later = self._store.logs[position.partition].records[position.offset + 1 :]
        return any(
            record.event.key == letter.key and record.event.table == letter.event.table for record in later
        )


def _letter_of(failed: FailedEvent, letter_id: str) -> DeadLetter:
    return DeadLetter(
        id=letter_id,
        event=msgspec.structs.replace(failed.event, replayed=True),
        cause=failed.cause,
        pipeline=failed.pipeline,
        attempts=failed.attempts,
        failed_at=failed.failed_at,
        parked=failed.parked,
    )


def _place(letter: DeadLetter) -> tuple[bool, int, int]:
    """Order by delivery; what came from elsewhere goes last, in the order in which it was routed."""
    position = letter.event.position
    if isinstance(position, MemoryPosition):
        return (False, position.partition, position.offset)
    return (True, 0, 0)
