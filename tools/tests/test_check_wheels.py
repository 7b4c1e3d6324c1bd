"""What a wheel and an sdist must hold, tried on lists of names."""

from __future__ import annotations

from pathlib import Path

import pytest
from check_wheels import only, sdist_problems, wheel_problems
from workspace import Package

LICENSE = "made_up-1.dist-info/licenses/LICENSE"
WHOLE = {"made_up/__init__.py", "made_up/py.typed", "made_up-1.dist-info/METADATA", LICENSE}


@pytest.fixture
def package(tmp_path: Path) -> Package:
    """A package of one module and one test."""
    for name in ("src/made_up/__init__.py", "src/made_up/py.typed", "tests/test_it.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    return Package(
        folder=tmp_path, name="made-up", import_name="made_up", dependencies=(), extras={}, pythons=()
    )


def test_a_whole_wheel_is_fine(package: Package) -> None:
    assert list(wheel_problems(package, WHOLE)) == []


@pytest.mark.parametrize("missing", ["made_up/__init__.py", "made_up/py.typed", LICENSE])
def test_a_file_that_a_wheel_lacks_is_found(package: Package, missing: str) -> None:
    assert len(list(wheel_problems(package, WHOLE - {missing}))) == 1


def test_a_source_without_py_typed_is_found_although_the_wheel_agrees_with_it(package: Package) -> None:
    (package.source / "py.typed").unlink()
    assert list(wheel_problems(package, WHOLE - {"made_up/py.typed"}))


@pytest.mark.parametrize("foreign", ["tests/test_it.py", "made_up/tests/test_it.py", "conftest.py"])
def test_a_file_that_does_not_belong_into_a_wheel_is_found(package: Package, foreign: str) -> None:
    assert list(wheel_problems(package, WHOLE | {foreign})) == [f"made-up: wheel has {foreign}"]


def test_an_sdist_holds_the_tests(package: Package) -> None:
    names = {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml"}
    assert list(sdist_problems(package, names)) == ["made-up: sdist lacks tests/test_it.py"]
    assert list(sdist_problems(package, {*names, "tests/test_it.py"})) == []


def test_two_builds_in_one_folder_are_refused(tmp_path: Path) -> None:
    for version in ("1", "2"):
        (tmp_path / f"made_up-{version}-py3-none-any.whl").write_text("")
    with pytest.raises(LookupError, match="expected one file"):
        only(tmp_path, "made_up-*.whl")
