"""Faults on demand: what goes wrong, where, and at which event; each happens once."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, cast, final

from cdc_core import CdcError


class CrashPoint(enum.StrEnum):
    """Before what the process dies.

    `HANDLER`: before the event is handed to the handler; `ROUTE`: before it is stored in the dead letters; `ACK`:
    handled, not acknowledged; `COMMIT`: acknowledged, not committed.
    """

    HANDLER = "handler"
    ROUTE = "route"
    ACK = "ack"
    COMMIT = "commit"


@final
@dataclass(frozen=True, slots=True)
class Crash:
    """The consuming process dies: all that was not committed is delivered to the next one again.

    - `before`: a `CrashPoint` or its value.
    - `at`: the number of the event in the order in which events were written to the transport, from 1.
    """

    before: str
    at: int

    def __post_init__(self) -> None:
        CrashPoint(self.before)  # a ValueError that names the word
        _check_number(self.at)


@final
@dataclass(frozen=True, slots=True)
class Duplicate:
    """The source goes back once: event number `at` (from 1), and what follows it, comes twice, identities equal."""

    at: int

    def __post_init__(self) -> None:
        _check_number(self.at)


@final
@dataclass(frozen=True, slots=True)
class PoisonRow:
    """The row of event number `at` (from 1) does not fit its type: each of its columns holds an object.

    The envelope and the key stay sound, so that the dead letter can still be told by its key. A value that is no
    envelope is cut in half.
    """

    at: int

    def __post_init__(self) -> None:
        _check_number(self.at)


@final
@dataclass(frozen=True, slots=True)
class Reject:
    """The publisher rejects entry number `at` (from 1) of those given to it."""

    at: int

    def __post_init__(self) -> None:
        _check_number(self.at)


@final
@dataclass(frozen=True, slots=True)
class FailAfterStore:
    """The publisher stores the batch that holds entry number `at` (from 1), and then its receipt raises."""

    at: int

    def __post_init__(self) -> None:
        _check_number(self.at)


@final
@dataclass(frozen=True, slots=True)
class Hold:
    """The publisher stores nothing from entry number `at` (from 1) on until `MemoryTransport.release()` is called."""

    at: int

    def __post_init__(self) -> None:
        _check_number(self.at)


@final
@dataclass(frozen=True, slots=True)
class Delay:
    """The publisher waits `seconds` before it stores the batch that holds entry number `at` (from 1)."""

    at: int
    seconds: float

    def __post_init__(self) -> None:
        _check_number(self.at)


Fault = Crash | Duplicate | PoisonRow | Reject | FailAfterStore | Hold | Delay


@final
class InjectedCrash(CdcError):
    """The process died here, because a fault or a test said so; raised by everything that belongs to it."""


class FaultPlan:
    """The faults that have not happened yet; each question takes its fault out when the answer is yes."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._pending: Final = list(faults)

    @property
    def pending(self) -> tuple[Fault, ...]:
        """The faults that have not happened yet."""
        return tuple(self._pending)

    def take_crash(self, point: CrashPoint, numbers: Iterable[int]) -> bool:
        """Say whether the process dies before this point, with these events in hand."""
        return any(self._take(Crash(point.value, number)) for number in numbers)

    def expects_crash(self, point: CrashPoint, number: int) -> bool:
        """Say whether a crash before this point waits for this event."""
        return Crash(point.value, number) in self._pending

    def take_duplicate(self, number: int) -> bool:
        """Say whether the source goes back to this event, which was just delivered."""
        return self._take(Duplicate(number))

    def take_poison(self, number: int) -> bool:
        """Say whether this row is poisoned as it is written."""
        return self._take(PoisonRow(number))

    def take_reject(self, number: int) -> bool:
        """Say whether the publisher rejects this entry."""
        return self._take(Reject(number))

    def take_failure(self, numbers: Iterable[int]) -> bool:
        """Say whether the receipt of the batch with these entries raises although they are stored."""
        return any(self._take(FailAfterStore(number)) for number in numbers)

    def take_hold(self, numbers: Iterable[int]) -> bool:
        """Say whether the publisher is held at one of these entries."""
        return any(self._take(Hold(number)) for number in numbers)

    def take_delay_seconds(self, numbers: Iterable[int]) -> float:
        """Return how long the batch with these entries waits, in seconds."""
        wanted = set(numbers)
        found = [fault for fault in self._pending if isinstance(fault, Delay) and fault.at in wanted]
        return sum(fault.seconds for fault in found if self._take(fault))

    def _take(self, fault: Fault) -> bool:
        if fault not in self._pending:
            return False
        self._pending.remove(fault)
        return True


def poisoned(value: bytes | None) -> bytes:
    """Return the bytes of a row that does not fit its type; an envelope stays an envelope."""
    try:
        decoded: object = json.loads(value or b"", parse_float=str)
    except ValueError:
        return (value or b"\xff")[: max(1, len(value or b"") // 2)]
    if not isinstance(decoded, dict):
        return (value or b"\xff")[: max(1, len(value or b"") // 2)]
    envelope = cast("dict[str, Any]", decoded)
    for side in ("before", "after"):
        row: object = envelope.get(side)
        if isinstance(row, dict):
            envelope[side] = {column: {"poison": True} for column in cast("dict[str, object]", row)}
    return json.dumps(envelope).encode()


def _check_number(number: int) -> None:
    if number < 1:
        raise ValueError(f"events are numbered from 1, not {number}")
