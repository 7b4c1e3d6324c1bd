"""Find the Python interpreters that a machine has: in PATH, under pyenv's versions folder, in /usr/bin."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


def candidates(version: str) -> Iterator[Path]:
    """Yield where an interpreter of this version ("3.12") may be, the running one first."""
    if f"{sys.version_info.major}.{sys.version_info.minor}" == version:
        yield Path(sys.executable)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    # Before PATH: what pyenv puts there are shims, which fail for a version that is not switched on.
    yield from sorted(pyenv.glob(f"versions/{version}[.-]*/bin/python{version}"), reverse=True)
    if found := shutil.which(f"python{version}"):
        yield Path(found)
    yield from (Path(folder) / f"python{version}" for folder in ("/usr/bin", "/usr/local/bin"))


def find_interpreter(version: str) -> Path | None:
    """Return an interpreter that runs and is of this version, None where the machine has none."""
    question = "import sys; print('%d.%d' % sys.version_info[:2], sys.version_info.releaselevel)"
    for path in candidates(version):
        try:
            answer = subprocess.run(
                [path, "-I", "-c", question], capture_output=True, text=True, timeout=30, check=True
            )
        except (OSError, subprocess.SubprocessError):
            continue
        if answer.stdout.split()[0] == version:
            return path
    return None
