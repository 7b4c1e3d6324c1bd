"""Members in processes of their own: one is killed, one is stopped and wakes after its shard went on to another."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream
from source_kit import PATIENCE_SECONDS, Kit, consuming, eventually

from cdc_testing.servers.kinesis import EmbeddedAws

pytestmark = pytest.mark.anyio

SHARD = "shardId-000000000000"
SCRIPT = str(Path(__file__).with_name("source_process.py"))


class Member:
    def __init__(self, process: Process) -> None:
        self.process = process
        self.said: list[dict[str, Any]] = []

    @property
    def handled(self) -> list[int]:
        return [number for line in self.said for number in line.get("handled", ())]

    async def listen(self) -> None:
        assert self.process.stdout is not None
        text = ""
        async for piece in TextReceiveStream(self.process.stdout):
            *lines, text = (text + piece).split("\n")
            self.said += [json.loads(line) for line in lines]

    async def until_said(self, what: str) -> None:
        async def is_said() -> bool:
            return any(what in line for line in self.said)

        await eventually(is_said, f"the process says {what}; it said {self.said}")

    async def until_handled(self, *numbers: int) -> None:
        async def are_handled() -> bool:
            return set(numbers) <= set(self.handled)

        await eventually(are_handled, f"the process handles {numbers}")


@asynccontextmanager
async def member_of(kit: Kit, backend: str) -> AsyncGenerator[Member]:
    settings = {
        name: getattr(kit.config, name)
        for name in (
            "stream_name",
            "failover_seconds",
            "checkpoint_interval_seconds",
            "poll_interval_seconds",
        )
    }
    settings["max_batch_events"] = 1
    command = [sys.executable, SCRIPT, json.dumps(settings), backend]
    environment = {**os.environ, **kit.servers.environment()}
    async with (
        await anyio.open_process(command, env=environment, stderr=None) as process,
        anyio.create_task_group() as tasks,
    ):
        member = Member(process)
        tasks.start_soon(member.listen)
        try:
            yield member
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            with anyio.CancelScope(shield=True), anyio.fail_after(PATIENCE_SECONDS):
                await process.wait()


@pytest.fixture
async def kit(embedded_aws: EmbeddedAws) -> Kit:
    kit = Kit(embedded_aws)
    await kit.create()
    return kit


async def test_a_killed_member_is_replaced_and_nothing_is_lost(kit: Kit, anyio_backend: str) -> None:
    async with member_of(kit, anyio_backend) as member:
        await kit.put(range(4))
        await member.until_handled(0, 1)
        member.process.kill()
        async with consuming(kit.source()) as consumer:
            await consumer.until(lambda: 3 in consumer.numbers, "the rest comes to another")
    assert set(member.handled) | set(consumer.numbers) == set(range(4))
    assert consumer.numbers == sorted(consumer.numbers)


async def test_a_stopped_owner_that_wakes_late_handles_nothing_more_and_moves_no_position_back(
    kit: Kit, anyio_backend: str
) -> None:
    async with member_of(kit, anyio_backend) as member:
        await kit.put(range(3))
        await member.until_handled(0)
        member.process.send_signal(signal.SIGSTOP)
        await kit.put(range(3, 6))
        async with consuming(kit.source()) as consumer:
            await consumer.until_delivered(range(3, 6))
            begun = list(member.handled)  # all that it said before it was stopped is read by now
            await consumer.streams[-1].flush()
            before = await kit.lease(SHARD)
            member.process.send_signal(signal.SIGCONT)
            await member.until_said("left")
            after = await kit.lease(SHARD)
            assert after.owner == before.owner
            assert after.checkpoint == before.checkpoint
            assert member.handled == begun, "nothing beyond the batch that it had begun"
            assert not set(member.handled) & {3, 4, 5}
        fences = [line["fence"] for line in member.said if "fence" in line]
        assert all((delivery.event.fence or 0) > max(fences) for delivery in consumer.deliveries)
