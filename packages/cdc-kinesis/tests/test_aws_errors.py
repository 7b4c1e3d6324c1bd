from __future__ import annotations

import boto3
import pytest

from cdc_core import SourceError
from cdc_kinesis import AnswerLost, KinesisConfig
from cdc_kinesis._aws import Aws


@pytest.mark.anyio
async def test_a_service_that_is_not_reached_has_done_nothing_and_may_be_asked_again() -> None:
    config = KinesisConfig(stream_name="shop", kinesis_endpoint_url="http://127.0.0.1:1")
    aws = Aws(config, boto3.Session("id", "secret", region_name="eu-west-1"))
    with pytest.raises(SourceError, match="check the network") as caught:
        await aws.call("kinesis", "list_shards", StreamName="shop")
    assert caught.value.retryable
    assert not isinstance(caught.value, AnswerLost)
