"""The promise of one batch, settled row by row."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, final

import anyio

from cdc_core import CdcError, Rejected


@final
class BatchReceipt:
    """A `Receipt`: ready as soon as its last row is stored or rejected, or the publisher has failed.

    - `open_rows`: how many of its rows are neither; whoever takes the last one away calls `finish`.
    """

    __slots__ = ("_error", "_rejected", "_settled", "open_rows")

    def __init__(self, rows: int) -> None:
        self.open_rows = rows
        self._settled = anyio.Event()
        self._rejected: list[Rejected] = []
        self._error: CdcError | None = None

    def __await__(self) -> Generator[Any, Any, Sequence[Rejected]]:
        return self._wait().__await__()

    def reject(self, index: int, cause: Exception) -> None:
        """Say that a row can never be stored."""
        self._rejected.append(Rejected(index, cause))
        self.open_rows -= 1
        if not self.open_rows:
            self.finish()

    def finish(self) -> None:
        """Say that no row is open."""
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
        return sorted(self._rejected, key=lambda one: one.index)
