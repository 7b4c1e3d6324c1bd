"""Iterates over what others made and closes it: no async generator left early waits for the garbage collector."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar, cast

T = TypeVar("T")


@asynccontextmanager
async def iterating(iterable: AsyncIterable[T]) -> AsyncGenerator[AsyncIterator[T]]:
    """Enter an iteration; leaving it closes the iterator where that can be closed (trio warns where nobody does)."""
    iterator = aiter(iterable)
    try:
        yield iterator
    finally:
        if hasattr(iterator, "aclose"):
            await cast("AsyncGenerator[T]", iterator).aclose()
