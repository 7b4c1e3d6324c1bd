"""The group: members come and go, partitions move between them, processes die."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, final

import anyio
import anyio.abc
import anyio.lowlevel

from cdc_core import ConfigError, NotProvisioned

from .faults import CrashPoint, InjectedCrash
from .memory_log import MemoryLog, MemoryStore, Signal
from .memory_stream import MemoryStream

_CANCEL_GRACE_SECONDS: Final = 0.2
"""How long a cancelled worker may take to leave before its partition is given away all the same."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of a batch, and how often commits happen by themselves.

    - `max_batch_events`, `max_batch_bytes`: of keys and values; a larger event comes alone.
    - `commit_interval_seconds`: how long an acknowledged event may stay uncommitted while others are in flight.
    """

    max_batch_events: int = 100
    max_batch_bytes: int = 1024 * 1024
    commit_interval_seconds: float = 1.0

    def __post_init__(self) -> None:
        for name in ("max_batch_events", "max_batch_bytes", "commit_interval_seconds"):
            if (value := getattr(self, name)) <= 0:
                raise ConfigError(f"{name} is {value}", remedy="a number greater than 0")


@final
class Process:
    """One life of a consuming process: what belongs to it raises `InjectedCrash` once it is dead."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.alive: bool = True
        self.memberships: Final[list[Membership]] = []
        self.died: Final = Signal()

    def ensure_alive(self) -> None:
        """Raise when the process is dead.

        Raises:
            InjectedCrash: it is.
        """
        if not self.alive:
            raise InjectedCrash(
                "the process is dead", remedy="open the transport again, as its next process would"
            )

    def crash_if_due(self, point: CrashPoint, numbers: Iterable[int]) -> None:
        """Die where a fault says so.

        Raises:
            InjectedCrash: one did.
        """
        if self._store.faults.take_crash(point, numbers):
            self.die()
            self.ensure_alive()

    def die(self) -> None:
        """Lose everything that is not committed: no drain, no commit, no farewell."""
        self.alive = False
        for membership in self.memberships:
            membership.vanish()
        self.died.notify()
        self._store.rebalance()


@final
class MemorySource:
    """An `EventSource` over a store."""

    def __init__(self, store: MemoryStore, limits: Limits, process: Process) -> None:
        self._store, self._limits, self._process = store, limits, process

    def open(self, *, drain_timeout_seconds: float) -> AbstractAsyncContextManager[Membership]:
        """Join the group."""
        return Membership(self._store, self._limits, self._process, drain_timeout_seconds)


@final
class Membership:
    """One opened source: an iterable of the streams that are assigned to it."""

    def __init__(
        self, store: MemoryStore, limits: Limits, process: Process, drain_timeout_seconds: float
    ) -> None:
        self.store: MemoryStore = store
        self.limits: Limits = limits
        self.process: Process = process
        self._drain_timeout_seconds = drain_timeout_seconds
        self._assigned: deque[MemoryStream] = deque()
        self._streams: list[MemoryStream] = []
        self._signal = Signal()
        self._closed = False
        self._tasks: anyio.abc.TaskGroup | None = None

    async def __aenter__(self) -> Self:
        self.process.ensure_alive()
        missing = [name for name in self.store.needed_objects if name not in self.store.objects]
        if missing:
            raise NotProvisioned(f"{missing[0]} does not exist", where={"source": self.store.name})
        self._tasks = await anyio.create_task_group().__aenter__()
        self._tasks.start_soon(self._commit_regularly)
        self.process.memberships.append(self)
        self.store.members.append(self)
        self.store.rebalance()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        assert self._tasks is not None
        self._closed = True
        if self in self.store.members:
            self.store.members.remove(self)  # it is given nothing new while it drains
        try:
            with anyio.CancelScope(shield=True):
                await self._drain()
        finally:
            self.process.memberships.remove(self)
            self.store.rebalance()
            # The body's error is not for the group, which would wrap it: its tasks have none, they are cancelled.
            self._tasks.cancel_scope.cancel()
            try:
                await self._tasks.__aexit__(None, None, None)
            except anyio.get_cancelled_exc_class():
                if (
                    error is None
                ):  # otherwise the body's own error goes on, and the next checkpoint is cancelled
                    raise

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> MemoryStream:
        await anyio.lowlevel.checkpoint()
        while True:
            self.process.ensure_alive()
            if self._closed:
                raise StopAsyncIteration
            if self._assigned:
                return self._assigned.popleft()
            await self._signal.wait()

    def assign(self, log: MemoryLog) -> MemoryStream:
        """Take over a partition."""
        stream = MemoryStream(log, self)
        self._streams.append(stream)
        self._assigned.append(stream)
        self._signal.notify()
        return stream

    def revoke(self, stream: MemoryStream) -> None:
        """Take a partition away with notice; its worker has until the drain timeout."""
        if stream.revoking_at is None and not self._closed:
            assert self._tasks is not None
            stream.begin_revoke(anyio.current_time() + self._drain_timeout_seconds)
            self._tasks.start_soon(self._hand_over, stream)

    def lose(self, stream: MemoryStream) -> None:
        """Take a partition away without notice."""
        stream.give_up()
        self._forget(stream)
        self.store.rebalance()

    def vanish(self) -> None:
        """Leave no trace: the process died."""
        for stream in self._streams:
            stream.give_up()
        self._assigned.clear()
        if self in self.store.members:
            self.store.members.remove(self)
        self._signal.notify()

    async def _hand_over(self, stream: MemoryStream) -> None:
        with suppress(InjectedCrash):  # the worker and the source see it, and say so
            await self._finish([stream])
            self.store.rebalance()

    async def _drain(self) -> None:
        streams = list(self._streams)
        deadline = anyio.current_time() + self._drain_timeout_seconds
        for stream in streams:
            stream.begin_revoke(deadline)
        self._signal.notify()
        await self._finish(streams)

    async def _finish(self, streams: list[MemoryStream]) -> None:
        for stream in streams:
            assert stream.revoking_at is not None
            with anyio.move_on_at(stream.revoking_at):
                await stream.scope.finished.wait()
        late = [stream for stream in streams if not stream.scope.finished.is_set()]
        for stream in late:
            stream.scope.cancel()
        with anyio.move_on_after(_CANCEL_GRACE_SECONDS):
            for stream in late:
                await stream.scope.finished.wait()
        for stream in streams:
            if self.process.alive:
                stream.commit()
            stream.release()
            self._forget(stream)

    def _forget(self, stream: MemoryStream) -> None:
        if stream in self._streams:
            self._streams.remove(stream)
        if stream in self._assigned:
            self._assigned.remove(stream)

    async def _commit_regularly(self) -> None:
        with suppress(InjectedCrash):  # the worker and the source see it, and say so
            while True:
                await anyio.sleep(self.limits.commit_interval_seconds)
                self.process.ensure_alive()
                for stream in self._streams:
                    stream.commit()
