"""Defects of a source and its streams."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, Self

import anyio
import msgspec
from broken_transport import Defect, StreamAround

from cdc_core import ChangeIdentity, Event, Granularity, NotProvisioned, PartitionLost, Traits
from cdc_testing import Limits, MemoryPosition, MemoryTransport
from cdc_testing.memory_harness import MemoryHarness


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
            with suppress(PartitionLost):
                await self.inner.ack(events)

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


class MixesUpSources(Defect):
    """Partitions of the same number are taken for the same one, whatever their source."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, int], str] = {}

    def stream(self, stream: Any) -> Any:
        seen = self.seen

        class Stream(StreamAround):
            async def __anext__(self) -> Sequence[Event]:
                while True:
                    batch = await super().__anext__()
                    if fresh := [event for event in batch if self.is_ours(event)]:
                        return fresh

            def is_ours(self, event: Event) -> bool:
                partition = self.inner.partition
                place = (partition.id, hash(event.position))
                first: str = seen.setdefault(place, partition.source)
                return first == str(partition.source)

        return Stream(stream)


class NeverComesBack(Defect):
    """After a loss the source waits for ever, and does not say so."""

    class Streams:
        def __init__(self, streams: Any) -> None:
            self.streams, self.count = streams, 0

        async def __anext__(self) -> Any:
            if self.count == 3:
                await anyio.sleep_forever()
            self.count += 1
            return await self.streams.__anext__()

    @asynccontextmanager
    async def opening(self, source: Any, drain_timeout_seconds: float) -> AsyncGenerator[Any, None]:
        async with source.open(drain_timeout_seconds=drain_timeout_seconds) as streams:
            yield self.Streams(streams)


class StopsReading(Defect):
    """It delivers what is there when it opens, and nothing later."""

    class Stream(StreamAround):
        def __init__(self, inner: Any) -> None:
            super().__init__(inner)
            self.end = inner._log.end

        async def __anext__(self) -> Sequence[Event]:
            while True:
                batch = await super().__anext__()
                if old := [event for event in batch if self.is_old(event)]:
                    return old

        def is_old(self, event: Event) -> bool:
            return isinstance(event.position, MemoryPosition) and event.position.offset < self.end

    def stream(self, stream: Any) -> Any:
        return self.Stream(stream)
