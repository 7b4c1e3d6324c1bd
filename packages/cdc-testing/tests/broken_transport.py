"""The in-memory transport with a defect: what a broken transport looks like from outside."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, Self

from cdc_core import Event, Granularity, PartitionStream, Traits, Transport
from cdc_testing import MemoryTransport
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

    quiet_seconds = 0.02

    def __init__(self, inner: MemoryHarness, defect: Defect, patience_seconds: float = 0.5) -> None:
        self.inner, self.defect, self.patience_seconds = inner, defect, patience_seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def transport(self) -> Any:
        return BrokenTransport(self.inner.transport(), self.defect, self.inner)

    @asynccontextmanager
    async def another(self) -> AsyncGenerator[Any, None]:
        other = MemoryHarness(Granularity.EVENT, name="other")
        yield BrokenHarness(other, self.defect, self.patience_seconds)
