"""A transport of one's own, for a journal in a SQLite file: Transport is a protocol, there is no base class.

test_journal.py holds it to the contract suite. Its package would name `entry` as an entry point:

    [project.entry-points."cdc.transports"]
    journal = "journal_transport:entry"
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
import msgspec
from anyio.streams.memory import MemoryObjectSendStream
from journal import Claim, Journal
from journal_parts import JournalLetters, JournalMonitor, JournalProvisioner

from cdc_core import (
    AckTracker,
    CdcError,
    ConfigError,
    DeadLetters,
    ErrorRouter,
    Event,
    EventSource,
    Fence,
    FreshStart,
    Granularity,
    OpaqueIdentity,
    Operation,
    Partition,
    PartitionLost,
    PartitionStream,
    Provisioner,
    SourceMonitor,
    TableId,
    Traits,
    TransportEntry,
    WalPublisher,
    WorkerScope,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalConfig:
    path: str
    group_id: str
    max_batch_events: int = 500
    max_batch_bytes: int = 1 << 20
    commit_interval_seconds: float = 0.1
    poll_interval_seconds: float = 0.02
    lease_seconds: float = 5.0


class JournalTransport:
    """One group's view of a journal; making it opens nothing."""

    # What holds: the contract suite runs what these promise.
    traits = Traits(
        granularity=Granularity.EVENT,
        revocable=False,  # an owner keeps the journal until it leaves or its lease runs out
        fresh_start=FreshStart.EARLIEST,
        fenced=True,
        publishes=False,
    )

    def __init__(self, config: JournalConfig) -> None:
        self.config = config
        self.journal = Journal(Path(config.path))

    def source(self) -> EventSource:
        return JournalSource(self.journal, self.config)

    @asynccontextmanager
    async def provisioner(self) -> AsyncGenerator[Provisioner]:
        yield JournalProvisioner(self.journal, self.config.group_id)

    @asynccontextmanager
    async def error_router(self) -> AsyncGenerator[ErrorRouter]:
        yield JournalLetters(self.journal)

    @asynccontextmanager
    async def monitor(self) -> AsyncGenerator[SourceMonitor]:
        yield JournalMonitor(self.journal, self.config.group_id)

    @asynccontextmanager
    async def dead_letters(self) -> AsyncGenerator[DeadLetters]:
        yield JournalLetters(self.journal)

    def publisher(self, fence: Fence) -> AbstractAsyncContextManager[WalPublisher]:
        raise ConfigError("nobody feeds a journal through us", remedy="Journal.append writes to it")


entry = TransportEntry(config=JournalConfig, make=JournalTransport)


class JournalPosition(msgspec.Struct, frozen=True):
    """One delivery: the owner's generation, and the event's number in the journal."""

    generation: int
    number: int

    def __str__(self) -> str:
        return f"{self.generation}/{self.number}"


class JournalSource:
    """Becomes the owner, hands out the one stream, and does so again where it lost it."""

    def __init__(self, journal: Journal, config: JournalConfig) -> None:
        self._journal = journal
        self._config = config

    @asynccontextmanager
    async def open(self, *, drain_timeout_seconds: float) -> AsyncGenerator[AsyncIterable[PartitionStream]]:
        with self._journal.connect() as connection:  # NotProvisioned at once, not after the first poll
            connection.execute("SELECT count(*) FROM journal_groups")
        send, receive = anyio.create_memory_object_stream[PartitionStream](0)
        leaving = anyio.Event()
        left = anyio.Event()

        async def own() -> None:
            try:
                await self._own(send, leaving, drain_timeout_seconds)
            finally:
                send.close()
                left.set()

        async with anyio.create_task_group() as tasks, receive:
            tasks.start_soon(own)
            try:
                yield receive
            finally:
                leaving.set()
                with anyio.CancelScope(shield=True):  # bounded by the drain timeout
                    await left.wait()

    async def _own(
        self,
        send: MemoryObjectSendStream[PartitionStream],
        leaving: anyio.Event,
        drain_timeout_seconds: float,
    ) -> None:
        config = self._config
        with anyio.CancelScope(shield=True):  # it ends when the source is left, and not before
            while not leaving.is_set():
                claim: Claim | None = None
                with suppress(CdcError):  # not to be reached just now
                    claim = self._journal.claim(config.group_id, secrets.token_hex(8), config.lease_seconds)
                if claim is not None:
                    stream = JournalStream(self._journal, config, claim)
                    await self._hold(send, stream, leaving, drain_timeout_seconds)
                with anyio.move_on_after(config.poll_interval_seconds):
                    await leaving.wait()

    async def _hold(
        self,
        send: MemoryObjectSendStream[PartitionStream],
        stream: JournalStream,
        leaving: anyio.Event,
        drain_timeout_seconds: float,
    ) -> None:
        try:
            async with anyio.create_task_group() as handing_over:
                handing_over.start_soon(send.send, stream)
                while not leaving.is_set() and stream.is_held():
                    with anyio.move_on_after(self._config.poll_interval_seconds):
                        await leaving.wait()
                handing_over.cancel_scope.cancel()
            if stream.held:
                await stream.drain(drain_timeout_seconds)
        finally:
            await stream.leave()


class JournalStream:
    """What one owner reads, from its claim until it leaves or somebody else is the owner."""

    def __init__(self, journal: Journal, config: JournalConfig, claim: Claim) -> None:
        self.partition = Partition(journal.path.name, config.group_id)
        self.revoking_at: float | None = None
        self.held = True
        self._journal = journal
        self._config = config
        self._claim = claim
        self._scope = WorkerScope()
        self._acks: AckTracker[int] = AckTracker()
        self._read = claim.committed
        self._committed = claim.committed
        self._commit_at = anyio.current_time() + config.commit_interval_seconds
        self._renewed_at = anyio.current_time()
        self._closed = anyio.Event()

    async def __aenter__(self) -> Self:
        self._scope.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return self._scope.__exit__(kind, error, trace)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sequence[Event]:
        while not self._closed.is_set():
            await anyio.lowlevel.checkpoint()
            with suppress(CdcError):
                if batch := self._next_batch():
                    return batch
            with anyio.move_on_after(self._config.poll_interval_seconds):
                await self._closed.wait()
        raise StopAsyncIteration

    def current(self, event: Event) -> bool:
        return self.held and self._is_mine(event) and self._lease_left() > 0

    async def ack(self, events: Sequence[Event]) -> None:
        mine = [event for event in events if self._is_mine(event)] if self.held else []
        if events and not mine:
            raise PartitionLost("the journal has another owner", where={"group": self._config.group_id})
        for event in mine:
            self._acks.done(event.delivery)

    async def flush(self) -> None:
        self._commit()

    def is_held(self) -> bool:
        """Renew the lease and commit when it is time; return whether we are still the owner."""
        config, now = self._config, anyio.current_time()
        try:
            if now - self._renewed_at < config.lease_seconds / 3:
                held = self._journal.is_owner(config.group_id, self._claim)
            elif held := self._journal.renew(config.group_id, self._claim, config.lease_seconds):
                self._renewed_at = now
            if not held:
                self._lose()
            elif now >= self._commit_at:
                self._commit()
                self._commit_at = now + config.commit_interval_seconds
        except CdcError:
            if self._lease_left() <= 0:
                self._lose()
        return self.held

    async def drain(self, timeout_seconds: float) -> None:
        """End the iteration, and give the worker so much time."""
        self.revoking_at = anyio.current_time() + timeout_seconds
        self._closed.set()
        self._scope.abandon()
        while (
            not self._scope.finished.is_set() and anyio.current_time() < self.revoking_at and self.is_held()
        ):
            with anyio.move_on_after(min(self._config.poll_interval_seconds, timeout_seconds)):
                await self._scope.finished.wait()

    async def leave(self) -> None:
        """Commit, cancel a worker that is still there, and give the journal back."""
        with suppress(CdcError):
            self._commit()
        self._lose()
        if self._scope.entered:
            with anyio.move_on_after(1.0):  # it may be in a thread, which nobody can cancel
                await self._scope.finished.wait()
        with suppress(CdcError):
            self._journal.release(self._config.group_id, self._claim)

    def _commit(self) -> None:
        number = self._acks.committable
        if self.held and number is not None and number > self._committed:
            if self._journal.commit(self._config.group_id, self._claim, number):
                self._committed = number
            else:
                self._lose()

    def _lose(self) -> None:
        self.held = False
        self._closed.set()
        self._scope.cancel()
        self._scope.abandon()

    def _lease_left(self) -> float:
        return self._renewed_at + self._config.lease_seconds - anyio.current_time()

    def _is_mine(self, event: Event) -> bool:
        position = event.position
        return isinstance(position, JournalPosition) and position.generation == self._claim.generation

    def _next_batch(self) -> list[Event]:
        batch: list[Event] = []
        left: float = self._config.max_batch_bytes
        for number, key, value, op, schema, name, committed_at in self._journal.read(
            self._read, self._config.max_batch_events
        ):
            left -= len(key or b"") + len(value or b"")
            if left < 0 and batch:
                break
            delivery = self._acks.deliver()
            self._acks.boundary(number)
            self._read = number
            batch.append(
                Event(
                    key=key,
                    value=value,
                    op=Operation(op) if op else None,
                    table=TableId(schema, name) if name else None,
                    position=JournalPosition(self._claim.generation, number),
                    # Of one journal, equal or not: there is no ordered identity that a stranger could make.
                    identity=OpaqueIdentity(f"{self.partition.source}:{number}"),
                    committed_at=committed_at,
                    fence=self._claim.generation,
                    delivery=delivery,
                )
            )
        return batch
