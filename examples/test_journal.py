"""The journal's transport keeps every promise that its traits make: one test each, on both event loops."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

import anyio
import pytest
from journal import Journal
from journal_transport import JournalConfig, JournalTransport

from cdc_core import Event, OutgoingEvent, Pipeline, Transport, provision
from cdc_testing.checks import SeedRow, read_row, row_event
from cdc_testing.contracts import Harness, TransportContract


class JournalHarness:
    """What the suite has to be able to do to a journal."""

    patience_seconds = 5.0
    quiet_seconds = 0.1
    max_batch = (5, 4096)
    teardown_name = "contract"
    secrets: Sequence[str] = ()

    def __init__(self, path: Path) -> None:
        self._journal = Journal(path)

    def transport(self) -> Transport:
        events, size = self.max_batch
        config = JournalConfig(
            path=str(self._journal.path),
            group_id="contract",
            max_batch_events=events,
            max_batch_bytes=size,
            commit_interval_seconds=3600,
            poll_interval_seconds=0.005,
        )
        return JournalTransport(config)

    @asynccontextmanager
    async def another(self) -> AsyncGenerator[Harness]:
        yield JournalHarness(self._journal.path.with_suffix(".other"))

    async def write(self, *rows: SeedRow) -> None:
        self._journal.append([row_event(key, number) for key, number in rows])

    def read(self, event: Event) -> SeedRow:
        return read_row(event)

    async def committed(self) -> int:
        with self._journal.connect() as connection:
            row = connection.execute("SELECT committed FROM journal_groups").fetchone()
        return int(row[0]) if row else 0

    async def objects(self) -> frozenset[str]:
        return self._journal.existing()

    async def crash(self, transport: Transport) -> None:
        assert isinstance(transport, JournalTransport)
        transport.journal.path = self._journal.path.parent / "gone" / "journal"
        await self.lose(transport)

    async def cut(self, transport: Transport) -> None:
        await self.lose(transport)

    async def lose(self, transport: Transport) -> None:
        with closing(sqlite3.connect(self._journal.path)) as connection, connection:
            connection.execute("UPDATE journal_groups SET owner = NULL, generation = generation + 1")

    def oversized(self, event: OutgoingEvent) -> OutgoingEvent:
        raise NotImplementedError("nothing is published to a journal")


class TestJournal(TransportContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> Harness:
        return JournalHarness(tmp_path / "journal")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_a_pipeline_takes_what_is_appended_and_goes_on_from_there(tmp_path: Path) -> None:
    transport = JournalTransport(JournalConfig(path=str(tmp_path / "journal"), group_id="shop"))
    await provision(transport)
    handled: list[int] = []
    changed = anyio.Event()

    async def handle(events: Sequence[Event]) -> None:
        handled.extend(read_row(event)[1] for event in events)
        changed.set()

    for number in (1, 2):
        changed = anyio.Event()
        async with Pipeline(name="shop", transport=transport, handler=handle).running():
            transport.journal.append([row_event("key", number)])
            with anyio.fail_after(10):
                await changed.wait()
    assert handled == [1, 2], "what was acknowledged comes no more"
