"""kinesis-local (kinesis-mock), a Kinesis that is not ours, from npm.

`python -m emulators.kinesis` starts it and prints its endpoint, until Ctrl-C; `--fetch` only fetches it.
"""

import signal
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ._command import run_command
from ._npm import fetch_package, read_pins
from ._process import LocalServer, Program, need_program, run_program

_FOLDER = Path(__file__).parent
LOOPBACK_MODULE = _FOLDER / "loopback.cjs"
"""Loaded into a server of Node.js before its own program: see there."""

# Every change of state takes half a second by default, as if it were AWS in a hurry.
_TRANSITIONS = (
    "CREATE_STREAM",
    "DELETE_STREAM",
    "REGISTER_STREAM_CONSUMER",
    "DEREGISTER_STREAM_CONSUMER",
    "START_STREAM_ENCRYPTION",
    "STOP_STREAM_ENCRYPTION",
    "SPLIT_SHARD",
    "MERGE_SHARDS",
    "UPDATE_SHARD_COUNT",
    "UPDATE_STREAM_MODE",
)


def fetch_kinesis_local(version: str = "0.6.2") -> Path:
    """The folder of a pinned version, from the cache or fetched now.

    - `version`: one that kinesis_packages.json pins.

    Raises:
        ServerUnavailableError: if there is no npm, or it cannot fetch the package.
        ServerError: if what it fetched is not what was pinned.
    """
    pins = {package.version: package for package in read_pins("kinesis_packages.json")}
    return fetch_package(pins[version])


@contextmanager
def start_kinesis_local(
    *, transition_seconds: float = 0.05, start_timeout_seconds: float = 60.0
) -> Generator[LocalServer]:
    """Start kinesis-local on a free port of 127.0.0.1; leaving the block ends it.

    - `transition_seconds`: how long a stream is CREATING, UPDATING or DELETING.

    Any credentials do; an access key of twelve digits selects an account of that number.

    Raises:
        ServerUnavailableError: if there is no node, or the package cannot be fetched.
        ServerStartError, ServerTimeoutError: if it does not come up.
    """
    node = need_program("node", why="kinesis-local is a program of Node.js")
    package = fetch_kinesis_local()
    argv = [node, "--require", str(LOOPBACK_MODULE), str(package / "main.js")]
    settings = {f"{name}_DURATION": f"{int(transition_seconds * 1000)}ms" for name in _TRANSITIONS}
    settings |= {
        # The default looks for it in the working directory.
        "KINESIS_MOCK_CERT_PATH": str(package / "server.json"),
        # It insists on a TLS port too: whichever is free.
        "KINESIS_MOCK_TLS_PORT": "0",
        "LOG_LEVEL": "ERROR",
        "SHARD_LIMIT": "1000",
        "ON_DEMAND_STREAM_COUNT_LIMIT": "100",
    }
    program = Program(
        name="kinesis-local",
        argv=lambda _port, _directory: argv,
        env=lambda port, _directory: {**settings, "KINESIS_MOCK_PLAIN_PORT": str(port)},
        ready_path="/healthcheck",
        # Asked to end, it waits for its clients' idle connections, and there is nothing to be saved.
        stop_signal=signal.SIGKILL,
        start_timeout_seconds=start_timeout_seconds,
    )
    with run_program(program) as server:
        yield server


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command("kinesis", __doc__, fetch=fetch_kinesis_local, start=start_kinesis_local)(arguments)


if __name__ == "__main__":
    sys.exit(main())
