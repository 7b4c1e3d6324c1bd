"""Writes the API pages of the site: one per package, one entry per public name.

Sphinx's own `automodule` leaves out what a package re-exports unless it is a class or a function, so that a type
alias or a constant could not be referred to. The names are therefore read from each `__init__.py`.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path
from typing import ParamSpec, TypeVar

from workspace import Package

INDENT = "   "
CLASS = (":members:", ":undoc-members:", ":show-inheritance:")


def is_type_variable(dotted: str) -> bool:
    """Whether `package.module.name` is a TypeVar or a ParamSpec."""
    module, _, name = dotted.rpartition(".")
    try:
        return isinstance(getattr(importlib.import_module(module), name, None), TypeVar | ParamSpec)
    except ImportError:
        return False


def entry(public: str, name: str, module: ast.Module) -> Iterator[str]:
    """Yield the directive that documents the public name of something that `module` defines as `name`."""
    following = [*pairwise(module.body), (module.body[-1], None)] if module.body else []
    for node, after in following:
        match node:
            case ast.ClassDef(name=found) if found == name:
                yield f".. autoclass:: {public}"
                yield from (INDENT + option for option in CLASS)
                return
            case ast.FunctionDef(name=found) | ast.AsyncFunctionDef(name=found) if found == name:
                yield f".. autofunction:: {public}"
                return
            case (
                ast.Assign(targets=[ast.Name(id=found)], value=value)
                | ast.AnnAssign(target=ast.Name(id=found), value=ast.expr() as value)
            ) if found == name:
                yield f".. py:data:: {public}"
                yield f"{INDENT}:value: {' '.join(ast.unparse(value).split())}"
                match after:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        yield ""
                        yield from (INDENT + line.strip() for line in text.strip().splitlines())
                    case _:
                        pass
                return
            case _:
                pass
    yield f".. py:data:: {public}"


def re_exports(dotted: str, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each name that the `__init__.py` of a package re-exports, with its entry; dunder names left out."""
    for node in ast.parse((folder / "__init__.py").read_text(encoding="utf-8")).body:
        match node:
            case ast.ImportFrom(level=1, module=str(source), names=names):
                path = folder.joinpath(*source.split("."))
                file = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
                module = ast.parse(file.read_text(encoding="utf-8"))
                for alias in names:
                    name = alias.asname or alias.name
                    if not name.startswith("_"):
                        yield name, [*entry(f"{dotted}.{name}", alias.name, module), ""]
            case _:
                pass


def page(package: Package) -> str:
    """Return a package's page: its own names, then each module or package in it without an underscore."""
    entries = dict(re_exports(package.import_name, package.source))
    lines = [
        f"# {package.import_name}",
        "",
        "```{eval-rst}",
        *chain.from_iterable(entries.values()),
        "```",
        "",
    ]
    for module in package.modules():
        if module == package.import_name or any(part.startswith("_") for part in module.split(".")):
            continue
        lines += [f"## {module}", "", "```{eval-rst}"]
        folder = package.source.parent.joinpath(*module.split("."))
        if folder.is_dir():
            inner = dict(re_exports(module, folder))
            lines += [f".. automodule:: {module}", "", *chain.from_iterable(inner.values())]
        else:
            # What the package re-exports has its entry above.
            options = [*CLASS, f":exclude-members: {', '.join(entries)}"]
            lines += [f".. automodule:: {module}", *(INDENT + option for option in options)]
        lines += ["```", ""]
    return "\n".join(lines)


def write_api_pages(folder: Path, packages: tuple[Package, ...]) -> None:
    """Write one page per package into `folder`, and remove the pages of packages that are gone."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.md"):
        old.unlink()
    for package in packages:
        (folder / f"{package.import_name}.md").write_text(page(package), encoding="utf-8")
