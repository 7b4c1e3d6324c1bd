"""The in-memory transport: the reference implementation of the contracts, and what a user's tests run on."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, Final, Self, TypeVar, final

import msgspec

from cdc_core import (
    ConfigError,
    DeadLetter,
    DeadLetters,
    ErrorRouter,
    EventSource,
    Fence,
    FreshStart,
    Granularity,
    MessagePrefix,
    Operation,
    OutgoingEvent,
    Partition,
    Provisioner,
    SourceMonitor,
    Table,
    TableId,
    Traits,
    WalPublisher,
)

from .faults import Fault, FaultPlan
from .memory_letters import MemoryDeadLetters, MemoryErrorRouter
from .memory_log import MemoryLog, MemoryStore, Signal
from .memory_provisioner import MemoryMonitor, MemoryProvisioner
from .memory_publisher import MemoryPublisher
from .memory_rows import Place, deleted, emitted, inserted, truncated, updated
from .memory_source import Limits, MemorySource, Process

R = TypeVar("R")


@final
class MemoryTransport:
    """A transport whose broker is this object: partitions, offsets, owners and dead letters in memory.

    It is honest: what a process did not commit before it died is delivered to the next one again, with the same
    identities. To be used from one event loop at a time, not from threads.

    - `faults`: what goes wrong, each once.
    - `partitions`: how many; an event's key chooses one by a stable hash.
    - `granularity`: what a commit can cover.
    - `limits`: bounds of batches, and the commit interval.
    - `name`: the source's name: lower case letters, digits and underscores.
    - `provisioned`: False to have the provisioner create everything first.
    - `max_event_bytes`: the publisher rejects an entry with more bytes of key and value.
    - `clock`: seconds since 1970.
    """

    def __init__(
        self,
        *,
        faults: Sequence[Fault] = (),
        partitions: int = 1,
        granularity: Granularity = Granularity.EVENT,
        limits: Limits | None = None,
        name: str = "memory",
        provisioned: bool = True,
        max_event_bytes: int = 1024 * 1024,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if partitions < 1:
            raise ConfigError(f"partitions is {partitions}", remedy="1 or more")
        self._store: Final = MemoryStore(
            name=name, partitions=partitions, granularity=granularity, faults=FaultPlan(faults), clock=clock
        )
        if provisioned:
            self._store.objects.update(self._store.needed_objects)
        self._limits = limits or Limits()
        self._max_event_bytes = max_event_bytes
        self._process = Process(self._store)
        self._released = Signal()
        self._transaction: list[OutgoingEvent] | None = None
        self._identities = self._store.identities()

    def __repr__(self) -> str:
        return f"MemoryTransport(name={self._store.name!r}, partitions={len(self._store.logs)})"

    @property
    def traits(self) -> Traits:
        """What holds for it."""
        return Traits(
            granularity=self._store.granularity,
            exclusive=True,
            revocable=True,
            fresh_start=FreshStart.EARLIEST,
            fenced=True,
            publishes=True,
        )

    def source(self) -> EventSource:
        """Return the event source."""
        return MemorySource(self._store, self._limits, self._process)

    @asynccontextmanager
    async def provisioner(self) -> AsyncGenerator[Provisioner, None]:
        """Open the provisioner."""
        yield MemoryProvisioner(self._store)

    @asynccontextmanager
    async def error_router(self) -> AsyncGenerator[ErrorRouter, None]:
        """Open the way into the dead letters."""
        yield MemoryErrorRouter(self._store, self._process)

    @asynccontextmanager
    async def monitor(self) -> AsyncGenerator[SourceMonitor, None]:
        """Open the monitor."""
        yield MemoryMonitor(self._store)

    @asynccontextmanager
    async def dead_letters(self) -> AsyncGenerator[DeadLetters, None]:
        """Open the dead letters."""
        yield MemoryDeadLetters(self._store)

    def publisher(self, fence: Fence) -> AbstractAsyncContextManager[WalPublisher]:
        """Open the publisher for a reader."""
        return MemoryPublisher(
            self._store,
            self._process,
            fence,
            max_event_bytes=self._max_event_bytes,
            released=self._released,
        )

    def insert(self, table: Table[R], row: R, *, key: Sequence[str] | None = None) -> None:
        """Write an inserted row.

        - `key`: the columns of the table's primary key; None for `id`, or the first column where there is no `id`.
        """
        self.append(inserted(table.id, row, key, self._place()))

    def update(
        self, table: Table[R], row: R, *, before: R | None = None, key: Sequence[str] | None = None
    ) -> None:
        """Write an updated row; with another key in `before`, a delete and a create as our reader makes them."""
        with self._joined_transaction():
            for event in updated(table.id, row, before, key, self._place()):
                self.append(event)

    def delete(self, table: Table[R], row: R, *, key: Sequence[str] | None = None) -> None:
        """Write a deleted row, given as it was."""
        self.append(deleted(table.id, row, key, self._place()))

    def truncate(self, *tables: Table[Any]) -> None:
        """Write a truncate of tables; with several partitions it is not ordered against all rows."""
        with self._joined_transaction():
            for event in truncated([table.id for table in tables], self._place()):
                self.append(event)

    def message(self, prefix: MessagePrefix[Any] | str, content: bytes | object) -> None:
        """Write a logical message; content that is no bytes is encoded as JSON."""
        name = prefix if isinstance(prefix, str) else prefix.prefix
        data = content if isinstance(content, bytes) else msgspec.json.encode(content)
        self.append(emitted(name, data, self._place()))

    def put(
        self,
        key: bytes | None,
        value: bytes | None,
        *,
        table: TableId | None = None,
        op: Operation | None = Operation.CREATE,
        related_key: bytes | None = None,
    ) -> None:
        """Write one event of raw bytes; its identity is made here."""
        place = self._place()
        self.append(
            OutgoingEvent(
                key=key,
                value=value,
                op=op,
                table=table,
                related_key=related_key,
                committed_at=place.committed_at,
                identity=place.identity,
            )
        )

    def append(self, event: OutgoingEvent) -> None:
        """Write one event as a reader made it; outside `transaction()` it is a transaction by itself."""
        if self._transaction is None:
            self._store.write([event])
        else:
            self._transaction.append(event)

    @contextmanager
    def transaction(self) -> Generator[None, None, None]:
        """Group what is written within into one transaction, visible when the block ends; an error rolls it back."""
        if self._transaction is not None:
            raise RuntimeError("a transaction is already open")
        self._transaction = []
        self._identities = self._store.identities()
        try:
            yield
        except BaseException:
            self._transaction = None
            raise
        events, self._transaction = self._transaction, None
        self._store.write(events)

    def another_process(self) -> Self:
        """Return a transport over the same broker as another process of the same group has it."""
        other = type(self).__new__(type(self))
        vars(other).update(vars(self))
        other._process = Process(self._store)
        other._transaction = None
        return other

    def crash(self) -> None:
        """Kill this object's process: all it opened, and opens until `restart()`, raises `InjectedCrash`."""
        self._process.die()

    def revoke(self, partition: int = 0) -> None:
        """Take a partition from its owner with notice; the group then assigns it again."""
        if (owner := self._store.logs[partition].owner) is not None:
            owner.membership.revoke(owner)

    def lose(self, partition: int = 0) -> None:
        """Take a partition from its owner without notice; the group then assigns it again."""
        if (owner := self._store.logs[partition].owner) is not None:
            owner.membership.lose(owner)

    def release(self) -> None:
        """End the `Hold` that the publisher stands at."""
        self._released.notify()

    @property
    def letters(self) -> tuple[DeadLetter, ...]:
        """The dead letters, in the order in which they were stored."""
        return tuple(self._store.letters.values())

    @property
    def confirmed(self) -> Mapping[Partition, int]:
        """How many events of each partition are committed."""
        return {log.partition: log.committed for log in self._store.logs}

    @property
    def logs(self) -> tuple[MemoryLog, ...]:
        """The partitions' logs."""
        return self._store.logs

    @property
    def objects(self) -> frozenset[str]:
        """The names of what the provisioner created and has not deleted."""
        return frozenset(self._store.objects)

    @property
    def is_idle(self) -> bool:
        """Whether everything that was written is committed."""
        return self._store.waiting == 0

    @property
    def waiting(self) -> int:
        """How many events are not committed."""
        return self._store.waiting

    @property
    def pending_faults(self) -> tuple[Fault, ...]:
        """The faults that have not happened yet."""
        return self._store.faults.pending

    @property
    def crashed(self) -> bool:
        """Whether this object's process is dead; `restart()` begins the next one."""
        return not self._process.alive

    def restart(self) -> None:
        """Begin the next process, where this one is dead."""
        if self.crashed:
            self._process = Process(self._store)

    async def wait_for_change(self) -> None:
        """Wait until something is written or committed."""
        await self._store.changed.wait()

    @contextmanager
    def _joined_transaction(self) -> Generator[None, None, None]:
        if self._transaction is not None:
            yield
            return
        with self.transaction():
            yield

    def _place(self) -> Place:
        """Return the place of the next row message: in the open transaction, or in one of its own."""
        if self._transaction is None:
            self._identities = self._store.identities()
        return Place(identity=next(self._identities), committed_at=self._store.clock())
