"""Health and lag as values, and plans that say what they would do."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_core import (
    UNKNOWN,
    Action,
    Check,
    CheckState,
    Health,
    Partition,
    PartitionLag,
    Plan,
    PlanRefused,
    Provisioner,
    Step,
    provision,
    worst,
)

STATES = st.sampled_from(CheckState)
CHECKS = st.lists(st.builds(Check, name=st.just("c"), state=STATES), max_size=5)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@given(CHECKS)
def test_ready_means_that_something_was_checked_and_nothing_failed(checks: list[Check]) -> None:
    health = Health.of(*checks)
    assert health.ready == (len(checks) > 0 and all(check.state != CheckState.FAIL for check in checks))
    assert json.loads(json.dumps(health.as_dict()))["ready"] == health.ready


@given(CHECKS)
def test_the_worst_state_is_a_failure_then_a_warning_then_the_unknown(checks: list[Check]) -> None:
    order = [CheckState.OK, CheckState.UNKNOWN, CheckState.WARN, CheckState.FAIL]
    found = [check.state for check in checks] or [CheckState.UNKNOWN]
    assert worst(checks) is max(found, key=order.index)


def test_a_figure_that_was_not_measured_is_unknown_and_neither_zero_nor_none() -> None:
    lag = PartitionLag(partition=Partition("db", "slot"), lag_bytes=0)
    assert (lag.lag_events, lag.lag_seconds) == (UNKNOWN, UNKNOWN)
    assert not UNKNOWN
    assert repr(UNKNOWN) == "UNKNOWN"
    assert [figure for figure in (lag.lag_bytes, lag.lag_events) if figure is not UNKNOWN] == [0]


class Recorder:
    """Something to provision: plans what it is told, and notes what is applied."""

    def __init__(self, plan: Plan) -> None:
        self.the_plan = plan
        self.applied: list[Plan] = []

    def provisioner(self) -> AbstractAsyncContextManager[Provisioner]:
        return self._open()

    @asynccontextmanager
    async def _open(self) -> AsyncGenerator[Provisioner, None]:
        yield self

    async def plan(self) -> Plan:
        return self.the_plan

    async def apply(self, plan: Plan) -> None:
        self.applied.append(plan)

    async def teardown(self, *, confirm: str) -> Plan:
        raise NotImplementedError


def step(action: Action) -> Step:
    return Step(action=action, kind="replication slot", name="shop", detail="why", remedy="do this")


@pytest.mark.anyio
async def test_what_was_planned_is_what_is_applied() -> None:
    target = Recorder(Plan(steps=(step(Action.CREATE), step(Action.KEEP))))
    assert await provision(target) is target.the_plan
    assert target.applied == [target.the_plan]


@pytest.mark.anyio
async def test_nothing_is_applied_where_nothing_is_missing() -> None:
    target = Recorder(Plan(steps=(step(Action.KEEP),)))
    await provision(target)
    assert target.applied == []
    assert target.the_plan.is_done


@pytest.mark.anyio
@pytest.mark.parametrize(
    "plan",
    [
        Plan(steps=(step(Action.CREATE), step(Action.REFUSE))),
        Plan(steps=(), checks=(Check(name="wal_level", state=CheckState.FAIL, why="why", remedy="do this"),)),
    ],
)
async def test_a_refused_plan_changes_nothing_and_says_why_and_what_to_do(plan: Plan) -> None:
    target = Recorder(plan)
    with pytest.raises(PlanRefused, match=r"why.*do this") as caught:
        await provision(target)
    assert caught.value.plan is plan
    assert target.applied == []
    assert plan.is_refused
