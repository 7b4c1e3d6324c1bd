"""What a test may do to a server, wherever it runs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, final

from ._calls import Call, LoggedCall
from ._faults import FaultState, Rule
from ._front import Front
from ._limits import Rates
from ._shard import Record


class Control(Protocol):
    """The commands; `LocalControl` carries them out, `RemoteControl` sends them to another process."""

    def add_fault(self, rule: Rule, when: Callable[[Call], bool] | None = None) -> int: ...
    def remove_fault(self, number: int) -> None: ...
    def clear_faults(self) -> None: ...
    def fault_state(self, number: int) -> FaultState: ...
    def wait_for_fault(self, number: int, hits: int, timeout_seconds: float) -> bool: ...
    def now(self) -> float: ...
    def advance(self, seconds: float) -> None: ...
    def set_rates(self, rates: Rates | None) -> None: ...
    def expire_iterators(self) -> None: ...
    def calls(self) -> Sequence[LoggedCall]: ...
    def records(self, stream: str) -> Mapping[str, Sequence[Record]]: ...
    def delete_streams(self) -> None: ...


@final
class LocalControl:
    """The commands on a server of this process."""

    def __init__(self, front: Front) -> None:
        self._front = front

    def add_fault(self, rule: Rule, when: Callable[[Call], bool] | None = None) -> int:
        return self._front.faults.add(rule, when, self._front.now())

    def remove_fault(self, number: int) -> None:
        self._front.faults.remove(number)

    def clear_faults(self) -> None:
        self._front.faults.clear()

    def fault_state(self, number: int) -> FaultState:
        return self._front.faults.state(number, self._front.now())

    def wait_for_fault(self, number: int, hits: int, timeout_seconds: float) -> bool:
        return self._front.faults.wait(number, hits, timeout_seconds)

    def now(self) -> float:
        return self._front.now()

    def advance(self, seconds: float) -> None:
        self._front.advance(seconds)

    def set_rates(self, rates: Rates | None) -> None:
        with self._front.lock:
            self._front.service.rates = rates
            for stream in self._front.service.streams.values():
                for shard in stream.shards.values():
                    shard.meter = None

    def expire_iterators(self) -> None:
        with self._front.lock:
            self._front.service.iterator_issue += 1

    def calls(self) -> Sequence[LoggedCall]:
        return self._front.calls()

    def records(self, stream: str) -> Mapping[str, Sequence[Record]]:
        with self._front.lock:
            now = self._front.now()
            found = self._front.service.stream_named(stream, now)
            found.trim(now)
            return {shard.shard_id: tuple(shard.records) for shard in found.shards.values()}

    def delete_streams(self) -> None:
        with self._front.lock:
            self._front.service.streams.clear()
