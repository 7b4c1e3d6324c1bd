"""A transport whose every step the test decides: batches sent by hand, partitions revoked and lost at will."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.lowlevel

from cdc_core import (
    CommitPrefix,
    DeadLetter,
    Event,
    FailedEvent,
    Granularity,
    Health,
    Operation,
    Partition,
    PartitionLag,
    PartitionLost,
    ReplayReport,
    TableId,
    Traits,
    WorkerScope,
)

ORDERS = TableId("shop", "orders")


def event(
    number: int,
    key: str | None = "k",
    *,
    op: Operation = Operation.CREATE,
    related_key: str | None = None,
    table: TableId = ORDERS,
    headers: Sequence[tuple[str, bytes | None]] = (),
) -> Event:
    """Make the event of one number."""
    return Event(
        key=None if key is None else key.encode(),
        value=str(number).encode(),
        op=op,
        table=table,
        position=number,
        related_key=None if related_key is None else related_key.encode(),
        delivery=number,
        headers=headers,
    )


def numbers(events: Iterable[Event]) -> list[int]:
    return [int(event.value or b"-1") for event in events]


class ScriptedStream:
    """A partition stream fed by the test."""

    def __init__(self, name: str) -> None:
        self.partition = Partition("test", name)
        self.revoking_at: float | None = None
        self.acked: list[int] = []
        self.stale: set[int] = set()
        self.asked_current = 0
        self.lost = False
        self.scope = WorkerScope()
        self.error: Exception | None = None
        self.iterating = True
        self.left_while_iterating = False
        self._batches: deque[Sequence[Event]] = deque()
        self._ended = False
        self._news = anyio.Event()
        self.changed = anyio.Event()

    def send(self, *events: Event) -> None:
        self._batches.append(events)
        self._news.set()

    def end(self, error: Exception | None = None) -> None:
        self.error = error
        self._ended = True
        self._news.set()

    def lose(self) -> None:
        self.lost = True
        self.scope.cancel()

    async def until_acked(self, *wanted: int) -> None:
        while not set(wanted) <= set(self.acked):
            self.changed = anyio.Event()
            await self.changed.wait()

    async def __aenter__(self) -> Self:
        self.scope.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.left_while_iterating = self.iterating
        return self.scope.__exit__(kind, error, trace)

    def __aiter__(self) -> AsyncIterator[Sequence[Event]]:
        return self._iterate()

    async def _iterate(self) -> AsyncIterator[Sequence[Event]]:
        try:
            while self.revoking_at is None:
                await anyio.lowlevel.checkpoint()
                if self._batches:
                    yield self._batches.popleft()
                elif self._ended:
                    break
                else:
                    self._news = anyio.Event()
                    await self._news.wait()
        finally:
            self.iterating = False
        if self.error is not None:
            raise self.error

    def current(self, event: Event) -> bool:
        self.asked_current += 1
        return not self.lost and event.delivery not in self.stale

    async def ack(self, events: Sequence[Event]) -> None:
        await anyio.lowlevel.checkpoint()
        if self.lost:
            raise PartitionLost("lost")
        self.acked += numbers(events)
        self.changed.set()

    async def flush(self) -> None:
        pass


class ScriptedTransport:
    """All parts of a transport in memory; what they do wrong is set by the test."""

    def __init__(self, *names: str, commit_prefix: CommitPrefix = CommitPrefix.PARTITION) -> None:
        self.traits = Traits(granularity=Granularity.EVENT, commit_prefix=commit_prefix)
        self.streams = [ScriptedStream(name) for name in names or ("p",)]
        self.letters: list[DeadLetter] = []
        self.route_errors: list[Exception] = []
        self.list_calls = 0
        self.list_errors: list[Exception] = []
        self.monitor_answer: Callable[[], Awaitable[Sequence[PartitionLag]]] = self._no_lag
        self.opened = 0
        self.opening = anyio.Event()
        self.may_open = anyio.Event()
        self.may_open.set()
        self.open_error: Exception | None = None
        self.left = anyio.Event()
        self.assigned: list[Any] = []

    @property
    def stream(self) -> ScriptedStream:
        return self.streams[0]

    def again(self) -> None:
        """Be ready for another run: fresh streams, the letters kept."""
        self.streams = [ScriptedStream(stream.partition.id) for stream in self.streams]

    def source(self) -> ScriptedTransport:
        return self

    @asynccontextmanager
    async def open(self, *, drain_timeout_seconds: float) -> AsyncGenerator[AsyncIterator[ScriptedStream]]:
        self.opening.set()
        await self.may_open.wait()
        if self.open_error is not None:
            raise self.open_error
        self.opened += 1
        try:
            yield self._assign()
        finally:
            deadline = anyio.current_time() + drain_timeout_seconds
            for stream in self.streams:
                stream.revoking_at = stream.revoking_at or deadline
                stream.end(stream.error)
                stream.scope.abandon()
            with anyio.CancelScope(shield=True):
                with anyio.move_on_after(drain_timeout_seconds):
                    for stream in self.streams:
                        await stream.scope.finished.wait()
                for stream in self.streams:
                    stream.scope.cancel()
                    await stream.scope.finished.wait()
            self.left.set()

    async def _assign(self) -> AsyncIterator[ScriptedStream]:
        for stream in self.streams:
            yield stream
        await anyio.sleep_forever()

    @asynccontextmanager
    async def error_router(self) -> AsyncGenerator[ScriptedTransport]:
        yield self

    async def route(self, failed: Sequence[FailedEvent]) -> None:
        await anyio.lowlevel.checkpoint()
        if self.route_errors:
            raise self.route_errors.pop(0)
        for one in failed:
            self.letters.append(
                DeadLetter(
                    id=str(one.event.position),
                    event=one.event,
                    cause=one.cause,
                    pipeline=one.pipeline,
                    attempts=one.attempts,
                    failed_at=one.failed_at,
                    parked=one.parked,
                )
            )

    @asynccontextmanager
    async def monitor(self) -> AsyncGenerator[ScriptedTransport]:
        yield self

    async def _no_lag(self) -> Sequence[PartitionLag]:
        return ()

    async def lag(self) -> Sequence[PartitionLag]:
        return await self.monitor_answer()

    async def health(self) -> Health:
        return Health.of()

    @asynccontextmanager
    async def dead_letters(self) -> AsyncGenerator[ScriptedTransport]:
        yield self

    async def list(
        self,
        *,
        pipeline: str | None = None,
        table: TableId | None = None,
        key: bytes | None = None,
        since: datetime | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[DeadLetter]:
        self.list_calls += 1
        if self.list_errors:
            raise self.list_errors.pop()
        assert since is None or since < datetime.now(UTC)
        found = [
            letter
            for letter in self.letters
            if letter.pipeline == pipeline
            and table in (None, letter.event.table)
            and key in (None, letter.key)
        ]
        for letter in found[:limit]:
            yield letter

    async def show(self, letter_id: str) -> DeadLetter:
        return next(letter for letter in self.letters if letter.id == letter_id)

    async def replay(
        self, letter_ids: Sequence[str], *, to: Callable[[Sequence[Event]], Awaitable[None]]
    ) -> ReplayReport:
        raise NotImplementedError

    async def discard(self, letter_ids: Sequence[str], *, reason: str) -> None:
        raise NotImplementedError

    def provisioner(self) -> AbstractAsyncContextManager[Any]:
        raise NotImplementedError

    def publisher(self, fence: Any) -> AbstractAsyncContextManager[Any]:
        raise NotImplementedError
