import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from emulators._process import foreign_listeners
from emulators.localstack import fetch_localstack

from cdc_testing.servers import ServerUnavailableError

ROOT = Path(__file__).parents[2]
STREAMS = {"cdc", "cdc-cdc-dead-letters"}
TABLES = {"cdc-cdc", "cdc-cdc-cdc-meta"}


@pytest.fixture
def endpoint() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command and the endpoint that it printed; where LocalStack cannot run, the test is skipped or fails in CI."""
    try:
        fetch_localstack()
    except ServerUnavailableError as error:
        if os.environ.get("CI", "").lower() == "true":
            raise
        pytest.skip(str(error))
    argv = [sys.executable, "localstack/start.py"]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as command:
        try:
            assert command.stdout is not None
            yield command, command.stdout.readline().strip()
        finally:
            command.kill()


def client(service: str, endpoint_url: str) -> Any:
    session: Any = boto3.Session(
        aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1"
    )
    return session.client(service, endpoint_url=endpoint_url)


def descendants(pid: int) -> set[int]:
    """The processes below one, itself left out."""
    parents = {
        int(stat.parent.name): int(stat.read_text().rpartition(")")[2].split()[1])
        for stat in Path("/proc").glob("[0-9]*/stat")
        if stat.exists()
    }
    found: set[int] = set()
    while more := {child for child, parent in parents.items() if parent in found | {pid}} - found:
        found |= more
    return found


def alive(pids: set[int]) -> set[int]:
    return {
        pid
        for pid in pids
        if Path(f"/proc/{pid}/stat").exists()
        and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    }


def wait_until(condition: Callable[[], bool], *, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="processes and addresses are read from /proc")
def test_it_has_the_stream_and_the_tables_listens_on_loopback_and_leaves_nothing_behind(
    endpoint: tuple[subprocess.Popen[str], str],
) -> None:
    command, endpoint_url = endpoint
    assert set(client("kinesis", endpoint_url).list_streams()["StreamNames"]) == STREAMS
    dynamodb = client("dynamodb", endpoint_url)
    assert set(dynamodb.list_tables()["TableNames"]) == TABLES
    keys = [dynamodb.describe_table(TableName=name)["Table"]["KeySchema"] for name in sorted(TABLES)]
    assert [key["AttributeName"] for schema in keys for key in schema] == ["leaseKey", "name"]
    below = descendants(command.pid)
    names = {Path(f"/proc/{pid}/comm").read_text().strip() for pid in below}
    assert {"python", "node", "java"} <= names
    for pid in below:
        for port in listening_ports(pid):
            assert foreign_listeners(port) == [], f"{Path(f'/proc/{pid}/comm').read_text()} on {port}"
    command.send_signal(signal.SIGTERM)
    assert command.wait(30) == 0
    wait_until(lambda: not alive(below))


@pytest.mark.skipif(sys.platform != "linux", reason="processes are read from /proc")
def test_its_servers_end_although_it_is_killed_itself(endpoint: tuple[subprocess.Popen[str], str]) -> None:
    command, _ = endpoint
    below = descendants(command.pid)
    (localstack,) = [
        pid for pid in below if b"localstack.runtime.main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    servers = descendants(localstack)
    assert len(servers) >= 2
    os.kill(localstack, signal.SIGKILL)
    command.kill()
    wait_until(lambda: not alive(servers))


def listening_ports(pid: int) -> set[int]:
    inodes: set[str] = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        if os.path.lexists(link) and (target := os.readlink(link)).startswith("socket:["):
            inodes.add(target[len("socket:[") : -1])
    return {
        int(line.split()[1].rpartition(":")[2], 16)
        for table in ("tcp", "tcp6")
        for line in Path("/proc/net", table).read_text().splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[9] in inodes
    }
