"""pytest plugin of cdc-testing; pytest finds it by its entry point.

Fixtures:
    embedded_postgres: One PostgreSQL server for the session (with pytest-xdist: for each worker).
    postgres_database: A fresh database on it, dropped after the test together with its slots.
    embedded_kinesis: One Kinesis for the session, in threads of this process, with faults on demand.
    embedded_aws: That Kinesis, and one DynamoDB for the session.
    tcp_proxy: Opens an in-process TCP proxy with faults on demand.

Option `--cdc-postgres-version`: the server's major version. Where a server's programs are missing, its tests
are skipped with the reason; with the environment variable CI=true they fail.

Tests that await choose their event loops themselves, with anyio's own plugin: `@pytest.mark.anyio` and, in
the user's conftest, an `anyio_backend` fixture with `params=["asyncio", "trio"]`.
"""

import os
import secrets
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, final

import pytest

if TYPE_CHECKING:
    from .servers import ServerError
    from .servers.kinesis import EmbeddedAws, EmbeddedKinesis
    from .servers.postgres import EmbeddedPostgres
    from .servers.tcp_proxy import ProxyFactory


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresDatabase:
    """A database that one test has for itself.

    Attributes:
        name: Its name on the server.
        dsn: The connection string for it, as the server's superuser.
        server: The server, which other tests of this session use too.
    """

    name: str
    dsn: str
    server: "EmbeddedPostgres"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--cdc-postgres-version`; pytest calls this."""
    group = parser.getgroup("cdc", "change data capture test servers")
    group.addoption(
        "--cdc-postgres-version",
        type=int,
        default=None,
        metavar="MAJOR",
        help="major version of the embedded PostgreSQL server (18 or 16; default 18)",
    )


@pytest.fixture(scope="session")
def embedded_postgres(request: pytest.FixtureRequest) -> Generator["EmbeddedPostgres"]:
    """A PostgreSQL server with wal_level=logical, shared by the session's tests (per xdist worker)."""
    from .servers import ServerUnavailableError
    from .servers.postgres import DEFAULT_VERSION, start_postgres

    version: int | None = request.config.getoption("--cdc-postgres-version")
    with ExitStack() as stack:
        try:
            server = stack.enter_context(start_postgres(version or DEFAULT_VERSION))
        except ServerUnavailableError as error:
            _without_server(error)
        yield server


@pytest.fixture
def postgres_database(embedded_postgres: "EmbeddedPostgres") -> Generator[PostgresDatabase]:
    """A fresh database on the shared server; afterwards its sessions, its slots and itself are gone."""
    from .servers import ServerUnavailableError

    name = f"cdc_test_{secrets.token_hex(6)}"
    try:
        dsn = embedded_postgres.create_database(name)
    except ServerUnavailableError as error:
        _without_server(error)
    try:
        yield PostgresDatabase(name=name, dsn=dsn, server=embedded_postgres)
    finally:
        if not embedded_postgres.running:  # stopped, or crashed, by the test
            embedded_postgres.start()
        embedded_postgres.drop_database(name)


@pytest.fixture(scope="session")
def embedded_kinesis() -> Generator["EmbeddedKinesis"]:
    """A Kinesis, shared by the session's tests: take streams of your own names, and faults back."""
    from .servers.kinesis import start_kinesis

    with start_kinesis() as server:
        yield server


@pytest.fixture(scope="session")
def embedded_aws(embedded_kinesis: "EmbeddedKinesis") -> Generator["EmbeddedAws"]:
    """`embedded_kinesis` with a DynamoDB beside it, shared by the session's tests (per xdist worker)."""
    from .servers import ServerUnavailableError
    from .servers.kinesis import EmbeddedAws, start_dynamodb

    with ExitStack() as stack:
        try:
            dynamodb = stack.enter_context(start_dynamodb())
        except ServerUnavailableError as error:
            _without_server(error)
        yield EmbeddedAws(embedded_kinesis, dynamodb)


@pytest.fixture
def tcp_proxy() -> "ProxyFactory":
    """Opens a TCP proxy: `async with tcp_proxy(host, port) as proxy`."""
    from .servers.tcp_proxy import open_tcp_proxy

    return open_tcp_proxy


def _without_server(error: "ServerError") -> NoReturn:
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"CI=true and no server to test with: {error}", pytrace=False)
    pytest.skip(str(error))
