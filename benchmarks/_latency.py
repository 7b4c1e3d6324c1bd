"""From commit to handler, while a writer works on the same cores."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final, final

from _jobs import LATENCY, Job
from _slots import Bench, finish_client, start_client
from _streams import Stream

_SUSTAINED_ROWS: Final = 300_000
_SECONDS: Final = 10.0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Milliseconds from the commit's time to the handler's call, at a rate of rows a second."""

    rate: float
    p50_ms: float
    p99_ms: float


def sustained_rate(bench: Bench, stream: Stream, publication: str, backend: str) -> float:
    """Return how many rows a second reach the handler while a writer writes as fast as it can, on the same cores."""
    began, ended, result = _run(bench, stream, publication, backend, rows=_SUSTAINED_ROWS, per_second=0.0)
    handled = max((count for at, count in result["handled"] if at <= ended), default=0)
    return handled / (ended - began)


def measure_latency(
    bench: Bench, stream: Stream, publication: str, backend: str, *, per_second: float
) -> Latency:
    """Write at a rate for ten seconds, and return the delays; the first fifth of the rows does not count."""
    rows = max(1000, round(per_second * _SECONDS / 10) * 10)
    began, ended, result = _run(bench, stream, publication, backend, rows=rows, per_second=per_second)
    return Latency(rate=rows / (ended - began), p50_ms=result["p50_ms"], p99_ms=result["p99_ms"])


def _run(
    bench: Bench, stream: Stream, publication: str, backend: str, *, rows: int, per_second: float
) -> tuple[float, float, dict[str, Any]]:
    with bench.fresh_slot(publication) as slot_name:
        job = Job(
            subject=LATENCY,
            backend=backend,
            dsn=bench.dsn,
            slot_name=slot_name,
            publication_name=publication,
            table=stream.table,
            key=stream.columns[0][0],
            rows=rows,
            end_lsn=0,
        )
        with start_client(job) as process:
            bench.wait_active(slot_name)
            first = 1 + bench.execute(f"SELECT coalesce(max({job.key}), 0) FROM {stream.table}")
            began = time.time()
            bench.execute(stream.write_sql(start=first, rows=rows, per_second=per_second))
            ended = time.time()
            return began, ended, finish_client(process)
