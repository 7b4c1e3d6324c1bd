"""Check the public face of every package: re-exports only, and everything public documented (lint).

`__init__.py` holds `from ._module import Name as Name` lines, and what a package needs to report its public
names as its own; an implementation lives in a module with an underscore. Whatever is re-exported, or defined
in a module without an underscore, has a docstring; a Protocol's methods are contracts and have one too.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from workspace import Package, Workspace

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
DEFINITION = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def is_public(name: str) -> bool:
    """Whether a module or a member shows itself to users."""
    return not name.startswith("_")


def documented(path: Path, node: Definition) -> Iterator[str]:
    """Yield what lacks its docstring: the definition, and a protocol's methods."""
    if ast.get_docstring(node) is None:
        yield f"{path}:{node.lineno}: {node.name} is public and has no docstring"
    if isinstance(node, ast.ClassDef) and any("Protocol" in ast.unparse(base) for base in node.bases):
        for method in node.body:
            if isinstance(method, DEFINITION) and is_public(method.name):
                yield from documented(path, method)


def definitions(path: Path) -> dict[str, Definition]:
    """Return the classes and functions that a module defines at its top, by name."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return {node.name: node for node in tree.body if isinstance(node, DEFINITION)}


def reexport_problems(path: Path, statement: ast.ImportFrom) -> Iterator[str]:
    """Yield what is wrong with one `from ._module import Name as Name`."""
    where = f"{path}:{statement.lineno}"
    for alias in statement.names:
        if alias.asname != alias.name:
            yield f"{where}: write `import {alias.name} as {alias.name}`: checkers see no other re-export"
    if statement.module is None:
        return
    module = path.parent.joinpath(*statement.module.split("."))
    file = module.with_suffix(".py")
    known = definitions(file if file.exists() else module / "__init__.py")
    for alias in statement.names:
        if alias.name in known:
            yield from documented(file, known[alias.name])


def init_problems(path: Path) -> Iterator[str]:
    """Yield the statements of an `__init__.py` that are neither a re-export nor its book-keeping."""
    for statement in ast.parse(path.read_text(encoding="utf-8"), str(path)).body:
        match statement:
            case ast.ImportFrom(level=1):
                yield from reexport_problems(path, statement)
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield f"{path}:{statement.lineno}: {statement.name} belongs into a module of its own"
            case _:
                pass  # the docstring, `__all__`, and the loop that sets `__module__`


def package_problems(package: Package) -> Iterator[str]:
    """Yield everything that is wrong with a package's public face."""
    for path in sorted(package.source.rglob("*.py")):
        parts = path.relative_to(package.source).with_suffix("").parts
        if path.name == "__init__.py":
            yield from init_problems(path)
        elif all(map(is_public, parts)):
            for name, node in definitions(path).items():
                if is_public(name):
                    yield from documented(path, node)


def main() -> int:
    """Print every problem; return the exit status."""
    found = [problem for package in Workspace().packages for problem in package_problems(package)]
    found = list(dict.fromkeys(found))
    print(*found, sep="\n", end="\n" if found else "")
    print(f"public names: {len(found)} problems")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
