"""What a store needs before it can be read, planned and created; and how far its group is behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import anyio.lowlevel

from cdc_core import (
    Action,
    Check,
    CheckState,
    ConfigError,
    Health,
    PartitionLag,
    Plan,
    PlanOutdated,
    PlanRefused,
    Step,
)

from .memory_log import MemoryStore


@final
class MemoryProvisioner:
    """A `Provisioner` of a store's partitions and dead letters."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def plan(self) -> Plan:
        """Say what exists and what is missing."""
        await anyio.lowlevel.checkpoint()
        return Plan(steps=tuple(self._step(name) for name in self._store.needed_objects))

    async def apply(self, plan: Plan) -> None:
        """Create what is missing.

        Raises:
            PlanRefused, PlanOutdated: as their names say.
        """
        await anyio.lowlevel.checkpoint()
        if plan.is_refused:
            raise PlanRefused(plan)
        for step in plan.steps:
            name = f"{step.kind} {step.name}"
            if step.action is Action.KEEP and name not in self._store.objects:
                raise PlanOutdated(plan, f"{name} does not exist any more")
            if name not in self._store.needed_objects:
                raise PlanOutdated(plan, f"{name} is not among what is needed")
        self._store.objects.update(f"{step.kind} {step.name}" for step in plan.steps)

    async def teardown(self, *, confirm: str) -> Plan:
        """Delete the partitions with their records, and the dead letters.

        Raises:
            ConfigError: `confirm` is not the transport's name.
        """
        await anyio.lowlevel.checkpoint()
        if confirm != self._store.name:
            raise ConfigError(
                f"the name to confirm is {self._store.name!r}, not {confirm!r}",
                remedy="type the name of the transport that is to be torn down",
            )
        existing = [name for name in self._store.needed_objects if name in self._store.objects]
        self._store.objects.difference_update(existing)
        self._store.clear()
        return Plan(steps=tuple(_named(name, Action.DROP) for name in existing))

    def _step(self, name: str) -> Step:
        exists = name in self._store.objects
        return _named(name, Action.KEEP if exists else Action.CREATE)


@final
class MemoryMonitor:
    """A `SourceMonitor` that looks into the store."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def lag(self) -> Sequence[PartitionLag]:
        """Return one entry for each partition; everything is known here."""
        await anyio.lowlevel.checkpoint()
        now = self._store.clock()
        return [
            PartitionLag(
                partition=log.partition,
                lag_events=len(log.waiting),
                lag_bytes=sum(record.size for record in log.waiting),
                # a clock may stand still between a write and this look; what waits is never 0 seconds old
                lag_seconds=max(now - log.waiting[0].written_at, 1e-6) if log.waiting else 0.0,
            )
            for log in self._store.logs
        ]

    async def health(self) -> Health:
        """Return two checks: what is needed exists, and what waits has an owner."""
        await anyio.lowlevel.checkpoint()
        missing = [name for name in self._store.needed_objects if name not in self._store.objects]
        orphans = [str(log.partition) for log in self._store.logs if log.waiting and log.owner is None]
        return Health.of(
            Check(
                name="provisioned",
                state=CheckState.FAIL if missing else CheckState.OK,
                why=f"{missing[0]} does not exist" if missing else "",
                remedy="run its provisioner: plan, then apply" if missing else "",
            ),
            Check(
                name="owned",
                state=CheckState.FAIL if orphans else CheckState.OK,
                why=f"events wait in {', '.join(orphans)} and nobody reads" if orphans else "",
                remedy="start a consumer of the group" if orphans else "",
            ),
        )


def _named(full_name: str, action: Action) -> Step:
    kind, _, name = full_name.rpartition(" ")
    return Step(action=action, kind=kind, name=name)
