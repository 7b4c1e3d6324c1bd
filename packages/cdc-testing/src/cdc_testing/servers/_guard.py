import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, final

from ._accounts import Account
from ._errors import ServerError

_ANSWER_SECONDS = 10.0


@final
class Guard:
    """A process that ends servers and removes their directories once this process is gone, whatever ended it.

    A child's parent-death signal would not do: Linux sends it when the *thread* that started the child ends
    (prctl(2), PR_SET_PDEATHSIG), and the async wrappers start servers from worker threads that come and go.
    """

    def __init__(self) -> None:
        if not sys.executable:
            raise ServerError(
                "no Python program to run the guard with", remedy="run the tests with a standalone Python"
            )
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("_guard_main.py")), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # Ctrl-C in a terminal goes to the tests alone
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def spawn(
        self,
        argv: Sequence[str],
        *,
        log: Path,
        account: Account | None,
        env: Mapping[str, str],
        stop_signal: signal.Signals,
    ) -> subprocess.Popen[bytes]:
        """Start a program that is under guard from its first instruction on, in a session of its own.

        Args:
            log: Both its outputs are appended here.
            account: Whom it runs as; None for ourselves.
            env: Its whole environment.
            stop_signal: What asks it to end when this process is gone; SIGKILL follows if it does not.
        """
        # The shell waits for a line before it becomes the program: were we killed between fork and `watch`,
        # its standard input would end and it with it.
        gate = ["/bin/sh", "-c", 'read -r go && exec "$@" </dev/null', "sh", *argv]
        with log.open("ab") as output:
            process = subprocess.Popen(
                gate,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                user=None if account is None else account.uid,
                group=None if account is None else account.gid,
                extra_groups=None if account is None else [],
                umask=0o077,
                cwd="/",
                env=dict(env),
                start_new_session=True,
            )
        try:
            self._tell(f"watch {process.pid} {int(stop_signal)}")
        except ServerError:
            _pipe(process.stdin).close()
            process.wait(_ANSWER_SECONDS)
            raise
        with contextlib.suppress(BrokenPipeError), _pipe(process.stdin) as go:  # it may be dead by now
            go.write(b"go\n")
        return process

    def forget(self, process: subprocess.Popen[bytes]) -> None:
        """The process has ended and was waited for."""
        self._tell(f"forget {process.pid}")

    def remove_at_end(self, directory: Path) -> None:
        """Remove the directory when this process is gone, or at `close`."""
        if "\n" in str(directory):
            raise ValueError(f"a directory's name may not hold a line break: {directory!r}")
        self._tell(f"remove {directory}")

    def close(self) -> None:
        """End what is still under guard, remove the directories, and wait for the guard to leave."""
        with contextlib.suppress(BrokenPipeError):  # the guard was killed: nobody reads what is buffered
            _pipe(self._process.stdin).close()
        try:
            self._process.wait(2 * _ANSWER_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_ANSWER_SECONDS)
        _pipe(self._process.stdout).close()

    def _tell(self, command: str) -> None:
        with self._lock:
            try:
                pipe = _pipe(self._process.stdin)
                pipe.write(os.fsencode(command) + b"\n")
                pipe.flush()
                answer = _read_line(_pipe(self._process.stdout).fileno(), _ANSWER_SECONDS)
            except OSError as error:
                raise self._lost() from error
            if answer != b"ok\n":
                raise self._lost()

    def _lost(self) -> ServerError:
        return ServerError(
            "the guard process does not answer; without it a server could outlive these tests",
            where=f"process {self.pid}, exit status {self._process.poll()}",
            remedy="start the server again; if it happens again, look for what kills processes here",
        )


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def _read_line(descriptor: int, seconds: float) -> bytes:
    deadline = time.monotonic() + seconds
    line = b""
    while not line.endswith(b"\n"):
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return line
        data = os.read(descriptor, 64)
        if not data:
            return line
        line += data
    return line
