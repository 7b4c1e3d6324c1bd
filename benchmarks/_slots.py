"""The server under measurement: tables, and slots that all read the same log."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, final

import anyio
import psycopg
from _jobs import Job, Outcome
from _streams import SCHEMA, Stream

from cdc_core import provision
from cdc_testing.servers.postgres import EmbeddedPostgres, Setting, start_postgres
from cdc_wal import PostgresTransport, WalConfig

_CLIENT: Final = Path(__file__).with_name("_client.py")
_POLL_SECONDS: Final = 0.02
_SLOT_SECONDS: Final = 20.0
# What is measured is not to be interrupted by what a server does now and then; the log has to stay.
_SETTINGS: Final[Mapping[str, Setting]] = {
    "autovacuum": False,
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",
    "shared_buffers": "256MB",
}


@final
class Bench:
    """An embedded server with one publication, and an ordinary session on it."""

    def __init__(self, server: EmbeddedPostgres, admin: psycopg.Connection[Any]) -> None:
        self.version = server.version
        self.dsn = server.dsn()
        self.ticks_per_second = os.sysconf("SC_CLK_TCK")
        self._recvlogical = server.build.bin_dir / "pg_recvlogical"
        self._admin = admin
        self._copies = 0

    def execute(self, sql: str, *values: object) -> Any:
        """Run a statement; return the first column of its first row, None where it has no rows."""
        cursor = self._admin.execute(sql.encode(), values or None)
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None

    def prepare(self, stream: Stream, rows: int) -> tuple[str, int]:
        """Make the table, a slot and the rows behind it; return the slot's name and the end of the rows."""
        self.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
        self.execute(stream.create_sql())
        slot_name = f"bench_{stream.name}"
        transport = PostgresTransport(
            WalConfig(dsn=self.dsn, slot_name=slot_name, publication_name=slot_name, tables=(stream.table,))
        )
        anyio.run(provision, transport)
        self.execute(stream.write_sql(start=1, rows=rows))
        end_lsn = self.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
        # One more transaction: whoever waits for an LSN at or behind the end is told of it at once.
        self.execute(stream.write_sql(start=rows + 1, rows=10))
        return slot_name, int(end_lsn)

    @contextmanager
    def copied_slot(self, slot_name: str) -> Generator[str]:
        """A copy of a slot, which reads the same log from the same place; dropped in the end."""
        self._copies += 1
        copy = f"{slot_name}_{self._copies}"
        self.execute("SELECT pg_copy_logical_replication_slot(%s, %s)", slot_name, copy)
        try:
            yield copy
        finally:
            self._drop(copy)

    @contextmanager
    def fresh_slot(self, publication: str) -> Generator[str]:
        """A slot that begins now; dropped in the end."""
        self._copies += 1
        name = f"{publication}_{self._copies}"
        self.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", name)
        try:
            yield name
        finally:
            self._drop(name)

    def confirmed_lsn(self, slot_name: str) -> int:
        """Return what the server has of a slot's confirmation."""
        sql = "SELECT confirmed_flush_lsn - '0/0'::pg_lsn FROM pg_replication_slots WHERE slot_name = %s"
        return int(self.execute(sql, slot_name))

    def wait_active(self, slot_name: str) -> None:
        """Wait until somebody streams a slot."""
        deadline = time.monotonic() + _SLOT_SECONDS
        while (
            self.execute("SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s", slot_name)
            is None
        ):
            if time.monotonic() > deadline:
                raise RuntimeError(f"nobody reads the slot {slot_name}")
            time.sleep(_POLL_SECONDS)

    def _drop(self, slot_name: str) -> None:
        deadline = time.monotonic() + _SLOT_SECONDS
        sql = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s"
        while self.execute(sql, slot_name) is not None:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the slot {slot_name} is still in use")
            time.sleep(_POLL_SECONDS)
        self.execute("SELECT pg_drop_replication_slot(%s)", slot_name)

    def recvlogical(self, slot_name: str, end_lsn: int, rows: int) -> Outcome:
        """Run pg_recvlogical to /dev/null, from its start to its end."""
        lsn = f"{end_lsn >> 32:X}/{end_lsn & 0xFFFFFFFF:X}"
        options = ["proto_version=1", f"publication_names={slot_name.rpartition('_')[0]}", "messages=true"]
        command = [str(self._recvlogical), "--dbname", self.dsn, "--slot", slot_name, "--start", "--no-loop"]
        command += ["--endpos", lsn, "--file", "/dev/null", *(f"--option={option}" for option in options)]
        began = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            watch = _Watch(self, process.pid, slot_name)
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - began
            process.returncode = os.waitstatus_to_exitcode(status)
            watch.stop()
            if process.returncode != 0:
                assert process.stderr is not None
                raise RuntimeError(f"pg_recvlogical failed: {process.stderr.read().decode(errors='replace')}")
        return Outcome(
            rows=rows,
            seconds=seconds,
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            rss_mib=watch.rss_mib,
            walsender_cpu_seconds=watch.walsender_cpu_seconds,
            other_cores=watch.other_cores(usage.ru_utime + usage.ru_stime),
        )

    def client(self, job: Job) -> Outcome:
        """Run one of our subjects in a process of its own."""
        with start_client(job) as process:
            watch = _Watch(self, process.pid, job.slot_name)
            result = finish_client(process)
            watch.stop()
        outcome = Outcome(**result)
        outcome.walsender_cpu_seconds = watch.walsender_cpu_seconds
        outcome.other_cores = watch.other_cores(outcome.cpu_seconds)
        return outcome


@contextmanager
def open_bench(version: int) -> Generator[Bench]:
    """Start an embedded server."""
    with (
        start_postgres(version, settings=_SETTINGS, use_existing=False) as server,
        psycopg.connect(server.dsn(), autocommit=True) as admin,
    ):
        yield Bench(server, admin)


def busy_seconds() -> float:
    """Return the CPU time that all cores have spent on anything, stolen time included."""
    user, nice, system, _, _, *others = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9])
    return (user + nice + system + sum(others)) / os.sysconf("SC_CLK_TCK")


def wait_for_quiet(seconds: float) -> None:
    """Wait until everybody else leaves nine tenths of the cores alone for a second, `seconds` at most."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        busy = busy_seconds()
        time.sleep(1.0)
        if busy_seconds() - busy < 0.1 * (os.cpu_count() or 1):
            return


def start_client(job: Job) -> subprocess.Popen[str]:
    """Start the process of one of our subjects."""
    command = [sys.executable, str(_CLIENT), json.dumps(dataclasses.asdict(job))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish_client(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for the process of a subject, and return what it reports."""
    output, _ = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"a subject failed with exit status {process.returncode}")
    result: dict[str, Any] = json.loads(output)
    return result


@final
class _Watch:
    """Looks at a client and at its walsender fifty times a second, from /proc; neither tells more once it has ended."""

    def __init__(self, bench: Bench, client_pid: int, slot_name: str) -> None:
        self._began, self._busy = time.perf_counter(), busy_seconds()
        self.rss_mib: float | None = None
        self.walsender_cpu_seconds: float | None = None
        self._client = Path(f"/proc/{client_pid}/status")
        self._bench = bench
        self._slot_name = slot_name
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._ended.set()
        self._thread.join()

    def other_cores(self, client_cpu_seconds: float) -> float | None:
        """Return how many cores were busy with anything but the client and its walsender; None: UNKNOWN."""
        if self.walsender_cpu_seconds is None:
            return None
        ours = client_cpu_seconds + self.walsender_cpu_seconds
        return max(0.0, (busy_seconds() - self._busy - ours) / (time.perf_counter() - self._began))

    def _look(self) -> None:
        walsender: Path | None = None
        while not self._ended.wait(_POLL_SECONDS):
            if walsender is None:
                sql = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s"
                if (pid := self._bench.execute(sql, self._slot_name)) is not None:
                    walsender = Path(f"/proc/{pid}/stat")
            try:
                for line in self._client.read_text().splitlines():
                    if line.startswith("VmHWM:"):
                        self.rss_mib = int(line.split()[1]) / 1024
            except OSError:
                pass
            try:
                if walsender is not None:
                    fields = walsender.read_text().rpartition(")")[2].split()
                    self.walsender_cpu_seconds = (
                        int(fields[11]) + int(fields[12])
                    ) / self._bench.ticks_per_second
            except OSError:
                return
