"""Check that every public name of an installed package has its types, with `pyright --verifytypes` (types).

Usage: check_completeness.py IMPORT_NAME. pyright calls a package without any public name 0 % complete and
fails; such a package has nothing to check yet.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def report(import_name: str) -> dict[str, Any]:
    """Return pyright's report on an installed package.

    Raises:
        ValueError: pyright printed none, as where the package has no py.typed.
    """
    command = [
        sys.executable,
        "-m",
        "pyright",
        "--outputjson",
        "--ignoreexternal",
        "--verifytypes",
        import_name,
    ]
    # --verifytypes takes the first interpreter in PATH and ignores --pythonpath (pyright 1.1.414).
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    environment = {**os.environ, "PATH": path}
    answer = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return dict(json.loads(answer.stdout)["typeCompleteness"])


def is_error(diagnostic: dict[str, Any]) -> bool:
    """Whether this is about a type: a missing docstring is only a warning, and another check's matter."""
    return str(diagnostic["severity"]) == "error"


def main() -> int:
    """Print the score and what is incomplete; return the exit status."""
    name = sys.argv[1]
    found = report(name)
    if found.get("pyTypedPath") is None:
        print(f"{name}: py.typed is missing")
        return 1
    counts = found["exportedSymbolCounts"]
    incomplete = counts["withAmbiguousType"] + counts["withUnknownType"]
    # What is not exported itself, an attribute or a base class, is often the reason.
    for symbol in found["symbols"] if incomplete else ():
        for entry in filter(is_error, symbol["diagnostics"]):
            print(f"{symbol['name']}: {entry['message']}")
    print(f"{name}: {counts['withKnownType']} public names with their types, {incomplete} without")
    return 1 if incomplete else 0


if __name__ == "__main__":
    sys.exit(main())
