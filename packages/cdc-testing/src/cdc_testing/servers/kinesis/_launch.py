import os
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import anyio
import anyio.to_thread
import msgspec

from ._control import CONTROL_PATH, LocalControl, RemoteControl, answer_command
from ._front import Front, HttpAnswer
from ._http import HttpServer
from ._limits import Rates
from ._program import START_SECONDS, run_program
from ._server import KINESIS_ENDPOINT_VARIABLE, EmbeddedKinesis
from ._service import Durations, Service

DEFAULT_REGION: Final = "us-east-1"
ACCOUNT_ID: Final = "000000000000"


@contextmanager
def start_kinesis(
    *,
    port: int = 0,
    region: str = DEFAULT_REGION,
    durations: Durations | None = None,
    throttle: bool | Rates = False,
    clock: Callable[[], float] | None = None,
    secret_access_key: str | None = None,
    own_process: bool = False,
    use_existing: bool = True,
) -> Generator[EmbeddedKinesis]:
    """Start a Kinesis in threads of this process; leaving the block ends it and cuts its connections.

    It listens on a loopback port and speaks the service's protocol (JSON and CBOR over HTTP/1.1), so any client
    with an endpoint to set can use it. Where the environment variable
    CDC_TEST_KINESIS_ENDPOINT names a running one, nothing is started, and the other arguments are without effect.

    Args:
        port: 0 for a free one.
        region: Of its ARNs.
        durations: How long streams and shards take to change; by default no time, while the service needs
            tens of seconds.
        throttle: Whether shards bear the service's rates only (True), or these (`Rates`). Sizes are always
            limited as the service limits them.
        clock: The server's time in seconds since 1970; by default this machine's, which `advance` moves on.
        secret_access_key: Check that every request is signed with it, whatever its access key; None for taking
            any signature.
        own_process: Run it in a process of its own, which is gone when this one is: for load that should not
            share this process's interpreter, and where this process is stopped or killed by the test.
        use_existing: Whether CDC_TEST_KINESIS_ENDPOINT counts; False for tests that need faults or the clock.

    Raises:
        ServerStartError, ServerTimeoutError: its own process does not come up.
        ValueError: `clock` with `own_process`.
    """
    if use_existing and (existing := os.environ.get(KINESIS_ENDPOINT_VARIABLE)):
        named_region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or region
        yield EmbeddedKinesis(None if existing == "aws" else existing, named_region, None)
        return
    if own_process:
        if clock is not None:
            raise ValueError("a clock of this process cannot be given to another: use `advance`")
        arguments = program_arguments(
            port=port, region=region, durations=durations, throttle=throttle, secret=secret_access_key
        )
        with run_program(
            "cdc_testing.servers.kinesis", arguments, start_timeout_seconds=START_SECONDS
        ) as program:
            yield connect_kinesis(program.endpoint_url, region=region, pid=program.pid)
        return
    service = Service(region=region, account_id=ACCOUNT_ID, durations=durations, rates=rates_of(throttle))
    front = Front(service, clock=clock or time.time, secret=secret_access_key)
    control = LocalControl(front)
    with serving(front, port) as endpoint_url:
        yield EmbeddedKinesis(endpoint_url, region, control)


@asynccontextmanager
async def open_kinesis(
    *,
    port: int = 0,
    region: str = DEFAULT_REGION,
    durations: Durations | None = None,
    throttle: bool | Rates = False,
    clock: Callable[[], float] | None = None,
    secret_access_key: str | None = None,
    own_process: bool = False,
    use_existing: bool = True,
) -> AsyncGenerator[EmbeddedKinesis]:
    """`start_kinesis` for asyncio and trio: starting and ending take place in a worker thread."""
    block = start_kinesis(
        port=port,
        region=region,
        durations=durations,
        throttle=throttle,
        clock=clock,
        secret_access_key=secret_access_key,
        own_process=own_process,
        use_existing=use_existing,
    )
    server = await anyio.to_thread.run_sync(block.__enter__)
    try:
        yield server
    finally:
        # Shielded: bounded by what is in flight, and nothing may be left behind.
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(block.__exit__, None, None, None)


def connect_kinesis(
    endpoint_url: str, *, region: str = DEFAULT_REGION, pid: int | None = None
) -> EmbeddedKinesis:
    """A handle on a server that `start_kinesis` started in another process, with its faults and clock.

    Args:
        endpoint_url: The server's `endpoint_url`, handed over by whoever started it.
        region: That it was started with.
        pid: Of its process, where known.
    """
    return EmbeddedKinesis(endpoint_url, region, RemoteControl(endpoint_url), pid=pid)


@contextmanager
def serving(front: Front, port: int) -> Generator[str]:
    """Serve a front, and the control of it, on a loopback port; gives its URL."""
    control = LocalControl(front)

    def answer(path: str, headers: Mapping[str, str], body: bytes) -> HttpAnswer | None:
        return answer_command(control, body) if path == CONTROL_PATH else front.answer(path, headers, body)

    http = HttpServer("127.0.0.1", port, answer)
    http.start()
    try:
        yield f"http://127.0.0.1:{http.port}"
    finally:
        front.close()
        http.close()


def program_arguments(
    *, port: int, region: str, durations: Durations | None, throttle: bool | Rates, secret: str | None
) -> list[str]:
    """The command line of `python -m cdc_testing.servers.kinesis` for a server as described."""
    arguments = ["--port", str(port), "--region", region]
    if durations is not None:
        arguments += ["--durations", msgspec.json.encode(durations).decode()]
    if (rates := rates_of(throttle)) is not None:
        arguments += ["--rates", msgspec.json.encode(rates).decode()]
    if secret is not None:
        arguments += ["--secret", secret]
    return arguments


def rates_of(throttle: bool | Rates) -> Rates | None:
    """The rates that an argument means."""
    if isinstance(throttle, Rates):
        return throttle
    return Rates() if throttle else None
