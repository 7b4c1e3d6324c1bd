"""The Kinesis transport keeps the promises of the contract suite, on the embedded servers, behind TCP proxies."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from kinesis_harness import Endpoints, fresh_harness

from cdc_testing.contracts import Harness, TransportContract
from cdc_testing.servers.kinesis import EmbeddedAws


class TestKinesis(TransportContract):
    @pytest.fixture
    async def harness(self, embedded_aws: EmbeddedAws, anyio_backend: str) -> AsyncGenerator[Harness]:
        async with fresh_harness(Endpoints.of(embedded_aws)) as harness:
            yield harness
