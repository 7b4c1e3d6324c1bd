"""The demo with a Kinesis between the database and the handler: the same handler, the same proof."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Sequence

import pytest
from demo_command import run_demo_command
from rich.console import Console

from cdc_core import Event, Identity
from cdc_platform._demo.options import DemoOptions, TransportName
from cdc_platform._demo.run import run_demo


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_run_through_kinesis_ends_with_every_change_handled_or_set_aside(backend: str) -> None:
    ended = run_demo_command("--transport", "kinesis", "--seconds", "3", "--backend", backend)
    figures = ended.figures
    assert ended.status == 0, ended.text
    assert (figures["transport"], figures["backend"], figures["lost"]) == ("kinesis", backend, 0)
    assert figures["written"] == figures["handled"] + figures["dead_letters"] > 100
    assert figures["dead_letters"] >= 1
    assert (figures["reordered"], figures["resurrected"], figures["altered"]) == (0, 0, 0)
    assert "create  kinesis stream cdc_demo" in ended.text
    assert "shards 4, " in ended.text


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["restart", "immediate", "terminate"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_fault_during_a_run_through_kinesis_loses_nothing(backend: str, fault: str) -> None:
    ended = run_demo_command(
        "--transport", "kinesis", "--seconds", "4", "--fault", fault, "--backend", backend
    )
    figures = ended.figures
    assert ended.status == 0, ended.text
    assert figures["fault_seconds"] is not None
    assert (figures["lost"], figures["reordered"]) == (0, 0)
    assert figures["written"] == figures["handled"] + figures["dead_letters"] > 100


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_an_event_that_the_handler_drops_is_lost_through_kinesis_too() -> None:
    dropped: list[Identity | None] = []

    def drop_the_first(events: Sequence[Event]) -> Sequence[Event]:
        if not dropped:
            dropped.append(events[0].identity)
        return [event for event in events if event.identity not in dropped]

    options = DemoOptions(transport=TransportName.KINESIS, seconds=1.0, drain_seconds=5.0)
    result = await run_demo(options, Console(file=io.StringIO()), tamper=drop_the_first)
    assert result.proof is not None
    assert (result.proof.lost, result.good) == (1, False), result


def test_a_slot_that_would_outlive_the_embedded_broker_is_refused() -> None:
    ended = run_demo_command("--transport", "kinesis", "--dsn", "postgresql://127.0.0.1:1/shop")
    assert (ended.status, ended.figures["lost"]) == (2, None)
    assert "leave --dsn out" in ended.figures["error"]


def test_what_kinesis_needs_is_named_where_it_is_missing() -> None:
    program = (
        "import sys; sys.modules['boto3'] = None; sys.argv = ['cdc', 'demo', '--transport', 'kinesis']\n"
        "from cdc_platform._cli import main; main()"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "pip install 'cdc-platform[demo]'" in ended.stderr
