"""The error tree, split by who has to act; every error says what happened, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._events import Event
    from ._plan import Plan


class CdcError(Exception):
    """The root of all errors of this toolkit (cdc-pgoutput, which depends on nothing, has its own).

    - `message`: what happened, one sentence, never a credential or a row's value.
    - `where`: slot, shard, table, LSN and the like, as far as they are known.
    - `remedy`: what to do about it, with the exact statement where there is one; empty where nobody can act.
    - `retryable`: whether trying the same again may succeed without anybody's help.
    """

    retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        where: Mapping[str, object] | None = None,
        remedy: str = "",
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where: dict[str, object] = dict(where or {})
        self.remedy = remedy
        if retryable is not None:
            self.retryable = retryable

    def __str__(self) -> str:
        """Return the message, the place and the remedy in one line."""
        place = ", ".join(f"{name} {value}" for name, value in self.where.items())
        text = f"{self.message} ({place})" if place else self.message
        return f"{text}. Remedy: {self.remedy}" if self.remedy else text


class ConfigError(CdcError):
    """A configuration value cannot work: the user changes it."""


class AccessError(CdcError):
    """The server refused us: a missing privilege, a wrong password, a closed door. The operator grants it."""


class SourceError(CdcError):
    """The source of events failed or is not what it has to be: its operator acts."""


class PublishError(CdcError):
    """The transport refused a batch for good; the reader drains, and opens a new publisher from its confirmed LSN."""


class RoutingError(CdcError):
    """A failed event could not be stored in the dead letters for good; nothing after it is acknowledged."""


class EnvelopeError(CdcError):
    """The bytes of an event are not the envelope they should be; the event is poison, not the stream."""


class RowError(EnvelopeError):
    """A row does not fit its declared type: a column is missing, or its value is none that the field allows."""


class HandlerFailing(CdcError):
    """Several events in a row failed with no success between them: it is the handler or its sink, not the data."""


class PartitionLost(CdcError):
    """The partition is no longer ours: what was acknowledged just now will be delivered to its next owner."""


class ContractError(CdcError):
    """A transport broke a promise of its protocol or its traits: its author acts."""


class NotProvisioned(CdcError):
    """Something that the transport needs does not exist; `plan` says what is missing."""

    def __init__(
        self,
        message: str,
        *,
        plan: Plan | None = None,
        remedy: str = "",
        where: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message, where=where, remedy=remedy or "run its provisioner: plan, then apply")
        self.plan = plan


class PlanRefused(CdcError):
    """A plan holds a step or check that refuses to go on; `plan` says which, and its remedy."""

    def __init__(self, plan: Plan) -> None:
        refused = [*(f"{step.kind} {step.name}: {step.detail}" for step in plan.refused_steps)]
        refused += [f"{check.name}: {check.why}" for check in plan.failed_checks]
        remedies = [check.remedy for check in plan.failed_checks if check.remedy]
        remedies += [step.remedy for step in plan.refused_steps if step.remedy]
        super().__init__("the plan was refused: " + "; ".join(refused), remedy=" ".join(remedies))
        self.plan = plan


class PlanOutdated(CdcError):
    """The world moved on between plan and apply; make a new plan."""

    def __init__(self, plan: Plan, message: str) -> None:
        super().__init__(message, remedy="make a new plan and apply that")
        self.plan = plan


class Transient(Exception):
    """Raise it in a handler, `from` the cause, to have the call retried without end: the sink is down, not the data."""


class Poison(Exception):
    """Raise it in a handler to have one event set aside at once, without another attempt.

    - `reason`: why this event can never be handled; stored with the dead letter.
    - `event`: the event itself, one of those that the handler was called with.
    """

    def __init__(self, reason: str, *, event: Event) -> None:
        super().__init__(reason)
        self.reason = reason
        self.event = event
