"""boto3 for the control plane, and for DynamoDB: clients made once, calls in worker threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, cast, final

import anyio
import anyio.to_thread
import boto3
from anyio.lowlevel import RunVar
from botocore.awsrequest import AWSPreparedRequest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ._config import KinesisConfig
from ._errors import translated

_MAX_THREADS: Final = 16
_CHUNK_BYTES: Final = 1 << 18


def body_until(deadline: float, body: bytes) -> Iterator[bytes]:
    """Yield the body of a request as long as it may be sent: until a time of `time.monotonic`.

    No timeout of a connection says when that begins: names are looked up, and a connection is made, before it, and
    resolvers take their own time. A request whose body is cut short is none to the service.
    """
    for place in range(0, len(body), _CHUNK_BYTES):
        if time.monotonic() > deadline:
            raise TimeoutError("the time for the request was over before it was sent")
        yield body[place : place + _CHUNK_BYTES]


class _Sending(threading.local):
    until: float | None = None


@final
class Aws:
    """The services that a transport talks to; nothing is opened before the first call.

    - `session`: the user's own; None for one that finds credentials, profile and region as botocore does.

    Retries are ours, where a request may be repeated: botocore does none.
    """

    def __init__(self, config: KinesisConfig, session: boto3.Session | None = None) -> None:
        self._config = config
        self._session = session
        self._clients: dict[tuple[str, float], Any] = {}
        # sessions are not safe for threads, and making a client changes one; clients are safe
        self._lock = threading.Lock()
        self._sending = _Sending()
        # one for each run of an event loop: a transport that was provisioned under asyncio may be run under trio
        self._limiters: RunVar[anyio.CapacityLimiter] = RunVar("cdc_kinesis threads")

    def client(self, service: str, *, timeout_seconds: float | None = None) -> Any:
        """Return the boto3 client of a service; the first call is slow: run it in a worker thread.

        - `timeout_seconds`: for connecting and the answer together; None for the configuration's. boto3 bounds
          requests per client, so each other bound makes another client.

        Raises:
            ConfigError: no region is known.
        """
        with self._lock:
            key = (service, timeout_seconds or 0.0)
            if key not in self._clients:
                self._clients[key] = self._make_client(service, timeout_seconds)
            return self._clients[key]

    @property
    def session(self) -> boto3.Session:
        """The user's own session, or the one made for them; not for two threads at once."""
        with self._lock:
            return self._made_session()

    async def call(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """Carry out one operation, named as boto3 names it: `await aws.call("kinesis", "list_shards", StreamName=…)`.

        Not cancelled half-way; bounded by the request timeout instead.

        Raises:
            AwsError: the service refused; its `code` says why.
            AwsAccessError: credentials or permissions.
            AnswerLost: the network failed; the operation may have been carried out.
            ConfigError: no region, or parameters that cannot be.
        """
        limiter = self._limiters.get(None)
        if limiter is None:
            limiter = anyio.CapacityLimiter(_MAX_THREADS)
            self._limiters.set(limiter)
        return await anyio.to_thread.run_sync(
            partial(self.call_blocking, service, operation, **parameters), limiter=limiter
        )

    @contextmanager
    def sending_until(self, deadline: float) -> Generator[None]:
        """Let nothing be sent by this thread's boto3 calls inside the block after a time of `time.monotonic`.

        boto3 knows timeouts of a connection only: it fetches credentials and looks names up before, in their time.
        """
        self._sending.until = deadline
        try:
            yield
        finally:
            self._sending.until = None

    def call_blocking(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """Do as `call` does, in a thread of the caller's."""
        try:
            answer: dict[str, Any] = getattr(self.client(service), operation)(**parameters)
        except (BotoCoreError, ClientError) as error:
            where = {"service": service, "operation": operation, "stream": self._config.stream_name}
            raise translated(error, where=where) from error
        return answer

    def _make_client(self, service: str, timeout_seconds: float | None) -> Any:
        connect = min(5.0, self._config.request_timeout_seconds)
        read = self._config.request_timeout_seconds
        if timeout_seconds is None and service == "dynamodb":
            # a renewal that hangs leaves time for another before the lease expires
            timeout_seconds = min(read, max(5.0, self._config.failover_seconds / 3))
        if timeout_seconds is not None:
            connect = min(5.0, timeout_seconds / 4)
            read = timeout_seconds - connect
        endpoints = {
            "kinesis": self._config.kinesis_endpoint_url,
            "dynamodb": self._config.dynamodb_endpoint_url,
        }
        session = cast("Any", self._made_session())  # typed clients would have to be chosen by a literal name
        client = session.client(
            service,
            region_name=self._config.region,
            endpoint_url=endpoints.get(service),
            config=Config(
                connect_timeout=connect,
                read_timeout=read,
                retries={"total_max_attempts": 1},
                max_pool_connections=_MAX_THREADS,
                parameter_validation=False,
            ),
        )
        client.meta.events.register(f"before-send.{service}", self._before_send)
        return client

    def _before_send(self, request: AWSPreparedRequest, **_: object) -> None:
        deadline, body = self._sending.until, request.body
        if deadline is not None and isinstance(body, bytes):
            request.body = cast(
                "Any", body_until(deadline, body)
            )  # urllib3 takes it, the types do not say so

    def _made_session(self) -> boto3.Session:
        if self._session is None:
            self._session = boto3.Session()
        return self._session
