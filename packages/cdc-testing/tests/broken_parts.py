"""Defects of the other parts: provisioner, dead letters, monitor, publisher."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Any

import msgspec
from broken_transport import Around, Defect

from cdc_core import CheckState, Event, FailedEvent, Health, PartitionLag, Plan, Rejected, Traits
from cdc_testing import MemoryTransport
from cdc_testing.memory_harness import MemoryHarness


class CreatesWhilePlanning(Defect):
    class Provisioner(Around):
        async def plan(self) -> Plan:
            plan: Plan = await self.inner.plan()
            await self.inner.apply(plan)
            return plan

    def provisioner(self, provisioner: Any) -> Any:
        return self.Provisioner(provisioner)


class RefusesToApplyAgain(Defect):
    class Provisioner(Around):
        applied = False

        async def apply(self, plan: Plan) -> None:
            if (await self.inner.plan()).is_done:
                raise RuntimeError("already exists")
            await self.inner.apply(plan)

    def provisioner(self, provisioner: Any) -> Any:
        return self.Provisioner(provisioner)


class AppliesAnything(Defect):
    """It looks neither at refusals nor at what the plan was made from."""

    class Provisioner(Around):
        async def apply(self, plan: Plan) -> None:
            await self.inner.apply(await self.inner.plan())

    def provisioner(self, provisioner: Any) -> Any:
        return self.Provisioner(provisioner)


class TearsDownUnasked(Defect):
    class Provisioner(Around):
        async def teardown(self, *, confirm: str) -> Plan:
            plan: Plan = await self.inner.teardown(confirm="memory")
            return plan

    def provisioner(self, provisioner: Any) -> Any:
        return self.Provisioner(provisioner)


class LeavesRubble(Defect):
    """A teardown leaves the dead letters behind and does not say so."""

    class Provisioner(Around):
        async def teardown(self, *, confirm: str) -> Plan:
            plan: Plan = await self.inner.teardown(confirm=confirm)
            again: Plan = await self.inner.plan()
            await self.inner.apply(Plan(steps=again.steps[-1:]))
            return plan

    def provisioner(self, provisioner: Any) -> Any:
        return self.Provisioner(provisioner)


class StoresRepeats(Defect):
    """Each routing stores letters of its own."""

    def __init__(self) -> None:
        self.count = 0

    def router(self, router: Any, transport: MemoryTransport) -> Any:
        defect = self

        class Router(Around):
            async def route(self, failed: Sequence[FailedEvent]) -> None:
                await self.inner.route(failed)
                defect.count += 1
                if defect.count > 1:
                    store: dict[str, Any] = transport._store.letters  # pyright: ignore[reportPrivateUsage]
                    again = list(store.values())[-1]
                    store[f"{again.id}/{defect.count}"] = again

        return Router(router)


class RoutesIntoMemory(Defect):
    """Routing returns before the letters are stored: leaving the router stores them."""

    def router(self, router: Any, transport: MemoryTransport) -> Any:
        class Router(Around):
            async def route(self, failed: Sequence[FailedEvent]) -> None:
                waiting.append((self.inner, failed))

        waiting = self.waiting
        return Router(router)

    def __init__(self) -> None:
        self.waiting: list[tuple[Any, Sequence[FailedEvent]]] = []

    def letters(self, letters: Any) -> Any:
        waiting = self.waiting

        class Letters(Around):
            async def list(self, **filters: Any) -> AsyncGenerator[Any, None]:
                while waiting:
                    router, failed = waiting.pop(0)
                    try:
                        await router.route(failed)
                    except Exception:  # noqa: BLE001 - its process is dead, and what it held is lost
                        break
                async for letter in self.inner.list(**filters):
                    yield letter

        return Letters(letters)


class KeepsOneHeaderOfAName(Defect):
    def router(self, router: Any, transport: MemoryTransport) -> Any:
        class Router(Around):
            async def route(self, failed: Sequence[FailedEvent]) -> None:
                await self.inner.route([replace(one, event=self.squeezed(one.event)) for one in failed])

            def squeezed(self, event: Event) -> Event:
                return msgspec.structs.replace(event, headers=tuple(dict(event.headers).items()))

        return Router(router)


class ReplaysOutOfOrder(Defect):
    class Letters(Around):
        async def replay(self, letter_ids: Sequence[str], *, to: Any) -> Any:
            reports = [await self.inner.replay([one], to=to) for one in letter_ids]
            return replace(
                reports[0],
                **{
                    name: tuple(one for report in reports for one in getattr(report, name))
                    for name in ("replayed", "failed", "missing", "key_moved_on")
                },
            )

    def letters(self, letters: Any) -> Any:
        return self.Letters(letters)


class InventsZeroLag(Defect):
    class Monitor(Around):
        async def lag(self) -> Sequence[PartitionLag]:
            return [replace(lag, lag_seconds=0.0) for lag in await self.inner.lag()]

    def monitor(self, monitor: Any) -> Any:
        return self.Monitor(monitor)


class ForgetsAPartition(Defect):
    class Monitor(Around):
        async def lag(self) -> Sequence[PartitionLag]:
            lags: Sequence[PartitionLag] = await self.inner.lag()
            return sorted(lags, key=lambda lag: bool(lag.lag_events))[1:]  # one where nothing waits

    def monitor(self, monitor: Any) -> Any:
        return self.Monitor(monitor)


class IsAlwaysWell(Defect):
    class Monitor(Around):
        async def health(self) -> Health:
            health: Health = await self.inner.health()
            return Health.of(*(replace(check, state=CheckState.OK) for check in health.checks))

    def monitor(self, monitor: Any) -> Any:
        return self.Monitor(monitor)


class ShowsItsPassword(Defect):
    def shown(self, harness: MemoryHarness) -> str:
        return f"BrokenTransport(password={harness.secrets[0]!r})"


class SettlesEarly(Defect):
    """A receipt settles at once; the batch is stored with the next one, or on leaving."""

    def publisher(self, publisher: Any, transport: MemoryTransport) -> Any:
        class Publisher(Around):
            held: Any = None

            async def publish(self, batch: Any) -> Any:
                held, self.held = self.held, batch
                if held is not None:
                    await (await self.inner.publish(held))
                return _settled()

        return Publisher(publisher)


async def _settled() -> Sequence[Rejected]:
    return ()


class MiscountsRejected(Defect):
    def publisher(self, publisher: Any, transport: MemoryTransport) -> Any:
        class Publisher(Around):
            async def publish(self, batch: Any) -> Any:
                receipt = await self.inner.publish(batch)

                async def miscounted() -> Sequence[Rejected]:
                    return [Rejected(one.index + 1, one.cause) for one in await receipt]

                return miscounted()

        return Publisher(publisher)


class IgnoresItsFence(Defect):
    def publisher(self, publisher: Any, transport: MemoryTransport) -> Any:
        class EndlessFence:
            def remaining_seconds(self) -> float:
                return 60.0

        publisher._fence = EndlessFence()
        return publisher


class DiscardsAll(Defect):
    class Letters(Around):
        async def discard(self, letter_ids: Sequence[str], *, reason: str) -> None:
            await self.inner.discard([letter.id async for letter in self.inner.list()], reason=reason)

    def letters(self, letters: Any) -> Any:
        return self.Letters(letters)


class NeverAdmitsThatNothingWaits(Defect):
    class Monitor(Around):
        async def lag(self) -> Sequence[PartitionLag]:
            return [replace(lag, lag_events=lag.lag_events or 1) for lag in await self.inner.lag()]

    def monitor(self, monitor: Any) -> Any:
        return self.Monitor(monitor)


class NamesItsChecksAlike(Defect):
    class Monitor(Around):
        async def health(self) -> Health:
            health: Health = await self.inner.health()
            return Health.of(*(replace(check, name="source") for check in health.checks))

    def monitor(self, monitor: Any) -> Any:
        return self.Monitor(monitor)


class SaysThatItIsFedByNobody(Defect):
    """It has a publisher, and its traits deny it."""

    def traits(self, traits: Traits) -> Traits:
        return replace(traits, publishes=False)


class BuriesTheDead(Defect):
    """What was torn down once is taken for existing."""

    def __init__(self) -> None:
        self.is_torn_down = False

    def provisioner(self, provisioner: Any) -> Any:
        defect = self

        class Provisioner(Around):
            async def teardown(self, *, confirm: str) -> Plan:
                plan: Plan = await self.inner.teardown(confirm=confirm)
                defect.is_torn_down = True
                return plan

            async def apply(self, plan: Plan) -> None:
                if not defect.is_torn_down or plan.is_done:
                    await self.inner.apply(plan)

        return Provisioner(provisioner)
