from collections.abc import Callable, Mapping, Sequence
from typing import Final, Self, final

import anyio
import anyio.to_thread

from .._errors import ServerError
from ._calls import Call, LoggedCall
from ._control import Control
from ._faults import Action, FaultState, Refuse, Rule
from ._limits import Rates
from ._shard import Record

KINESIS_ENDPOINT_VARIABLE: Final = "CDC_TEST_KINESIS_ENDPOINT"
"""Environment variable with the URL of a running Kinesis (or "aws" for AWS itself); then none is started."""


@final
class FaultHandle:
    """A rule at work on a server; as a context manager, it is taken back at the end of the block."""

    def __init__(self, control: Control, number: int) -> None:
        self._control = control
        self._number = number

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    @property
    def state(self) -> FaultState:
        """What it has done so far."""
        return self._control.fault_state(self._number)

    @property
    def hits(self) -> int:
        """How many requests it met; for `RejectEntries`, how many records."""
        return self.state.hits

    def remove(self) -> None:
        """Take it back; requests that it holds go on."""
        self._control.remove_fault(self._number)

    def release(self) -> None:
        """Let go on what it holds, and hold nothing more: `remove`, as one says it of a `Hold`."""
        self.remove()

    def wait(self, hits: int = 1, *, timeout_seconds: float = 30.0) -> None:
        """Wait (blocking) until it has met so many requests.

        Raises:
            TimeoutError: it has not within the time.
        """
        if not self._control.wait_for_fault(self._number, hits, timeout_seconds):
            raise TimeoutError(f"{self.hits} of {hits} requests met the fault within {timeout_seconds} s")

    async def wait_async(self, hits: int = 1, *, timeout_seconds: float = 30.0) -> None:
        """`wait` in a worker thread."""
        await anyio.to_thread.run_sync(
            lambda: self.wait(hits, timeout_seconds=timeout_seconds), abandon_on_cancel=True
        )


@final
class EmbeddedKinesis:
    """A Kinesis for tests: one that we started, or (`managed` False) a running one that was named.

    Made by `start_kinesis` and `open_kinesis`. What is not in the protocol (faults, clock, log) needs a server
    of ours. The methods may be called from any thread and do not wait, but for those that say so.

    Attributes:
        endpoint_url: Where clients find it; None for AWS itself.
        region: What clients sign for.
        pid: Of its own process, None where it runs in this one.
    """

    def __init__(
        self, endpoint_url: str | None, region: str, control: Control | None, *, pid: int | None = None
    ) -> None:
        self.endpoint_url = endpoint_url
        self.region = region
        self.pid = pid
        self._control = control

    def __repr__(self) -> str:
        return f"<EmbeddedKinesis {self.endpoint_url or 'AWS'}{'' if self.managed else ', not ours'}>"

    @property
    def managed(self) -> bool:
        """Whether it is ours, with faults and a clock."""
        return self._control is not None

    def add_fault(
        self,
        action: Action,
        *,
        operations: Sequence[str] = (),
        streams: Sequence[str] = (),
        shards: Sequence[str] = (),
        access_keys: Sequence[str] = (),
        when: Callable[[Call], bool] | None = None,
        skip: int = 0,
        count: int | None = None,
        seconds: float | None = None,
    ) -> FaultHandle:
        """Let the requests that match meet a fault; several rules that match one request all apply, in order.

        Args:
            action: What happens to them: `Refuse`, `Drop`, `Delay`, `Hold`, `RejectEntries`.
            operations, streams, access_keys: Only these; empty for all.
            shards: Only reading requests of these shards; of puts, see `RejectEntries.shards`.
            when: Only requests for which it is true; not for a server in another process.
            skip: Let so many matching requests through first.
            count: Meet so many, then no more.
            seconds: End after this time by the server's clock.
        """
        rule = Rule(
            action=action,
            operations=tuple(operations),
            streams=tuple(streams),
            shards=tuple(shards),
            access_keys=tuple(access_keys),
            skip=skip,
            count=count,
            seconds=seconds,
        )
        control = self._ours("add_fault")
        return FaultHandle(control, control.add_fault(rule, when))

    def refuse_access_key(self, access_key: str) -> FaultHandle:
        """Refuse every request that this access key signed from now on, as if its client were cut off."""
        return self.add_fault(
            Refuse(code="AccessDeniedException", message="this access key is refused", status=400),
            access_keys=(access_key,),
        )

    def clear_faults(self) -> None:
        """Take every rule back; what is held goes on."""
        self._ours("clear_faults").clear_faults()

    def now(self) -> float:
        """The server's time, in seconds since 1970."""
        return self._ours("now").now()

    def advance(self, seconds: float) -> None:
        """Move the server's time on: changes finish, iterators expire, records grow old, shards recover."""
        self._ours("advance").advance(seconds)

    def set_rates(self, rates: Rates | None) -> None:
        """Bound each shard's rates from now on, with full buckets; None for no bounds."""
        self._ours("set_rates").set_rates(rates)

    def expire_iterators(self) -> None:
        """Let every shard iterator given out so far expire."""
        self._ours("expire_iterators").expire_iterators()

    def calls(
        self, operation: str | None = None, *, stream: str | None = None, shard: str | None = None
    ) -> list[LoggedCall]:
        """The latest requests (10,000), oldest first, by the names given; malformed ones are not among them."""
        return [
            logged
            for logged in self._ours("calls").calls()
            if operation in (None, logged.call.operation)
            and stream in (None, logged.call.stream)
            and shard in (None, logged.call.shard)
        ]

    def records(self, stream: str) -> Mapping[str, Sequence[Record]]:
        """What is stored in each shard of a stream, in order, without a request.

        Raises:
            ServerError: there is no such stream.
        """
        return self._ours("records").records(stream)

    def reset(self) -> None:
        """Forget every stream, fault and logged request, as a new server would; its time goes on."""
        self._ours("reset").reset()

    def _ours(self, what: str) -> Control:
        if self._control is None:
            raise ServerError(
                f"{what}: this server is not ours, {KINESIS_ENDPOINT_VARIABLE} named it",
                remedy=f"unset {KINESIS_ENDPOINT_VARIABLE}, or pass use_existing=False",
            )
        return self._control
