"""Small shapes of structured concurrency that pipelines, transports and readers share."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Protocol, cast

import anyio
from anyio.abc import TaskGroup

from ._errors import CdcError, ContractError


class Run(Protocol):
    """One run of something, for `run_beside`."""

    @property
    def body(self) -> anyio.CancelScope:
        """The scope of whoever runs beside it; a run that fails cancels it."""
        ...

    @property
    def ended(self) -> anyio.Event:
        """Set when it has ended, whatever ended it."""
        ...

    @property
    def failure(self) -> BaseException | None:
        """What it failed with."""
        ...

    async def main(self) -> None:
        """Run until stopped, cancelled or failed; raises nothing but a cancellation."""
        ...

    def stop(self) -> None:
        """Ask it to drain; returns at once."""
        ...


@asynccontextmanager
async def run_beside(run: Run) -> AsyncGenerator[None]:
    """Run something beside the body: leaving the body drains it, cancelling the body abandons it.

    Raises:
        BaseException: what the run failed with, as it is. An exception of the body's own passes unchanged, and goes
            before it.
    """
    raised: BaseException | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run.main)
        try:
            with run.body:
                yield
        except BaseException as error:  # noqa: BLE001 - raised again below, outside of the task group
            raised = error
            if not isinstance(error, Exception):
                tasks.cancel_scope.cancel()
        run.stop()
        await run.ended.wait()
    if raised is not None:
        raise raised
    if run.failure is not None:
        raise run.failure


@asynccontextmanager
async def open_task_group() -> AsyncGenerator[TaskGroup]:
    """Open a task group that is cancelled at its end, and whose body's own exception comes out as it is.

    A plain task group would put that one exception into a group, and our users catch a `CdcError`.
    """
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        try:
            yield tasks
        except Exception as error:  # noqa: BLE001 -- raised again behind the group
            failure = error
        finally:
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def wait_any(*events: anyio.Event) -> None:
    """Wait until at least one of the events is set."""
    if any(event.is_set() for event in events):
        return
    async with anyio.create_task_group() as tasks:

        async def wait(event: anyio.Event) -> None:
            await event.wait()
            tasks.cancel_scope.cancel()

        for event in events:
            tasks.start_soon(wait, event)


def one_error(error: BaseException, *, out_of: str, where: Mapping[str, object]) -> BaseException:
    """Return the one error that a user gets for a failure, which may be a group.

    An interrupt goes first, then a `CdcError`; anything else is a fault of `out_of`, and becomes a `ContractError`
    with it as its cause.
    """
    leaves = list(leaves_of(error))
    first = next((leaf for leaf in leaves if not isinstance(leaf, Exception)), None)
    first = first or next((leaf for leaf in leaves if isinstance(leaf, CdcError)), leaves[0])
    if isinstance(first, CdcError) or not isinstance(first, Exception):
        return first
    failure = ContractError(
        f"an unexpected {type(first).__qualname__} came out of {out_of}",
        where=where,
        remedy="see the cause, and report it to the transport's author",
    )
    failure.__cause__ = first
    return failure


def leaves_of(error: BaseException) -> Iterator[BaseException]:
    """Iterate over what an exception group holds, however nested; an exception that is no group is its own leaf."""
    if isinstance(error, BaseExceptionGroup):
        for member in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from leaves_of(member)
    else:
        yield error
