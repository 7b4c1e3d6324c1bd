"""A reading process that feeds a Kinesis stream, which can be killed at any moment.

kinesis_reader.py BACKEND DSN SLOT PUBLICATION CONFIG

CONFIG is the JSON of a `KinesisConfig`. SIGTERM drains.
"""

from __future__ import annotations

import json
import sys

import anyio

from cdc_core import serve
from cdc_kinesis import KinesisConfig, KinesisTransport
from cdc_wal import WalConfig, WalReader


def main(backend: str, dsn: str, slot_name: str, publication_name: str, config: str) -> None:
    log = WalConfig(
        dsn=dsn,
        slot_name=slot_name,
        publication_name=publication_name,
        max_batch_events=50,  # small, so that a kill falls between receipts
        # kinesis-local takes 300 kB a second: what is under way has to be through within half of the timeout below
        max_batch_bytes=1 << 15,
        max_buffered_bytes=1 << 18,
        commit_interval_seconds=0.001,
        wal_sender_timeout_seconds=10.0,
    )
    reader = WalReader(log, to=KinesisTransport(KinesisConfig(**json.loads(config))))
    anyio.run(serve, reader, backend=backend)


if __name__ == "__main__":
    main(*sys.argv[1:])
