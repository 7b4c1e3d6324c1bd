"""What putting to and getting from Kinesis costs, beside a bare boto3 loop: one run, in turns, several rounds, medians.

`nox -s bench -- kinesis [--json] [--rows N] [--rounds N] [--backends asyncio,trio] [--no-peer]`.
benchmarks/README.md says what each subject does, and what was measured when.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import secrets
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Final

from _jobs import Outcome
from _kinesis_jobs import (
    GET,
    GET_BOTO3,
    GET_RAW,
    PUT,
    PUT_AGGREGATED,
    PUT_BOTO3,
    PUT_RAW,
    PUT_RAW_AGGREGATED,
    KinesisJob,
)
from _slots import wait_for_quiet
from _table import Line, print_table

from cdc_testing.servers.kinesis import EmbeddedAws, start_aws

_HERE: Final = Path(__file__).parent
_SHARDS: Final = 4
_PEER: Final = "async-kinesis==3.0.1"
_BARE_PUT: Final = "bare boto3 put_records loop"
_BARE_GET: Final = "bare boto3 get_records loop"
# Of the issue: rows per CPU second beside the bare loop, with order kept.
_TARGETS: Final = {
    "publisher, a record a row": 2.0,
    "publisher, aggregated": 5.0,
    "pipeline, a record a row": 6.0,
    "pipeline, aggregated": 6.0,
}

Run = Callable[[], Outcome]


def main() -> None:
    """Measure, and print."""
    options = parse(sys.argv[1:])
    about = machine()
    say(about)
    lines: list[Line] = []
    with start_aws(own_process=True, use_existing=False) as servers, peer_python(options.no_peer) as peer:
        bench = Bench(servers, options.rows, peer)
        lines += compared("put", _BARE_PUT, puts(bench, options.backends.split(",")), options)
        streams = bench.fill()
        lines += compared("get", _BARE_GET, gets(bench, streams, options.backends.split(",")), options)
    if options.json:
        for line in lines:
            print(line.as_json())
        return
    print(about)
    print_table(lines)
    print_targets(lines)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="nox -s bench -- kinesis", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one object a line instead of a table")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backends", default="asyncio,trio")
    parser.add_argument("--no-peer", action="store_true", help=f"leave {_PEER} out")
    parser.add_argument(
        "--quiet", type=float, default=0.0, help="seconds to wait for a quiet machine before each run"
    )
    return parser.parse_args(arguments)


class Bench:
    """The servers, and how a subject is run on them; each run of a put has a stream of its own."""

    def __init__(self, servers: EmbeddedAws, rows: int, peer: str | None) -> None:
        self.peer = peer
        self._servers = servers
        self._rows = rows
        session: Any = servers.boto3_session()
        self._kinesis: Any = session.client("kinesis", endpoint_url=servers.kinesis_endpoint_url)

    def put(self, subject: str, backend: str, *, buckets: int = 256, python: str | None = None) -> Outcome:
        """Run a subject that writes."""
        stream = self._new_stream()
        try:
            return self._run(subject, backend, stream, buckets=buckets, python=python)
        finally:
            self._kinesis.delete_stream(StreamName=stream)

    def get(self, subject: str, backend: str, stream: str, *, python: str | None = None) -> Outcome:
        """Run a subject that reads."""
        return self._run(subject, backend, stream, python=python)

    def fill(self) -> dict[str, str]:
        """Return streams of the rows as our publisher writes them, by the subject that wrote them."""
        streams = {subject: self._new_stream() for subject in (PUT, PUT_AGGREGATED)}
        for subject, stream in streams.items():
            self._run(subject, "asyncio", stream)
        return streams

    def _new_stream(self) -> str:
        name = f"bench-{secrets.token_hex(4)}"
        self._kinesis.create_stream(StreamName=name, ShardCount=_SHARDS)
        return name

    def _run(
        self, subject: str, backend: str, stream: str, *, buckets: int = 256, python: str | None = None
    ) -> Outcome:
        assert self._servers.kinesis_endpoint_url is not None
        assert self._servers.dynamodb_endpoint_url is not None
        job = KinesisJob(
            subject=subject,
            backend=backend,
            kinesis_url=self._servers.kinesis_endpoint_url,
            dynamodb_url=self._servers.dynamodb_endpoint_url,
            region=self._servers.region,
            stream=stream,
            group=f"group-{secrets.token_hex(4)}",
            rows=self._rows,
            buckets=buckets,
        )
        program = _HERE / ("_kinesis_client.py" if python is None else "_kinesis_peer.py")
        command = [python or sys.executable, str(program), json.dumps(dataclasses.asdict(job))]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        return Outcome(**json.loads(done.stdout))


def puts(bench: Bench, backends: Sequence[str]) -> dict[str, Run]:
    """Return what writes, by name."""
    runs: dict[str, Run] = {_BARE_PUT: partial(bench.put, PUT_BOTO3, "asyncio")}
    for backend in backends:
        runs[f"publisher, a record a row ({backend})"] = partial(bench.put, PUT, backend)
        runs[f"publisher, aggregated ({backend})"] = partial(bench.put, PUT_AGGREGATED, backend)
    runs["publisher, a record a row, 1024 buckets"] = partial(bench.put, PUT, backends[0], buckets=1024)
    runs["ceiling: raw requests, no order"] = partial(bench.put, PUT_RAW, backends[0])
    runs["ceiling: raw, aggregated, no order"] = partial(bench.put, PUT_RAW_AGGREGATED, backends[0])
    if bench.peer is not None:
        runs[f"{_PEER}, no order"] = partial(bench.put, "put", "asyncio", python=bench.peer)
    return runs


def gets(bench: Bench, streams: dict[str, str], backends: Sequence[str]) -> dict[str, Run]:
    """Return what reads, by name; all read the same two streams."""
    plain, aggregated = streams[PUT], streams[PUT_AGGREGATED]
    runs: dict[str, Run] = {_BARE_GET: partial(bench.get, GET_BOTO3, "asyncio", plain)}
    for backend in backends:
        runs[f"pipeline, a record a row ({backend})"] = partial(bench.get, GET, backend, plain)
        runs[f"pipeline, aggregated ({backend})"] = partial(bench.get, GET, backend, aggregated)
    runs["ceiling: raw requests"] = partial(bench.get, GET_RAW, backends[0], plain)
    runs["ceiling: raw requests, aggregates whole"] = partial(bench.get, GET_RAW, backends[0], aggregated)
    if bench.peer is not None:
        runs[_PEER] = partial(bench.get, "get", "asyncio", plain, python=bench.peer)
    return runs


def compared(what: str, bare: str, runs: dict[str, Run], options: argparse.Namespace) -> list[Line]:
    """Run every subject in every round; the ratios are medians of those within a round."""
    outcomes: dict[str, list[Outcome]] = {name: [] for name in runs}
    for number in range(options.rounds):
        # each round begins elsewhere: who comes first finds a warmer or colder machine
        names = [*runs]
        for name in names[number % len(names) :] + names[: number % len(names)]:
            wait_for_quiet(options.quiet)
            outcome = runs[name]()
            say(
                f"{what}, round {number + 1} of {options.rounds}: {name}: {cost_us(outcome):.2f} us of CPU a row"
            )
            outcomes[name].append(outcome)
    question = (
        f"{what}, {options.rows:,} rows of 300 bytes, {_SHARDS} shards: rows per CPU second beside {bare}"
    )
    return [
        Line(
            question=question,
            subject=name,
            peer=None if name == bare else bare,
            ratio=None
            if name == bare
            else median(
                cost_us(peer) / cost_us(one) for one, peer in zip(found, outcomes[bare], strict=True)
            ),
            rate=median(one.rate for one in found),
            cpu_us_per_row=median(map(cost_us, found)),
            rss_mib=median(one.rss_mib or 0.0 for one in found),
        )
        for name, found in outcomes.items()
    ]


def cost_us(outcome: Outcome) -> float:
    """Return the microseconds of CPU time a row."""
    return outcome.cpu_seconds / outcome.rows * 1e6


def print_targets(lines: Sequence[Line]) -> None:
    """Print what was asked for beside what was found."""
    print("\nRows per CPU second beside the bare loop, with order kept: asked, and found")
    for line in lines:
        asked = _TARGETS.get(line.subject.rpartition(" (")[0])
        if asked is not None and line.ratio is not None:
            verdict = "met" if line.ratio >= asked else "MISSED"
            print(f"  {line.subject:42s} {asked:5.1f} {line.ratio:7.2f}  {verdict}")


@contextmanager
def peer_python(left_out: bool) -> Generator[str | None]:
    """Make an environment with the peer in it; None where it is left out, or cannot be installed."""
    if left_out:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="bench-peer-") as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder) / "bin" / "python")
        done = subprocess.run([python, "-m", "pip", "install", "--quiet", _PEER], check=False)
        if done.returncode != 0:
            say(f"{_PEER} cannot be installed here: its figures are UNKNOWN")
        yield python if done.returncode == 0 else None


def machine() -> str:
    """Say what was measured on, and when."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = names[0].partition(":")[2].strip() if names else platform.processor() or "an unknown processor"
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("cdc-kinesis", "boto3", "urllib3", "msgspec", "anyio", "trio")
    )
    return (
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} x {model}, load {os.getloadavg()[0]:.1f} before the run\n"
        f"Python {platform.python_version()}, the embedded Kinesis in a process of its own, HTTP, {packages}"
    )


def say(text: str) -> None:
    """Tell about the progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
