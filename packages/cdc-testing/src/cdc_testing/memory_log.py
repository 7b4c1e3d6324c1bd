"""What survives a crash: the logs, the committed offsets, the dead letters; and who owns which partition."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, final

import anyio
import msgspec

from cdc_core import (
    ChangeIdentity,
    DeadLetter,
    Epoch,
    Event,
    Granularity,
    Lane,
    OutgoingEvent,
    Partition,
    PartitionLost,
    bucket_of,
)

from .faults import FaultPlan, poisoned

if TYPE_CHECKING:
    from .memory_source import Membership
    from .memory_stream import MemoryStream


@final
class MemoryPosition(msgspec.Struct, frozen=True, order=True):
    """A record's place: the partition's number and the offset in it, from 0."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}@{self.offset}"


@final
class Record(msgspec.Struct, kw_only=True, gc=False):
    """One stored event; `number` counts all that were written, from 1, whatever their partition."""

    event: OutgoingEvent
    number: int
    offset: int
    written_at: float
    ends_transaction: bool

    @property
    def size(self) -> int:
        """The bytes of key and value."""
        return len(self.event.key or b"") + len(self.event.value or b"")


@final
class MemoryLog:
    """One partition: its records, what the group committed, and its owner."""

    def __init__(self, source: str, number: int) -> None:
        self.number: Final = number
        self.partition: Final = Partition(source, str(number))
        self.lane: Final = Lane(f"{source}/{number}")
        self.records: Final[list[Record]] = []
        self.committed: int = 0
        self.fence = 0
        self.owner: MemoryStream | None = None

    @property
    def end(self) -> int:
        """The offset of the next record."""
        return len(self.records)

    @property
    def waiting(self) -> Sequence[Record]:
        """The records that are not committed."""
        return self.records[self.committed :]

    def commit(self, offset: int, *, fence: int) -> None:
        """Move the committed offset forward.

        Raises:
            PartitionLost: the fence is not that of the present owner.
        """
        if fence != self.fence:
            raise PartitionLost(
                "a former owner's commit was refused",
                where={"partition": self.partition, "fence": fence, "owner's fence": self.fence},
            )
        self.committed = max(self.committed, offset)

    def delivery_of(self, record: Record, *, delivery: int) -> Event:
        """Make the event of a record as it is delivered to the present owner."""
        event = record.event
        return Event(
            key=event.key,
            value=event.value,
            op=event.op,
            table=event.table,
            position=MemoryPosition(self.number, record.offset),
            identity=event.identity,
            lane=self.lane,
            headers=event.headers,
            related_key=event.related_key,
            committed_at=event.committed_at,
            fence=self.fence,
            delivery=delivery,
        )


@final
class MemoryStore:
    """The server of a `MemoryTransport`: everything here stays when a process dies.

    - `name`: the source's name, in partitions, lanes and identities; lower case, digits and underscores.
    - `partitions`: how many; an event's key, or its table where it has none, chooses by a stable hash.
    - `granularity`: what a commit can cover.
    - `faults`: poison is applied here, as rows are written.
    - `clock`: seconds since 1970, for commit times and ages.
    """

    def __init__(
        self,
        *,
        name: str,
        partitions: int,
        granularity: Granularity,
        faults: FaultPlan,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name: Final = name
        self.granularity: Final = granularity
        self.faults: Final = faults
        self.clock: Final = clock
        self.logs: Final = tuple(MemoryLog(name, number) for number in range(partitions))
        self.letters: Final[dict[str, DeadLetter]] = {}
        self.objects: Final[set[str]] = set()
        self.members: Final[list[Membership]] = []
        self.changed: Final = Signal()
        self._epoch = Epoch("1", 1, name, "")
        self._next_lsn = 0x1000000
        self._written = 0
        self._open_partitions: set[int] = set()

    @property
    def needed_objects(self) -> tuple[str, ...]:
        """The names of what the provisioner creates."""
        return (*(f"partition {log.partition}" for log in self.logs), f"dead letters {self.name}")

    @property
    def waiting(self) -> int:
        """How many events are not committed."""
        return sum(len(log.waiting) for log in self.logs)

    def identities(self) -> Iterator[ChangeIdentity]:
        """Begin a transaction of our own: return the identities of its row messages, one after the other."""
        lsn = self._next_lsn
        self._next_lsn += 0x10
        return (ChangeIdentity(self._epoch, lsn, ordinal) for ordinal in itertools.count())

    def write(self, events: Iterable[OutgoingEvent]) -> None:
        """Append one whole transaction, which becomes visible at once."""
        for event in events:
            self._append(event)
        self._end_transaction()

    def write_published(self, events: Iterable[OutgoingEvent]) -> None:
        """Append what a reader publishes; its own marks say where transactions end."""
        for event in events:
            self._append(event)
            if event.ends_transaction:
                self._end_transaction()
        self._wake()

    def rebalance(self) -> None:
        """Give free partitions to the members, evenly, and take those back that belong to another one."""
        for log in self.logs:
            if not self.members:
                return
            target = self.members[log.number % len(self.members)]
            if log.owner is None:
                log.fence += 1
                log.owner = target.assign(log)
            elif log.owner.membership is not target:
                log.owner.membership.revoke(log.owner)

    def clear(self) -> None:
        """Forget all records and letters."""
        for log in self.logs:
            log.records.clear()
            log.committed = 0
        self.letters.clear()

    def _append(self, event: OutgoingEvent) -> None:
        self._written += 1
        if self.faults.take_poison(self._written):
            event = msgspec.structs.replace(event, value=poisoned(event.value))
        log = self._log_of(event)
        log.records.append(
            Record(
                event=event,
                number=self._written,
                offset=log.end,
                written_at=self.clock(),
                ends_transaction=False,
            )
        )
        self._open_partitions.add(log.number)

    def _end_transaction(self) -> None:
        for number in self._open_partitions:
            self.logs[number].records[-1].ends_transaction = True
        self._open_partitions.clear()
        self._wake()

    def _log_of(self, event: OutgoingEvent) -> MemoryLog:
        return self.logs[bucket_of(event.key, event.table, len(self.logs))]

    def _wake(self) -> None:
        self.changed.notify()
        for log in self.logs:
            if log.owner is not None:
                log.owner.wake()


@final
class Signal:
    """Wakes those who wait for a change; made outside an event loop, used inside any."""

    def __init__(self) -> None:
        self._event: anyio.Event | None = None
        self._waiters = 0

    def notify(self) -> None:
        """Wake everybody who waits now."""
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self) -> None:
        """Wait for the next `notify()`."""
        if self._event is None:
            self._event = anyio.Event()
        event = self._event
        self._waiters += 1
        try:
            await event.wait()
        finally:
            self._waiters -= 1
            if self._waiters == 0 and self._event is event:
                self._event = None  # it belongs to this event loop; the next wait may be in another one
