"""Runs the installed `cdc demo` as its users do, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CDC = str(Path(sys.executable).with_name("cdc"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A command that has ended; `figures` is the JSON object in its last line of output, empty where there is none."""

    status: int
    figures: dict[str, Any]
    text: str


def run_demo_command(*arguments: str, as_json: bool = True) -> Ended:
    """Run it to its end."""
    command = [CDC, "demo", *(["--json"] if as_json else []), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=55, check=False)
    return _ended(ended.returncode, ended.stdout, ended.stderr)


def start_demo_command(*arguments: str) -> subprocess.Popen[str]:
    """Start it, for scripts."""
    command = [CDC, "demo", "--json", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end_of(process: subprocess.Popen[str]) -> Ended:
    """Wait for its end."""
    try:
        output, text = process.communicate(timeout=40)
    finally:
        process.kill()
    return _ended(process.returncode, output, text)


def _ended(status: int, output: str, text: str) -> Ended:
    lines = output.splitlines()
    is_json = bool(lines) and lines[-1].startswith("{")
    return Ended(status=status, figures=json.loads(lines[-1]) if is_json else {}, text=output + text)
