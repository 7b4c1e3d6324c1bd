"""What the tests of this package share."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from cdc_testing.servers.kinesis import EmbeddedAws

# the modules beside this file are shared by its tests; --import-mode=importlib adds no path of its own
sys.path.insert(0, str(Path(__file__).parent))

from kinesis_harness import Endpoints, KinesisHarness, fresh_harness


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def stage(embedded_aws: EmbeddedAws, anyio_backend: str) -> AsyncGenerator[KinesisHarness]:
    """A stream of two shards that does not exist yet, and the way to the servers."""
    async with fresh_harness(Endpoints.of(embedded_aws)) as harness:
        yield harness
