"""What may be confirmed, against a model of a server that forgets all it was told to forget."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cdc_pgoutput import Lsn
from cdc_wal._confirm import ConfirmTracker


@dataclass
class Transaction:
    end_lsn: int | None = None
    events: list[int] = field(default_factory=list[int])


class Confirming(RuleBasedStateMachine):
    """Transactions with any number of events, keepalives anywhere, events done in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.tracker = ConfirmTracker(Lsn(100))
        self.lsn = 100
        self.transactions: list[Transaction] = []
        self.open: Transaction | None = None
        self.loose: list[int] = []  # events outside of transactions
        self.undone: set[int] = set()
        self.told = 100
        self.highest = 100

    @precondition(lambda self: self.open is None)
    @rule()
    def begin(self) -> None:
        self.lsn = max(self.lsn, self.told)  # what comes later in the stream commits later in the log
        self.open = Transaction()
        self.transactions.append(self.open)
        self.tracker.begin()

    @rule(count=st.integers(1, 5))
    def deliver(self, count: int) -> None:
        first = self.tracker.deliver(count)
        numbers = list(range(first, first + count))
        self.undone.update(numbers)
        (self.open.events if self.open else self.loose).extend(numbers)

    @precondition(lambda self: self.open is not None)
    @rule(length=st.integers(1, 50))
    def commit(self, length: int) -> None:
        assert self.open is not None
        self.lsn += length
        self.open.end_lsn = self.lsn
        self.open = None
        self.tracker.commit(Lsn(self.lsn))

    @precondition(lambda self: self.open is None)
    @rule(length=st.integers(0, 50))
    def keepalive(self, length: int) -> None:
        self.lsn += length
        self.told = max(self.told, self.lsn)
        self.tracker.wal_end(Lsn(self.lsn))

    @precondition(lambda self: self.open is not None)
    @rule(length=st.integers(0, 100))
    def keepalive_inside(self, length: int) -> None:
        """Whatever it tells: the open transaction may end before it."""
        self.told = max(self.told, self.lsn + length)
        self.tracker.wal_end(Lsn(self.lsn + length))

    @precondition(lambda self: bool(self.undone))
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.undone)))
        self.undone.discard(number)
        self.tracker.done(number)

    @invariant()
    def nothing_undone_is_confirmed(self) -> None:
        flush = self.tracker.flush_lsn
        for transaction in self.transactions:
            if self.undone.intersection(transaction.events):
                # Replay begins with the first transaction whose end lies beyond the confirmed LSN.
                assert transaction.end_lsn is None or flush < transaction.end_lsn
        if self.open is not None or self.undone:
            ends = [t.end_lsn for t in self.transactions if t.end_lsn is not None]
            assert flush in {100, self.highest, *ends, self.told}

    @invariant()
    def it_never_moves_back_and_write_is_never_behind(self) -> None:
        assert self.tracker.flush_lsn >= self.highest
        assert self.tracker.received_lsn >= self.tracker.flush_lsn
        assert self.tracker.received_lsn <= max(self.lsn, self.told)
        self.highest = int(self.tracker.flush_lsn)

    @invariant()
    def when_nothing_is_in_flight_all_that_was_told_is_confirmed(self) -> None:
        if self.open is None and not self.undone:
            assert self.tracker.is_idle
            ends = [t.end_lsn for t in self.transactions if t.end_lsn is not None]
            assert self.tracker.flush_lsn == max([self.told, *ends])


TestConfirming = Confirming.TestCase
