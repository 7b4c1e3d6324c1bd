"""A server that is somebody else's program: started on a free loopback port, waited for, ended with its children."""

import contextlib
import http.client
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from cdc_testing.servers import Guard, ServerStartError, ServerTimeoutError, ServerUnavailableError

LOOPBACK = "127.0.0.1"
_POLL_SECONDS = 0.02
_STOP_SECONDS = 10.0
_PORT_ATTEMPTS = 5
# Below the range that Linux gives to outgoing connections, as for the embedded PostgreSQL.
_PORTS = range(15000, 32000)
_LISTENING = "0A"  # TCP_LISTEN, include/net/tcp_states.h


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """How a server is started.

    Attributes:
        name: For errors.
        argv: Its command line, given the port it is to take and a directory of its own.
        env: Its environment, `PATH` apart.
        ready_path: What an HTTP GET must get an answer for before the server counts as started.
        ready: Whether that answer says so; any does where this is None.
        start_timeout_seconds: How long it may take until then.
        stop_signal: What asks it to end.
    """

    name: str
    argv: Callable[[int, Path], Sequence[str]]
    env: Callable[[int, Path], Mapping[str, str]] = lambda _port, _directory: {}
    ready_path: str = "/"
    ready: Callable[[bytes], bool] | None = None
    start_timeout_seconds: float = 60.0
    stop_signal: signal.Signals = signal.SIGTERM


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LocalServer:
    """A server of this machine that runs for as long as the block that started it."""

    name: str
    port: int
    pid: int
    log_file: Path = field(repr=False)

    @property
    def endpoint_url(self) -> str:
        """What botocore is given as endpoint."""
        return f"http://{LOOPBACK}:{self.port}"

    def log(self, lines: int = 50) -> str:
        """The last lines of what the server wrote."""
        return _tail(self.log_file, lines)


@contextmanager
def run_program(program: Program) -> Generator[LocalServer]:
    """Start a server and wait until it answers; leaving the block ends it, and so does the end of this process.

    Raises:
        ServerStartError: if it ends instead.
        ServerTimeoutError: if it does not answer in time.
    """
    directory = Path(tempfile.mkdtemp(prefix="cdc-emulator-"))
    try:
        guard = Guard()
        try:
            guard.remove_at_end(directory)
            process, port = _start(program, guard, directory)
            try:
                yield LocalServer(
                    name=program.name, port=port, pid=process.pid, log_file=directory / "server.log"
                )
            finally:
                _end(process, program.stop_signal)
                guard.forget(process)
        finally:
            guard.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def need_program(name: str, *, why: str) -> str:
    """Return the path of a program of this machine.

    Raises:
        ServerUnavailableError: if it has none of that name.
    """
    beside = [str(Path(home, "bin")) for home in (os.environ.get("JAVA_HOME"),) if home]
    found = shutil.which(name, path=os.pathsep.join([*beside, os.environ.get("PATH", os.defpath)]))
    if found is None:
        raise ServerUnavailableError(
            f"{name} is not here", where=why, remedy=f"install what {name} belongs to, and put it into PATH"
        )
    return found


def run_tool(argv: Sequence[str], *, what: str, cwd: Path, timeout_seconds: float) -> str:
    """Run a program that prepares a server, to its end; return what it printed.

    Raises:
        ServerUnavailableError: if it fails or takes too long.
    """
    try:
        answer = subprocess.run(
            argv, cwd=cwd, capture_output=True, text=True, timeout=timeout_seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ServerUnavailableError(f"{what} took more than {timeout_seconds:g} s") from error
    if answer.returncode != 0:
        raise ServerUnavailableError(
            f"{what} failed with status {answer.returncode}",
            where=argv[0],
            remedy="is the network there? once fetched, everything is kept and works offline",
            log=(answer.stdout + answer.stderr)[-3000:],
        )
    return answer.stdout


def foreign_listeners(port: int) -> list[str]:
    """Return the addresses other than loopback on which somebody listens on this port, as Linux lists them."""
    found: list[str] = []
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            address, _, number = local.partition(":")
            if int(number, 16) == port and state == _LISTENING and address not in _LOOPBACKS:
                found.append(address)
    return found


# Of /proc/net/tcp and tcp6: 127.0.0.1, ::1, ::ffff:127.0.0.1, in words of the machine's byte order.
_LOOPBACKS = frozenset(
    {
        "0100007F",
        "00000000000000000000000001000000",
        "0000000000000000FFFF00000100007F",
    }
)


def _start(program: Program, guard: Guard, directory: Path) -> tuple[subprocess.Popen[bytes], int]:
    log = directory / "server.log"
    port = 0
    for _attempt in range(_PORT_ATTEMPTS):
        port = _free_port()
        env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(directory), "LC_ALL": "C.UTF-8"}
        process = guard.spawn(
            program.argv(port, directory),
            log=log,
            account=None,
            env={**env, **program.env(port, directory)},
            stop_signal=program.stop_signal,
        )
        try:
            if _wait_until_ready(program, process, port, log):
                return process, port
        except BaseException:
            _end(process, signal.SIGKILL)
            guard.forget(process)
            raise
        guard.forget(process)
        # Between our look and the server's, somebody took the port.
        if not any(words in _tail(log) for words in ("EADDRINUSE", "Address already in use")):
            break
    raise ServerStartError(f"{program.name} ended while it started", where=f"port {port}", log=_tail(log))


def _free_port() -> int:
    for port in random.sample(_PORTS, 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((LOOPBACK, port))
                return port
    raise ServerStartError("found no free port", where=f"{LOOPBACK}, {_PORTS.start} to {_PORTS.stop - 1}")


def _wait_until_ready(program: Program, process: subprocess.Popen[bytes], port: int, log: Path) -> bool:
    deadline = time.monotonic() + program.start_timeout_seconds
    while not _answers(port, program):
        if process.poll() is not None:
            return False
        if time.monotonic() > deadline:
            raise ServerTimeoutError(
                f"{program.name} did not answer within {program.start_timeout_seconds:g} s",
                where=f"port {port}",
                remedy="a busy machine? give it more with start_timeout_seconds=",
                log=_tail(log),
            )
        time.sleep(_POLL_SECONDS)
    return True


def _answers(port: int, program: Program) -> bool:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5.0)
    try:
        connection.request("GET", program.ready_path)
        answer = connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return program.ready is None or program.ready(answer)


def _end(process: subprocess.Popen[bytes], stop_signal: signal.Signals) -> None:
    if process.poll() is None:
        process.send_signal(stop_signal)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
    # What it left behind, itself included should it not have ended.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(_STOP_SECONDS)


def _tail(log: Path, lines: int = 50) -> str:
    try:
        text = log.read_bytes()[-400 * lines :].decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
