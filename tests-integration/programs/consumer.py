"""A consuming process that can be killed at any moment: appends each event to a file before it acknowledges it.

consumer.py BACKEND DSN SLOT PUBLICATION FILE

A line is `identity TAB key`; it is written before the handler returns, so that a killed process has told all
that it can have acknowledged. SIGTERM drains.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import anyio

from cdc_core import Event, Pipeline, serve
from cdc_wal import PostgresTransport, WalConfig


def main(backend: str, dsn: str, slot_name: str, publication_name: str, path: str) -> None:
    config = WalConfig(
        dsn=dsn,
        slot_name=slot_name,
        publication_name=publication_name,
        max_batch_events=7,  # small, so that a kill falls between acknowledgements
        commit_interval_seconds=0.001,
        wal_sender_timeout_seconds=2.0,
    )
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def handle(events: Sequence[Event]) -> None:
        lines = [f"{event.identity}\t{(event.key or b'').decode()}\n" for event in events]
        os.write(file, "".join(lines).encode())  # one write: a killed process leaves whole lines
        await anyio.lowlevel.checkpoint()

    pipeline = Pipeline(name="consumer", transport=PostgresTransport(config), handler=handle)
    anyio.run(serve, pipeline, backend=backend)


if __name__ == "__main__":
    main(*sys.argv[1:])
