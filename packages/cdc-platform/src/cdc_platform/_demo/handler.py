"""The handler: takes batches, and writes each delivery down in one database transaction, as a sink would."""

from __future__ import annotations

import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import TypeAlias, final

from cdc_core import UNKNOWN, Event, Unknown

from .proof import store
from .rows import Delivery, take_in
from .session import Session

Tamper: TypeAlias = Callable[[Sequence[Event]], Sequence[Event]]
"""Changes what the handler believes it was given: shows that the proof notices."""


@final
class Seen:
    """What was handled so far in this run, for the view; the proof is the database's."""

    def __init__(self) -> None:
        self.by_table: Counter[tuple[str, str]] = Counter()
        self.recent: deque[Delivery] = deque(maxlen=8)
        self.delays: deque[float] = deque(maxlen=500)

    @property
    def total(self) -> int:
        """Deliveries handled, repeats included."""
        return self.by_table.total()

    @property
    def delay_seconds(self) -> float | Unknown:
        """From a commit to its change being handled, the median of the last 500."""
        return statistics.median(self.delays) if self.delays else UNKNOWN

    def add(self, events: Sequence[Event], deliveries: Sequence[Delivery]) -> None:
        """Take note of a batch that was handled."""
        self.by_table.update((delivery.table, delivery.op) for delivery in deliveries)
        self.recent.extend(deliveries[-self.recent.maxlen :] if self.recent.maxlen else ())
        now = time.time()
        self.delays.extend(
            now - event.committed_at for event in events[-50:] if event.committed_at is not None
        )


@final
class DemoHandler:
    """A `cdc_core.Handler`; any of it may be called again with the same events, and counts them by identity."""

    def __init__(self, session: Session, seen: Seen, tamper: Tamper | None = None) -> None:
        self._session = session
        self._seen = seen
        self._tamper = tamper

    async def __call__(self, events: Sequence[Event]) -> None:
        """Handle a batch: all of it or nothing.

        Raises:
            ValueError: an order's note cannot be understood; the pipeline finds out which, and sets it aside.
            psycopg.OperationalError: the database is away; the pipeline tries again without end.
        """
        if self._tamper is not None:
            events = self._tamper(events)
        deliveries = [take_in(event) for event in events]
        await self._session.call(lambda connection: store(connection, deliveries, outcome="handled"))
        self._seen.add(events, deliveries)
