"""The life of a pipeline: started, drained, abandoned, failed, run again."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from cdc_core import Event, Pipeline, RetryPolicy

from .pipeline_source import ScriptedTransport, event, numbers


@pytest.mark.anyio
async def test_what_the_handler_took_is_acknowledged() -> None:
    handled: list[int] = []

    async def handle(events: Sequence[Event]) -> None:
        handled.extend(numbers(events))

    transport = ScriptedTransport()
    transport.stream.send(event(0), event(1))
    async with Pipeline(name="t", transport=transport, handler=handle, retry=RetryPolicy()).running() as live:
        await transport.stream.until_acked(0, 1)
        assert live.health.ready
    assert handled == [0, 1]
    assert live.counters.handled == 2
    assert not live.health.ready
