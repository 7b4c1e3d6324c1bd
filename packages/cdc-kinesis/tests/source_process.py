"""A member of a group in a process of its own, to be stopped and killed: prints what it handles, line by line.

Run with the configuration as JSON; the servers are found by the environment.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import anyio

from cdc_core import CdcError, Event, PartitionLost, PartitionStream
from cdc_kinesis._aws import Aws
from cdc_kinesis._config import KinesisConfig
from cdc_kinesis._pacing import Pacing
from cdc_kinesis._source import KinesisSource


def say(**said: object) -> None:
    print(json.dumps(said), flush=True)


async def work(stream: PartitionStream) -> None:
    say(entered=stream.partition.id)
    async with stream:
        async for batch in stream:
            await handle(stream, batch)
    say(left=stream.partition.id)


async def handle(stream: PartitionStream, batch: Sequence[Event]) -> None:
    if not stream.current(batch[0]):
        say(stale=len(batch))
        return
    say(handled=[int(event.value or b"") for event in batch], fence=batch[0].fence)
    await anyio.sleep(0.2)  # so that a signal meets a batch in hand
    try:
        await stream.ack(batch)
    except PartitionLost:
        say(lost=len(batch))


async def main(settings: str) -> None:
    config = KinesisConfig(**json.loads(settings))
    source = KinesisSource(config, Aws(config), pacing=Pacing(calls_per_second=500, bytes_per_second=1 << 30))
    try:
        async with (
            anyio.create_task_group() as workers,
            source.open(drain_timeout_seconds=5.0) as streams,
        ):
            async for stream in streams:
                workers.start_soon(work, stream)
    except* CdcError as errors:
        say(errors=[str(error) for error in errors.exceptions])


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], backend=sys.argv[2])
