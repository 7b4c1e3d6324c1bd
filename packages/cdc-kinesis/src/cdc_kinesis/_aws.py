"""boto3 for the control plane, and for DynamoDB: clients made once, calls in worker threads."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any, Final, cast, final

import anyio
import anyio.to_thread
import boto3
from anyio.lowlevel import RunVar
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ._config import KinesisConfig
from ._errors import translated

_MAX_THREADS: Final = 16


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
        # of the event loop: a transport may be used in one after the other
        self._limiter: RunVar[anyio.CapacityLimiter] = RunVar("cdc_kinesis.threads")

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
        limiter = self._limiter.get(None)
        if limiter is None:
            limiter = anyio.CapacityLimiter(_MAX_THREADS)
            self._limiter.set(limiter)
        return await anyio.to_thread.run_sync(
            partial(self.call_blocking, service, operation, **parameters), limiter=limiter
        )

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
        return session.client(
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

    def _made_session(self) -> boto3.Session:
        if self._session is None:
            self._session = boto3.Session()
        return self._session
