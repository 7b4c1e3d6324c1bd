"""A plan is a value: what exists, what is missing, what drifted; what was read is what is applied."""

from __future__ import annotations

import enum
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, final

from ._errors import PlanRefused
from ._health import Check, CheckState

if TYPE_CHECKING:
    from ._protocols import Provisioner


class Action(enum.StrEnum):
    """What applying a step does; REFUSE stops the whole plan."""

    CREATE = "create"
    CHANGE = "change"
    KEEP = "keep"
    REFUSE = "refuse"
    DROP = "drop"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One object of a plan.

    - `action`: what applying it does; `kind`: what it is, e.g. `replication slot`; `name`: which one.
    - `detail`: what exists, what drifted, or why it is refused; `statement`: the exact statement that would run.
    - `remedy`: for a refused step, what the user can do.
    """

    action: Action
    kind: str
    name: str
    detail: str = ""
    statement: str = ""
    remedy: str = ""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The steps in the order in which they are applied, and the checks (the doctor) with their remedies."""

    steps: tuple[Step, ...]
    checks: tuple[Check, ...] = ()

    @property
    def refused_steps(self) -> tuple[Step, ...]:
        """The steps that refuse to go on."""
        return tuple(step for step in self.steps if step.action is Action.REFUSE)

    @property
    def failed_checks(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.state is CheckState.FAIL)

    @property
    def is_refused(self) -> bool:
        """Whether applying would raise `PlanRefused`."""
        return bool(self.refused_steps or self.failed_checks)

    @property
    def is_done(self) -> bool:
        """Whether applying would change nothing."""
        return all(step.action is Action.KEEP for step in self.steps)


class Provisionable(Protocol):
    """What `provision` accepts: a transport, or a reader."""

    def provisioner(self) -> AbstractAsyncContextManager[Provisioner]:
        """Open the provisioner of what it needs."""
        ...


async def provision(target: Provisionable) -> Plan:
    """Plan what `target` needs, apply the plan, and return it.

    Raises:
        PlanRefused: a step or a check refuses; nothing was changed.
        PlanOutdated: somebody changed the same objects in between.
    """
    async with target.provisioner() as provisioner:
        plan = await provisioner.plan()
        if plan.is_refused:
            raise PlanRefused(plan)
        if not plan.is_done:
            await provisioner.apply(plan)
        return plan
