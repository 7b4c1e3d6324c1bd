"""The contract suite has teeth: a transport that breaks one promise fails that promise's checks, and no others."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import anyio
import msgspec
import pytest

from cdc_core import (
    ChangeIdentity,
    Event,
    FailedEvent,
    Granularity,
    Health,
    NotProvisioned,
    PartitionLag,
    PartitionLost,
    PartitionStream,
    Plan,
    Rejected,
    Traits,
    Transport,
)
from cdc_testing import Limits, MemoryTransport
from cdc_testing.checks import PROMISES, Check, Harness, is_promised
from cdc_testing.memory_harness import MemoryHarness, memory_of


class Defect:
    """What a broken transport does to the parts of a sound one; as it stands, nothing."""

    harness: Callable[[], MemoryHarness] = staticmethod(lambda: MemoryHarness(Granularity.EVENT))

    def traits(self, traits: Traits) -> Traits:
        return traits

    def stream(self, stream: Any) -> Any:
        return stream

    def opening(self, source: Any, drain_timeout_seconds: float) -> AbstractAsyncContextManager[Any]:
        opened: AbstractAsyncContextManager[Any] = source.open(drain_timeout_seconds=drain_timeout_seconds)
        return opened

    def provisioner(self, provisioner: Any) -> Any:
        return provisioner

    def router(self, router: Any, transport: MemoryTransport) -> Any:
        return router

    def letters(self, letters: Any) -> Any:
        return letters

    def monitor(self, monitor: Any) -> Any:
        return monitor

    def publisher(self, publisher: Any, transport: MemoryTransport) -> Any:
        return publisher

    def shown(self, harness: MemoryHarness) -> str:
        return "BrokenTransport()"


class Around:
    """Has from the inner part what it does not do itself."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class StreamAround(Around):
    """A stream that does everything as the inner one."""

    async def __aenter__(self) -> Self:
        await self.inner.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None:
        swallow: bool | None = await self.inner.__aexit__(kind, error, trace)
        return swallow

    def __aiter__(self) -> AsyncIterator[Sequence[Event]]:
        return self

    async def __anext__(self) -> Sequence[Event]:
        batch: Sequence[Event] = await self.inner.__anext__()
        return batch


class BrokenTransport:
    def __init__(self, inner: Transport, defect: Defect, harness: MemoryHarness) -> None:
        self.inner = memory_of(inner)
        self.defect = defect
        self.harness = harness

    def __repr__(self) -> str:
        return self.defect.shown(self.harness)

    @property
    def traits(self) -> Traits:
        return self.defect.traits(self.inner.traits)

    def source(self) -> Any:
        return BrokenSource(self)

    @asynccontextmanager
    async def provisioner(self) -> AsyncGenerator[Any, None]:
        async with self.inner.provisioner() as part:
            yield self.defect.provisioner(part)

    @asynccontextmanager
    async def error_router(self) -> AsyncGenerator[Any, None]:
        async with self.inner.error_router() as part:
            yield self.defect.router(part, self.inner)

    @asynccontextmanager
    async def monitor(self) -> AsyncGenerator[Any, None]:
        async with self.inner.monitor() as part:
            yield self.defect.monitor(part)

    @asynccontextmanager
    async def dead_letters(self) -> AsyncGenerator[Any, None]:
        async with self.inner.dead_letters() as part:
            yield self.defect.letters(part)

    @asynccontextmanager
    async def publisher(self, fence: Any) -> AsyncGenerator[Any, None]:
        async with self.inner.publisher(fence) as part:
            yield self.defect.publisher(part, self.inner)


class BrokenSource:
    def __init__(self, transport: BrokenTransport) -> None:
        self.transport = transport

    @asynccontextmanager
    async def open(self, *, drain_timeout_seconds: float) -> AsyncGenerator[AsyncIterable[Any], None]:
        defect = self.transport.defect
        async with defect.opening(self.transport.inner.source(), drain_timeout_seconds) as streams:
            yield StreamsAround(streams, defect)


class StreamsAround:
    def __init__(self, streams: Any, defect: Defect) -> None:
        self.streams, self.defect = streams, defect

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> PartitionStream:
        stream: PartitionStream = self.defect.stream(await self.streams.__anext__())
        return stream


class BrokenHarness:
    """The in-memory harness whose transports have the defect."""

    patience_seconds = 0.4
    quiet_seconds = 0.02

    def __init__(self, inner: MemoryHarness, defect: Defect) -> None:
        self.inner, self.defect = inner, defect

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def transport(self) -> Any:
        return BrokenTransport(self.inner.transport(), self.defect, self.inner)

    @asynccontextmanager
    async def another(self) -> AsyncGenerator[Any, None]:
        yield BrokenHarness(MemoryHarness(Granularity.EVENT, name="other"), self.defect)


# Each defect is one class; DEFECTS says which checks it fails.


class CommitsPastTheFirstOpenEvent(Defect):
    """Acknowledging an event acknowledges all that were delivered before it."""

    class Stream(StreamAround):
        delivered: list[Event]

        async def __anext__(self) -> Sequence[Event]:
            batch = await super().__anext__()
            self.delivered = [*getattr(self, "delivered", []), *batch]
            return batch

        async def ack(self, events: Sequence[Event]) -> None:
            last = max((event.delivery for event in events), default=-1)
            earlier = [event for event in self.delivered if event.delivery < last]
            await self.inner.ack([*events, *earlier] if events else [])

    def stream(self, stream: Any) -> Any:
        return self.Stream(stream)


class CommitsOnDelivery(Defect):
    """What is handed out counts as done."""

    class Stream(StreamAround):
        async def __anext__(self) -> Sequence[Event]:
            batch = await super().__anext__()
            await self.inner.ack(batch)
            return batch

    def stream(self, stream: Any) -> Any:
        return self.Stream(stream)


class ForgetsAcksOnLeaving(Defect):
    """Acks take effect with a flush only; leaving is none."""

    class Stream(StreamAround):
        acknowledged: Sequence[Event] = ()

        async def ack(self, events: Sequence[Event]) -> None:
            if not self.inner.is_owned:
                await self.inner.ack(events)
            self.acknowledged = [*self.acknowledged, *events]

        async def flush(self) -> None:
            if self.acknowledged:
                await self.inner.ack(self.acknowledged)
            await self.inner.flush()

    def stream(self, stream: Any) -> Any:
        return self.Stream(stream)


class FlushesLater(Defect):
    class Stream(StreamAround):
        async def flush(self) -> None:
            """Leave it to the commit interval."""

    def stream(self, stream: Any) -> Any:
        return self.Stream(stream)


class InventsIdentities(Defect):
    """Identities count deliveries: the same change has another one each time."""

    def __init__(self) -> None:
        self.count = 0

    def stream(self, stream: Any) -> Any:
        defect = self

        class Stream(StreamAround):
            async def __anext__(self) -> Sequence[Event]:
                return [self.renumbered(event) for event in await super().__anext__()]

            def renumbered(self, event: Event) -> Event:
                defect.count += 1
                assert isinstance(event.identity, ChangeIdentity)
                identity = ChangeIdentity(event.identity.epoch, 2**40 + defect.count, 0)
                return msgspec.structs.replace(event, identity=identity)

        return Stream(stream)


class ReversesBatches(Defect):
    class Stream(StreamAround):
        async def __anext__(self) -> Sequence[Event]:
            return list(reversed(await super().__anext__()))

    def stream(self, stream: Any) -> Any:
        return self.Stream(stream)


class YieldsEmptyBatches(Defect):
    class Stream(StreamAround):
        began = False

        async def __anext__(self) -> Sequence[Event]:
            if not self.began:
                self.began = True
                return ()
            return await super().__anext__()

    def stream(self, stream: Any) -> Any:
        return self.Stream(stream)


class _LargeBatches(MemoryHarness):
    def __init__(self) -> None:
        super().__init__(Granularity.EVENT)
        limits = Limits(commit_interval_seconds=3600)
        self.root = MemoryTransport(partitions=3, limits=limits, provisioned=False)


class YieldsLargeBatches(Defect):
    harness = _LargeBatches


class SwallowsLateAcks(Defect):
    class Stream(StreamAround):
        async def ack(self, events: Sequence[Event]) -> None:
            try:
                await self.inner.ack(events)
            except PartitionLost:
                pass

    def stream(self, stream: Any) -> Any:
        return self.Stream(stream)


class NeverCancelsWorkers(Defect):
    """The stream does not arm a scope: whoever is in it stays."""

    class Stream(StreamAround):
        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *_: object) -> None:
            self.inner.scope.finished.set()

        def __init__(self, inner: Any) -> None:
            super().__init__(inner)
            inner.scope._entered = True

    def stream(self, stream: Any) -> Any:
        return self.Stream(stream)


class DrainsForEver(Defect):
    def opening(self, source: Any, drain_timeout_seconds: float) -> AbstractAsyncContextManager[Any]:
        return super().opening(source, drain_timeout_seconds + 20)


class HandsOverEarly(Defect):
    """A revoked stream counts as left when its iteration ends."""

    class Stream(StreamAround):
        async def __anext__(self) -> Sequence[Event]:
            try:
                return await super().__anext__()
            except StopAsyncIteration:
                self.inner.scope.finished.set()
                raise

    def stream(self, stream: Any) -> Any:
        return self.Stream(stream)


class NeverChangesTheFence(Defect):
    class Stream(StreamAround):
        fence: int | None = None

        async def __anext__(self) -> Sequence[Event]:
            batch = await super().__anext__()
            self.fence = batch[0].fence
            return [msgspec.structs.replace(event, fence=1) for event in batch]

        def current(self, event: Event) -> bool:
            return bool(self.inner.current(msgspec.structs.replace(event, fence=self.fence)))

        async def ack(self, events: Sequence[Event]) -> None:
            await self.inner.ack([msgspec.structs.replace(event, fence=self.fence) for event in events])

    def stream(self, stream: Any) -> Any:
        return self.Stream(stream)


class SplitsTransactions(Defect):
    """It says that it commits transactions, and commits events."""

    def traits(self, traits: Traits) -> Traits:
        return replace(traits, granularity=Granularity.TRANSACTION)


class OpensWhatIsNotThere(Defect):
    @asynccontextmanager
    async def opening(self, source: Any, drain_timeout_seconds: float) -> AsyncGenerator[Any, None]:
        try:
            async with source.open(drain_timeout_seconds=drain_timeout_seconds) as streams:
                yield streams
        except NotProvisioned:
            yield _no_streams()


async def _no_streams() -> AsyncGenerator[Any, None]:
    return
    yield


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
            return sorted(lags, key=lambda lag: lag.lag_events or 0)[1:]

    def monitor(self, monitor: Any) -> Any:
        return self.Monitor(monitor)


class IsAlwaysWell(Defect):
    class Monitor(Around):
        async def health(self) -> Health:
            health: Health = await self.inner.health()
            return Health.of(*(replace(check, state=replace_state) for check in health.checks))

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
