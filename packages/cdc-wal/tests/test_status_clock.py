"""Status updates go out on their own clock, whatever the commit interval and however slow the handler (rule 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import anyio
import pytest
from wal_reading import provisioned

from cdc_core import Event, Pipeline
from cdc_wal import WalConfig
from cdc_wal._connection import Connection

pytestmark = pytest.mark.anyio


async def test_rule_4_a_commit_interval_longer_than_the_timeout_does_not_cost_the_connection(
    sql: Connection, config: WalConfig
) -> None:
    await sql.simple("CREATE TABLE t (id bigint PRIMARY KEY, note text)")
    rare = replace(
        config, commit_interval_seconds=3600.0, max_buffered_bytes=1 << 16, max_batch_bytes=1 << 14
    )
    transport = await provisioned(rare)
    await sql.simple("INSERT INTO t VALUES (0, 'x')")
    await sql.simple("INSERT INTO t SELECT g, repeat('x', 300) FROM generate_series(1, 20000) g")
    pids: list[str | None] = []
    calls = 0
    done = anyio.Event()

    async def note_pid() -> None:
        found = await sql.fetch_one(
            "SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1", [config.slot_name]
        )
        pids.extend(found or ())

    async def handle(events: Sequence[Event]) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:  # something is done by now and waits for its report; the socket is paused meanwhile
            await note_pid()
            await anyio.sleep(4 * config.wal_sender_timeout_seconds)
            await note_pid()
            done.set()

    async with Pipeline(name="rare", transport=transport, handler=handle).running():
        with anyio.fail_after(30):
            await done.wait()
    assert pids[0] is not None
    assert pids[0] == pids[1]
