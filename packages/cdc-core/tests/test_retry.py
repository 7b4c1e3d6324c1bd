"""What a failure means, and how long to wait after it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_core import (
    AccessError,
    Backoff,
    CdcError,
    ConfigError,
    Event,
    Poison,
    PublishError,
    RetryPolicy,
    RoutingError,
    Transient,
    Verdict,
)

POISON = Poison("no such customer", event=Event(key=None, value=None, op=None, table=None, position="0"))


class SinkDown(Exception):
    """A driver's own error."""


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (Transient(), Verdict.TRANSIENT),
        (ConnectionResetError(), Verdict.TRANSIENT),
        (TimeoutError(), Verdict.TRANSIENT),
        (SinkDown(), Verdict.TRANSIENT),
        (RoutingError("full", retryable=True), Verdict.TRANSIENT),
        (RoutingError("full"), Verdict.ERROR),
        (PublishError("refused"), Verdict.ERROR),
        (ValueError(), Verdict.ERROR),
        (OSError(), Verdict.ERROR),
        (POISON, Verdict.POISON),
        (BaseExceptionGroup("both", [Transient(), TimeoutError()]), Verdict.TRANSIENT),
        (BaseExceptionGroup("mixed", [Transient(), ValueError()]), Verdict.ERROR),
        (BaseExceptionGroup("mixed", [Transient(), POISON]), Verdict.ERROR),
        (BaseExceptionGroup("nested", [BaseExceptionGroup("", [SinkDown()])]), Verdict.TRANSIENT),
    ],
)
def test_an_error_is_judged_by_what_it_says(error: BaseException, verdict: Verdict) -> None:
    assert RetryPolicy(transient=(SinkDown,)).judge(error) is verdict


@given(
    st.floats(0.001, 10),
    st.floats(1, 100),
    st.floats(10, 1000),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=80),
)
def test_delays_grow_to_their_bound_and_start_over_after_a_success(
    initial: float, multiplier: float, most: float, drawn: list[float]
) -> None:
    policy = RetryPolicy(initial_delay_seconds=initial, multiplier=multiplier, max_delay_seconds=most)
    numbers = iter(drawn)
    backoff = Backoff(policy, random_number=lambda: next(numbers))
    full = initial
    for number in drawn:
        assert backoff.next_delay_seconds() == pytest.approx(min(full, most) * (0.5 + number / 2))
        full = min(full * multiplier, most)
    backoff.reset()
    assert backoff.failures == 0


def test_a_day_of_failures_does_not_overflow() -> None:
    backoff = Backoff(RetryPolicy(multiplier=10.0), random_number=lambda: 0.0)
    assert {backoff.next_delay_seconds() for _ in range(5000)} >= {15.0}


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_attempts": 0},
        {"max_consecutive_poison": 0},
        {"initial_delay_seconds": 0.0},
        {"initial_delay_seconds": 31.0},
        {"multiplier": 0.5},
    ],
)
def test_a_policy_that_cannot_work_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        RetryPolicy(**wrong)  # type: ignore[arg-type]


def test_an_error_says_what_where_and_what_to_do() -> None:
    error = AccessError("no such role", where={"slot": "shop", "lsn": "0/1"}, remedy="GRANT it")
    assert str(error) == "no such role (slot shop, lsn 0/1). Remedy: GRANT it"
    assert (error.retryable, CdcError("x", retryable=True).retryable) == (False, True)
