"""A consuming process of a Kinesis group, which can be killed or frozen at any moment.

kinesis_consumer.py BACKEND NAME FILE CONFIG

CONFIG is the JSON of a `KinesisConfig`. Each handled event is a line in FILE, which all processes append to:
`name TAB call TAB shard TAB fence TAB identity TAB key TAB number`, written before the handler returns. `call` counts
the handler's calls. SIGTERM drains.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

import anyio

from cdc_core import Event, Pipeline, serve
from cdc_kinesis import KinesisConfig, KinesisPosition, KinesisTransport


def main(backend: str, name: str, path: str, config: str) -> None:
    transport = KinesisTransport(KinesisConfig(**json.loads(config)))
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    calls = 0

    async def handle(events: Sequence[Event]) -> None:
        nonlocal calls
        calls += 1
        lines: list[str] = []
        for event in events:
            position, row = event.position, event.change().after
            assert isinstance(position, KinesisPosition)
            assert row is not None
            key = (event.key or b"").decode()
            told = (name, calls, position.shard_id, event.fence, event.identity, key, row["number"])
            lines.append("\t".join(map(str, told)) + "\n")
        os.write(file, "".join(lines).encode())  # one write: a killed process leaves whole lines
        await anyio.sleep(0.005)  # as if it wrote to a sink: there is always a call to be frozen in

    pipeline = Pipeline(name="fleet", transport=transport, handler=handle, monitor_interval_seconds=3600)
    anyio.run(serve, pipeline, backend=backend)


if __name__ == "__main__":
    main(*sys.argv[1:])
