"""Promises on planning, applying and tearing down."""

from __future__ import annotations

from collections.abc import Awaitable

from cdc_core import (
    Action,
    CdcError,
    ConfigError,
    Plan,
    PlanOutdated,
    PlanRefused,
    Provisioner,
    Step,
)

from ._harness import Harness


async def check_a_plan_changes_nothing(harness: Harness) -> None:
    """Planning reads; it says what is missing, and creates none of it."""
    before = await harness.objects()
    async with harness.transport().provisioner() as provisioner:
        plan = await provisioner.plan()
        assert not plan.is_done, "nothing exists, and the plan says that nothing is missing"
        assert not plan.is_refused, f"a fresh source is refused: {plan.refused_steps} {plan.failed_checks}"
        assert await provisioner.plan() == plan, "two plans of an unchanged world differ"
    assert await harness.objects() == before, "planning changed the source"


async def check_applying_is_idempotent(harness: Harness) -> None:
    """After applying a plan the next one is done; applying either again changes nothing."""
    async with harness.transport().provisioner() as provisioner:
        plan = await provisioner.plan()
        await provisioner.apply(plan)
        existing = await harness.objects()
        done = await provisioner.plan()
        assert done.is_done, (
            f"applied, and still to do: {[step for step in done.steps if step.action != 'keep']}"
        )
        await provisioner.apply(plan)
        await provisioner.apply(done)
    assert await harness.objects() == existing, "applying again changed the source"


async def check_a_refused_plan_changes_nothing(harness: Harness) -> None:
    """A plan with a step that refuses is not applied at all."""
    before = await harness.objects()
    async with harness.transport().provisioner() as provisioner:
        plan = await provisioner.plan()
        refusal = Step(action=Action.REFUSE, kind="contract", name="refusal", detail="refused by the suite")
        refused = Plan(steps=(*plan.steps, refusal), checks=plan.checks)
        await _must_raise(PlanRefused, provisioner.apply(refused), "a refused plan was applied")
    assert await harness.objects() == before, "a refused plan changed the source"


async def check_an_outdated_plan_is_refused(harness: Harness) -> None:
    """A plan that keeps what does not exist any more raises `PlanOutdated`."""
    async with harness.transport().provisioner() as provisioner:
        await provisioner.apply(await provisioner.plan())
        done = await provisioner.plan()
        await provisioner.teardown(confirm=harness.teardown_name)
        await _must_raise(PlanOutdated, provisioner.apply(done), "an outdated plan was applied")


async def check_a_teardown_needs_the_name(harness: Harness) -> None:
    """Tearing down under another name raises `ConfigError` and deletes nothing."""
    async with harness.transport().provisioner() as provisioner:
        await provisioner.apply(await provisioner.plan())
        existing = await harness.objects()
        for wrong in ("", harness.teardown_name + "x", harness.teardown_name.upper() + "_"):
            await _must_raise(
                ConfigError, provisioner.teardown(confirm=wrong), f"torn down under the name {wrong!r}"
            )
        assert await harness.objects() == existing, "a teardown under a wrong name changed the source"


async def check_a_teardown_removes_only_its_own(harness: Harness) -> None:
    """A teardown deletes what the provisioner created, says so, and leaves everything else."""
    before = await harness.objects()
    async with harness.transport().provisioner() as provisioner:
        await provisioner.apply(await provisioner.plan())
        created = await harness.objects() - before
        assert created, "applying the plan created nothing that the harness sees"
        deleted = await provisioner.teardown(confirm=harness.teardown_name)
        assert any(step.action is Action.DROP for step in deleted.steps), (
            "the teardown names no dropped object"
        )
        assert await harness.objects() == before, "a teardown left something, or deleted what is not its own"
        assert not (await provisioner.plan()).is_done, "torn down, and the plan says that nothing is missing"


async def check_a_torn_down_source_can_be_provisioned_again(harness: Harness) -> None:
    """A source that was torn down is provisioned again by a new plan."""
    async with harness.transport().provisioner() as provisioner:
        await _apply_anew(provisioner)
        existing = await harness.objects()
        await provisioner.teardown(confirm=harness.teardown_name)
        await _apply_anew(provisioner)
    assert await harness.objects() == existing, "provisioned again, it is another source"


async def _apply_anew(provisioner: Provisioner) -> None:
    await provisioner.apply(await provisioner.plan())


async def _must_raise(kind: type[CdcError], action: Awaitable[object], otherwise: str) -> None:
    try:
        await action
    except kind:
        return
    raise AssertionError(otherwise)
