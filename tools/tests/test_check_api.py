"""The public face of a package, tried on a made-up one."""

from __future__ import annotations

from pathlib import Path

import pytest
from check_api import package_problems
from workspace import Package

GOOD = 'class Public:\n    """Holds one thing."""\n'


def found_with(tmp_path: Path, files: dict[str, str]) -> list[str]:
    """Return the problems of a package with these modules."""
    source = tmp_path / "src" / "made_up"
    source.mkdir(parents=True)
    for name, text in files.items():
        (source / name).write_text(text)
    package = Package(
        folder=tmp_path, name="made-up", import_name="made_up", dependencies=(), extras={}, pythons=()
    )
    return list(package_problems(package))


def test_a_documented_re_export_is_fine(tmp_path: Path) -> None:
    files = {"__init__.py": "from ._a import Public as Public\n", "_a.py": GOOD + "def _helper(): ...\n"}
    assert found_with(tmp_path, files) == []


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({"__init__.py": "from ._a import Public\n", "_a.py": GOOD}, id="not as itself"),
        pytest.param({"__init__.py": GOOD}, id="defined in __init__"),
        pytest.param(
            {"__init__.py": "from ._a import f as f\n", "_a.py": "def f(): ...\n"}, id="re-exported"
        ),
        pytest.param({"__init__.py": "", "faults.py": "def crash(): ...\n"}, id="in a public module"),
        pytest.param(
            {
                "__init__.py": "from ._a import Source as Source\n",
                "_a.py": 'class Source(Protocol):\n    """A contract."""\n    def open(self): ...\n',
            },
            id="a protocol's method",
        ),
    ],
)
def test_a_public_name_without_its_docstring_or_re_export_is_found(
    tmp_path: Path, files: dict[str, str]
) -> None:
    assert len(found_with(tmp_path, files)) == 1
