"""Where a reader and a transport meet without importing each other: a durable write promise, and its fence."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol, final

from ._events import OutgoingEvent


@final
@dataclass(frozen=True, slots=True)
class Rejected:
    """An entry that can never be stored: its index in the batch, and why; a fault of the data only."""

    index: int
    cause: Exception


class Receipt(Protocol):
    """The promise of one `publish`."""

    def __await__(self) -> Generator[object, object, Sequence[Rejected]]:
        """Wait until every entry is durable but the rejected ones, and return those.

        Raises:
            CdcError: terminal. Some entries may be stored; drain, and reopen from the confirmed LSN.
        """
        ...


class WalPublisher(Protocol):
    """Stores a reader's events durably, in order per key."""

    async def publish(self, batch: Sequence[OutgoingEvent]) -> Receipt:
        """Accept a batch; returns once it is accepted, and that wait is the backpressure.

        Raises:
            CdcError: terminal, as in `Receipt`.
        """
        ...


class Fence(Protocol):
    """How long the reader may still believe that it owns its slot (rule 19)."""

    def remaining_seconds(self) -> float:
        """Return the seconds for which a request may still run; 0 or less means send nothing."""
        ...
