"""What the tests of this package share."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from cdc_testing.servers.kinesis import (
    EmbeddedAws,
    EmbeddedDynamoDb,
    EmbeddedKinesis,
    open_kinesis,
    start_dynamodb,
    start_kinesis,
)

# the modules beside this file are shared by its tests; --import-mode=importlib adds no path of its own
sys.path.insert(0, str(Path(__file__).parent))

from kinesis_harness import Endpoints, KinesisHarness, fresh_harness


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what waits for leases and tables on one interpreter only; on the others the contract suite stands for it."""
    for item in items:
        fixtures: list[str] = getattr(item, "fixturenames", [])
        if "embedded_aws" in fixtures and item.path.name != "test_contract.py":
            item.add_marker(pytest.mark.slow)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def dynamodb() -> Generator[EmbeddedDynamoDb]:
    with start_dynamodb() as server:
        yield server


@pytest.fixture(scope="module")
def embedded_kinesis() -> Generator[EmbeddedKinesis]:
    """A Kinesis for each file: some move its clock on, by days."""
    with start_kinesis() as server:
        yield server


@pytest.fixture(scope="module")
def embedded_aws(embedded_kinesis: EmbeddedKinesis, dynamodb: EmbeddedDynamoDb) -> EmbeddedAws:
    return EmbeddedAws(embedded_kinesis, dynamodb)


@pytest.fixture
async def stage(embedded_aws: EmbeddedAws, anyio_backend: str) -> AsyncGenerator[KinesisHarness]:
    """A stream of two shards that does not exist yet, and the way to the servers."""
    async with fresh_harness(Endpoints.of(embedded_aws)) as harness:
        yield harness


@pytest.fixture
def fan_out() -> bool:
    """Whether shards are read by enhanced fan-out; `source_kit.both_ways` says so."""
    return False


@pytest.fixture
async def servers(
    embedded_aws: EmbeddedAws, fan_out: bool, anyio_backend: str
) -> AsyncGenerator[EmbeddedAws]:
    """The file's servers; for fan-out with a Kinesis of the test's own, whose time it may move on."""
    if not fan_out:
        yield embedded_aws
        return
    async with open_kinesis(use_existing=False) as kinesis:
        yield EmbeddedAws(kinesis, embedded_aws.dynamodb)
