"""The transport object: found by its name, and good for one event loop after the other."""

from __future__ import annotations

import anyio
import pytest

from cdc_core import ConfigError, load_transport, provision
from cdc_kinesis import KinesisConfig, KinesisTransport
from cdc_testing.servers.kinesis import EmbeddedAws


def test_it_is_found_by_its_name_and_made_of_plain_data() -> None:
    transport = load_transport("kinesis", {"stream_name": "shop", "group_id": "billing", "shard_count": 2})
    assert isinstance(transport, KinesisTransport)
    assert transport.config == KinesisConfig(stream_name="shop", group_id="billing", shard_count=2)
    with pytest.raises(ConfigError, match="shards"):
        load_transport("kinesis", {"stream_name": "shop", "shards": 2})


def test_one_object_may_be_used_in_one_event_loop_after_the_other(embedded_aws: EmbeddedAws) -> None:
    config = KinesisConfig(
        stream_name="one-after-the-other",
        shard_count=1,
        kinesis_endpoint_url=embedded_aws.kinesis_endpoint_url,
        dynamodb_endpoint_url=embedded_aws.dynamodb_endpoint_url,
    )
    transport = KinesisTransport(config, session=embedded_aws.boto3_session())

    async def use() -> None:
        await provision(transport)
        async with transport.monitor() as monitor, transport.dead_letters() as letters:
            assert [lag.lag_seconds for lag in await monitor.lag()] == [0.0]
            assert [letter async for letter in letters.list()] == []

    async def remove() -> None:
        async with transport.provisioner() as provisioner:
            await provisioner.teardown(confirm=config.stream_name)

    for loop in ("asyncio", "trio", "asyncio"):
        anyio.run(use, backend=loop)
    anyio.run(remove)
