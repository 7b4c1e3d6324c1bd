"""What the contract suite has to be able to do to a source, beside what the protocols offer."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from cdc_core import Event, OutgoingEvent, Transport, Unknown

SeedRow = tuple[str, int]
"""A key, and a number that no other row of the test has; within a key later rows have greater ones."""


class Harness(Protocol):
    """One fresh source for one check: nothing was written to it, and nothing is provisioned.

    Its transports are configured to commit by themselves as rarely as they can, so that it can be told what a flush
    or a clean leave did. Where `traits.revocable`, it has two partitions or more.
    """

    @property
    def patience_seconds(self) -> float:
        """How long a condition may take to become true before it counts as never; half a second or more."""
        ...

    @property
    def quiet_seconds(self) -> float:
        """How long nothing may happen until it counts as nothing; each "does not" costs so much time."""
        ...

    @property
    def max_batch(self) -> tuple[int, int]:
        """The bounds of a batch its transports are configured with: events, and bytes of keys and values."""
        ...

    @property
    def teardown_name(self) -> str:
        """What `Provisioner.teardown(confirm=...)` wants to hear."""
        ...

    @property
    def secrets(self) -> Sequence[str]:
        """The credentials in its transports' configuration; the suite looks for them where they must not be."""
        ...

    def transport(self) -> Transport:
        """Return a new transport object for this source, as another process of the same group would make it."""
        ...

    def another(self) -> AbstractAsyncContextManager[Harness]:
        """Open a second source that has nothing to do with this one."""
        ...

    async def write(self, *rows: SeedRow) -> None:
        """Write rows in one database transaction (where there are none: one batch); a known key is an update."""
        ...

    def read(self, event: Event) -> SeedRow:
        """Return the row that an event carries, written or published by the suite; `read_row` does for an envelope
        with the columns `key` and `number`."""
        ...

    async def committed(self) -> int | Unknown:
        """Return how many of the rows written the group's commits cover, as the source itself tells it."""
        ...

    async def objects(self) -> frozenset[str]:
        """Return the names of everything at the source that a provisioner could create or delete, whoever made it."""
        ...

    async def crash(self, transport: Transport) -> None:
        """Let nothing that the transport does reach the source any more, as if its process were gone.

        Returns once the source would let another process take over.
        """
        ...

    async def cut(self, transport: Transport) -> None:
        """Break the transport's connections once; it may connect again at once."""
        ...

    async def lose(self, transport: Transport) -> None:
        """Have the source take all partitions from the transport without notice; it may get them again."""
        ...

    def oversized(self, event: OutgoingEvent) -> OutgoingEvent:
        """Return the event made such that the source can never store it; asked only where `traits.publishes`."""
        ...
