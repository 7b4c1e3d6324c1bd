"""The promise of one batch, settled row by row."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, final

import anyio

from cdc_core import CdcError, Rejected


@final
class BatchReceipt:
    """A `Receipt`: ready as soon as its last row is stored or rejected, or the publisher has failed.

    - `finished`: called when no row is open any more.
    """

    __slots__ = ("_error", "_finished", "_open_rows", "_rejected", "_settled")

    def __init__(self, rows: int, finished: Callable[[], None]) -> None:
        self._open_rows = rows
        self._finished = finished
        self._settled = anyio.Event()
        self._rejected: list[Rejected] = []
        self._error: CdcError | None = None

    def __await__(self) -> Generator[Any, Any, Sequence[Rejected]]:
        return self._wait().__await__()

    def settle(self, rows: int) -> None:
        """Say that so many more rows are stored or rejected."""
        self._open_rows -= rows
        if not self._open_rows:
            self._settled.set()
            self._finished()

    def reject(self, index: int, cause: Exception) -> None:
        """Say that a row can never be stored."""
        self._rejected.append(Rejected(index, cause))
        self.settle(1)

    def fail(self, error: CdcError) -> None:
        """Say that the publisher has failed; without effect on a receipt that is settled."""
        if not self._settled.is_set():
            self._error = error
            self._settled.set()

    async def _wait(self) -> Sequence[Rejected]:
        await self._settled.wait()
        if self._error is not None:
            raise self._error
        return sorted(self._rejected, key=lambda one: one.index)
