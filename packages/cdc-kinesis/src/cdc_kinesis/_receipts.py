"""The promise of one batch, settled row by row."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, final

import anyio

from cdc_core import CdcError, OutgoingEvent, Rejected


@final
class BatchReceipt:
    """A `Receipt`: ready as soon as its last row is stored or rejected, or the publisher has failed.

    - `open_rows`: how many of its rows are neither; whoever takes the last one away calls `finish`.
    """

    __slots__ = ("_batch", "_error", "_rejected", "_settled", "open_rows")

    def __init__(self, batch: Sequence[OutgoingEvent]) -> None:
        self.open_rows = len(batch)
        self._batch = batch
        self._settled = anyio.Event()
        self._rejected: dict[int, Exception] = {}
        self._error: CdcError | None = None

    def __await__(self) -> Generator[Any, Any, Sequence[Rejected]]:
        return self._wait().__await__()

    def settle(self, rows: int) -> None:
        """Say that so many more rows are stored."""
        self.open_rows -= rows
        if not self.open_rows:
            self.finish()

    def reject(self, row: OutgoingEvent, cause: Exception) -> None:
        """Say that a row can never be stored."""
        # rare, so that no row has to carry its number; one that stands there twice is rejected twice
        index = next(
            index for index, one in enumerate(self._batch) if one is row and index not in self._rejected
        )
        self._rejected[index] = cause
        self.settle(1)

    def finish(self) -> None:
        """Say that no row is open."""
        self._batch = ()
        self._settled.set()

    def fail(self, error: CdcError) -> None:
        """Say that the publisher has failed; without effect on a receipt that is settled."""
        if not self._settled.is_set():
            self._error = error
            self._settled.set()

    async def _wait(self) -> Sequence[Rejected]:
        await self._settled.wait()
        if self._error is not None:
            raise self._error
        return [Rejected(index, self._rejected[index]) for index in sorted(self._rejected)]
