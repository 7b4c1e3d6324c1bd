"""A consuming process is killed at random moments: nothing is lost, and each replay begins where it must."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import anyio
import psycopg
import pytest

from cdc_core import ChangeIdentity, parse_identity, provision
from cdc_testing.plugin import PostgresDatabase
from cdc_wal import PostgresTransport, WalConfig

pytestmark = pytest.mark.anyio

PROGRAM = Path(__file__).parent / "programs" / "consumer.py"
KILLS = 30


@pytest.mark.timeout(300)
async def test_rule_18_thirty_kills_lose_nothing_and_each_replay_begins_after_the_confirmed_lsn(
    postgres_database: PostgresDatabase, anyio_backend: str, tmp_path: Path
) -> None:
    database = postgres_database
    config = WalConfig(
        dsn=database.dsn, slot_name=database.name, publication_name="everything", tables=("public.t",)
    )
    with psycopg.connect(database.dsn, autocommit=True) as sql:
        sql.execute("CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int)")
        await provision(PostgresTransport(config))
        moment = random.Random(20)
        runs: list[
            tuple[int, list[str]]
        ] = []  # the confirmed LSN before each run, and what the run was given
        with writing(database.dsn):
            for number in range(KILLS):
                confirmed = confirmed_lsn(sql, database.name)
                path = tmp_path / f"run-{number}"
                with consumer(anyio_backend, config, path) as process:
                    wait_for_lines(path, moment.choice([1, 1, 2, 10, 50]), process)
                    await anyio.sleep(moment.random() * 0.05)
                    process.kill()
                    process.wait()
                wait_until_free(sql, database.name)
                runs.append((confirmed, path.read_text().splitlines()))
        (written,) = sql.execute("SELECT count(*) FROM t").fetchone() or (0,)
        confirmed, path = confirmed_lsn(sql, database.name), tmp_path / "last"
        with consumer(anyio_backend, config, path) as process:
            last_id = sql.execute("SELECT max(id) FROM t").fetchone()
            wait_for_text(path, f'{{"id":{(last_id or (0,))[0]}}}', process)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        runs.append((confirmed, path.read_text().splitlines()))

    keys: dict[ChangeIdentity, str] = {}
    for _, lines in runs:
        for line in lines:
            text, _, key = line.partition("\t")
            identity = parse_identity(text)
            assert isinstance(identity, ChangeIdentity)
            assert keys.setdefault(identity, key) == key, "a repeat has the identity of its first delivery"
    log = sorted(keys)
    assert len(log) == len(set(keys.values())) == written > 0, "each committed row, and nothing else"
    for number, (confirmed, lines) in enumerate(runs):
        given = [parse_identity(line.partition("\t")[0]) for line in lines]
        # The transactions that are not confirmed commit at or after the confirmed LSN, which is the end of the last
        # that is; the run is given those and no other, in order, without a hole.
        due = [identity for identity in log if identity.commit_lsn >= confirmed]
        assert given == due[: len(given)], f"run {number}, confirmed {confirmed}"


@contextmanager
def consumer(backend: str, config: WalConfig, path: Path) -> Generator[subprocess.Popen[bytes]]:
    arguments = [backend, config.dsn, config.slot_name, config.publication_name, str(path)]
    process = subprocess.Popen([sys.executable, str(PROGRAM), *arguments])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def writing(dsn: str) -> Generator[None]:
    """Write transactions of one to five rows from two sessions, until left."""
    stop = threading.Event()

    def write(seed: int) -> None:
        choice = random.Random(seed)
        with psycopg.connect(dsn) as session:
            while not stop.is_set():
                rows = choice.randint(1, 5)
                session.execute("INSERT INTO t (n) SELECT g FROM generate_series(1, %s) g", [rows])
                if choice.random() < 0.1:
                    session.rollback()
                else:
                    session.commit()
                stop.wait(0.002)

    writers = [threading.Thread(target=write, args=(seed,)) for seed in (1, 2)]
    for writer in writers:
        writer.start()
    try:
        yield
    finally:
        stop.set()
        for writer in writers:
            writer.join()


def confirmed_lsn(sql: psycopg.Connection, slot_name: str) -> int:
    row = sql.execute(
        "SELECT (confirmed_flush_lsn - '0/0')::bigint FROM pg_replication_slots WHERE slot_name = %s",
        [slot_name],
    ).fetchone()
    assert row is not None
    return int(row[0])


def wait_until_free(sql: psycopg.Connection, slot_name: str) -> None:
    deadline = time.monotonic() + 20
    while sql.execute(
        "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s AND active", [slot_name]
    ).fetchone():
        assert time.monotonic() < deadline, "the killed process' slot stays active"
        time.sleep(0.01)


def wait_for_lines(path: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert process.poll() is None, "the consumer ended by itself"
        assert time.monotonic() < deadline, "the consumer is given nothing"
        time.sleep(0.005)


def wait_for_text(path: Path, text: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() or text not in path.read_text():
        assert process.poll() is None, "the consumer ended by itself"
        assert time.monotonic() < deadline, f"{text} never came"
        time.sleep(0.02)
