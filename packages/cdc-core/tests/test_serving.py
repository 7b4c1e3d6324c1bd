"""`serve`: the first signal drains, the second abandons."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest
from pipeline_source import ScriptedTransport, event

from cdc_core import Event, Live, Pipeline, Runnable, SourceError, serve

pytestmark = pytest.mark.anyio


class Sink:
    """Holds each call until it is let go."""

    def __init__(self) -> None:
        self.called, self.released = anyio.Event(), anyio.Event()
        self.cancelled = False

    async def __call__(self, events: Sequence[Event]) -> None:
        self.called.set()
        try:
            await self.released.wait()
        except anyio.get_cancelled_exc_class():
            self.cancelled = True
            raise


class Recorded:
    """Something else that runs: says when it starts and ends."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log
        self.over = anyio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Live]:
        self.log.append(f"{self.name} runs")
        yield self
        self.log.append(f"{self.name} left")

    async def wait(self) -> None:
        await self.over.wait()


_: type[Runnable] = Pipeline
_served: type[Runnable] = Recorded


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_first_signal_drains(number: signal.Signals) -> None:
    transport, sink = ScriptedTransport(), Sink()
    transport.stream.send(event(0))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve, Pipeline(name="t", transport=transport, handler=sink))
        await sink.called.wait()
        send(number)
        with anyio.fail_after(5):
            while transport.stream.revoking_at is None:  # noqa: ASYNC110
                await anyio.sleep(0.001)
        sink.released.set()
    assert transport.stream.acked == [0]
    assert not sink.cancelled


async def test_a_second_signal_abandons() -> None:
    transport, sink = ScriptedTransport(), Sink()
    transport.stream.send(event(0))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve, Pipeline(name="t", transport=transport, handler=sink))
        await sink.called.wait()
        send(signal.SIGTERM)
        with anyio.fail_after(5):
            while transport.stream.revoking_at is None:  # noqa: ASYNC110
                await anyio.sleep(0.001)
        send(signal.SIGTERM)
        with anyio.fail_after(5):
            await transport.left.wait()
    assert sink.cancelled
    assert transport.stream.acked == []


async def test_a_failure_is_raised_as_one_error_and_the_others_are_left() -> None:
    transport, log = ScriptedTransport(), list[str]()
    wrong = SourceError("the slot is gone")
    transport.stream.end(wrong)
    with pytest.raises(SourceError) as caught:
        await serve(Recorded("first", log), Pipeline(name="t", transport=transport, handler=Sink()))
    assert caught.value is wrong


async def test_what_is_served_is_left_in_reverse_order_when_one_ends_by_itself() -> None:
    log: list[str] = []
    consumer, reader = Recorded("consumer", log), Recorded("reader", log)
    reader.over.set()
    with anyio.fail_after(5):
        await serve(consumer, reader)
    assert log == ["consumer runs", "reader runs", "reader left", "consumer left"]


async def test_cancelling_serve_abandons() -> None:
    transport, sink = ScriptedTransport(), Sink()
    transport.stream.send(event(0))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve, Pipeline(name="t", transport=transport, handler=sink))
        await sink.called.wait()
        tasks.cancel_scope.cancel()
    assert sink.cancelled
