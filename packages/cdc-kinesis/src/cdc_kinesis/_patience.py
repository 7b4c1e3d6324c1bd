"""Calls to the control plane that wait and try again: throttled ones, and ones whose effect takes its time."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio

from cdc_core import SourceError

from ._aws import Aws
from ._errors import AnswerLost

logger = logging.getLogger("cdc_kinesis")

# Control-plane operations are limited by account and second (DescribeStreamSummary 20, CreateStream 5): a refusal
# for that reason is over within seconds, one for a quota of the account never is.
_RETRY_SECONDS: Final = 20.0
_FIRST_PAUSE_SECONDS: Final = 0.05
_MAX_PAUSE_SECONDS: Final = 2.0
# Creating takes the service less than a minute, encrypting some; a table with a backlog of others some more.
_WAIT_SECONDS: Final = 900.0
_PROGRESS_SECONDS: Final = 5.0


async def call_patiently(
    aws: Aws, service: str, operation: str, *, repeatable: bool = True, **parameters: Any
) -> dict[str, Any]:
    """Call an operation, and again while it is throttled, for 20 seconds at most.

    - `repeatable`: whether it may be made again when its answer was lost.

    Raises:
        AwsError, AwsAccessError, AnswerLost, ConfigError: as `Aws.call`.
    """
    last_at = anyio.current_time() + _RETRY_SECONDS
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            return await aws.call(service, operation, **parameters)
        except SourceError as error:
            lost = isinstance(error, AnswerLost)
            if not error.retryable or (lost and not repeatable) or anyio.current_time() >= last_at:
                raise
        await anyio.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(2 * pause, _MAX_PAUSE_SECONDS)


async def wait_until(
    what: str, name: str, look: Callable[[], Awaitable[str]], *, wanted: str, seconds: float = _WAIT_SECONDS
) -> None:
    """Look until an object has the wanted status; progress goes to the log, at intervals.

    - `look`: returns the status, in the service's own words or ours.

    Raises:
        SourceError: it has not after `seconds`.
    """
    started_at = anyio.current_time()
    told_at = started_at
    pause = _FIRST_PAUSE_SECONDS
    while (status := await look()) != wanted:
        now = anyio.current_time()
        if now - started_at >= seconds:
            raise SourceError(
                f"{what} {name} is {status} after {now - started_at:.0f} seconds, and not {wanted}",
                where={"name": name},
                remedy="look at it in the console, and apply a new plan once it is well",
                retryable=True,
            )
        if now - told_at >= _PROGRESS_SECONDS:
            told_at = now
            logger.info(
                "waiting for the service",
                extra={"kind": what, "object": name, "status": status, "seconds": round(now - started_at)},
            )
        await anyio.sleep(pause)
        pause = min(2 * pause, _MAX_PAUSE_SECONDS)
