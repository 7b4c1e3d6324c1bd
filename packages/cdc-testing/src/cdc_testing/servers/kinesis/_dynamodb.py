import importlib.util
import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final, final

from .._errors import ServerUnavailableError
from ._program import START_SECONDS, run_program

DYNAMODB_ENDPOINT_VARIABLE: Final = "CDC_TEST_DYNAMODB_ENDPOINT"
"""Environment variable with the URL of a running DynamoDB (or "aws" for AWS itself); then none is started."""


@final
class EmbeddedDynamoDb:
    """A DynamoDB for tests: moto in a process of its own, or (`managed` False) a running one that was named.

    Attributes:
        endpoint_url: Where clients find it; None for AWS itself.
        pid: Of its process; None where it is not ours.
    """

    def __init__(self, endpoint_url: str | None, *, pid: int | None = None) -> None:
        self.endpoint_url = endpoint_url
        self.pid = pid

    def __repr__(self) -> str:
        return f"<EmbeddedDynamoDb {self.endpoint_url or 'AWS'}{'' if self.managed else ', not ours'}>"

    @property
    def managed(self) -> bool:
        """Whether it is ours."""
        return self.pid is not None


@contextmanager
def start_dynamodb(
    *, use_existing: bool = True, start_timeout_seconds: float = START_SECONDS
) -> Generator[EmbeddedDynamoDb]:
    """Start a DynamoDB; leaving the block ends it and what it holds.

    moto keeps its tables in module state, so two servers in one process would be one: each has a process of its
    own here (1.4 s to start, 90 MB, some 250 writes a second), which ends with this one. It carries out one
    request at a time, so conditional writes are exact, as leases need them. Its Kinesis is not used: it loses
    records that it acknowledged to concurrent writers (measured).

    Args:
        use_existing: Whether CDC_TEST_DYNAMODB_ENDPOINT counts.
        start_timeout_seconds: How long it may take until it takes connections.

    Raises:
        ServerUnavailableError: moto is not installed.
        ServerStartError, ServerTimeoutError: it does not come up.
    """
    if use_existing and (existing := os.environ.get(DYNAMODB_ENDPOINT_VARIABLE)):
        yield EmbeddedDynamoDb(None if existing == "aws" else existing)
        return
    if importlib.util.find_spec("moto") is None:
        raise ServerUnavailableError(
            "the package moto is not installed", remedy="pip install 'cdc-testing[kinesis]'"
        )
    with run_program(
        "cdc_testing.servers.kinesis._moto_main", [], start_timeout_seconds=start_timeout_seconds
    ) as program:
        yield EmbeddedDynamoDb(program.endpoint_url, pid=program.pid)
