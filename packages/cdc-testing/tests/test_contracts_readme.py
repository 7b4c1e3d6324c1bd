"""What the README shows is run as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_the_readmes_test_of_a_handler_passes_with_each_fault_on_both_event_loops(tmp_path: Path) -> None:
    [program] = re.findall(
        r"<!-- executed by tests/test_contracts_readme.py -->\n```python\n(.*?)```",
        README.read_text(),
        re.DOTALL,
    )
    (tmp_path / "test_readme.py").write_text(program)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "test_readme.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert "6 passed" in run.stdout, run.stdout + run.stderr
