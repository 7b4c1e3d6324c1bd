import importlib
import importlib.util
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final, final

import anyio
import anyio.to_thread

from .._errors import ServerUnavailableError
from ._dynamodb import EmbeddedDynamoDb, start_dynamodb
from ._launch import DEFAULT_REGION, start_kinesis
from ._limits import Rates
from ._server import EmbeddedKinesis
from ._service import Durations

if TYPE_CHECKING:
    import boto3

ACCESS_KEY_ID: Final = "test"
SECRET_ACCESS_KEY: Final = "test"


@final
class EmbeddedAws:
    """Kinesis and DynamoDB for tests, side by side.

    Attributes:
        kinesis, dynamodb: The servers.
        region: What clients sign for.
        access_key_id, secret_access_key: Any would do for servers of ours; None where a server is AWS itself,
            and credentials are found as botocore finds them.
    """

    def __init__(self, kinesis: EmbeddedKinesis, dynamodb: EmbeddedDynamoDb) -> None:
        self.kinesis = kinesis
        self.dynamodb = dynamodb
        self.region: str = kinesis.region
        real = kinesis.endpoint_url is None or dynamodb.endpoint_url is None
        self.access_key_id = None if real else ACCESS_KEY_ID
        self.secret_access_key = None if real else SECRET_ACCESS_KEY

    def __repr__(self) -> str:
        return f"<EmbeddedAws {self.kinesis!r} {self.dynamodb!r}>"

    @property
    def kinesis_endpoint_url(self) -> str | None:
        """Where clients find Kinesis; None for AWS itself."""
        return self.kinesis.endpoint_url

    @property
    def dynamodb_endpoint_url(self) -> str | None:
        """Where clients find DynamoDB; None for AWS itself."""
        return self.dynamodb.endpoint_url

    def boto3_session(self, *, access_key_id: str | None = None) -> "boto3.Session":
        """A boto3 session with region and credentials; endpoints are given to each client.

        Args:
            access_key_id: Another one than usual, so that a fault can tell this client from others.
        """
        if importlib.util.find_spec("boto3") is None:
            raise ServerUnavailableError(
                "the package boto3 is not installed", remedy="pip install 'cdc-testing[kinesis]'"
            )
        session: type[boto3.Session] = importlib.import_module("boto3").Session
        return session(
            aws_access_key_id=access_key_id or self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            region_name=self.region,
        )

    def environment(self) -> dict[str, str]:
        """The variables that point a program's botocore (or the AWS CLI) to these servers."""
        variables = {
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            "AWS_ENDPOINT_URL_KINESIS": self.kinesis_endpoint_url,
            "AWS_ENDPOINT_URL_DYNAMODB": self.dynamodb_endpoint_url,
        }
        return {name: value for name, value in variables.items() if value is not None}


@contextmanager
def start_aws(
    *,
    region: str = DEFAULT_REGION,
    durations: Durations | None = None,
    throttle: bool | Rates = False,
    clock: Callable[[], float] | None = None,
    verify_signatures: bool = False,
    own_process: bool = False,
    use_existing: bool = True,
) -> Generator[EmbeddedAws]:
    """Start Kinesis and DynamoDB: `start_kinesis`, which says what most arguments are, and `start_dynamodb`.

    Args:
        verify_signatures: Whether Kinesis takes only requests that the secret key of these servers signed.
    """
    with ExitStack() as stack:
        kinesis = stack.enter_context(
            start_kinesis(
                region=region,
                durations=durations,
                throttle=throttle,
                clock=clock,
                secret_access_key=SECRET_ACCESS_KEY if verify_signatures else None,
                own_process=own_process,
                use_existing=use_existing,
            )
        )
        yield EmbeddedAws(kinesis, stack.enter_context(start_dynamodb(use_existing=use_existing)))


@asynccontextmanager
async def open_aws(
    *,
    region: str = DEFAULT_REGION,
    durations: Durations | None = None,
    throttle: bool | Rates = False,
    clock: Callable[[], float] | None = None,
    verify_signatures: bool = False,
    own_process: bool = False,
    use_existing: bool = True,
) -> AsyncGenerator[EmbeddedAws]:
    """`start_aws` for asyncio and trio: starting and ending take place in a worker thread."""
    block = start_aws(
        region=region,
        durations=durations,
        throttle=throttle,
        clock=clock,
        verify_signatures=verify_signatures,
        own_process=own_process,
        use_existing=use_existing,
    )
    servers = await anyio.to_thread.run_sync(block.__enter__)
    try:
        yield servers
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(block.__exit__, None, None, None)
