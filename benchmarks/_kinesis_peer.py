"""async-kinesis, in an environment of its own: `python _kinesis_peer.py JOB`; prints its outcome as JSON.

Nothing of ours is installed there but this file and `_kinesis_rows.py`. Its own pacing by shard is lifted, as ours is.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from _kinesis_rows import key_of, value_of

_ROWS_AHEAD: Final = 5000


async def put(job: dict[str, Any]) -> dict[str, float]:
    """Put every row, in order, and wait until all are flushed."""
    library, processors = import_module("kinesis"), import_module("kinesis.processors")
    rows = [(value_of(number), key_of(number)) for number in range(job["rows"])]
    producer: Any = library.Producer(
        stream_name=job["stream"],
        endpoint_url=job["kinesis_url"],
        region_name=job["region"],
        processor=processors.StringProcessor(),
        put_rate_limit_per_shard=10**9,
        put_bandwidth_limit_per_shard=10**9,
        max_queue_size=_ROWS_AHEAD,
    )
    async with producer:
        await producer.put(*rows[0])
        await producer.flush()
        clock = Clock()
        for value, key in rows:
            await producer.put(value, partition_key=key)
        await producer.flush()
        return clock.outcome(job["rows"])


async def get(job: dict[str, Any]) -> dict[str, float]:
    """Iterate over the stream until every row was there."""
    library, processors = import_module("kinesis"), import_module("kinesis.processors")
    consumer: Any = library.Consumer(
        stream_name=job["stream"],
        endpoint_url=job["kinesis_url"],
        region_name=job["region"],
        processor=processors.StringProcessor(),
        shard_fetch_rate=10**6,
        sleep_time_no_records=0.05,
    )
    seen = 0
    async with consumer:
        clock = Clock()
        while seen < job["rows"]:
            async for _ in consumer:
                seen += 1
                if seen >= job["rows"]:
                    break
        return clock.outcome(job["rows"])


class Clock:
    """Wall and CPU time of this process since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def outcome(self, rows: int) -> dict[str, float]:
        """Return what `rows` rows took."""
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert found is not None
        return {"rows": rows, "seconds": wall, "cpu_seconds": cpu, "rss_mib": int(found[1]) / 1024}


def main() -> None:
    """Run what the command line names."""
    os.environ |= {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}
    job: dict[str, Any] = json.loads(sys.argv[1])
    subject = put if job["subject"].startswith("put") else get
    print(json.dumps(asyncio.run(subject(job))))


if __name__ == "__main__":
    main()
