"""Check one package inside the environment that it alone was installed into (packages session).

Usage: python -I check_installed.py PACKAGE FOLDER [--extras]. Runs in that environment's own interpreter,
which has nothing but the package, what it declares, and what that brings. Four things are checked:

- each of our distributions came from a wheel in FOLDER: an index has not stood in for it;
- every module can be imported; without --extras, a module may fail only for the want of a module that no
  declared dependency brings, and the same module must work with --extras;
- each entry point leads to something;
- each imported module belongs to a declared distribution: one that is only there because another dependency
  happens to need it is an undeclared import.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from check_imports import Import, imports_of
from workspace import Package, Workspace, normalized


def owners() -> dict[Path, str]:
    """Return, for each installed file, the distribution that brought it."""
    found: dict[Path, str] = {}
    for distribution in importlib.metadata.distributions():
        for file in distribution.files or ():
            found[Path(str(distribution.locate_file(file))).resolve()] = normalized(distribution.name)
    return found


def origin(name: str) -> Path | None:
    """Return the file of a module, None where there is none (missing, built in, a namespace)."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin).resolve() if spec is not None and spec.origin and spec.has_location else None


def undeclared(package: Package, *, extras: bool) -> Iterator[str]:
    """Yield the imports of third-party modules that no declared dependency of the package owns."""
    declared = package.required | package.optional | {package.name}
    by_file = owners()
    for path in sorted(package.source.rglob("*.py")):
        for found in imports_of(path.read_text(encoding="utf-8"), str(path)):
            if found.top in sys.stdlib_module_names or found.top == package.import_name:
                continue
            owner = owner_of(found, by_file)
            if owner is None and extras:
                yield f"{path}:{found.line}: {found.module} is brought by no dependency or extra"
            elif owner is not None and owner not in declared:
                yield f"{path}:{found.line}: {found.module} belongs to {owner}, which is not declared"


def owner_of(found: Import, by_file: dict[Path, str]) -> str | None:
    """Return the distribution that owns an imported module.

    `from namespace import module` names the module by both parts: a namespace such as `google` has no owner.
    """
    for name in (found.module, f"{found.module}.{found.name}"):
        if (file := origin(name)) is not None:
            return by_file.get(file, "an unknown distribution")
    return None


def import_problems(package: Package, *, extras: bool) -> Iterator[str]:
    """Import every module; yield those that fail."""
    for module in package.modules():
        if module.endswith(".__main__"):
            continue
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            # Our own modules come with their package: only a foreign one can be an extra's.
            own = (error.name or "").partition(".")[0] == package.import_name
            if own or extras or module == package.import_name or not package.extras:
                yield f"{module}: there is no {error.name}, and nothing declared brings it"
            else:
                print(f"{module} needs an extra: {error.name}")
        except Exception:  # noqa: BLE001 -- whatever a module raises when imported is the finding
            yield f"{module} cannot be imported:\n{traceback.format_exc()}"


def entry_point_problems(package: Package) -> Iterator[str]:
    """Load each of the package's scripts, plug-ins and transports; yield those that lead nowhere."""
    for found in importlib.metadata.distribution(package.name).entry_points:
        try:
            found.load()
        except (AttributeError, ImportError) as error:
            yield f"entry point {found.group}: {found.name} = {found.value}: {error}"


def origin_problems(workspace: Workspace, folder: Path) -> Iterator[str]:
    """Yield those of our distributions that were not installed from a file in `folder`."""
    ours = {package.name for package in workspace.packages}
    for distribution in importlib.metadata.distributions():
        if normalized(distribution.name) not in ours:
            continue
        source = json.loads(distribution.read_text("direct_url.json") or "{}").get("url", "an index")
        if not source.startswith(folder.resolve().as_uri() + "/"):
            yield f"{distribution.name} was installed from {source}, not from {folder}"


def main() -> int:
    """Print every problem; return the exit status."""
    name, folder, extras = sys.argv[1], Path(sys.argv[2]), "--extras" in sys.argv
    workspace = Workspace()
    package = next(package for package in workspace.packages if package.name == name)
    found = [
        *origin_problems(workspace, folder),
        *import_problems(package, extras=extras),
        *(entry_point_problems(package) if extras or not package.extras else ()),
        *undeclared(package, extras=extras),
    ]
    print(*found, sep="\n", end="\n" if found else "")
    where = "with every extra" if extras else "alone"
    print(f"{name} {where}: {len(package.modules())} modules, {len(found)} problems")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
