"""The packages of this repository, read from packages/*/pyproject.toml so that no list of them is typed."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).resolve().parent.parent


def normalized(name: str) -> str:
    """Return the distribution name in its one canonical spelling (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement_name(requirement: str) -> str:
    """Return the canonical name that a requirement string such as `psycopg[binary]>=3.2` starts with."""
    match = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", requirement.strip())
    if match is None:
        raise ValueError(f"not a requirement: {requirement!r}")
    return normalized(match.group())


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One distribution: its folder, names, and what its pyproject.toml declares."""

    folder: Path
    name: str
    import_name: str
    dependencies: tuple[str, ...]
    extras: dict[str, tuple[str, ...]]
    pythons: tuple[str, ...]

    @property
    def source(self) -> Path:
        """The folder that holds the import package's modules."""
        return self.folder / "src" / self.import_name

    @property
    def tests(self) -> Path:
        """The folder of the package's own tests."""
        return self.folder / "tests"

    @property
    def required(self) -> frozenset[str]:
        """Names of the distributions that every installation brings."""
        return frozenset(map(requirement_name, self.dependencies))

    @property
    def optional(self) -> frozenset[str]:
        """Names of the distributions that some extra brings."""
        return frozenset(requirement_name(line) for lines in self.extras.values() for line in lines)

    def modules(self) -> list[str]:
        """Return the dotted name of every module, the package itself first."""
        names: list[str] = []
        for path in sorted(self.source.rglob("*.py")):
            parts = path.relative_to(self.source.parent).with_suffix("").parts
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
        return sorted(names)

    def test_files(self) -> list[Path]:
        """Return the files that pytest would collect from this package."""
        return sorted(self.tests.rglob("test_*.py"))


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """A repository with packages below `packages/`."""

    root: Path = ROOT

    @cached_property
    def packages(self) -> tuple[Package, ...]:
        """Every package, sorted by name."""
        return tuple(map(read_package, sorted((self.root / "packages").glob("*/pyproject.toml"))))

    @cached_property
    def pythons(self) -> tuple[str, ...]:
        """Every Python version that some package's classifiers claim, oldest first."""
        found = {version for package in self.packages for version in package.pythons}
        return tuple(sorted(found, key=lambda version: tuple(map(int, version.split(".")))))

    def closure(self, package: Package, *, with_extras: bool) -> list[Package]:
        """Return the sibling packages that installing `package` needs, itself first."""
        by_name = {sibling.name: sibling for sibling in self.packages}
        found = [package]
        for member in found:
            # Extras of siblings are followed too: a requirement may name one, and more wheels do no harm.
            needed = member.required | member.optional if with_extras else member.required
            found.extend(
                by_name[name] for name in sorted(needed & by_name.keys()) if by_name[name] not in found
            )
        return found


def read_package(pyproject: Path) -> Package:
    """Return the package that a pyproject.toml describes.

    Raises:
        ValueError: it has not exactly one import package below src/.
    """
    project = cast("dict[str, Any]", tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"])
    folder = pyproject.parent
    imports = [path.parent.name for path in folder.glob("src/*/__init__.py")]
    if len(imports) != 1:
        raise ValueError(f"{folder.name}: expected one import package below src/, found {imports}")
    prefix = "Programming Language :: Python :: 3."
    return Package(
        folder=folder,
        name=normalized(project["name"]),
        import_name=imports[0],
        dependencies=tuple(project.get("dependencies", ())),
        extras={name: tuple(lines) for name, lines in project.get("optional-dependencies", {}).items()},
        pythons=tuple(
            line.removeprefix(prefix[:-2]) for line in project["classifiers"] if line.startswith(prefix)
        ),
    )
