"""Promises on what must not leak: credentials into text, one transport into another."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager

import anyio

from cdc_core import CdcError, NotProvisioned

from ._consumer import SHORT_DRAIN_SECONDS, consuming, provisioned, write_singly
from ._harness import Harness


async def check_no_credential_is_shown(harness: Harness) -> None:
    """No secret is in `repr`, plans, errors, health or logs, whether all goes well or not."""
    shown: list[str] = []
    with _captured_logs(shown):
        transport = harness.transport()
        shown += [repr(transport), str(transport), repr(transport.source())]
        try:
            async with transport.source().open(drain_timeout_seconds=1.0):
                pass
        except NotProvisioned as error:
            shown += [repr(error), str(error), repr(error.plan)]
        async with transport.provisioner() as provisioner:
            plan = await provisioner.plan()
            shown += [repr(plan), repr(provisioner)]
            await provisioner.apply(plan)
        await write_singly(harness, range(2))
        async with transport.monitor() as monitor, consuming(harness, transport, tolerant=True) as consumer:
            await consumer.until_delivered(range(2))
            shown += [repr(stream) for stream in consumer.assigned]
            shown += [repr(await monitor.health()), repr(await monitor.lag())]
            await harness.crash(transport)
        shown += [text for error in consumer.errors for text in (repr(error), str(error))]
        with anyio.move_on_after(harness.quiet_seconds):  # it may also go on trying for ever
            try:
                async with transport.source().open(drain_timeout_seconds=1.0):
                    pass
            except CdcError as error:
                shown += [repr(error), str(error), repr(error.where), repr(error.__cause__)]
    for text in shown:
        for secret in harness.secrets:
            assert secret not in text, f"a credential is shown in: {text.replace(secret, '<the secret>')}"


async def check_two_transports_in_one_process_are_independent(harness: Harness) -> None:
    """Two transports share neither events nor commits, and one that dies leaves the other alone."""
    async with harness.another() as other:
        first, second = await provisioned(harness), await provisioned(other)
        await write_singly(harness, range(4))
        await write_singly(other, range(100, 104))
        async with consuming(other, second, acks=True) as surviving:
            async with consuming(
                harness, first, tolerant=True, drain_timeout_seconds=SHORT_DRAIN_SECONDS
            ) as dying:
                await surviving.until_delivered(range(100, 104))
                await dying.until_delivered(range(4))
                await harness.crash(first)
            await write_singly(other, range(104, 108))
            await surviving.until_delivered(range(100, 108))
            assert set(surviving.numbers) == set(range(100, 108)), "one source's events came out of the other"
            assert set(dying.numbers) == set(range(4)), "one source's events came out of the other"
        async with consuming(harness, harness.transport(), acks=True) as again:
            await again.until_delivered(range(4))


async def check_a_transport_can_be_opened_again(harness: Harness) -> None:
    """A transport object holds nothing of a source that was left: it can be opened again, and goes on."""
    transport = await provisioned(harness)
    for number in range(3):
        await harness.write(("key", number))
        async with consuming(harness, transport, acks=True) as consumer:
            await consumer.until_delivered([number])
            assert consumer.numbers == [number], f"acknowledged before, delivered again: {consumer.numbers}"


@contextmanager
def _captured_logs(shown: list[str]) -> Generator[None, None, None]:
    class Capture(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            shown.append(f"{record.getMessage()} {vars(record)}")

    root, handler = logging.getLogger(), Capture(logging.DEBUG)
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
