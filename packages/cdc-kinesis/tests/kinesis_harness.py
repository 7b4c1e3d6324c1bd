"""The contract suite's way to a Kinesis and a DynamoDB, wherever they are; each transport has proxies of its own."""

from __future__ import annotations

import secrets
import zlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, final
from urllib.parse import urlsplit

import boto3
import msgspec

from cdc_core import Event, OutgoingEvent, Transport
from cdc_kinesis import KinesisConfig, KinesisTransport
from cdc_kinesis._aws import Aws
from cdc_kinesis._errors import AwsError
from cdc_kinesis._record_data import encode_record
from cdc_testing.checks import Harness, SeedRow, read_row, row_event
from cdc_testing.servers.kinesis import EmbeddedAws
from cdc_testing.servers.tcp_proxy import TcpProxy, open_tcp_proxy

SECRET: Final = "correct-horse-battery-staple"
_SHARDS: Final = 2
_PROXIES: Final = 6


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Where the two services are, and how slow they are to be taken for.

    - `patience_seconds`: how long a condition may take there.
    """

    kinesis_url: str
    dynamodb_url: str
    region: str = "us-east-1"
    patience_seconds: float = 20.0

    @classmethod
    def of(cls, servers: EmbeddedAws) -> Endpoints:
        """Return those of servers that were started for the tests."""
        assert servers.kinesis_endpoint_url is not None
        assert servers.dynamodb_endpoint_url is not None
        return cls(
            kinesis_url=servers.kinesis_endpoint_url,
            dynamodb_url=servers.dynamodb_endpoint_url,
            region=servers.region,
        )

    def session(self) -> boto3.Session:
        """Return a session whose secret no text may show."""
        return boto3.Session(
            aws_access_key_id="contract", aws_secret_access_key=SECRET, region_name=self.region
        )


@final
class KinesisHarness:
    """One stream of two shards, and one group on it.

    Its records are not aggregated: what a commit covers is counted by their sequence numbers.
    """

    quiet_seconds = 0.3
    max_batch = (5, 8192)
    secrets: Sequence[str] = (SECRET,)

    def __init__(self, endpoints: Endpoints, name: str, stack: AsyncExitStack) -> None:
        self.patience_seconds = endpoints.patience_seconds
        self.teardown_name = name
        self._endpoints = endpoints
        self._name = name
        self._stack = stack
        self._aws = Aws(self._config(endpoints.kinesis_url, endpoints.dynamodb_url), endpoints.session())
        self._spare: list[tuple[TcpProxy, TcpProxy]] = []
        self._proxies: dict[int, tuple[TcpProxy, TcpProxy]] = {}
        self._written: list[tuple[str, int]] = []

    @property
    def config(self) -> KinesisConfig:
        """The config of its transports, but straight to the servers."""
        return self._config(self._endpoints.kinesis_url, self._endpoints.dynamodb_url)

    @property
    def aws(self) -> Aws:
        """The servers, straight."""
        return self._aws

    def session(self) -> boto3.Session:
        """Return a session with the harness's credentials."""
        return self._endpoints.session()

    async def prepare(self) -> None:
        """Open proxies ahead: `transport()` cannot wait for one."""
        for _ in range(_PROXIES):
            kinesis = await self._proxy(self._endpoints.kinesis_url)
            self._spare.append((kinesis, await self._proxy(self._endpoints.dynamodb_url)))

    def transport(self) -> Transport:
        if not self._spare:  # asked for its traits, or by a check that crashes nothing
            return KinesisTransport(self.config, session=self._endpoints.session())
        proxies = self._spare.pop()
        urls = [f"http://{proxy.host}:{proxy.port}" for proxy in proxies]
        transport = KinesisTransport(self._config(*urls), session=self._endpoints.session())
        self._proxies[id(transport)] = proxies
        self._stack.callback(lambda: transport)  # kept, so that no other gets its id
        return transport

    @asynccontextmanager
    async def another(self) -> AsyncGenerator[Harness]:
        async with fresh_harness(self._endpoints) as harness:
            yield harness

    async def write(self, *rows: SeedRow) -> None:
        for key, number in rows:
            event = row_event(key, number)
            bucket = zlib.crc32(event.key or b"") % self.config.bucket_count
            answer = await self._aws.call(
                "kinesis",
                "put_record",
                StreamName=self._name,
                Data=encode_record(event, bucket=bucket),
                PartitionKey=key,
                ExplicitHashKey=str((2 * bucket + 1) * 2**127 // self.config.bucket_count),
            )
            self._written.append((answer["ShardId"], int(answer["SequenceNumber"])))

    def read(self, event: Event) -> SeedRow:
        return read_row(event)

    async def committed(self) -> int:
        checkpoints = {row["leaseKey"]["S"]: row["checkpoint"]["S"] for row in await self._lease_rows()}
        return sum(
            checkpoint == "SHARD_END" or (checkpoint.isdecimal() and number <= int(checkpoint))
            for shard, number in self._written
            if (checkpoint := checkpoints.get(shard, ""))
        )

    async def objects(self) -> frozenset[str]:
        streams = await self._aws.call("kinesis", "list_streams", Limit=1000)
        tables = await self._aws.call("dynamodb", "list_tables")
        named = [f"stream {name}" for name in streams["StreamNames"] if name.startswith(self._name)]
        named += [f"table {name}" for name in tables["TableNames"] if name.startswith(self._name)]
        return frozenset(named)

    async def crash(self, transport: Transport) -> None:
        for proxy in self._proxies[id(transport)]:
            proxy.refuse()
            await proxy.cut()

    async def cut(self, transport: Transport) -> None:
        for proxy in self._proxies[id(transport)]:
            await proxy.cut()

    async def lose(self, transport: Transport) -> None:
        """Make somebody the owner of all leases, who never renews them."""
        for row in await self._lease_rows():
            await self._aws.call(
                "dynamodb",
                "update_item",
                TableName=self.config.lease_table,
                Key={"leaseKey": row["leaseKey"]},
                UpdateExpression="SET leaseOwner = :thief, leaseCounter = leaseCounter + :one"
                " REMOVE checkpointOwner",
                ExpressionAttributeValues={":thief": {"S": "thief"}, ":one": {"N": "1"}},
            )

    def oversized(self, event: OutgoingEvent) -> OutgoingEvent:
        return msgspec.structs.replace(event, value=b"x" * (1024 * 1024 + 1))

    async def remove(self) -> None:
        """Delete what is there by its name, whoever made it."""
        for thing in await self.objects():
            kind, name = thing.split(" ", 1)
            try:
                if kind == "stream":
                    await self._aws.call(
                        "kinesis", "delete_stream", StreamName=name, EnforceConsumerDeletion=True
                    )
                else:
                    await self._aws.call("dynamodb", "delete_table", TableName=name)
            except AwsError as error:
                assert error.code == "ResourceNotFoundException"  # noqa: PT017 - it went by itself

    async def _lease_rows(self) -> Sequence[Mapping[str, Any]]:
        answer = await self._aws.call(
            "dynamodb", "scan", TableName=self.config.lease_table, ConsistentRead=True
        )
        rows: Sequence[Mapping[str, Any]] = answer["Items"]
        return rows

    async def _proxy(self, url: str) -> TcpProxy:
        parts = urlsplit(url)
        assert parts.hostname is not None
        return await self._stack.enter_async_context(open_tcp_proxy(parts.hostname, parts.port or 80))

    def _config(self, kinesis_url: str, dynamodb_url: str) -> KinesisConfig:
        return KinesisConfig(
            stream_name=self._name,
            shard_count=_SHARDS,
            region=self._endpoints.region,
            kinesis_endpoint_url=kinesis_url,
            dynamodb_endpoint_url=dynamodb_url,
            failover_seconds=1.0,
            checkpoint_interval_seconds=3600.0,
            poll_interval_seconds=0.25,
            max_batch_events=self.max_batch[0],
            max_batch_bytes=self.max_batch[1],
            request_timeout_seconds=5.0,
        )


@asynccontextmanager
async def fresh_harness(endpoints: Endpoints) -> AsyncGenerator[KinesisHarness]:
    """Open a harness on a stream that does not exist yet; what is left of it is deleted at the end."""
    async with AsyncExitStack() as stack:
        harness = KinesisHarness(endpoints, f"contract-{secrets.token_hex(4)}", stack)
        await harness.prepare()
        try:
            yield harness
        finally:
            await harness.remove()
