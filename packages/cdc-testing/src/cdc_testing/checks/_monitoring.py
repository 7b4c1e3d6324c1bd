"""Promises on lag and health: measured or UNKNOWN, never invented."""

from __future__ import annotations

import json
from collections.abc import Sequence

from cdc_core import UNKNOWN, PartitionLag, SourceMonitor

from ._consumer import consuming, eventually, provisioned, write_singly
from ._harness import Harness


async def check_lag_is_never_zero_while_events_wait(harness: Harness) -> None:
    """While events wait, each figure is UNKNOWN, or tells of them; also while nobody reads."""
    transport = await provisioned(harness)
    await write_singly(harness, range(4), keys=1)
    async with transport.monitor() as monitor:
        _assert_waiting(await monitor.lag(), "nobody reads")
        async with consuming(harness, transport) as consumer:
            await consumer.until_delivered(range(4))
            _assert_waiting(await monitor.lag(), "all is delivered, nothing is acknowledged")
            await consumer.ack(delivery for delivery in consumer.deliveries if delivery.number != 0)
            await consumer.flush()
            _assert_waiting(await monitor.lag(), "the first event is not acknowledged")
            await consumer.ack(consumer.deliveries)


async def check_lag_is_zero_or_unknown_when_nothing_waits(harness: Harness) -> None:
    """Once all is acknowledged, events and seconds are 0, or UNKNOWN."""
    transport = await provisioned(harness)
    await write_singly(harness, range(4))
    async with transport.monitor() as monitor, consuming(harness, transport, acks=True) as consumer:
        await consumer.until_delivered(range(4))
        await consumer.flush()
        await eventually(harness, lambda: _is_zero_or_unknown(monitor), "the lag falls to 0")


async def check_lag_has_one_entry_for_each_partition(harness: Harness) -> None:
    """Every partition that is assigned has exactly one entry, whether it can be measured or not."""
    transport = await provisioned(harness)
    await write_singly(harness, range(2))
    async with transport.monitor() as monitor, consuming(harness, transport, acks=True) as consumer:
        await consumer.until_delivered(range(2))
        partitions = [lag.partition for lag in await monitor.lag()]
        assert len(partitions) == len(set(partitions)), f"a partition has two entries: {partitions}"
        missing = {stream.partition for stream in consumer.assigned} - set(partitions)
        assert not missing, f"partitions without an entry: {missing}"


async def check_health_is_named_checks(harness: Harness) -> None:
    """Health has named checks, each name once, and is plain data; a source that is read well is ready."""
    transport = await provisioned(harness)
    await write_singly(harness, range(2))
    async with transport.monitor() as monitor, consuming(harness, transport, acks=True) as consumer:
        await consumer.until_delivered(range(2))
        health = await monitor.health()
        names = [check.name for check in health.checks]
        assert names, "health without any check"
        assert all(names), "a check without a name"
        assert len(names) == len(set(names)), f"two checks of one name: {names}"
        json.dumps(health.as_dict())

        async def is_ready() -> bool:
            return (await monitor.health()).ready

        await eventually(harness, is_ready, "a source that is read well is ready")


async def check_health_is_not_ready_before_it_is_provisioned(harness: Harness) -> None:
    """A source whose objects are missing is not ready: it says so, or cannot be asked."""
    try:
        async with harness.transport().monitor() as monitor:
            health = await monitor.health()
    except Exception:  # noqa: BLE001 - to refuse the question is no false answer
        return
    assert not health.ready, "nothing is provisioned, and health is ready"


async def _is_zero_or_unknown(monitor: SourceMonitor) -> bool:
    lags = await monitor.lag()
    return all(
        figure is UNKNOWN or figure == 0 for lag in lags for figure in (lag.lag_events, lag.lag_seconds)
    )


def _assert_waiting(lags: Sequence[PartitionLag], when: str) -> None:
    assert lags, "no partition has a lag"
    for name in ("lag_events", "lag_bytes", "lag_seconds"):
        figures = [getattr(lag, name) for lag in lags]
        for figure in figures:
            if figure is not UNKNOWN:
                assert type(figure) in (int, float), f"{name} is {figure!r}"
                assert figure >= 0, f"{name} is {figure}"
        known = [figure for figure in figures if figure is not UNKNOWN]
        # The waiting events are in one partition; where that one is unknown, the others may well be at 0.
        assert len(known) < len(figures) or any(known), f"{name} is 0 for every partition while {when}"
