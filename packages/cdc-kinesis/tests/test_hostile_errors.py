"""Answers that no service gives but what stands in front of it, and settings that cannot be."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import anyio
import boto3
import pytest

from cdc_core import AccessError, ConfigError, SourceError
from cdc_kinesis import AnswerLost, KinesisConfig
from cdc_kinesis._aws import Aws
from cdc_kinesis._lease_table import LeaseTable
from cdc_kinesis._leases import Checkpoint, Lease

Answer = Callable[[int, bytes], str]


@pytest.fixture
def answering() -> Generator[Answer]:
    """Answers every request with a status and a body, as a load balancer does whose service is away."""
    servers: list[ThreadingHTTPServer] = []

    def answer(status: int, body: bytes) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002 -- its name there

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield answer
    for server in servers:
        server.shutdown()
        server.server_close()


def asking(url: str) -> Aws:
    config = KinesisConfig(stream_name="shop", kinesis_endpoint_url=url, dynamodb_endpoint_url=url)
    return Aws(config, boto3.Session("id", "secret", region_name="eu-west-1"))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "body"),
    [(503, b""), (502, b"<html>Bad Gateway</html>"), (500, b'{"__type":"Surprise"}'), (504, b""), (429, b"")],
)
async def test_what_a_gateway_answers_in_the_services_place_may_pass(
    answering: Answer, status: int, body: bytes
) -> None:
    with pytest.raises(SourceError) as caught:
        await asking(answering(status, body)).call("kinesis", "list_shards", StreamName="shop")
    assert caught.value.retryable


@pytest.mark.anyio
async def test_a_lease_written_through_a_gateway_that_fails_may_be_written(answering: Answer) -> None:
    table = LeaseTable(asking(answering(503, b"")), "leases")
    lease = Lease(shard_id="shardId-0", checkpoint=Checkpoint("TRIM_HORIZON"), owner="me")
    with pytest.raises(AnswerLost):
        await table.renew(lease)


@pytest.mark.anyio
async def test_a_refusal_of_the_request_is_final(answering: Answer) -> None:
    with pytest.raises(SourceError) as caught:
        await asking(answering(400, b'{"__type":"Surprise"}')).call("kinesis", "list_streams")
    assert not caught.value.retryable


@pytest.mark.parametrize("field", ["kinesis_endpoint_url", "dynamodb_endpoint_url"])
@pytest.mark.parametrize("url", ["localhost:4566", "ftp://host", "http://", "http://a b/", "http://h:x/", ""])
def test_an_endpoint_that_is_no_url_is_refused_at_once(field: str, url: str) -> None:
    with pytest.raises(ConfigError, match=field):
        replace(KinesisConfig(stream_name="shop"), **cast("Any", {field: url}))


def test_an_endpoint_with_a_password_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigError, match="credentials") as caught:
        KinesisConfig(stream_name="shop", kinesis_endpoint_url="http://user:hunter2@host:4566")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("stream_name", "group_id", "field"),
    [("s" * 100, "g" * 30, "dead_letter_stream_name"), ("s" * 128, "g" * 128, "checkpoint_table_name")],
)
def test_names_that_are_made_of_others_and_grow_too_long_are_refused_at_once(
    stream_name: str, group_id: str, field: str
) -> None:
    with pytest.raises(ConfigError, match=field):
        KinesisConfig(
            stream_name=stream_name,
            group_id=group_id,
            dead_letter_stream_name="letters" if field == "checkpoint_table_name" else None,
        )


@pytest.mark.anyio
async def test_a_profile_or_region_that_cannot_be_is_an_error_of_the_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody-has-it")
    with pytest.raises(ConfigError, match="nobody-has-it"):
        await Aws(KinesisConfig(stream_name="shop", region="eu-west-1")).call("kinesis", "list_streams")
    monkeypatch.delenv("AWS_PROFILE")
    session = boto3.Session("id", "secret")
    with pytest.raises(ConfigError, match="region"):
        await Aws(KinesisConfig(stream_name="shop", region="eu west"), session).call(
            "kinesis", "list_streams"
        )


@pytest.mark.anyio
async def test_a_signature_that_does_not_fit_shows_no_token(answering: Answer) -> None:
    told = b'{"__type":"InvalidSignatureException","message":"should have been x-amz-security-token:FwoG12"}'
    with pytest.raises(AccessError) as caught:
        await asking(answering(400, told)).call("kinesis", "list_streams")
    assert "FwoG12" not in str(caught.value)


def test_one_transport_serves_one_event_loop_after_the_other(answering: Answer) -> None:
    aws = asking(answering(200, b'{"StreamNames":[],"HasMoreStreams":false}'))

    async def ask() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(aws.call, "kinesis", "list_streams")

    for backend in ("asyncio", "trio", "asyncio"):
        anyio.run(ask, backend=backend)
