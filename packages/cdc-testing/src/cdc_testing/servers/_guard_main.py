"""The program of the guard process: ends servers whose owner is gone. Started by `_guard.Guard`, by path.

Argument: the owner's process id. Standard input: one command a line, each answered with one line.
    watch PID SIGNAL   end this process (and its process group, should it not end) when the owner is gone
    forget PID         it has ended
    remove PATH        remove this directory when the owner is gone
The owner is gone when standard input ends or, where the system can tell (Linux), when its process ends: a
forked child of the owner may hold the other end of standard input open long after it.
"""

import os
import select
import shutil
import signal
import sys
import time

_PATIENCE_SECONDS = 5.0


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _take_a_name()
    watched: dict[int, tuple[int, int | None]] = {}
    directories: list[str] = []
    try:
        _serve(int(sys.argv[1]), watched, directories)
    finally:
        _end(watched)
        for path in directories:
            _remove(path)


def _take_a_name() -> None:
    # So that `killall -9 python3` ends the tests and not what cleans up after them.
    try:
        with open("/proc/self/comm", "w") as file:
            file.write("cdc-guard")
    except OSError:
        pass


def _serve(owner: int, watched: dict[int, tuple[int, int | None]], directories: list[str]) -> None:
    sources = [0]
    owner_handle = _handle(owner)
    if owner_handle is not None:
        sources.append(owner_handle)
    if os.getppid() != owner:
        return
    rest = b""
    while True:
        ready, _, _ = select.select(sources, [], [])
        if 0 not in ready:
            return
        data = os.read(0, 65536)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            _obey(os.fsdecode(line), watched, directories)
            os.write(1, b"ok\n")


def _obey(line: str, watched: dict[int, tuple[int, int | None]], directories: list[str]) -> None:
    verb, _, rest = line.partition(" ")
    if verb == "watch":
        pid, number = (int(word) for word in rest.split())
        watched[pid] = (number, _handle(pid))
    elif verb == "forget":
        _, handle = watched.pop(int(rest), (0, None))
        if handle is not None:
            os.close(handle)
    elif verb == "remove":
        directories.append(rest)


def _handle(pid: int) -> int | None:
    # A pidfd (Linux 5.3) stays with the process it was opened for: its number may be given to another one.
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _end(watched: dict[int, tuple[int, int | None]]) -> None:
    for pid, (number, _) in watched.items():
        _kill(-pid if number == signal.SIGKILL else pid, number)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    for pid, (number, handle) in watched.items():
        if not _ended(pid, handle, deadline) or number == signal.SIGKILL:
            _kill(-pid, signal.SIGKILL)


def _ended(pid: int, handle: int | None, deadline: float) -> bool:
    if handle is not None:
        return bool(select.select([handle], [], [], max(0.0, deadline - time.monotonic()))[0])
    while _kill(pid, 0):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _remove(path: str) -> None:
    # Again while it is there: a dying process may still put a file into it.
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while os.path.lexists(path) and time.monotonic() < deadline:
        shutil.rmtree(path, ignore_errors=True)
        time.sleep(0.01)


def _kill(pid: int, number: int) -> bool:
    try:
        if pid < 0:
            os.killpg(-pid, number)
        else:
            os.kill(pid, number)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
