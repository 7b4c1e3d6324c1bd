"""What a failure of a handler means, and how long to wait before the next attempt. No I/O, no clock."""

from __future__ import annotations

import enum
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast, final

from ._errors import CdcError, ConfigError, Poison, Transient


class Verdict(enum.Enum):
    """What an exception says: the sink is down, the event can never work, or nobody knows yet."""

    TRANSIENT = "transient"
    POISON = "poison"
    ERROR = "error"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How a failing handler call is retried.

    - `max_attempts`: attempts on an error that is not transient, before the batch is taken apart; 1 or more.
    - `initial_delay_seconds`, `multiplier`, `max_delay_seconds`: exponential backoff; each delay is drawn between
      half of it and all of it, so that replicas do not come back in step.
    - `transient`: exception types that mean that the sink is down; they are retried without end. `Transient`,
      `ConnectionError`, `TimeoutError` and a `CdcError` marked retryable are always among them.
    - `max_consecutive_poison`: so many failing events in a row, with no success between, end the pipeline.
    """

    max_attempts: int = 5
    initial_delay_seconds: float = 0.1
    multiplier: float = 2.0
    max_delay_seconds: float = 30.0
    transient: tuple[type[BaseException], ...] = ()
    max_consecutive_poison: int = 3

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ConfigError(f"max_attempts is {self.max_attempts}", remedy="1 or more")
        if self.max_consecutive_poison < 1:
            raise ConfigError(f"max_consecutive_poison is {self.max_consecutive_poison}", remedy="1 or more")
        if not 0 < self.initial_delay_seconds <= self.max_delay_seconds:
            raise ConfigError(
                f"initial_delay_seconds {self.initial_delay_seconds} and max_delay_seconds {self.max_delay_seconds}",
                remedy="0 < initial_delay_seconds <= max_delay_seconds",
            )
        if self.multiplier < 1:
            raise ConfigError(f"multiplier is {self.multiplier}", remedy="1.0 or more")

    def judge(self, error: BaseException) -> Verdict:
        """Say what an exception of a handler means.

        An exception group is transient only when each of its members is.
        """
        if isinstance(error, Poison):
            return Verdict.POISON
        if isinstance(error, BaseExceptionGroup):
            members = cast("BaseExceptionGroup[BaseException]", error).exceptions
            verdicts = {self.judge(member) for member in members}
            return verdicts.pop() if len(verdicts) == 1 else Verdict.ERROR
        if isinstance(error, (Transient, ConnectionError, TimeoutError, *self.transient)):
            return Verdict.TRANSIENT
        if isinstance(error, CdcError) and error.retryable:
            return Verdict.TRANSIENT
        return Verdict.ERROR


@final
class Backoff:
    """Delays that grow with each failure and start over after a success.

    - `random_number`: draws from [0, 1); given by tests.
    """

    def __init__(self, policy: RetryPolicy, *, random_number: Callable[[], float] = random.random) -> None:
        self._policy = policy
        self._random_number = random_number
        self.failures: int = 0

    def next_delay_seconds(self) -> float:
        """Count a failure, and return how long to wait before the next attempt."""
        policy = self._policy
        # 64 doublings pass any delay; the exponent is bounded so that a day of failures does not overflow a float
        full = min(
            policy.initial_delay_seconds * policy.multiplier ** min(self.failures, 64),
            policy.max_delay_seconds,
        )
        self.failures += 1
        return full * (0.5 + 0.5 * self._random_number())

    def reset(self) -> None:
        """Start over: something succeeded."""
        self.failures = 0
