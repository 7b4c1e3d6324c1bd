"""The Kinesis transport keeps the promises of the contract suite on kinesis-local and DynamoDB Local, too.

Only with CDC_TEST_FULL=true, and by itself: kinesis-local 0.6.2 stops answering for good once some clients have gone in
the middle of their requests, and this suite cuts connections. A server that other tests have used does not survive it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from cdc_testing.contracts import Harness, TransportContract

# The harness is the one of the package's own tests, which run it on the embedded servers.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "packages" / "cdc-kinesis" / "tests"))

from aws_servers import DYNAMODB_LOCAL, KINESIS_LOCAL, AwsServers
from kinesis_harness import Endpoints, fresh_harness


@pytest.mark.skipif(
    os.environ.get("CDC_TEST_FULL", "").lower() != "true",
    reason="kinesis-local does not survive it beside other tests: CDC_TEST_FULL=true runs it",
)
class TestOnTheEmulators(TransportContract):
    @pytest.fixture
    async def harness(self, aws_servers: AwsServers, anyio_backend: str) -> AsyncGenerator[Harness]:
        kinesis, dynamodb = aws_servers.kinesis(KINESIS_LOCAL), aws_servers.dynamodb(DYNAMODB_LOCAL)
        assert kinesis.endpoint_url is not None
        assert dynamodb.endpoint_url is not None
        endpoints = Endpoints(
            kinesis_url=kinesis.endpoint_url, dynamodb_url=dynamodb.endpoint_url, patience_seconds=30.0
        )
        async with fresh_harness(endpoints) as harness:
            yield harness
