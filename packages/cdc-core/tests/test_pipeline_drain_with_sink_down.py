"""A drain does not wait for a sink that is down: what it holds up may be what the sink waits for."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest

from cdc_core import Event, Pipeline, RetryPolicy, Transient
from cdc_testing import MemoryTransport

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_a_retry_that_waits_is_given_up_when_the_pipeline_drains_and_the_events_come_again(
    concurrency: int,
) -> None:
    transport = MemoryTransport()
    for number in range(5):
        transport.put(b"%d" % number, b"{}")
    failed = anyio.Event()
    handled: list[bytes | None] = []
    is_down = True

    async def handle(events: Sequence[Event]) -> None:
        if is_down:
            failed.set()
            raise Transient from ConnectionRefusedError("down")
        handled.extend(event.key for event in events)

    pipeline = Pipeline(
        name="p",
        transport=transport,
        handler=handle,
        concurrency_per_partition=concurrency,
        retry=RetryPolicy(initial_delay_seconds=30.0, max_delay_seconds=30.0),
        drain_timeout_seconds=60.0,
    )
    with anyio.fail_after(10):
        async with pipeline.running():
            await failed.wait()
        assert transport.letters == ()
        is_down = False
        async with pipeline.running():
            while not transport.is_idle:
                await transport.wait_for_change()
    assert sorted(handled, key=str) == [b"%d" % number for number in range(5)]
