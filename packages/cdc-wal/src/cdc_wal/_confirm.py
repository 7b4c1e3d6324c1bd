"""What may be confirmed, and when (rules 1 to 4 of DESIGN.md). No I/O, no clock."""

from __future__ import annotations

from typing import final

from cdc_core import AckTracker
from cdc_pgoutput import Lsn


@final
class ConfirmTracker:
    """Knows the flush LSN of one replication connection.

    A flush LSN is the `end_lsn` of the last transaction all of whose events are done: `commit_lsn` would repeat it,
    `end_lsn + 1` would lose a transaction that begins right there. While nothing is in flight (no Begin without its
    Commit, nothing delivered and not done) it is the WAL end that the server last told, so that an idle slot does
    not hold back the log of a busy cluster.

    - `start`: the LSN that was confirmed before this connection.
    """

    def __init__(self, start: Lsn) -> None:
        self._acks: AckTracker[Lsn] = AckTracker()
        self._in_transaction = False
        self._flush_lsn = start
        self._received_lsn = start
        self._told_wal_end = start

    @property
    def flush_lsn(self) -> Lsn:
        """The LSN to report as flushed and applied; it never moves back."""
        return self._flush_lsn

    @property
    def received_lsn(self) -> Lsn:
        """The LSN to report as written: never beyond what was received, never behind what is flushed."""
        return max(self._received_lsn, self._flush_lsn)

    @property
    def is_progress(self) -> bool:
        """Whether a transaction with events of this connection is confirmed."""
        return self._acks.committable is not None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in flight."""
        return not self._in_transaction and self._acks.in_flight == 0

    @property
    def awaits_commit(self) -> bool:
        """Whether all events that came are done, and only a Commit is missing to confirm them."""
        return self._in_transaction and self._acks.in_flight == 0

    @property
    def delivered(self) -> int:
        """How many events were numbered."""
        return self._acks.delivered

    def begin(self) -> None:
        """A transaction's Begin came."""
        self._in_transaction = True

    def deliver(self, count: int = 1) -> int:
        """Number `count` events that are handed on, and return the first one's number."""
        return self._acks.deliver(count)

    def commit(self, end_lsn: Lsn) -> None:
        """A transaction's Commit came: all its events are numbered."""
        self._in_transaction = False
        if end_lsn > self._received_lsn:
            self._received_lsn = end_lsn
        self._acks.boundary(end_lsn)
        if self._acks.in_flight == 0:  # otherwise this boundary is not committable yet, and nothing is idle
            self._settle()

    def wal_end(self, lsn: Lsn) -> None:
        """A keepalive told the server's WAL end, behind everything that it has sent."""
        self._received_lsn = max(self._received_lsn, lsn)
        self._told_wal_end = max(self._told_wal_end, lsn)
        self._settle()

    def done(self, first: int, count: int = 1) -> int:
        """Record that `count` events from number `first` on are done; return how many were not before.

        Raises:
            ValueError: a number was never delivered.
        """
        added = self._acks.done(first, count)
        self._settle()
        return added

    def _settle(self) -> None:
        committable = self._acks.committable
        if committable is not None:
            self._flush_lsn = max(self._flush_lsn, committable)
        if self.is_idle:
            self._flush_lsn = max(self._flush_lsn, self._told_wal_end)
