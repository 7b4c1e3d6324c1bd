"""The contract suite's way to the in-memory transport; another transport's harness looks alike."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import msgspec

from cdc_core import Event, Granularity, Operation, OutgoingEvent, TableId, Transport

from .checks import Harness, SeedRow, read_row, row_event
from .memory import MemoryTransport
from .memory_source import Limits

USERS_OWN = "a table of the user's"


class MemoryHarness:
    """One source with three partitions."""

    patience_seconds: float = 5.0  # only a failure costs it
    quiet_seconds: float = 0.02
    max_batch: tuple[int, int] = (5, 4096)
    secrets: Sequence[str] = ("correct-horse",)

    def __init__(self, granularity: Granularity, *, name: str = "memory") -> None:
        events, size = self.max_batch
        self.root: MemoryTransport = MemoryTransport(
            name=name,
            partitions=3,
            granularity=granularity,
            limits=Limits(max_batch_events=events, max_batch_bytes=size, commit_interval_seconds=3600),
            provisioned=False,
        )
        self.teardown_name = name
        self._granularity = granularity

    def transport(self) -> Transport:
        return self.root.another_process()

    @asynccontextmanager
    async def another(self) -> AsyncGenerator[Harness, None]:
        yield MemoryHarness(self._granularity, name="other")

    async def write(self, *rows: SeedRow) -> None:
        with self.root.transaction():
            for key, number in rows:
                event = row_event(key, number)
                self.root.put(event.key, event.value, table=TableId("contract", "rows"), op=Operation.CREATE)

    def read(self, event: Event) -> SeedRow:
        return read_row(event)

    async def committed(self) -> int:
        return sum(self.root.confirmed.values())

    async def objects(self) -> frozenset[str]:
        return self.root.objects | {USERS_OWN}

    async def crash(self, transport: Transport) -> None:
        memory_of(transport).crash()

    async def cut(self, transport: Transport) -> None:
        await self.lose(
            transport
        )  # there is no connection; as with a slot, a broken one loses its partitions

    async def lose(self, transport: Transport) -> None:
        for partition in range(len(self.root.logs)):
            memory_of(transport).lose(partition)

    def oversized(self, event: OutgoingEvent) -> OutgoingEvent:
        return msgspec.structs.replace(event, value=b"x" * (1024 * 1024 + 1))


def memory_of(transport: Transport) -> MemoryTransport:
    """Return the in-memory transport; a wrapper (of the tests that break one) has it inside."""
    transport = getattr(transport, "inner", transport)
    assert isinstance(transport, MemoryTransport)
    return transport
