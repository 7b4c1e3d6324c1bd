"""Runs pipelines and readers as the main thing of a process: signals drain, then abandon."""

from __future__ import annotations

import signal
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Protocol

import anyio
from anyio.abc import TaskStatus

from ._partition_work import logger


class Live(Protocol):
    """Something that runs."""

    async def wait(self) -> None:
        """Wait until it has ended."""
        ...


class Runnable(Protocol):
    """What `serve` accepts: a pipeline, a reader, or anything else that runs beside a body."""

    def running(self) -> AbstractAsyncContextManager[Live]:
        """Run beside the body; leaving it drains, cancelling it abandons, a failure cancels it and is raised."""
        ...


async def serve(*runnables: Runnable) -> None:
    """Run until SIGTERM or SIGINT, or until one of them ends; the first signal drains, a second one abandons.

    They are left in reverse order: given a pipeline and the reader that feeds it, the reader leaves first. Only
    in the main thread, since signals are the process's.

    Raises:
        CdcError: what one of them failed with; those started before it were drained, those after it cancelled.
    """
    failure: BaseException | None = None
    async with anyio.create_task_group() as tasks:
        stopping = anyio.Event()
        await tasks.start(_watch_signals, stopping, tasks.cancel_scope)
        try:
            await _run_until(stopping, runnables)
        except Exception as error:  # noqa: BLE001 - raised again below, outside of the task group
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _run_until(stopping: anyio.Event, runnables: tuple[Runnable, ...]) -> None:
    async with AsyncExitStack() as stack:
        lives = [await stack.enter_async_context(runnable.running()) for runnable in runnables]
        async with anyio.create_task_group() as waits:
            for live in lives:
                waits.start_soon(_stop_after, live, stopping)
            await stopping.wait()
            waits.cancel_scope.cancel()


async def _stop_after(live: Live, stopping: anyio.Event) -> None:
    await live.wait()
    stopping.set()


async def _watch_signals(
    stopping: anyio.Event, everything: anyio.CancelScope, *, task_status: TaskStatus[None]
) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        drained = False  # not `stopping`, which is also set when one of them ended by itself
        async for received in signals:
            if drained:
                logger.warning("second signal: abandoning", extra={"signal": received.name})
                everything.cancel()
                return
            logger.info("signal received: draining", extra={"signal": received.name})
            drained = True
            stopping.set()
