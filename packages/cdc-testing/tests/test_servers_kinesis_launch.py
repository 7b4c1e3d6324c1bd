"""How the servers start and end, and how tests are pointed to others."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from typing import Any

import anyio
import pytest

from cdc_testing.servers import ServerError, ServerStartError
from cdc_testing.servers.kinesis import (
    DYNAMODB_ENDPOINT_VARIABLE,
    KINESIS_ENDPOINT_VARIABLE,
    EmbeddedAws,
    EmbeddedKinesis,
    RejectEntries,
    connect_kinesis,
    open_aws,
    open_kinesis,
    start_dynamodb,
    start_kinesis,
)
from cdc_testing.servers.kinesis._program import run_program

_OWNER = """
    import time
    from cdc_testing.servers.kinesis import start_dynamodb, start_kinesis
    with start_kinesis(own_process=True, use_existing=False) as kinesis:
        with start_dynamodb(use_existing=False) as dynamodb:
            print(kinesis.pid, dynamodb.pid, flush=True)
            time.sleep(120)
"""


def clients(aws: EmbeddedAws) -> tuple[Any, Any]:
    session: Any = aws.boto3_session()
    return (
        session.client("kinesis", endpoint_url=aws.kinesis_endpoint_url),
        session.client("dynamodb", endpoint_url=aws.dynamodb_endpoint_url),
    )


def create_table(dynamodb: Any, name: str) -> None:
    dynamodb.create_table(
        TableName=name,
        KeySchema=[{"AttributeName": "leaseKey", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "leaseKey", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )


def wait_until_gone(pid: int, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.02)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_both_servers_open_beside_a_loop_and_leave_no_thread() -> None:
    before = threading.active_count()
    async with open_aws(use_existing=False) as aws:
        kinesis, dynamodb = clients(aws)
        await anyio.to_thread.run_sync(lambda: kinesis.create_stream(StreamName="s", ShardCount=1))
        await anyio.to_thread.run_sync(create_table, dynamodb, "leases")
        assert dynamodb.list_tables()["TableNames"] == ["leases"]
        kinesis.close()
        dynamodb.close()
        pid = aws.dynamodb.pid
    names = [thread.name for thread in threading.enumerate()]
    assert "cdc-testing-kinesis" not in names
    assert threading.active_count() <= before + 2  # anyio keeps its idle workers for a while
    assert pid is not None
    wait_until_gone(pid)


def test_two_dynamodb_servers_share_nothing() -> None:
    with start_dynamodb(use_existing=False) as first, start_dynamodb(use_existing=False) as second:
        tables: list[list[str]] = []
        for server, name in ((first, "one"), (second, "two")):
            with start_kinesis(use_existing=False) as kinesis:
                client = clients(EmbeddedAws(kinesis, server))[1]
            create_table(client, name)
            tables.append(client.list_tables()["TableNames"])
            client.close()
    assert tables == [["one"], ["two"]]


@pytest.mark.slow
def test_a_killed_owner_leaves_no_server_behind() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_OWNER)], stdout=subprocess.PIPE, text=True, env=environment
    ) as owner:
        assert owner.stdout is not None
        pids = [int(word) for word in owner.stdout.readline().split()]
        assert len(pids) == 2
        owner.send_signal(signal.SIGKILL)
    for pid in pids:
        wait_until_gone(pid)


def test_a_program_that_ends_at_once_is_an_error_with_its_log() -> None:
    with (
        pytest.raises(ServerStartError, match="no-such-option"),
        run_program("cdc_testing.servers.kinesis", ["--no-such-option"], start_timeout_seconds=20),
    ):
        raise AssertionError("it cannot have started")


def test_a_server_is_shared_with_another_process_by_its_url() -> None:
    with start_kinesis(use_existing=False) as server:
        assert server.endpoint_url is not None
        other = connect_kinesis(server.endpoint_url)
        fault = other.add_fault(RejectEntries(), count=3)
        assert fault.state.active
        assert abs(other.now() - server.now()) < 60
        server.clear_faults()
        assert not fault.state.active
        with pytest.raises(ServerError, match="function"):
            other.add_fault(RejectEntries(), when=lambda call: call.records > 1)
        with pytest.raises(ServerError, match="backwards"):
            other.advance(-1)
    with pytest.raises(ServerError, match="does not answer"):
        other.now()


def test_the_variables_point_tests_to_running_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KINESIS_ENDPOINT_VARIABLE, "http://127.0.0.1:4566")
    monkeypatch.setenv(DYNAMODB_ENDPOINT_VARIABLE, "aws")
    with start_kinesis() as kinesis, start_dynamodb() as dynamodb:
        assert (kinesis.endpoint_url, kinesis.managed) == ("http://127.0.0.1:4566", False)
        assert (dynamodb.endpoint_url, dynamodb.managed) == (None, False)
        aws = EmbeddedAws(kinesis, dynamodb)
        assert aws.access_key_id is None
        assert "AWS_ENDPOINT_URL_DYNAMODB" not in aws.environment()
        with pytest.raises(ServerError, match="not ours"):
            kinesis.add_fault(RejectEntries())


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_a_clock_of_the_test_is_the_servers_time() -> None:
    time_of_test = [1_800_000_000.0]
    async with open_kinesis(clock=lambda: time_of_test[0], use_existing=False) as server:
        time_of_test[0] += 5
        server.advance(2)
        assert server.now() == 1_800_000_007.0


def test_the_plugins_servers_are_there(embedded_aws: EmbeddedAws, embedded_kinesis: EmbeddedKinesis) -> None:
    assert embedded_aws.kinesis is embedded_kinesis
    kinesis, dynamodb = clients(embedded_aws)
    assert "StreamNames" in kinesis.list_streams()
    assert "TableNames" in dynamodb.list_tables()
    kinesis.close()
    dynamodb.close()
