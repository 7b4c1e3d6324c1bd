"""The arrows between the packages, tried on small made-up workspaces."""

from __future__ import annotations

from pathlib import Path

import pytest
from check_imports import problems
from workspace import ROOT, Workspace

PACKAGES = {
    "cdc-core": ["anyio"],
    "cdc-pgoutput": [],
    "cdc-wal": ["cdc-core", "cdc-pgoutput"],
    "cdc-rabbit": ["cdc-core"],  # a transport that no list names
    "cdc-testing": ["cdc-core"],
    "cdc-platform": ["cdc-core", "cdc-wal", "cdc-rabbit"],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace of empty packages."""
    for name, dependencies in PACKAGES.items():
        source = tmp_path / "packages" / name / "src" / name.replace("-", "_")
        source.mkdir(parents=True)
        (source / "__init__.py").write_text("")
        (tmp_path / "packages" / name / "pyproject.toml").write_text(
            f"[project]\nname = {name!r}\nclassifiers = []\ndependencies = {dependencies!r}\n"
        )
    return tmp_path


def found_with(root: Path, package: str, source: str, *, folder: str | None = None) -> list[str]:
    """Return the problems once a module of `package` holds `source`."""
    path = root / "packages" / package / (folder or f"src/{package.replace('-', '_')}") / "_module.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    return list(problems(Workspace(root=root)))


def test_the_packages_alone_break_no_rule(root: Path) -> None:
    assert list(problems(Workspace(root=root))) == []


@pytest.mark.parametrize(
    ("package", "source"),
    [
        pytest.param("cdc-rabbit", "import cdc_wal", id="a transport imports another"),
        pytest.param("cdc-wal", "from cdc_rabbit import Queue", id="the reader imports a transport"),
        pytest.param("cdc-rabbit", "import cdc_pgoutput", id="a transport imports the decoder"),
        pytest.param(
            "cdc-core", "def f():\n    import cdc_wal.source", id="the core imports, inside a function"
        ),
        pytest.param("cdc-core", "from cdc_testing import Fault", id="the core imports the test kit"),
        pytest.param("cdc-core", "import importlib\nimportlib.import_module('cdc_wal')", id="by its name"),
        pytest.param("cdc-pgoutput", "from cdc_core import Event", id="the decoder imports the core"),
        pytest.param("cdc-pgoutput", "import anyio", id="the decoder imports a third party"),
        pytest.param("cdc-testing", "import cdc_platform", id="the test kit imports the platform"),
        pytest.param("cdc-wal", "from cdc_core._acks import AckTracker", id="a private module"),
        pytest.param("cdc-wal", "import cdc_core._acks", id="a private module, whole"),
        pytest.param("cdc-platform", "from cdc_core import _acks", id="a private name"),
    ],
)
def test_an_import_against_an_arrow_is_refused(root: Path, package: str, source: str) -> None:
    found = found_with(root, package, source)
    assert len(found) == 1
    assert "_module.py" in found[0]


@pytest.mark.parametrize(
    ("package", "source"),
    [
        pytest.param("cdc-wal", "from cdc_core import Event\nimport cdc_pgoutput, psycopg", id="the reader"),
        pytest.param("cdc-platform", "import cdc_wal\nimport cdc_rabbit", id="the platform knows everybody"),
        pytest.param(
            "cdc-core", "from ._events import Event\nfrom cdc_core._acks import x", id="its own parts"
        ),
        pytest.param("cdc-pgoutput", "import struct\nfrom collections.abc import Sequence", id="the library"),
        pytest.param("cdc-wal", "from cdc_core import __version__", id="a dunder name"),
    ],
)
def test_an_import_along_an_arrow_is_allowed(root: Path, package: str, source: str) -> None:
    assert found_with(root, package, source) == []


def test_a_declared_dependency_against_an_arrow_is_refused(root: Path) -> None:
    pyproject = root / "packages" / "cdc-rabbit" / "pyproject.toml"
    pyproject.write_text(pyproject.read_text() + "optional-dependencies = { wal = ['cdc-wal>=0.1'] }\n")
    assert [line for line in problems(Workspace(root=root)) if "cdc-wal" in line and "cdc_rabbit" in line]


def test_tests_use_other_packages_but_only_their_public_names(root: Path) -> None:
    assert found_with(root, "cdc-core", "import cdc_testing\nfrom cdc_core._x import y", folder="tests") == []
    assert found_with(root, "cdc-core", "from cdc_testing._clock import Clock", folder="tests")


def test_examples_use_public_names_only(root: Path) -> None:
    (root / "examples").mkdir()
    (root / "examples" / "shop.py").write_text("from cdc_core._pipeline import Pipeline")
    assert len(list(problems(Workspace(root=root)))) == 1


def test_every_package_of_this_repository_is_found() -> None:
    folders = {path.name for path in (ROOT / "packages").iterdir() if (path / "pyproject.toml").exists()}
    assert {package.folder.name for package in Workspace().packages} == folders
    assert folders
