"""Our own way of putting and getting records, and boto3's, against every Kinesis."""

from __future__ import annotations

import os
from collections import defaultdict
from typing import Literal

import pytest
from aws_servers import MOTO, NAMED, AwsServer, AwsServers, Streams, on_kinesis
from botocore.exceptions import ClientError
from order_events import OpenFence, Place, handle_until, local_session, order

from cdc_core import ChangeIdentity, Event, provision
from cdc_kinesis import KinesisConfig, KinesisTransport
from cdc_testing.servers.kinesis import DYNAMODB_ENDPOINT_VARIABLE

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]


@pytest.fixture
def leases(aws_servers: AwsServers) -> AwsServer:
    """The DynamoDB beside it: moto, or the one that a variable names."""
    return aws_servers.dynamodb(NAMED if os.environ.get(DYNAMODB_ENDPOINT_VARIABLE) else MOTO)


# Each loop once: in what depends on the server they do not differ.
@pytest.mark.parametrize(("anyio_backend", "data_path"), [("trio", "raw"), ("asyncio", "boto3")])
@pytest.mark.parametrize("foreign_readers", [False, True], ids=["aggregated", "single"])
@on_kinesis()
async def test_what_is_published_is_handled_whole_and_in_the_order_of_each_key(
    kinesis: Streams,
    leases: AwsServer,
    data_path: Literal["raw", "boto3"],
    foreign_readers: bool,
) -> None:
    stream = kinesis.create(2)
    config = KinesisConfig(
        stream_name=stream.name,
        region="us-east-1",
        kinesis_endpoint_url=kinesis.server.endpoint_url,
        dynamodb_endpoint_url=leases.endpoint_url,
        data_path=data_path,
        foreign_readers=foreign_readers,
        poll_interval_seconds=0.25,
        request_timeout_seconds=60.0,
    )
    remote = kinesis.server.endpoint_url is None
    transport = KinesisTransport(config, session=None if remote else local_session())
    await provision(transport)
    events = [order(number) for number in range(120)]
    async with transport.publisher(OpenFence()) as publisher:
        assert not await (await publisher.publish(events))
    handled: dict[Place, Event] = {}

    await handle_until(transport, {str(event.identity) for event in events}, into=handled)

    assert len(handled) == len(events)
    by_key: dict[bytes, list[int]] = defaultdict(list)
    for event in handled.values():
        assert isinstance(event.identity, ChangeIdentity)
        assert event.key is not None
        by_key[event.key].append(event.identity.commit_lsn)
    assert all(numbers == sorted(numbers) for numbers in by_key.values())
    sent = {str(event.identity): event.value for event in events}
    assert {str(event.identity): event.value for event in handled.values()} == sent
    delete_tables(leases, config)


def delete_tables(leases: AwsServer, config: KinesisConfig) -> None:
    client = leases.client("dynamodb")
    for name in (config.lease_table, config.meta_table):
        try:
            client.delete_table(TableName=name)
        except ClientError:
            continue
    client.close()
