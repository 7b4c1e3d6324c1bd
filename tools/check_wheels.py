"""Check what the built wheels and sdists in a folder hold (packages session).

Usage: check_wheels.py FOLDER. Each package has exactly one of both; the wheel holds every file of the source,
py.typed and the licence, and nothing else: no tests, no tools; the sdist holds what it takes to build and to
test the package elsewhere.
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from workspace import Package, Workspace


def only(folder: Path, pattern: str) -> Path:
    """Return the one file that matches.

    Raises:
        LookupError: there is none, or several.
    """
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise LookupError(f"{folder / pattern}: expected one file, found {[path.name for path in found]}")
    return found[0]


def wheel_of(package: Package, folder: Path) -> Path:
    """Return the package's wheel in `folder`."""
    return only(folder, f"{package.import_name}-*.whl")


def sdist_of(package: Package, folder: Path) -> Path:
    """Return the package's sdist in `folder`."""
    return only(folder, f"{package.import_name}-*.tar.gz")


def wheel_problems(package: Package, names: set[str]) -> Iterator[str]:
    """Yield what is missing from, or foreign to, a wheel with these members."""
    source = package.source.parent
    expected = {
        path.relative_to(source).as_posix()
        for path in package.source.rglob("*")
        if path.is_file() and path.suffix not in {".pyc", ".so"} and "__pycache__" not in path.parts
    }
    # A missing py.typed silently makes every user's type checker see Any.
    expected.add(f"{package.import_name}/py.typed")
    metadata = {name for name in names if name.partition("/")[0].endswith(".dist-info")}
    yield from (f"{package.name}: wheel lacks {name}" for name in sorted(expected - names))
    yield from (f"{package.name}: wheel has {name}" for name in sorted(names - expected - metadata))
    if not any(name.endswith("/licenses/LICENSE") for name in metadata):
        yield f"{package.name}: wheel lacks its LICENSE"


def sdist_problems(package: Package, names: set[str]) -> Iterator[str]:
    """Yield what an sdist with these members (without its top folder) lacks."""
    for name in ("LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml"):
        if name not in names:
            yield f"{package.name}: sdist lacks {name}"
    for path in package.test_files():
        if (name := path.relative_to(package.folder).as_posix()) not in names:
            yield f"{package.name}: sdist lacks {name}"


def problems(workspace: Workspace, folder: Path) -> Iterator[str]:
    """Yield every problem of the built files."""
    for package in workspace.packages:
        with zipfile.ZipFile(wheel_of(package, folder)) as wheel:
            yield from wheel_problems(package, set(wheel.namelist()))
        with tarfile.open(sdist_of(package, folder)) as sdist:
            yield from sdist_problems(package, {name.partition("/")[2] for name in sdist.getnames()})


def main() -> int:
    """Print every problem; return the exit status."""
    found = list(problems(Workspace(), Path(sys.argv[1])))
    print(*found, sep="\n", end="\n" if found else "")
    print(f"wheels and sdists: {len(found)} problems")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
