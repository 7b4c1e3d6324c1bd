"""Refuse imports that go against the arrows between the packages (lint).

The arrows are the contract of the architecture: a transport never imports another transport, cdc_core and
cdc_pgoutput know nobody, and only cdc_platform may know several transports. A package that is not named here
is taken for a transport, which may import cdc_core alone, so a new one is covered on the day it appears.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from workspace import Package, Workspace

ARROWS: dict[str, frozenset[str]] = {
    "cdc_core": frozenset(),
    "cdc_pgoutput": frozenset(),
    "cdc_testing": frozenset({"cdc_core", "cdc_pgoutput"}),
    "cdc_wal": frozenset({"cdc_core", "cdc_pgoutput"}),
}
TRANSPORT_ARROWS = frozenset({"cdc_core"})
KNOWS_EVERYBODY = "cdc_platform"
STANDARD_LIBRARY_ONLY = frozenset({"cdc_pgoutput"})
# Not the benchmarks: they time the parts that no user calls.
OUTSIDE = ("examples", "emulators", "tests-integration")


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One imported name: `module` as written, `name` where it is `from module import name`."""

    line: int
    module: str
    name: str | None = None

    @property
    def top(self) -> str:
        """The import package it belongs to."""
        return self.module.partition(".")[0]

    @property
    def private(self) -> bool:
        """Whether it reaches below a public name: `a._b`, or `from a import _b`."""
        parts = [*self.module.split(".")[1:], *([self.name] if self.name else [])]
        return any(part.startswith("_") and not part.startswith("__") for part in parts)


def imports_of(source: str, filename: str = "<source>") -> Iterator[Import]:
    """Yield the absolute imports of a module, those in functions and under TYPE_CHECKING among them.

    Relative imports cannot leave their package, so they need no check. `import_module("literal")` counts.
    """
    for node in ast.walk(ast.parse(source, filename)):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield Import(line=node.lineno, module=alias.name)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                for alias in names:
                    yield Import(line=node.lineno, module=module, name=alias.name)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(module)), *_],
            ) if not module.startswith("."):
                yield Import(line=node.lineno, module=module)
            case _:
                pass


def allowed_siblings(import_name: str, siblings: frozenset[str]) -> frozenset[str]:
    """Return which of our own packages `import_name` may import besides itself."""
    if import_name == KNOWS_EVERYBODY:
        return siblings
    return ARROWS.get(import_name, TRANSPORT_ARROWS)


def source_problems(package: Package, siblings: frozenset[str]) -> Iterator[str]:
    """Yield what is wrong with the imports of a package's shipped modules, and with its declared siblings."""
    own = package.import_name
    allowed = allowed_siblings(own, siblings)
    for path in sorted(package.source.rglob("*.py")):
        for found in imports_of(path.read_text(encoding="utf-8"), str(path)):
            where = f"{path}:{found.line}: {found.module}"
            if found.top == own:
                continue
            if found.top in siblings:
                if found.top not in allowed:
                    yield f"{where}: {own} may import of ours only {sorted(allowed) or 'nothing'}"
                elif found.private:
                    yield f"{where}: private to {found.top}"
            elif own in STANDARD_LIBRARY_ONLY and found.top not in sys.stdlib_module_names:
                yield f"{where}: {own} depends on the standard library alone"
    for name in sorted(package.required | package.optional):
        sibling = name.replace("-", "_")
        if sibling in siblings and sibling not in allowed | {own}:
            yield f"{package.folder / 'pyproject.toml'}: {name}: {own} may not depend on it"


def outside_problems(path: Path, siblings: frozenset[str], *, own: str | None = None) -> Iterator[str]:
    """Yield the private names that tests and programs take from packages other than `own`."""
    for found in imports_of(path.read_text(encoding="utf-8"), str(path)):
        if found.top in siblings and found.top != own and found.private:
            yield f"{path}:{found.line}: {found.module}: private to {found.top}"


def problems(workspace: Workspace) -> Iterator[str]:
    """Yield every import of the repository that breaks a rule."""
    siblings = frozenset(package.import_name for package in workspace.packages)
    for package in workspace.packages:
        yield from source_problems(package, siblings)
        for path in sorted(package.tests.rglob("*.py")):
            yield from outside_problems(path, siblings, own=package.import_name)
    for folder in OUTSIDE:
        for path in sorted((workspace.root / folder).rglob("*.py")):
            yield from outside_problems(path, siblings)


def main() -> int:
    """Print every problem; return the exit status."""
    found = list(problems(Workspace()))
    print(*found, sep="\n", end="\n" if found else "")
    print(f"imports: {len(found)} problems")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
