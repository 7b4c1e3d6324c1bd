"""Tables for tests of leases, what stands in them, and a wire that loses requests and answers."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, Literal, final

import boto3
import botocore.session
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ConnectionClosedError

from cdc_kinesis import KinesisConfig
from cdc_kinesis._aws import Aws
from cdc_kinesis._lease_table import LeaseTable
from cdc_testing.servers.kinesis import EmbeddedAws

Item = Mapping[str, Mapping[str, object]]


@final
class RawTable:
    """A table of DynamoDB, made for one test and seen without our code."""

    def __init__(self, server: EmbeddedAws, *, key: str = "leaseKey") -> None:
        self.name = f"leases-{uuid.uuid4().hex}"
        self.key = key
        self.server = server
        self.session: Any = _session(server)
        self.client = self.session.client("dynamodb", endpoint_url=server.dynamodb_endpoint_url)
        self.client.create_table(
            TableName=self.name,
            AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"}],
            KeySchema=[{"AttributeName": key, "KeyType": "HASH"}],
            BillingMode="PAY_PER_REQUEST",
        )
        self.client.get_waiter("table_exists").wait(TableName=self.name)

    def put(self, item: Item) -> None:
        self.client.put_item(TableName=self.name, Item=item)

    def item(self, name: str) -> dict[str, dict[str, Any]]:
        """Return a row with its sets sorted; empty where there is none."""
        found = self.client.get_item(TableName=self.name, Key={self.key: {"S": name}}, ConsistentRead=True)
        return {
            attribute: {"SS": sorted(value["SS"])} if "SS" in value else value
            for attribute, value in found.get("Item", {}).items()
        }

    def delete(self, name: str) -> None:
        self.client.delete_item(TableName=self.name, Key={self.key: {"S": name}})


@final
class Wire:
    """One client's way to DynamoDB, with its faults; each fault meets the next request of that operation, once."""

    def __init__(self, server: EmbeddedAws) -> None:
        self.session: Any = _session(server)
        self.server = server
        self.endpoint_url = server.dynamodb_endpoint_url
        self.requests: list[str] = []
        self._faults: dict[str, str] = {}
        self._parameters: dict[str, Any] = {}
        self._late: dict[str, Any] | None = None
        self._raw = _session(server).client("dynamodb", endpoint_url=self.endpoint_url)
        events = self.session.events
        events.register("provide-client-params.dynamodb", self._remember)
        events.register("before-send.dynamodb", self._before)
        events.register("after-call.dynamodb", self._after)

    def aws(self) -> Aws:
        return _aws(self.session, self.server)

    def fail(
        self, operation: str, fault: Literal["request", "answer", "delay", "throttle", "500 after"]
    ) -> None:
        """Lose the request, or its answer; carry it out only on `deliver`; or refuse it."""
        self._faults[operation] = fault

    def repair(self) -> None:
        """Forget the faults, and what was delayed."""
        self._faults.clear()
        self._late = None

    def deliver(self) -> None:
        """Carry out the delayed request now, as the network may; its answer goes nowhere."""
        if self._late is None:
            return
        with suppress(self._raw.exceptions.ConditionalCheckFailedException):
            self._raw.update_item(**self._late)
        self._late = None

    def _remember(self, params: dict[str, Any], **_: object) -> None:
        self._parameters = params

    def _before(self, request: Any, event_name: str, **_: object) -> AWSResponse | None:
        operation = event_name.rpartition(".")[2]
        self.requests.append(operation)
        fault = self._faults.get(operation)
        if fault in ("request", "delay"):
            del self._faults[operation]
            if fault == "delay":
                self._late = self._parameters
            raise ConnectionClosedError(endpoint_url=request.url)
        if fault == "throttle":
            del self._faults[operation]
            code = "ProvisionedThroughputExceededException"
            return _refusal(request.url, 400, f"com.amazonaws.dynamodb.v20120810#{code}")
        return None

    def _after(self, event_name: str, parsed: dict[str, Any], http_response: Any, **_: object) -> None:
        operation = event_name.rpartition(".")[2]
        fault = self._faults.get(operation)
        if fault == "answer":
            del self._faults[operation]
            raise ConnectionClosedError(endpoint_url=self.endpoint_url or "")
        if fault == "500 after":
            del self._faults[operation]
            parsed.clear()
            parsed["Error"] = {"Code": "InternalServerError", "Message": "on purpose"}
            http_response.status_code = 500


class _Body:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def read(self, *_: object) -> bytes:
        content, self._content = self._content, b""
        return content

    def stream(self, **_: object) -> list[bytes]:
        return [self.read()]


def _refusal(url: str, status: int, kind: str) -> AWSResponse:
    body: Any = _Body(f'{{"__type": "{kind}", "message": "on purpose"}}'.encode())
    headers: Any = {"Content-Type": "application/x-amz-json-1.0"}
    return AWSResponse(url, status, headers, body)


def lease_table(raw: RawTable, wire: Wire | None = None) -> LeaseTable:
    aws = _aws(raw.session, raw.server) if wire is None else wire.aws()
    return LeaseTable(aws, raw.name)


def _aws(session: Any, server: EmbeddedAws) -> Aws:
    config = KinesisConfig(
        stream_name="shop",
        kinesis_endpoint_url=server.kinesis_endpoint_url,
        dynamodb_endpoint_url=server.dynamodb_endpoint_url,
    )
    return Aws(config, session)


@lru_cache(1)
def _loader() -> Any:
    return botocore.session.get_session().get_component("data_loader")


def _session(server: EmbeddedAws) -> Any:
    """Return a session of its own that does not read the services' descriptions again (a third of a second)."""
    own: Any = botocore.session.get_session()
    own.register_component("data_loader", _loader())
    return boto3.Session(
        server.access_key_id, server.secret_access_key, region_name=server.region, botocore_session=own
    )


def kcl_row(shard_id: str, **attributes: Mapping[str, object]) -> dict[str, Mapping[str, object]]:
    """Return a row as the KCL 2.7.2 had it (measured), with other attributes replaced or added."""
    return {
        "leaseKey": {"S": shard_id},
        "leaseOwner": {"S": "kcl-worker"},
        "leaseCounter": {"N": "41"},
        "checkpoint": {"S": "49650000000000000000000000000000000000000000000000000002"},
        "checkpointSubSequenceNumber": {"N": "1"},
        "ownerSwitchesSinceCheckpoint": {"N": "2"},
        "startingHashKey": {"S": "0"},
        "endingHashKey": {"S": "340282366920938463463374607431768211455"},
        **attributes,
    }
