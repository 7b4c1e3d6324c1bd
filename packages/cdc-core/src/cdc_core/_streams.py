"""The unit of ownership as its worker sees it: events in order, acknowledged in any order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Protocol, Self, final

import anyio

from ._events import Event
from ._position import Partition


class PartitionStream(Protocol):
    """A Kafka partition, a leased shard, a Pub/Sub virtual partition, a slot's connection.

    The worker enters it, which arms its cancel scope; leaving it says that the worker has finished. When the
    partition is lost, or revoked and its deadline has passed, the scope is cancelled and swallows the cancellation:
    the worker goes on behind its `async with`.
    """

    @property
    def partition(self) -> Partition:
        """Which partition this is."""
        ...

    @property
    def revoking_at(self) -> float | None:
        """The deadline by `anyio.current_time()` once a revoke is under way, None before; looked at between events."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None: ...

    def __aiter__(self) -> AsyncIterator[Sequence[Event]]:
        """Iterate over batches: in order, bounded by count and bytes, never empty.

        Ends when the partition is revoked, lost or closed; what was buffered and not handed out is dropped then.
        Raises the `CdcError` that ended the source where there is one.
        """
        ...

    def current(self, event: Event) -> bool:
        """Say whether the event is still ours to handle: lease deadline, acknowledgement deadline, partition."""
        ...

    async def ack(self, events: Sequence[Event]) -> None:
        """Record that events are done, in any order; the contiguous done prefix is committed later.

        An event that is no longer ours is a counted no-op.

        Raises:
            PartitionLost: none of the events is ours any more.
        """
        ...

    async def flush(self) -> None:
        """Commit what is acknowledged now, instead of within the transport's commit interval."""
        ...


@final
class WorkerScope:
    """The cancel scope of a stream's worker, for transports: enter it in `__aenter__`, leave it in `__aexit__`.

    `cancel()` cancels the worker, now or when it enters; `finished` is set once the worker has left, or if no
    worker ever entered and `abandon()` was called. Waiting for `finished` is how a transport drains.
    """

    def __init__(self) -> None:
        self._scope = anyio.CancelScope()
        self.finished: anyio.Event = anyio.Event()
        self._entered = False

    @property
    def entered(self) -> bool:
        """Whether a worker is or was inside."""
        return self._entered

    @property
    def cancelled(self) -> bool:
        """Whether `cancel()` was called."""
        return self._scope.cancel_called

    def __enter__(self) -> Self:
        self._entered = True
        self._scope.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.finished.set()
        return bool(self._scope.__exit__(kind, error, trace))

    def cancel(self) -> None:
        """Cancel the worker."""
        self._scope.cancel()

    def abandon(self) -> None:
        """Say that no worker will come: nothing waits for one then."""
        if not self._entered:
            self.finished.set()
