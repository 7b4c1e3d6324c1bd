"""The four protocols that every transport implements."""

from __future__ import annotations

from collections.abc import AsyncIterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from ._dead_letters import FailedEvent
from ._health import Health, PartitionLag
from ._plan import Plan
from ._streams import PartitionStream


class EventSource(Protocol):
    """Where events come from."""

    def open(
        self, *, drain_timeout_seconds: float
    ) -> AbstractAsyncContextManager[AsyncIterable[PartitionStream]]:
        """Join the group; iterate over the partitions as they are assigned.

        Leaving the context stops the intake, ends the streams (their `revoking_at` is `drain_timeout_seconds` from
        then), waits until their workers have left them, cancels those that have not by the deadline, commits, and
        leaves the group; all of it shielded from cancellation, and bounded.

        Raises:
            NotProvisioned: something it reads from does not exist.
            AccessError, SourceError, ConfigError: as their names say; while opening, and while iterating.
        """
        ...


class ErrorRouter(Protocol):
    """Stores failed events in the dead letters."""

    async def route(self, failed: Sequence[FailedEvent]) -> None:
        """Store events, each once per identity (position where it has none) and pipeline.

        Returns only when all are durably stored; a repeat of a stored one is a success.

        Raises:
            RoutingError: not stored; `retryable` says whether the same call may succeed later.
        """
        ...


class Provisioner(Protocol):
    """Creates what a transport needs, after saying what that is."""

    async def plan(self) -> Plan:
        """Read what exists, what is missing and what drifted; change nothing. Holds no secret."""
        ...

    async def apply(self, plan: Plan) -> None:
        """Carry out a plan; idempotent, never deletes.

        Raises:
            PlanRefused: the plan refuses; nothing was changed.
            PlanOutdated: the objects are not any more what the plan says.
        """
        ...

    async def teardown(self, *, confirm: str) -> Plan:
        """Delete what this provisioner created and nothing else, and return what was deleted.

        - `confirm`: the name of what is torn down (slot, stream, topic), typed again by whoever asks.

        Raises:
            ConfigError: `confirm` is another name.
        """
        ...


class SourceMonitor(Protocol):
    """Measures at the source itself, not in the consumer."""

    async def lag(self) -> Sequence[PartitionLag]:
        """Return one entry for each partition; a figure that cannot be measured is UNKNOWN."""
        ...

    async def health(self) -> Health:
        """Return named checks of the source; those that could not look are UNKNOWN."""
        ...
