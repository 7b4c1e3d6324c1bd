"""A pipeline tells a repeat filter what it needs to know: every delivery, and every dead letter."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest

from cdc_core import Event, Pipeline, RetryPolicy, drop_repeats
from cdc_testing import Limits, MemoryTransport

pytestmark = pytest.mark.anyio

QUICK = RetryPolicy(max_attempts=1, initial_delay_seconds=0.001, max_delay_seconds=0.001)


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_repeats_after_a_loss_do_not_reach_the_handler_and_are_acknowledged(concurrency: int) -> None:
    # committed when left only, so that after a loss all comes again
    transport = MemoryTransport(limits=Limits(commit_interval_seconds=3600))
    for number in range(20):
        transport.put(b'{"id":%d}' % number, b"{}")
    handled: list[bytes | None] = []
    last = anyio.Event()

    async def handle(events: Sequence[Event]) -> None:
        keys = [event.key for event in events]
        if b'{"id":7}' in keys:
            raise ValueError("poison")
        handled.extend(keys)
        if {b'{"id":19}', b"last"} & set(keys):
            last.set()

    pipeline = Pipeline(
        name="p",
        transport=transport,
        handler=drop_repeats(handle),
        concurrency_per_partition=concurrency,
        retry=QUICK,
    )
    async with pipeline.running():
        with anyio.fail_after(10):
            await last.wait()
            last = anyio.Event()
            while not transport.letters:  # noqa: ASYNC110 - nothing tells of a dead letter
                await anyio.sleep(0.001)
            transport.lose()
            transport.put(b"last", b"{}")
            await last.wait()
    assert sorted(handled, key=str) == sorted(set(handled), key=str), "no event was handled twice"
    assert len(handled) == 20
    assert [letter.key for letter in transport.letters] == [b'{"id":7}']
    assert transport.is_idle
