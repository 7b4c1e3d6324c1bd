"""Servers in processes of their own, gone when this one is."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from .._errors import ServerError, ServerStartError, ServerTimeoutError
from .._guard import Guard

START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 0.02
_LOG_CHARACTERS: Final = 4000
_SOURCE: Final = Path(__file__).resolve().parents[3]


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """The line that a server's program prints once clients may connect."""

    endpoint_url: str


class Program(NamedTuple):
    """A server that runs."""

    endpoint_url: str
    pid: int


@contextmanager
def run_program(module: str, arguments: Sequence[str], *, start_timeout_seconds: float) -> Generator[Program]:
    """Run `python -m module` until the end of the block; it prints an `Announcement`.

    Raises:
        ServerStartError: it ended instead; ServerTimeoutError: it did not print in time.
    """
    guard = Guard()
    directory = Path(tempfile.mkdtemp(prefix="cdc-testing-"))
    try:
        guard.remove_at_end(directory)
        log = directory / "log"
        process = guard.spawn(
            [sys.executable, "-m", module, *arguments],
            log=log,
            account=None,
            env=_environment(),
            stop_signal=signal.SIGTERM,
        )
        try:
            yield Program(_await_announcement(process, log, start_timeout_seconds, module), process.pid)
        finally:
            _stop(process)
            guard.forget(process)
    finally:
        guard.close()
        shutil.rmtree(directory, ignore_errors=True)


def announce(endpoint_url: str) -> None:
    """Print the line that `run_program` waits for."""
    sys.stdout.write(msgspec.json.encode(Announcement(endpoint_url=endpoint_url)).decode() + "\n")
    sys.stdout.flush()


def _environment() -> dict[str, str]:
    # Our package need not be installed: a test may have put its folder on the path by hand.
    paths = [str(_SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _await_announcement(process: subprocess.Popen[bytes], log: Path, seconds: float, module: str) -> str:
    deadline = time.monotonic() + seconds
    while True:
        ended = process.poll() is not None
        for line in log.read_bytes().splitlines(keepends=True):
            if line.startswith(b'{"endpoint_url"') and line.endswith(b"\n"):
                return msgspec.json.decode(line, type=Announcement).endpoint_url
        if ended or time.monotonic() > deadline:
            kind = ServerStartError if ended else ServerTimeoutError
            raise _not_started(kind, process, log, module)
        time.sleep(_LOOK_SECONDS)


def _not_started(
    kind: type[ServerError], process: subprocess.Popen[bytes], log: Path, module: str
) -> ServerError:
    what = "ended" if kind is ServerStartError else "is not ready"
    return kind(
        f"the server's program {what} (exit status {process.poll()})",
        where=f"python -m {module}",
        remedy="pip install 'cdc-testing[kinesis]'; the log below says more",
        log=log.read_text(errors="replace")[-_LOG_CHARACTERS:],
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_STOP_SECONDS)
