"""How fast the reader is, beside pg_recvlogical: one run, in turns, several rounds, medians and ratios.

`nox -s bench -- reader [--json] [--streams narrow,mixed,wide] [--rows N] [--rounds N] [--backends asyncio,trio]`.
benchmarks/README.md says what each subject does, and what was measured when.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Final

from _jobs import CODEC, EACH, JSON, RAW, TRANSPORT, Job, Outcome
from _latency import measure_latency, sustained_rate
from _slots import Bench, finish_client, open_bench, start_client, wait_for_quiet
from _streams import STREAMS, Stream
from _table import Line, line_of, print_table

_PEER: Final = "pg_recvlogical"
_NAMES: Final = {
    RAW: "reader, raw frames",
    JSON: "reader to JSON, null publisher",
    TRANSPORT: "postgres transport, batches",
    EACH: "postgres transport, typed rows",
}
_CODEC_FRAMES: Final = 60_000


def main() -> None:
    """Measure, and print."""
    options = parse(sys.argv[1:])
    lines: list[Line] = []
    with open_bench(options.postgres) as bench:
        about = machine(bench)
        say(about)
        for name in options.streams.split(","):
            lines += measure_stream(bench, STREAMS[name], options)
        if not options.no_latency:
            lines += latency_lines(bench, STREAMS["narrow"], options.backends.split(","))
    if options.json:
        for line in lines:
            print(line.as_json())
    else:
        print(about)
        print_table(lines)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="nox -s bench -- reader", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one object a line instead of a table")
    parser.add_argument("--streams", default="narrow", help="of narrow, mixed, wide, with commas")
    parser.add_argument(
        "--rows", type=int, help="rows of each stream; by default 500,000, 200,000 and 50,000"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backends", default="asyncio,trio")
    parser.add_argument(
        "--postgres", type=int, default=18, choices=(16, 18), help="the embedded server's version"
    )
    parser.add_argument(
        "--quiet", type=float, default=0.0, help="seconds to wait for a quiet machine before each run"
    )
    parser.add_argument("--no-latency", action="store_true", help="leave the latency out")
    options = parser.parse_args(arguments)
    if unknown := set(options.streams.split(",")) - set(STREAMS):
        parser.error(f"no such stream: {', '.join(sorted(unknown))}")
    return options


def measure_stream(bench: Bench, stream: Stream, options: argparse.Namespace) -> list[Line]:
    """Run every subject in every round, and the codecs by themselves."""
    rows = options.rows or stream.rows
    say(f"{stream.name}: writing {rows:,} rows")
    slot_name, end_lsn = bench.prepare(stream, rows)
    runs = subjects(bench, stream, slot_name, end_lsn, rows, options.backends.split(","))
    outcomes: dict[str, list[Outcome]] = {name: [] for name in runs}
    for number in range(options.rounds):
        # each round begins elsewhere: who comes first finds a warmer or colder machine
        names = [*runs]
        for name in names[number % len(names) :] + names[: number % len(names)]:
            with bench.copied_slot(slot_name) as copy:
                wait_for_quiet(options.quiet)
                outcome = runs[name](copy)
            say(f"{stream.name}, round {number + 1} of {options.rounds}: {name}: {outcome.rate:,.0f} rows/s")
            outcomes[name].append(outcome)
    question = f"{stream.name} rows ({stream.about}, 10 a transaction, {rows:,}): rate beside {_PEER}"
    lines = [line_of(question, name, found, _PEER, outcomes[_PEER]) for name, found in outcomes.items()]
    return lines + codec_lines(bench, stream, slot_name, rows)


def subjects(
    bench: Bench, stream: Stream, slot_name: str, end_lsn: int, rows: int, backends: Sequence[str]
) -> dict[str, Callable[[str], Outcome]]:
    """Return what is compared, by name; each is run with a slot of its own."""
    runs: dict[str, Callable[[str], Outcome]] = {_PEER: lambda copy: bench.recvlogical(copy, end_lsn, rows)}
    for subject, label in _NAMES.items():
        # typed rows are for information: narrow ones, on one event loop
        chosen = backends if subject != EACH else backends[:1] if stream.name == "narrow" else ()
        for backend in chosen:
            make = _job(bench, stream, slot_name, subject, backend, rows=rows, end_lsn=end_lsn)
            runs[f"{label} ({backend})"] = partial(_read, bench, make)
    return runs


def codec_lines(bench: Bench, stream: Stream, slot_name: str, rows: int) -> list[Line]:
    """Measure the codec beside the minimal encoder over captured frames, on one core that does nothing else."""
    with bench.copied_slot(slot_name) as copy:
        count = min(_CODEC_FRAMES, rows)
        make = _job(bench, stream, slot_name, CODEC, "asyncio", rows=count, end_lsn=0)
        with start_client(make(copy)) as process:
            cost = finish_client(process)
    question = (
        f"{stream.name} rows: CPU of encoding one, beside a minimal encoder that knows text columns only"
    )
    return [
        Line(question=question, subject="minimal encoder", cpu_us_per_row=cost["reference"]),
        Line(
            question=question,
            subject="cdc-pgoutput's codec",
            peer="minimal encoder",
            ratio=cost["ratio"],
            cpu_us_per_row=cost["codec"],
        ),
        Line(question=question, subject="from frame to event", cpu_us_per_row=cost["builder"]),
    ]


def latency_lines(bench: Bench, stream: Stream, backends: Sequence[str]) -> list[Line]:
    """Measure the transport's latency at parts of what writer and reader reach together."""
    publication = f"bench_{stream.name}"
    if not bench.execute("SELECT count(*) FROM pg_publication WHERE pubname = %s", publication):
        bench.prepare(stream, 10)
    lines: list[Line] = []
    for backend in backends:
        sustained = sustained_rate(bench, stream, publication, backend)
        say(f"latency, {backend}: {sustained:,.0f} rows/s with the writer running")
        for part, share in (("a tenth", 0.1), ("half", 0.5)):
            found = measure_latency(bench, stream, publication, backend, per_second=sustained * share)
            say(f"latency, {backend}, {part}: p50 {found.p50_ms:.1f} ms, p99 {found.p99_ms:.1f} ms")
            lines.append(
                Line(
                    question=f"commit to handler, {stream.name} rows, a writer on the same cores",
                    subject=f"{part} of {sustained:,.0f} ({backend})",
                    rate=found.rate,
                    p50_ms=found.p50_ms,
                    p99_ms=found.p99_ms,
                )
            )
    return lines


def machine(bench: Bench) -> str:
    """Say what was measured on, and when."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = names[0].partition(":")[2].strip() if names else platform.processor() or "an unknown processor"
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("cdc-wal", "cdc-pgoutput", "psycopg", "anyio", "trio")
    )
    load = os.getloadavg()[0]
    return (
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} x {model}, load {load:.1f} before the run\n"
        f"Python {platform.python_version()}, PostgreSQL {bench.version} over loopback TCP, fsync off, {packages}"
    )


def say(text: str) -> None:
    """Tell about the progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def _job(
    bench: Bench, stream: Stream, publication: str, subject: str, backend: str, *, rows: int, end_lsn: int
) -> Callable[[str], Job]:
    def make(slot_name: str) -> Job:
        return Job(
            subject=subject,
            backend=backend,
            dsn=bench.dsn,
            slot_name=slot_name,
            publication_name=publication,
            table=stream.table,
            key=stream.columns[0][0],
            rows=rows,
            end_lsn=end_lsn,
        )

    return make


def _read(bench: Bench, make: Callable[[str], Job], slot_name: str) -> Outcome:
    job = make(slot_name)
    outcome = bench.client(job)
    if job.subject != RAW and (confirmed := bench.confirmed_lsn(slot_name)) < job.end_lsn:
        raise RuntimeError(f"{job.subject} read all rows, and confirmed {confirmed} of {job.end_lsn}")
    return outcome


if __name__ == "__main__":
    main()
