"""Records are put and got raw and by boto3 alike; what the service and the network do comes out as our errors."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import anyio
import boto3
import pytest
from anyio.abc import ByteStream
from anyio.streams.tls import TLSListener

from cdc_core import CdcError, ConfigError, SourceError
from cdc_kinesis import AnswerLost, AwsAccessError, AwsError, KinesisConfig
from cdc_kinesis._aws import Aws
from cdc_kinesis._client import open_data_client
from cdc_kinesis._records import DataClient, PutEntry, Refused, Stored
from cdc_testing.servers.kinesis import Drop, EmbeddedKinesis, Hold, Refuse, RejectEntries

pytestmark = pytest.mark.anyio

LOW, HIGH = str(2**126), str(3 * 2**126)
SHARDS = ("shardId-000000000000", "shardId-000000000001")


class Kit:
    """A stream of two shards, and clients of it."""

    def __init__(self, server: EmbeddedKinesis, data_path: str) -> None:
        self.server, self.data_path = server, data_path
        self.name = f"client-{secrets.token_hex(4)}"
        session: Any = boto3.Session("key", "secret", region_name=server.region)
        self.boto3: Any = session.client("kinesis", endpoint_url=server.endpoint_url)
        self.boto3.create_stream(StreamName=self.name, ShardCount=2)

    @asynccontextmanager
    async def client(
        self, endpoint_url: str | None = None, session: boto3.Session | None = None
    ) -> AsyncGenerator[DataClient]:
        settings: dict[str, Any] = {"data_path": self.data_path}
        config = KinesisConfig(
            stream_name=self.name,
            region=self.server.region,
            kinesis_endpoint_url=endpoint_url or self.server.endpoint_url,
            **settings,
        )
        aws = Aws(config, session or boto3.Session("key", "secret"))
        async with open_data_client(config, aws) as client:
            yield client

    def iterator(self, shard: str = SHARDS[0]) -> str:
        answer = self.boto3.get_shard_iterator(
            StreamName=self.name, ShardId=shard, ShardIteratorType="TRIM_HORIZON"
        )
        return str(answer["ShardIterator"])


@pytest.fixture(params=["raw", "boto3"])
def kit(request: pytest.FixtureRequest, embedded_kinesis: EmbeddedKinesis) -> Any:
    kit = Kit(embedded_kinesis, request.param)
    yield kit
    embedded_kinesis.clear_faults()
    kit.boto3.delete_stream(StreamName=kit.name)
    kit.boto3.close()


class TestDataClient:
    async def test_what_is_put_is_got_byte_for_byte(self, kit: Kit) -> None:
        entries = [
            PutEntry(bytes(range(256)), 'é"\\\n', LOW),
            PutEntry(b"", "b", HIGH),
            PutEntry(b"x" * 100_000, "c", LOW),
        ]
        async with kit.client() as client:
            outcomes = await client.put_records(entries, timeout_seconds=10)
            stored = [one for one in outcomes if isinstance(one, Stored)]
            assert [one.shard_id for one in stored] == [SHARDS[0], SHARDS[1], SHARDS[0]]
            page = await client.get_records(kit.iterator(), limit=10, timeout_seconds=10)
        assert [(one.data, one.partition_key) for one in page.records] == [
            (entries[0].data, entries[0].partition_key),
            (entries[2].data, "c"),
        ]
        assert [one.sequence_number for one in page.records] == [
            stored[0].sequence_number,
            stored[2].sequence_number,
        ]
        assert abs(page.records[0].arrived_at - kit.server.now()) < 60
        assert page.millis_behind_latest == 0
        assert page.next_iterator is not None

    async def test_a_page_holds_no_more_than_asked_for_and_says_how_far_behind_it_is(self, kit: Kit) -> None:
        async with kit.client() as client:
            await client.put_records([PutEntry(b"x", "k", LOW)] * 5, timeout_seconds=10)
            kit.server.advance(2.0)
            page = await client.get_records(kit.iterator(), limit=2, timeout_seconds=10)
            assert len(page.records) == 2
            assert page.millis_behind_latest is not None
            assert page.millis_behind_latest >= 2000
            assert page.next_iterator is not None
            rest = await client.get_records(page.next_iterator, limit=10, timeout_seconds=10)
            assert len(rest.records) == 3

    async def test_a_closed_shard_ends_and_names_its_children(self, kit: Kit) -> None:
        kit.boto3.split_shard(StreamName=kit.name, ShardToSplit=SHARDS[0], NewStartingHashKey=LOW)
        async with kit.client() as client:
            page = await client.get_records(kit.iterator(), limit=10, timeout_seconds=10)
        assert page.next_iterator is None
        first, second = page.children
        assert (first.starting_hash_key, first.parents) == ("0", (SHARDS[0],))
        assert int(first.ending_hash_key) + 1 == int(second.starting_hash_key) == int(LOW)

    async def test_refused_entries_stand_in_their_places(self, kit: Kit) -> None:
        kit.server.add_fault(RejectEntries(partition_keys=("bad",)), streams=[kit.name])
        async with kit.client() as client:
            outcomes = await client.put_records(
                [PutEntry(b"1", "good", LOW), PutEntry(b"2", "bad", LOW), PutEntry(b"3", "good", HIGH)],
                timeout_seconds=10,
            )
        assert [type(one) for one in outcomes] == [Stored, Refused, Stored]
        assert isinstance(outcomes[1], Refused)
        assert outcomes[1].code == "ProvisionedThroughputExceededException"

    @pytest.mark.parametrize(
        ("code", "kind", "retryable"),
        [
            ("ResourceNotFoundException", AwsError, False),
            ("ProvisionedThroughputExceededException", AwsError, True),
            ("AccessDeniedException", AwsAccessError, False),
            ("ExpiredTokenException", AwsAccessError, False),
        ],
    )
    async def test_a_refusal_bears_the_services_code(
        self, kit: Kit, code: str, kind: type[CdcError], retryable: bool
    ) -> None:
        kit.server.add_fault(Refuse(code=code, status=400), streams=[kit.name])
        async with kit.client() as client:
            with pytest.raises(kind) as caught:
                await client.put_records([PutEntry(b"1", "k", LOW)], timeout_seconds=10)
        assert isinstance(caught.value, AwsError | AwsAccessError)
        assert caught.value.code == code
        assert caught.value.retryable is retryable

    async def test_an_expired_iterator_is_told(self, kit: Kit) -> None:
        iterator = kit.iterator()
        kit.server.advance(301)
        async with kit.client() as client:
            with pytest.raises(AwsError) as caught:
                await client.get_records(iterator, limit=1, timeout_seconds=10)
        assert caught.value.code == "ExpiredIteratorException"

    @pytest.mark.parametrize("fault", [Drop(stored=True), Refuse(status=500, stored=True)])
    async def test_where_nobody_knows_what_was_done_the_answer_is_lost(
        self, kit: Kit, fault: Drop | Refuse
    ) -> None:
        kit.server.add_fault(fault, streams=[kit.name], operations=["PutRecords"], count=1)
        async with kit.client() as client:
            with pytest.raises(AnswerLost) as caught:
                await client.put_records([PutEntry(b"1", "k", LOW)], timeout_seconds=10)
            assert caught.value.retryable
            assert len(kit.server.records(kit.name)[SHARDS[0]]) == 1
            await client.put_records([PutEntry(b"2", "k", LOW)], timeout_seconds=10)

    async def test_a_request_ends_with_its_time(self, kit: Kit) -> None:
        kit.server.add_fault(Hold(), streams=[kit.name], operations=["PutRecords"], count=1)
        async with kit.client() as client:
            with anyio.fail_after(5), pytest.raises(AnswerLost):
                await client.put_records([PutEntry(b"1", "k", LOW)], timeout_seconds=0.3)

    async def test_where_nobody_listens_a_later_try_may_succeed(self, kit: Kit) -> None:
        async with kit.client("http://127.0.0.1:1") as client:
            with pytest.raises(SourceError, match="onnection") as caught:
                await client.put_records([PutEntry(b"1", "k", LOW)], timeout_seconds=5)
            assert caught.value.retryable

    async def test_requests_go_through_the_proxy_of_the_environment(
        self, kit: Kit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # the embedded server does not look at the host of a request's URL, so it can be the proxy as well
        monkeypatch.setenv("HTTP_PROXY", kit.server.endpoint_url or "")
        async with kit.client("http://kinesis.invalid") as client:
            outcomes = await client.put_records([PutEntry(b"1", "k", LOW)], timeout_seconds=10)
        assert isinstance(outcomes[0], Stored)

    async def test_the_session_gives_the_credentials(self, kit: Kit) -> None:
        session = boto3.Session("another", "secret", "a-token")
        async with kit.client(session=session) as client:
            await client.put_records([PutEntry(b"1", "k", LOW)], timeout_seconds=10)
        assert kit.server.calls("PutRecords", stream=kit.name)[-1].call.access_key == "another"

    async def test_without_credentials_it_says_so(self, kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "nowhere")
        monkeypatch.setenv("AWS_CONFIG_FILE", "nowhere")
        with pytest.raises(AwsAccessError, match="credentials"):
            async with kit.client(session=boto3.Session()) as client:
                await client.put_records([PutEntry(b"1", "k", LOW)], timeout_seconds=10)


class TestCertificates:
    async def test_a_server_with_a_certificate_of_the_named_bundle_is_trusted(
        self, kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trustme = pytest.importorskip("trustme")
        authority = trustme.CA()
        bundle = tmp_path / "ca.pem"
        authority.cert_pem.write_to_path(bundle)
        async with tls_front(kit.server, authority) as url:
            async with kit.client(url) as client:
                with pytest.raises(ConfigError, match="not trusted"):
                    await client.put_records([PutEntry(b"1", "k", LOW)], timeout_seconds=10)
            monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
            async with kit.client(url) as client:
                await client.put_records([PutEntry(b"1", "k", LOW)], timeout_seconds=10)

    async def test_a_bundle_that_is_not_there_is_told(
        self, embedded_kinesis: EmbeddedKinesis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_CA_BUNDLE", "nowhere.pem")
        config = KinesisConfig(
            stream_name="s", region="us-east-1", kinesis_endpoint_url="https://127.0.0.1:1"
        )
        # boto3 looks at it first; without boto3's client there is no endpoint
        with pytest.raises((ConfigError, ValueError, OSError), match="nowhere"):
            async with open_data_client(config, Aws(config, boto3.Session("key", "secret"))):
                pass


async def test_a_clock_that_is_wrong_is_named_in_the_remedy(anyio_backend: str) -> None:
    async def answer(stream: ByteStream) -> None:
        async with stream:
            await stream.receive()
            body = b'{"__type":"InvalidSignatureException","message":"Signature expired"}'
            date = formatdate(1_000_000_000, usegmt=True).encode()
            await stream.send(
                b"HTTP/1.1 403 Forbidden\r\nDate: %b\r\nContent-Length: %d\r\n\r\n%b"
                % (date, len(body), body)
            )

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        config = KinesisConfig(
            stream_name="s", region="us-east-1", kinesis_endpoint_url=f"http://127.0.0.1:{port}"
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, answer)
            async with open_data_client(config, Aws(config, boto3.Session("key", "secret"))) as client:
                with pytest.raises(
                    AwsAccessError, match=r"this machine's clock is .* off the service's: set it"
                ):
                    await client.put_records([PutEntry(b"1", "k", LOW)], timeout_seconds=10)
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def tls_front(server: EmbeddedKinesis, authority: Any) -> AsyncGenerator[str]:
    """Open a way to a server by TLS, with a certificate of the authority's."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    target = int((server.endpoint_url or "").rsplit(":", 1)[1])

    async def pump(source: ByteStream, sink: ByteStream) -> None:
        async for chunk in source:
            await sink.send(chunk)

    async def forward(stream: ByteStream) -> None:
        async with (
            stream,
            await anyio.connect_tcp("127.0.0.1", target) as upstream,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(pump, stream, upstream)
            await pump(upstream, stream)
            tasks.cancel_scope.cancel()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(TLSListener(listener, context, standard_compatible=False).serve, forward)
            yield f"https://127.0.0.1:{port}"
            tasks.cancel_scope.cancel()
