"""The process of one subject: `python _client.py JOB`, JOB being a `Job` as JSON; prints its result as JSON.

A process of its own for each run: peak memory, and a heap that nothing else has shaped.
"""

from __future__ import annotations

import json
import re
import struct
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, final

import anyio
import msgspec
from _codec_cost import measure_codecs
from _jobs import CODEC, EACH, JSON, LATENCY, RAW, TRANSPORT, Job, Outcome

from cdc_core import (
    Change,
    DeadLetters,
    ErrorRouter,
    Event,
    EventSource,
    Fence,
    Handler,
    OutgoingEvent,
    Pipeline,
    Provisioner,
    Rejected,
    SourceMonitor,
    Table,
    Traits,
    WalPublisher,
)
from cdc_pgoutput import Lsn
from cdc_wal import PostgresTransport, WalConfig, WalReader
from cdc_wal._connection import open_connection
from cdc_wal._replication import ReplicationStream

_u64: Final = struct.Struct("!Q").unpack_from


def peak_rss_mib() -> float:
    """Return this process's highest resident size; `ru_maxrss` would be the parent's where that was larger."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


@final
class Clock:
    """Wall and CPU time of this process since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def outcome(self, rows: int) -> Outcome:
        """Return what `rows` rows took."""
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        return Outcome(rows=rows, seconds=wall, cpu_seconds=cpu)


@final
class Counting:
    """Counts rows, and takes the time when the last one is there."""

    def __init__(self, rows: int) -> None:
        self.clock = Clock()
        self.outcome: Outcome | None = None
        self.all_seen = anyio.Event()
        self._rows = rows
        self._seen = 0

    def add(self, count: int) -> None:
        """Count rows."""
        self._seen += count
        if self._seen >= self._rows and self.outcome is None:
            self.outcome = self.clock.outcome(self._rows)
            self.all_seen.set()

    async def result(self) -> Outcome:
        """Wait for the last row."""
        await self.all_seen.wait()
        assert self.outcome is not None
        return self.outcome


@asynccontextmanager
async def raw_stream(job: Job) -> AsyncGenerator[ReplicationStream]:
    """Stream the slot without any decoding."""
    async with open_connection(job.dsn, replication=True) as connection:
        stream = ReplicationStream(connection)
        names = f'"{job.publication_name}"'
        options = {"proto_version": "1", "publication_names": names, "messages": "true"}
        await stream.start(job.slot_name, Lsn(0), options)
        yield stream


async def read_raw(job: Job) -> Outcome:
    """Receive the frames, in batches of the default size, and do nothing with them."""
    clock = Clock()
    async with raw_stream(job) as stream:
        while True:
            frames = await stream.receive(max_frames=1000, max_bytes=1 << 20)
            if _u64(frames[-1], 1)[0] >= job.end_lsn:
                return clock.outcome(job.rows)


async def read_to_json(job: Job) -> Outcome:
    """Run the whole `WalReader`: every row becomes an event with its envelope's bytes, and is confirmed."""
    counting = Counting(job.rows)
    reader = WalReader(config_of(job), to=NullTransport(PostgresTransport(config_of(job)), counting))
    async with reader.running():
        return await counting.result()


async def run_transport(job: Job) -> Outcome:
    """Run a `Pipeline` over the postgres transport with a handler of batches: acknowledged and confirmed."""
    counting = Counting(job.rows)

    async def handle(events: Sequence[Event]) -> None:
        counting.add(len(events))

    return await _run_pipeline(job, handle, counting)


async def run_each(job: Job) -> Outcome:
    """Run the same with a handler that gets one typed row at a time."""
    counting = Counting(job.rows)

    async def on_row(change: Change[Narrow]) -> None:
        counting.add(1)

    return await _run_pipeline(job, Table(job.table, Narrow).each(on_row), counting)


async def run_latency(job: Job) -> dict[str, object]:
    """Run the transport beside a writer; return each batch's time, and the delay of each row from its commit.

    Both clocks are this machine's. The server takes the commit's time before it writes the commit record.
    """
    counting = Counting(job.rows)
    delays: list[float] = []
    handled: list[tuple[float, int]] = []

    async def handle(events: Sequence[Event]) -> None:
        now = time.time()
        delays.extend([now - (event.committed_at or 0.0) for event in events])
        handled.append((now, len(delays)))
        counting.add(len(events))

    await _run_pipeline(job, handle, counting)
    kept = sorted(delays[len(delays) // 5 :])  # without the first fifth, when everything is cold
    return {
        "p50_ms": kept[len(kept) // 2] * 1e3,
        "p99_ms": kept[len(kept) * 99 // 100] * 1e3,
        "handled": handled,
    }


async def run_codecs(job: Job) -> dict[str, object]:
    """Capture the first frames, and measure the codecs over them, with nothing running beside."""
    frames: list[bytes] = []
    async with raw_stream(job) as stream:
        while len(frames) < job.rows:
            frames += await stream.receive(max_frames=1000, max_bytes=1 << 20)
    return asdict(measure_codecs(frames, job.key))


async def _run_pipeline(job: Job, handler: Handler, counting: Counting) -> Outcome:
    pipeline = Pipeline(name="bench", transport=PostgresTransport(config_of(job)), handler=handler)
    async with pipeline.running():
        return await counting.result()


def config_of(job: Job) -> WalConfig:
    """Return the reader's defaults, for the job's slot."""
    return WalConfig(dsn=job.dsn, slot_name=job.slot_name, publication_name=job.publication_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Narrow:
    """A row of the narrow stream."""

    id: int
    customer: str
    total: Decimal


@final
class Settled:
    """A receipt that is settled already."""

    def __await__(self) -> Generator[object, object, Sequence[Rejected]]:
        return ()
        yield


@final
class NullTransport:
    """A transport whose publisher takes every batch for durable; all else is the postgres transport's."""

    def __init__(self, postgres: PostgresTransport, counting: Counting) -> None:
        self._postgres = postgres
        self._counting = counting

    @property
    def traits(self) -> Traits:
        return self._postgres.traits

    def source(self) -> EventSource:
        return self._postgres.source()

    def provisioner(self) -> AbstractAsyncContextManager[Provisioner]:
        return self._postgres.provisioner()

    def error_router(self) -> AbstractAsyncContextManager[ErrorRouter]:
        return self._postgres.error_router()

    def monitor(self) -> AbstractAsyncContextManager[SourceMonitor]:
        return self._postgres.monitor()

    def dead_letters(self) -> AbstractAsyncContextManager[DeadLetters]:
        return self._postgres.dead_letters()

    @asynccontextmanager
    async def publisher(self, fence: Fence) -> AsyncGenerator[WalPublisher]:
        yield NullPublisher(self._counting)


@final
class NullPublisher:
    """Counts events; their bytes are there, and go nowhere."""

    def __init__(self, counting: Counting) -> None:
        self._counting = counting

    async def publish(self, batch: Sequence[OutgoingEvent]) -> Settled:
        self._counting.add(len(batch))
        return Settled()


_SUBJECTS: Final[dict[str, Callable[[Job], Awaitable[Outcome | dict[str, object]]]]] = {
    RAW: read_raw,
    JSON: read_to_json,
    TRANSPORT: run_transport,
    EACH: run_each,
    LATENCY: run_latency,
    CODEC: run_codecs,
}


def main() -> None:
    """Run the job of the command line."""
    job = msgspec.json.decode(sys.argv[1], type=Job)
    run: Any = _SUBJECTS[job.subject]
    result = anyio.run(run, job, backend=job.backend)
    if isinstance(result, Outcome):
        result.rss_mib = peak_rss_mib()
        result = asdict(result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
