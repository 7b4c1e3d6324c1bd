"""Runs the programs of `examples/` and of the README as their users do: as processes, with a database of their own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psycopg

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
DEADLINE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Program:
    """A started program, and the file that holds what it has printed."""

    process: subprocess.Popen[bytes]
    output: Path

    def printed(self) -> str:
        return self.output.read_text(encoding="utf-8")

    def stop(self, signal_number: int) -> int:
        """Send a signal, and return the exit status."""
        self.process.send_signal(signal_number)
        return self.process.wait(DEADLINE_SECONDS)


@dataclass(frozen=True, slots=True)
class Shop:
    """The examples' database, a slot name of its own, and an event loop."""

    dsn: str
    slot_name: str
    loop: str
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "SHOP_DSN": self.dsn,
            "SHOP_SLOT": self.slot_name,
            "SHOP_LOOP": self.loop,
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "error",
        }

    def sql(self, statement: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return [] if cursor.description is None else cursor.fetchall()

    def insert(self, *orders: tuple[int, str]) -> None:
        """Write orders, id and total, in one transaction."""
        rows = ", ".join(f"({number}, {total})" for number, total in orders)
        self.sql(f"INSERT INTO shop.orders (id, total) VALUES {rows}")

    def run(self, *arguments: str, status: int = 0, timeout_seconds: float = DEADLINE_SECONDS) -> str:
        """Run a program to its end, and return what it printed."""
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=EXAMPLES,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    @contextmanager
    def started(self, *arguments: str, environment: dict[str, str] | None = None) -> Generator[Program]:
        """Start a program; it is killed where it still runs at the end."""
        output = self.folder / f"{len(list(self.folder.iterdir()))}.out"
        with output.open("wb") as file:
            process = self._start(file, arguments, environment or {})
        try:
            yield Program(process, output)
        finally:
            process.kill()
            process.wait()

    def _start(
        self, file: IO[bytes], arguments: tuple[str, ...], environment: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=EXAMPLES,
            env={**self.environment, **environment},
            stdout=file,
            stderr=subprocess.STDOUT,
        )

    def wait_until_free(self) -> None:
        """Wait until nobody reads the slot."""
        statement = f"SELECT FROM pg_replication_slots WHERE slot_name = '{self.slot_name}' AND active"
        eventually(lambda: not self.sql(statement), why="the slot stays in use")


def eventually(condition: Callable[[], object], *, why: str, program: Program | None = None) -> None:
    """Wait until a condition holds; a program that ends before that fails the test at once."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        shown = program.printed() if program else ""
        assert program is None or program.process.poll() is None, f"it ended by itself\n{shown}"
        assert time.monotonic() < deadline, f"{why}\n{shown}"
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def get(url: str) -> tuple[int, str]:
    """Return status and body of an HTTP request; status 0 where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=DEADLINE_SECONDS) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""
