"""A pipeline tells a repeat filter what it needs to know: every delivery, and every dead letter."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest

from cdc_core import Event, Pipeline, RetryPolicy, drop_repeats
from cdc_testing import Limits, MemoryTransport

pytestmark = pytest.mark.anyio

QUICK = RetryPolicy(max_attempts=1, initial_delay_seconds=0.001, max_delay_seconds=0.001)


@pytest.mark.parametrize("wrapped", [True, False], ids=["by the user", "by the pipeline"])
@pytest.mark.parametrize("concurrency", [1, 4])
async def test_repeats_after_a_loss_do_not_reach_the_handler_and_are_acknowledged(
    concurrency: int, wrapped: bool
) -> None:
    # committed when left only, so that after a loss all comes again
    transport = MemoryTransport(limits=Limits(commit_interval_seconds=3600))
    for number in range(20):
        transport.put(b'{"id":%d}' % number, b"{}")
    handled: list[bytes | None] = []
    at_the_last, finished = anyio.Event(), anyio.Event()

    async def handle(events: Sequence[Event]) -> None:
        keys = [event.key for event in events]
        if b'{"id":7}' in keys:
            raise ValueError("poison")
        if b'{"id":19}' in keys and not at_the_last.is_set():
            at_the_last.set()
            await (
                anyio.sleep_forever()
            )  # in hand when the partition is lost: what was done before it comes again
        handled.extend(keys)
        if b'{"id":19}' in keys:
            finished.set()

    pipeline = Pipeline(
        name="p",
        transport=transport,
        handler=drop_repeats(handle) if wrapped else handle,
        drop_repeats=None if wrapped else True,
        concurrency_per_partition=concurrency,
        retry=QUICK,
    )
    async with pipeline.running() as live:
        with anyio.fail_after(10):
            await at_the_last.wait()
            transport.lose()
            await finished.wait()
    assert sorted(handled, key=str) == sorted(set(handled), key=str), "no event was handled twice"
    assert len(handled) == 19
    assert [letter.key for letter in transport.letters] == [b'{"id":7}']
    assert transport.is_idle
    assert live.counters.repeats >= 1, "what was done before the loss came again"
    assert live.counters.handled == 19 + live.counters.repeats
