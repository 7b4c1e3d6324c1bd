"""Rule 19: what takes its time before a request is sent takes it from the request's own."""

from __future__ import annotations

import socket
import time
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest
from botocore.credentials import Credentials
from source_kit import Kit

from cdc_kinesis import AnswerLost, KinesisConfig
from cdc_kinesis._client import open_data_client
from cdc_kinesis._records import PutEntry
from cdc_testing.servers.kinesis import EmbeddedAws

SECONDS = 0.4


@pytest.mark.anyio
@pytest.mark.parametrize("slow", ["names", "credentials"])
@pytest.mark.parametrize("data_path", ["raw", "boto3"])
async def test_nothing_is_sent_after_the_time_of_a_request_however_long_its_preparations_take(
    embedded_aws: EmbeddedAws,
    monkeypatch: pytest.MonkeyPatch,
    data_path: Literal["raw", "boto3"],
    slow: Literal["names", "credentials"],
) -> None:
    kit = Kit(embedded_aws)
    await kit.call("create_stream", ShardCount=1)
    port = urlsplit(embedded_aws.kinesis_endpoint_url or "").port
    config = KinesisConfig(
        stream_name=kit.config.stream_name,
        region=kit.config.region,
        kinesis_endpoint_url=f"http://localhost:{port}",
        data_path=data_path,
    )
    look_up, freeze = socket.getaddrinfo, Credentials.get_frozen_credentials

    def look_up_slowly(*args: Any, **named: Any) -> Any:
        time.sleep(2 * SECONDS)
        return look_up(*args, **named)

    def freeze_slowly(self: Credentials) -> Any:
        time.sleep(2 * SECONDS)
        return freeze(self)

    entries = [PutEntry(b"row", "key", "1")]
    async with open_data_client(config, kit.new_aws(config=config)) as client:
        with monkeypatch.context() as patch:
            if slow == "names":
                patch.setattr(socket, "getaddrinfo", look_up_slowly)
            else:
                patch.setattr(Credentials, "get_frozen_credentials", freeze_slowly)
            with pytest.raises(AnswerLost):
                await client.put_records(entries, timeout_seconds=SECONDS)
        await client.put_records(entries, timeout_seconds=20.0)
    (records,) = kit.kinesis.records(config.stream_name).values()
    assert len(records) == 1, "only what was put in time"
