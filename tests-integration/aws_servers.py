"""The servers that the conformance suites run on, and how a test says where one of them differs from AWS."""

from __future__ import annotations

import itertools
import os
import secrets
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar, final

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from cdc_testing.servers import ServerUnavailableError
from cdc_testing.servers.kinesis import (
    DYNAMODB_ENDPOINT_VARIABLE,
    KINESIS_ENDPOINT_VARIABLE,
    EmbeddedKinesis,
    Rates,
    start_dynamodb,
    start_kinesis,
)

# The emulators are run from a checkout and are not installed.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from emulators.dynamodb import start_dynamodb_local
from emulators.kinesis import start_kinesis_local
from emulators.localstack import start_localstack

EMBEDDED: Final = "embedded"
KINESIS_LOCAL: Final = "kinesis-local"
DYNAMODB_LOCAL: Final = "dynamodb-local"
MOTO: Final = "moto"
LOCALSTACK: Final = "localstack"
# The one that a variable names: any endpoint, or "aws".
NAMED: Final = "named"
# AWS takes tens of seconds to create a stream.
PATIENCE_SECONDS: Final = 120.0
MAX_HASH_KEY: Final = (1 << 128) - 1
RATES: Final = Rates()
T = TypeVar("T")
# `pytest.raises` says with an exception of its own that nothing was raised.
_MISBEHAVIOUR = (AssertionError, ClientError, BotoCoreError, pytest.fail.Exception)
_THROTTLED = frozenset(
    {"ProvisionedThroughputExceededException", "LimitExceededException", "ThrottlingException"}
)


def on_kinesis(*, kinesis_mock: str = "", **differences: str) -> pytest.MarkDecorator:
    """Run a test on every Kinesis; where one differs from AWS, it must fail there, for the reason given.

    - `kinesis_mock`: of kinesis-local, and so of LocalStack too, whose Kinesis it is (an older one).
    - `differences`: reasons by the server's name, `_` for `-`; one that begins with NOT RUN is believed, since
      finding it out again takes too long.
    """
    names = [
        EMBEDDED,
        KINESIS_LOCAL,
        LOCALSTACK,
        *([NAMED] if os.environ.get(KINESIS_ENDPOINT_VARIABLE) else []),
    ]
    both = {"kinesis_local": kinesis_mock, "localstack": kinesis_mock} if kinesis_mock else {}
    return _on("kinesis", names, {**both, **differences})


on_embedded: Final = pytest.mark.parametrize("kinesis", [EMBEDDED], indirect=True)
"""Run a test on the embedded Kinesis alone, where it needs its clock."""


def on_dynamodb(**differences: str) -> pytest.MarkDecorator:
    """Run a test on every DynamoDB; see `on_kinesis`."""
    names = [
        MOTO,
        DYNAMODB_LOCAL,
        LOCALSTACK,
        *([NAMED] if os.environ.get(DYNAMODB_ENDPOINT_VARIABLE) else []),
    ]
    return _on("dynamodb", names, differences)


def _on(fixture: str, names: Sequence[str], differences: Mapping[str, str]) -> pytest.MarkDecorator:
    reasons = {name.replace("_", "-"): reason for name, reason in differences.items()}
    assert reasons.keys() <= set(names), "a difference of a server that there is not"
    parameters = [
        pytest.param(
            name,
            marks=[_expected_failure(reasons[name])] if name in reasons else [],
        )
        for name in names
    ]
    return pytest.mark.parametrize(fixture, parameters, indirect=True)


def _expected_failure(reason: str) -> pytest.MarkDecorator:
    run = not reason.startswith("NOT RUN")
    return pytest.mark.xfail(reason=reason, raises=_MISBEHAVIOUR, strict=True, run=run)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AwsServer:
    """A running Kinesis or DynamoDB; `endpoint_url` is None for AWS itself, and `embedded` only there for ours."""

    name: str
    endpoint_url: str | None
    embedded: EmbeddedKinesis | None = None

    def client(self, service: str) -> Any:
        """A boto3 client that retries nothing; the suites do, where AWS would ask them to."""
        key = None if self.endpoint_url is None else "test"  # AWS: as botocore finds them
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        session: Any = boto3.Session(region_name=region, aws_access_key_id=key, aws_secret_access_key=key)
        return session.client(
            service,
            endpoint_url=self.endpoint_url,
            config=Config(
                retries={"total_max_attempts": 1},
                read_timeout=60,  # LocalStack starts a service at the first request
                max_pool_connections=16,
                parameter_validation=False,
            ),
        )


@final
class AwsServers:
    """Starts each server when the first test asks for it, and ends them all with the session."""

    def __init__(self, until: ExitStack) -> None:
        self._until = until
        self._running: dict[tuple[str, str], AwsServer] = {}

    def kinesis(self, name: str) -> AwsServer:
        """A Kinesis by its name; the test is skipped where it cannot run, and with CI=true fails."""
        return self._get("kinesis", name)

    def dynamodb(self, name: str) -> AwsServer:
        """A DynamoDB by its name."""
        return self._get("dynamodb", name)

    def _get(self, service: str, name: str) -> AwsServer:
        key = ("", name) if name == LOCALSTACK else (service, name)  # one server for both
        if key not in self._running:
            try:
                self._running[key] = self._start(service, name)
            except ServerUnavailableError as error:
                if os.environ.get("CI", "").lower() == "true":
                    pytest.fail(f"CI=true and no server to test with: {error}", pytrace=False)
                pytest.skip(str(error))
        return self._running[key]

    def _start(self, service: str, name: str) -> AwsServer:
        if name == NAMED:
            variable = KINESIS_ENDPOINT_VARIABLE if service == "kinesis" else DYNAMODB_ENDPOINT_VARIABLE
            endpoint = os.environ[variable]
            return AwsServer(name=name, endpoint_url=None if endpoint == "aws" else endpoint)
        if name == EMBEDDED:
            embedded = self._until.enter_context(start_kinesis(throttle=True, use_existing=False))
            return AwsServer(name=name, endpoint_url=embedded.endpoint_url, embedded=embedded)
        if name == MOTO:
            moto = self._until.enter_context(start_dynamodb(use_existing=False))
            return AwsServer(name=name, endpoint_url=moto.endpoint_url)
        start: Mapping[str, Callable[[], AbstractContextManager[Any]]] = {
            KINESIS_LOCAL: start_kinesis_local,
            DYNAMODB_LOCAL: start_dynamodb_local,
            LOCALSTACK: start_localstack,
        }
        return AwsServer(name=name, endpoint_url=self._until.enter_context(start[name]()).endpoint_url)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """A Kinesis under test, and the streams that a test makes on it, which are deleted after it."""

    server: AwsServer
    client: Any
    made: list[str] = field(default_factory=list[str])

    def create(self, shards: int = 1, **parameters: Any) -> Stream:
        """Create a stream of so many shards and wait until it is there."""
        stream = Stream(streams=self, name=f"conformance-{secrets.token_hex(6)}")
        if not parameters:
            parameters = {"ShardCount": shards}
        self.made.append(stream.name)
        self.client.create_stream(StreamName=stream.name, **parameters)
        stream.wait()
        return stream

    def delete_all(self) -> None:
        """Delete what the test made."""
        for name in self.made:
            eventually(partial(self._delete, name))

    def _delete(self, name: str) -> bool | None:
        try:
            self.client.delete_stream(StreamName=name, EnforceConsumerDeletion=True)
        except ClientError as error:
            if error_code(error) == "ResourceInUseException" or error_code(error) in _THROTTLED:
                return None  # the test left it while it was changing
            raise
        return True

    @contextmanager
    def unthrottled(self) -> Generator[None]:
        """Let a test write more than a shard bears; AWS cannot be asked to."""
        if self.server.embedded is None:
            yield
            return
        self.server.embedded.set_rates(None)
        try:
            yield
        finally:
            # full again, and as strict as the service
            self.server.embedded.set_rates(RATES)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One stream; requests that are throttled are repeated, as AWS asks for it."""

    streams: Streams
    name: str

    def wait(self, status: str = "ACTIVE") -> Mapping[str, Any]:
        """Wait until the stream has a status; return its summary."""
        return eventually(lambda: summary if (summary := self.summary())["StreamStatus"] == status else None)

    def summary(self) -> Mapping[str, Any]:
        """Describe it."""
        answer = self.ask("describe_stream_summary", StreamName=self.name)
        summary: Mapping[str, Any] = answer["StreamDescriptionSummary"]
        return summary

    def ask(self, operation: str, **parameters: Any) -> Any:
        """Send a request, again for as long as it is throttled."""

        def attempt() -> Any:
            try:
                return getattr(self.streams.client, operation)(**parameters)
            except ClientError as error:
                if error_code(error) in _THROTTLED:
                    return None
                raise

        return eventually(attempt)

    def shards(self, **filters: Any) -> list[Mapping[str, Any]]:
        """List the shards, page after page, oldest first."""
        found: list[Mapping[str, Any]] = []
        query: dict[str, Any] = {"StreamName": self.name, **filters}
        while True:
            answer = self.ask("list_shards", **query)
            found += answer["Shards"]
            if answer.get("NextToken") is None:
                return sorted(found, key=lambda shard: str(shard["ShardId"]))
            query = {"NextToken": answer["NextToken"]}

    def open_shards(self) -> list[Mapping[str, Any]]:
        """List the shards that take records."""
        return [
            shard for shard in self.shards() if "EndingSequenceNumber" not in shard["SequenceNumberRange"]
        ]

    def put(self, *texts: str, hash_key: int = 0, key: str = "key") -> list[Mapping[str, Any]]:
        """Put records, each in a request of its own and each after the other; return where they are."""
        return [self._put_one(text.encode(), hash_key, key) for text in texts]

    def _put_one(self, data: bytes, hash_key: int, key: str) -> Mapping[str, Any]:
        entry = {"Data": data, "PartitionKey": key, "ExplicitHashKey": str(hash_key)}

        def attempt() -> Mapping[str, Any] | None:
            (outcome,) = self.ask("put_records", StreamName=self.name, Records=[entry])["Records"]
            return outcome if "SequenceNumber" in outcome else None

        return eventually(attempt)

    def iterator(self, shard_id: str, kind: str = "TRIM_HORIZON", **parameters: Any) -> str:
        """Ask for an iterator."""
        answer = self.ask(
            "get_shard_iterator",
            StreamName=self.name,
            ShardId=shard_id,
            ShardIteratorType=kind,
            **parameters,
        )
        iterator: str = answer["ShardIterator"]
        return iterator

    def get(self, iterator: str, **parameters: Any) -> Mapping[str, Any]:
        """Ask for records once; they may be none although there are some."""
        answer: Mapping[str, Any] = self.ask("get_records", ShardIterator=iterator, **parameters)
        return answer

    def pages(self, iterator: str, **parameters: Any) -> Iterator[Mapping[str, Any]]:
        """Read on until the shard's end, or until the reader has caught up with it."""
        for _ in range(1000):
            page = self.get(iterator, **parameters)
            yield page
            if page.get("NextShardIterator") is None:
                return
            if not page["Records"] and page["MillisBehindLatest"] == 0:
                return
            iterator = page["NextShardIterator"]
        raise AssertionError("the shard has no end")

    def read(self, shard_id: str, kind: str = "TRIM_HORIZON", **parameters: Any) -> list[str]:
        """Read what a shard holds from somewhere on."""
        iterator = self.iterator(shard_id, kind, **parameters)
        return [text for page in self.pages(iterator) for text in texts_of(page)]

    def read_to_end(self, shard_id: str) -> list[Mapping[str, Any]]:
        """Read a closed shard to its end; return the pages."""
        pages = list(self.pages(self.iterator(shard_id)))
        assert pages[-1].get("NextShardIterator") is None, "the shard is closed and does not end"
        return pages

    def split(self, shard: Mapping[str, Any], at: int | None = None) -> list[Mapping[str, Any]]:
        """Split a shard in its middle, or somewhere; return its children."""
        low, high = hash_range(shard)
        middle = at if at is not None else (low + high) // 2 + 1
        self.ask(
            "split_shard",
            StreamName=self.name,
            ShardToSplit=shard["ShardId"],
            NewStartingHashKey=str(middle),
        )
        return self._children(shard["ShardId"], 2)

    def merge(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> Mapping[str, Any]:
        """Merge two shards; return their child."""
        self.ask(
            "merge_shards",
            StreamName=self.name,
            ShardToMerge=one["ShardId"],
            AdjacentShardToMerge=other["ShardId"],
        )
        (child,) = self._children(one["ShardId"], 1)
        return child

    def _children(self, parent: str, count: int) -> list[Mapping[str, Any]]:
        def find() -> list[Mapping[str, Any]] | None:
            children = [
                shard
                for shard in self.shards()
                if parent in (shard.get("ParentShardId"), shard.get("AdjacentParentShardId"))
            ]
            return children if len(children) == count else None

        children = eventually(find)
        self.wait()
        return children


def eventually(attempt: Callable[[], T | None], *, seconds: float = PATIENCE_SECONDS) -> T:
    """Return the first answer that is not None."""
    deadline = time.monotonic() + seconds
    for number in itertools.count():
        answer = attempt()
        if answer is not None:
            return answer
        assert time.monotonic() < deadline, f"it did not come true within {seconds:g} s"
        time.sleep(min(0.02 * 2**number, 1.0))
    raise AssertionError


def error_code(error: ClientError) -> str:
    """Return the service's own word for a refusal."""
    code: str = error.response.get("Error", {}).get("Code", "")
    return code


@contextmanager
def refused(*codes: str) -> Generator[None]:
    """Expect the service to refuse a request, with one of these codes."""
    with pytest.raises(ClientError) as caught:
        yield
    assert error_code(caught.value) in codes


def hash_range(shard: Mapping[str, Any]) -> tuple[int, int]:
    """Return the first and the last hash key of a shard."""
    found = shard["HashKeyRange"]
    return int(found["StartingHashKey"]), int(found["EndingHashKey"])


def texts_of(page: Mapping[str, Any]) -> list[str]:
    """Return what the records of a page say."""
    return [record["Data"].decode() for record in page["Records"]]
