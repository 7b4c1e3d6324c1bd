"""What the tests against real servers share: the event loops, and the programs shown in the README."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cdc_testing.servers import ServerUnavailableError
from cdc_testing.servers.postgres import Build

# The emulators are run from a checkout and are not installed.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from aws_servers import AwsServer, AwsServers, Streams
from emulators.postgres import choose_build

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Each async test runs on both event loops."""
    return str(request.param)


def read_program(markdown: str, name: str) -> str:
    """Return the Python block that follows `<!-- program: NAME -->`.

    Raises:
        LookupError: there is no such mark with a block right below it.
    """
    mark = re.escape(f"<!-- program: {name} -->")
    found = re.search(rf"^{mark}\n```python\n(.*?)^```$", markdown, flags=re.DOTALL | re.MULTILINE)
    if found is None:
        raise LookupError(f"no program called {name!r}")
    return found.group(1)


@pytest.fixture(scope="session")
def build_of() -> Callable[[int], Build]:
    """Choose a PostgreSQL build of a major version; the test is skipped where there is none, with CI=true it fails."""

    def choose(major: int) -> Build:
        try:
            return choose_build(major)
        except ServerUnavailableError as error:
            if os.environ.get("CI", "").lower() == "true":
                pytest.fail(f"CI=true and no server to test with: {error}", pytrace=False)
            pytest.skip(str(error))

    return choose


@pytest.fixture
def readme_program() -> Callable[[str], str]:
    """Read a program out of the README as its users see it, by the name in the mark above it."""

    def read(name: str) -> str:
        return read_program((ROOT / "README.md").read_text(encoding="utf-8"), name)

    return read


@pytest.fixture(scope="session")
def aws_servers() -> Iterator[AwsServers]:
    """The servers of Kinesis and DynamoDB, each started once for the session, by the first test that needs it."""
    with ExitStack() as until:
        yield AwsServers(until)


@pytest.fixture
def kinesis(request: pytest.FixtureRequest, aws_servers: AwsServers) -> Iterator[Streams]:
    """The Kinesis that the test's `on_kinesis` names; the streams that the test makes go with it."""
    server = aws_servers.kinesis(str(request.param))
    streams = Streams(server=server, client=server.client("kinesis"))
    try:
        yield streams
    finally:
        streams.delete_all()
        streams.client.close()


@pytest.fixture
def dynamodb(request: pytest.FixtureRequest, aws_servers: AwsServers) -> AwsServer:
    """The DynamoDB that the test's `on_dynamodb` names."""
    return aws_servers.dynamodb(str(request.param))
