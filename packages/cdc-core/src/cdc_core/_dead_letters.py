"""Events that could not be handled: their bytes unchanged, their cause beside them, replayed to a handler later."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, final

from ._events import Event, Headers, TableId
from ._redaction import redact


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Why an event failed, as text without credentials.

    - `type`: the exception's qualified name, or `parked`, `rejected`; `message`: what it said, 8 KiB at most.
    """

    type: str
    message: str

    @classmethod
    def of(cls, error: BaseException) -> Cause:
        """Describe an exception; credentials in its text are blotted out, and it is cut at 8 KiB."""
        kind = type(error)
        name = (
            kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        )
        return cls(type=name, message=redact(str(error))[:8192])


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FailedEvent:
    """An event on its way into the dead letters.

    - `pipeline`: the pipeline's or reader's name; `attempts`: how often it was tried; `failed_at`: aware, UTC.
    - `parked`: it did not fail itself, it waits behind a poisoned event of its key.
    """

    event: Event
    cause: Cause
    pipeline: str
    attempts: int
    failed_at: datetime
    parked: bool = False


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A stored failed event; `id` names it in its store, and `event` has `replayed` set."""

    id: str
    event: Event
    cause: Cause
    pipeline: str
    attempts: int
    failed_at: datetime
    parked: bool = False

    @property
    def key(self) -> bytes | None:
        """The original key bytes."""
        return self.event.key

    @property
    def value(self) -> bytes | None:
        """The original value bytes."""
        return self.event.value

    @property
    def headers(self) -> Headers:
        """The original headers."""
        return self.event.headers


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayFailure:
    """A letter that failed again, and is kept."""

    id: str
    cause: Cause


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayReport:
    """What a replay did.

    - `replayed`: ids handled and removed; `failed`: those kept, with the new cause; `missing`: ids not found.
    - `key_moved_on`: ids whose key has had later events: the handler was given an older version.
    """

    replayed: tuple[str, ...] = ()
    failed: tuple[ReplayFailure, ...] = ()
    missing: tuple[str, ...] = ()
    key_moved_on: tuple[str, ...] = ()


class DeadLetters(Protocol):
    """The dead letters of one transport."""

    def list(
        self,
        *,
        pipeline: str | None = None,
        table: TableId | None = None,
        key: bytes | None = None,
        since: datetime | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[DeadLetter]:
        """Iterate over letters in the order in which they were stored; filters are combined."""
        ...

    async def show(self, letter_id: str) -> DeadLetter:
        """Return one letter.

        Raises:
            LookupError: there is none of that id.
        """
        ...

    async def replay(
        self, letter_ids: Sequence[str], *, to: Callable[[Sequence[Event]], Awaitable[None]]
    ) -> ReplayReport:
        """Give letters to a handler one at a time, in the order in which they were delivered; remove those it handles.

        A letter behind a failed one of the same key is not tried: it stays, in order.
        """
        ...

    async def discard(self, letter_ids: Sequence[str], *, reason: str) -> None:
        """Remove letters for good; `reason` goes to the log."""
        ...
