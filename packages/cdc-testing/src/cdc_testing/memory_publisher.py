"""The way in for a reader: batches accepted in bounded number, stored in order, receipts settled when stored."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from types import TracebackType
from typing import Any, Final, Self, final

import anyio
import anyio.abc
import anyio.lowlevel

from cdc_core import CdcError, Fence, OutgoingEvent, PublishError, Rejected

from .memory_log import MemoryStore, Signal
from .memory_source import Process

_MAX_PENDING_BATCHES: Final = 16


@final
class MemoryReceipt:
    """The promise of one batch."""

    def __init__(self) -> None:
        self._settled = anyio.Event()
        self._rejected: Sequence[Rejected] = ()
        self._error: CdcError | None = None

    def __await__(self) -> Generator[Any, Any, Sequence[Rejected]]:
        return self._wait().__await__()

    def settle(self, rejected: Sequence[Rejected]) -> None:
        """Say that all but the rejected entries are stored."""
        self._rejected = rejected
        self._settled.set()

    def fail(self, error: CdcError) -> None:
        """Say that the publisher failed, for good."""
        if not self._settled.is_set():
            self._error = error
            self._settled.set()

    async def _wait(self) -> Sequence[Rejected]:
        await self._settled.wait()
        if self._error is not None:
            raise self._error
        return self._rejected


@final
class MemoryPublisher:
    """A `WalPublisher` into a store.

    - `max_event_bytes`: an entry with more bytes of key and value is rejected.
    - `released`: notified when a `Hold` ends.
    """

    def __init__(
        self, store: MemoryStore, process: Process, fence: Fence, *, max_event_bytes: int, released: Signal
    ) -> None:
        self._store, self._process, self._fence = store, process, fence
        self._max_event_bytes = max_event_bytes
        self._released = released
        self._pending: deque[tuple[Sequence[OutgoingEvent], range, MemoryReceipt]] = deque()
        self._changed = Signal()
        self._accepted = 0
        self._error: CdcError | None = None
        self._tasks: anyio.abc.TaskGroup | None = None

    async def __aenter__(self) -> Self:
        self._process.ensure_alive()
        self._tasks = await anyio.create_task_group().__aenter__()
        self._tasks.start_soon(self._store_pending)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        assert self._tasks is not None
        self._tasks.cancel_scope.cancel()
        try:
            await self._tasks.__aexit__(None, None, None)
        except anyio.get_cancelled_exc_class():
            if error is None:  # otherwise the body's own error goes on, and the next checkpoint is cancelled
                raise
        self._fail(PublishError("the publisher was closed before the batch was stored"))

    async def publish(self, batch: Sequence[OutgoingEvent]) -> MemoryReceipt:
        """Accept a batch; waits while too many are pending.

        Raises:
            PublishError: the publisher has failed, or its fence ran out.
            InjectedCrash: the process is dead.
        """
        await anyio.lowlevel.checkpoint()
        while self._error is None and len(self._pending) >= _MAX_PENDING_BATCHES:
            await self._changed.wait()
        self._check()
        numbers = range(self._accepted + 1, self._accepted + len(batch) + 1)
        self._accepted += len(batch)
        receipt = MemoryReceipt()
        self._pending.append((tuple(batch), numbers, receipt))
        self._changed.notify()
        return receipt

    async def _store_pending(self) -> None:
        try:
            while True:
                while not self._pending:
                    await self._changed.wait()
                await self._store_batch(*self._pending[0])
                self._pending.popleft()
                self._changed.notify()
        except CdcError as error:
            self._fail(error)

    async def _store_batch(
        self, batch: Sequence[OutgoingEvent], numbers: range, receipt: MemoryReceipt
    ) -> None:
        faults = self._store.faults
        if faults.take_hold(numbers):
            await self._released.wait()
        await anyio.sleep(faults.take_delay_seconds(numbers))
        self._check()
        rejected = [
            Rejected(index, cause)
            for index, event in enumerate(batch)
            if (cause := self._cause_of_rejection(event, numbers[index])) is not None
        ]
        refused = {one.index for one in rejected}
        self._store.write_published(event for index, event in enumerate(batch) if index not in refused)
        if faults.take_failure(numbers):
            raise PublishError("injected: the batch was stored, its answer was lost")
        receipt.settle(rejected)

    def _cause_of_rejection(self, event: OutgoingEvent, number: int) -> Exception | None:
        size = len(event.key or b"") + len(event.value or b"")
        if size > self._max_event_bytes:
            return ValueError(f"{size} bytes are more than {self._max_event_bytes}")
        if self._store.faults.take_reject(number):
            return ValueError("injected: rejected")
        return None

    def _check(self) -> None:
        self._process.ensure_alive()
        if self._error is not None:
            raise self._error
        if self._fence.remaining_seconds() <= 0:
            raise PublishError("the reader does not own its slot any more: nothing was sent")

    def _fail(self, error: CdcError) -> None:
        self._error = self._error or error
        for _, _, receipt in self._pending:
            receipt.fail(self._error)
        self._changed.notify()
