"""`--transport kinesis`: an embedded Kinesis, and a DynamoDB for the leases of its shards."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from cdc_kinesis import KinesisConfig, KinesisTransport
from cdc_testing.servers.kinesis import open_aws

STREAM: Final = "cdc_demo"
_SHARDS: Final = 4


@asynccontextmanager
async def open_kinesis() -> AsyncGenerator[tuple[KinesisTransport, str]]:
    """Start both servers; return the transport, and what people call it.

    The shards bear what the service's bear, so that the reader meets throttling where it would meet it there.

    Raises:
        cdc_testing.servers.ServerError: a server could not be started.
    """
    async with open_aws(throttle=True, use_existing=False) as aws:
        config = KinesisConfig(
            stream_name=STREAM,
            group_id="demo",
            kinesis_endpoint_url=aws.kinesis_endpoint_url,
            dynamodb_endpoint_url=aws.dynamodb_endpoint_url,
            shard_count=_SHARDS,
            poll_interval_seconds=0.25,
            checkpoint_interval_seconds=1.0,
        )
        yield (
            KinesisTransport(config, session=aws.boto3_session()),
            f"Kinesis, embedded, {_SHARDS} shards",
        )
