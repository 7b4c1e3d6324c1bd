"""The demo with its embedded server, as a user starts it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import pytest
from demo_command import end_of, run_demo_command, start_demo_command


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_run_ends_with_every_change_handled_or_set_aside(backend: str) -> None:
    ended = run_demo_command("--seconds", "3", "--backend", backend)
    figures = ended.figures
    assert ended.status == 0, ended.text
    assert (figures["backend"], figures["lost"], figures["error"]) == (backend, 0, None)
    assert figures["written"] == figures["handled"] + figures["dead_letters"] > 100
    assert figures["dead_letters"] >= 1
    assert (figures["reordered"], figures["resurrected"], figures["altered"]) == (0, 0, 0)
    assert figures["rolled_back"] > 0
    assert figures["seconds"] >= 3


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["restart", "immediate", "terminate"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_fault_during_the_run_loses_nothing(backend: str, fault: str) -> None:
    ended = run_demo_command("--seconds", "4", "--fault", fault, "--backend", backend)
    figures = ended.figures
    assert ended.status == 0, ended.text
    assert figures["fault_seconds"] is not None
    assert f"fault: {fault}" in ended.text
    assert figures["lost"] == 0
    assert figures["written"] == figures["handled"] + figures["dead_letters"] > 100


@pytest.mark.slow
@pytest.mark.parametrize("received", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_writers_and_what_was_written_is_proved(received: signal.Signals) -> None:
    process = start_demo_command("--seconds", "0")
    assert process.stderr is not None
    for line in process.stderr:
        if " running: " in line:
            break
    process.send_signal(received)
    ended = end_of(process)
    assert ended.status == 0, ended.text
    assert ended.figures["lost"] == 0
    assert ended.figures["written"] == ended.figures["handled"] + ended.figures["dead_letters"] > 0
    assert "Nothing was lost" in ended.text


@pytest.mark.slow
def test_a_poison_row_is_shown_with_its_id_its_key_and_its_cause() -> None:
    ended = run_demo_command("--seconds", "2", as_json=False)
    assert ended.status == 0, ended.text
    assert re.search(r"\d+ +cdc_demo\.orders +\{\"id\": \d+\} +ValueError: day is out of range", ended.text)


def test_a_missing_extra_is_named_with_what_installs_it() -> None:
    program = (
        "import sys; sys.modules['psycopg'] = None; sys.argv = ['cdc', 'demo']\n"
        "from cdc_platform._cli import main; main()"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "pip install 'cdc-platform[demo]'" in ended.stderr


def test_the_help_tells_what_a_run_shows_and_proves() -> None:
    ended = run_demo_command("--help", as_json=False)
    assert ended.status == 0
    text = " ".join(ended.text.split())
    assert "prove that none was lost" in text
    assert all(
        option in text for option in ("--seconds", "--dsn", "--fault", "--json", "--drop", "--backend")
    )
