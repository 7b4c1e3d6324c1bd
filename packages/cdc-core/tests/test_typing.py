"""Type checkers refuse the handler of a wrong row, and nothing that is right."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Not a .py file: the checks of the whole repository would find its errors, too.
CASES = Path(__file__).parent / "handlers_of_wrong_rows.txt"
EXPECTED = {
    number for number, line in enumerate(CASES.read_text().splitlines(), 1) if line.endswith("# expect-error")
}


def run(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, check=False
    ).stdout


@pytest.mark.timeout(300)
def test_mypy_refuses_exactly_the_marked_lines(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    program = shutil.copy(CASES, tmp_path / "handlers.py")
    found = run("mypy", "--strict", "--no-error-summary", f"--cache-dir={tmp_path / 'cache'}", str(program))
    assert {int(line.split(":")[1]) for line in found.splitlines() if ": error:" in line} == EXPECTED, found


@pytest.mark.timeout(300)
def test_pyright_refuses_exactly_the_marked_lines(tmp_path: Path) -> None:
    pytest.importorskip("pyright")
    config = tmp_path / "pyrightconfig.json"
    config.write_text(json.dumps({"typeCheckingMode": "strict", "pythonVersion": "3.11"}))
    shutil.copy(CASES, tmp_path / "handlers.py")
    found = json.loads(
        run("pyright", "--outputjson", f"--pythonpath={sys.executable}", f"--project={config}")
    )
    errors = [item for item in found["generalDiagnostics"] if item["severity"] == "error"]
    assert {item["range"]["start"]["line"] + 1 for item in errors} == EXPECTED, errors
