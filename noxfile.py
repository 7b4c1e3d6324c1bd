"""Every check of the repository. Plain `nox` runs them all; CONTRIBUTING.md says what each one is for.

Needs nothing but Python 3.11 or later, nox, and a package index: uv is used where it is installed.
The list of packages, their extras and the Python versions they claim are read from packages/*/pyproject.toml.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import nox
import nox.command

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))

from check_wheels import wheel_of  # noqa: E402
from interpreters import find_interpreter  # noqa: E402
from workspace import Package, Workspace  # noqa: E402

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "types", "tests", "integration", "packages", "docs"]
# What is tested is what the machine has, and the rest is said to be untested: nothing is downloaded for it.
nox.options.download_python = "never"

DIST = ROOT / "dist"
WORKSPACE = Workspace(root=ROOT)
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"
# Tests marked slow run on this one alone.
PRIMARY = RUNNING if RUNNING in WORKSPACE.pythons else WORKSPACE.pythons[-1]
# Ctrl-C reaches the demo too, which then drains and prints its summary; nox would kill it within a second.
DEMO_MAY_TAKE_TO_LEAVE_SECONDS = 60.0


def group(*names: str) -> list[str]:
    """Return the pinned requirements of dependency groups of pyproject.toml."""
    return [line for name in names for line in nox.project.dependency_groups(PYPROJECT, name)]


def extras_of(package: Package) -> str:
    """Return every extra of a package as a requirement writes them, nothing where it has none."""
    return f"[{','.join(package.extras)}]" if package.extras else ""


def wheels_of(packages: Iterable[Package], *, extras: bool = True) -> list[str]:
    """Return requirements that name the built files, so that an index can never stand in for one of them."""
    return [
        f"{package.name}{extras_of(package) if extras else ''} @ {wheel_of(package, DIST).as_uri()}"
        for package in packages
    ]


def with_python(*folders: str) -> list[str]:
    """Return those folders of the repository that hold Python files already."""
    return [folder for folder in folders if any((ROOT / folder).rglob("*.py"))]


def run_all(session: nox.Session, commands: Iterable[Sequence[str]]) -> None:
    """Run every command although one fails, so that one run shows all there is to mend; then fail."""
    failed: list[str] = []
    for command in commands:
        try:
            session.run(*command)
        except nox.command.CommandFailed:
            failed.append(" ".join(command[:3]))
    if failed:
        session.error(f"failed: {'; '.join(failed)}")


def find_uv() -> str | None:
    """Return the uv that nox would use: the one installed beside it, or in PATH."""
    beside = shutil.which("uv", path=Path(sys.executable).parent)
    return beside or shutil.which("uv")


class Environment:
    """A new virtual environment of any interpreter, beside the one that nox gives a session."""

    def __init__(self, session: nox.Session, name: str, interpreter: Path) -> None:
        self.session = session
        self.path = Path(session.cache_dir) / "environments" / name
        self.uv = find_uv()
        create = [self.uv, "venv", "--quiet"] if self.uv else [sys.executable, "-m", "virtualenv", "--quiet"]
        session.run(*create, "--clear", "--python", str(interpreter), str(self.path), external=True)

    @property
    def python(self) -> str:
        """The environment's interpreter."""
        return str(self.path / "bin" / "python")

    def install(self, *requirements: str) -> None:
        """Install requirements, all resolved together."""
        pip = [self.uv, "pip"] if self.uv else [self.python, "-m", "pip"]
        target = ["--python", self.python] if self.uv else []
        self.session.run(*pip, "install", "--quiet", *target, *requirements, external=True, silent=True)

    def run(self, *arguments: str) -> None:
        """Run the environment's interpreter; the session fails where it fails."""
        self.session.run(self.python, *arguments, external=True)


@nox.session(reuse_venv=True)
def wheels(session: nox.Session) -> None:
    """Build every sdist, and every wheel from its sdist, into dist/. Other sessions ask for it: run once."""
    session.install(*group("build"))
    shutil.rmtree(DIST, ignore_errors=True)
    for package in WORKSPACE.packages:
        # Without isolation: one environment instead of one per build. `build` refuses to start where this
        # environment lacks anything of [build-system] requires.
        session.run(
            "python", "-m", "build", "--no-isolation", "--outdir", str(DIST), str(package.folder), silent=True
        )


@nox.session(requires=["wheels"])
def demo(session: nox.Session) -> None:
    """Show live changes of a real PostgreSQL: `nox -s demo -- --seconds 20 --fault restart`."""
    session.install(*wheels_of(WORKSPACE.packages), *group("native"))
    session.run(
        "cdc",
        "demo",
        *session.posargs,
        interrupt_timeout=DEMO_MAY_TAKE_TO_LEAVE_SECONDS,
        terminate_timeout=DEMO_MAY_TAKE_TO_LEAVE_SECONDS,
    )


@nox.session(reuse_venv=True)
def lint(session: nox.Session) -> None:
    """Check style, the arrows between packages, public names, machine-bound text and the change notes."""
    session.install(*group("lint"))
    commands = [["ruff", "check", "."], ["ruff", "format", "--check", "."]]
    commands += [["python", f"tools/check_{check}.py"] for check in ("imports", "api", "text")]
    commands += [["python", "-m", "pytest", "-q", "tools"]]
    for package in WORKSPACE.packages:
        folder = package.folder.relative_to(ROOT)
        draft = ["towncrier", "build", "--draft", "--version", "next", "--dir", str(folder)]
        commands.append([*draft, "--config", str(folder / "towncrier.toml")])
    run_all(session, commands)


@nox.session(reuse_venv=True)
def types(session: nox.Session) -> None:
    """Check types strictly, with mypy and with pyright, and that every public name has its types."""
    editable = [f"-e{package.folder}{extras_of(package)}" for package in WORKSPACE.packages]
    session.install(*editable, *group("types", "lint", "test", "examples", "docs"))
    commands: list[list[str]] = []
    # Each package and folder on its own: two of them may have files of one name.
    for package in WORKSPACE.packages:
        folders = [package.source, *([package.tests] if package.test_files() else [])]
        commands.append(["mypy", *(str(folder.relative_to(ROOT)) for folder in folders)])
    programs = with_python("examples", "benchmarks", "emulators", "localstack", "tests-integration")
    commands += [["mypy", folder] for folder in programs]
    commands += [["mypy", "tools", "docs", "noxfile.py"]]
    python = str(Path(session.bin) / "python")
    commands += [["pyright", "--pythonpath", python, "packages", *programs, "tools", "docs", "noxfile.py"]]
    for package in WORKSPACE.packages:
        commands.append(["python", "tools/check_completeness.py", package.import_name])
    # What the checkers must refuse. The environments of the other tests have no type checker and skip these.
    refusals = [str(path.relative_to(ROOT)) for path in ROOT.glob("packages/*/tests/test_typing.py")]
    commands.append(["python", "-m", "pytest", "-q", *refusals])
    run_all(session, commands)


def run_pytest(session: nox.Session, python: Sequence[str], folders: Sequence[Path], *options: str) -> None:
    """Run pytest over the folders that have tests, or over what the command line names instead.

    A folder without test files is said to have none yet. pytest's own "no tests collected" stays a failure.
    """
    empty = [str(folder.relative_to(ROOT)) for folder in folders if not any(folder.rglob("test_*.py"))]
    for name in empty:
        session.log(f"no tests yet: {name}")
    full = [str(folder.relative_to(ROOT)) for folder in folders if str(folder.relative_to(ROOT)) not in empty]
    named = any((ROOT / argument.partition("::")[0]).exists() for argument in session.posargs)
    if named or full:
        session.run(
            *python, "-m", "pytest", *options, *([] if named else full), *session.posargs, external=True
        )


@nox.session(python=False, requires=["wheels"])
@nox.parametrize("version", WORKSPACE.pythons, ids=WORKSPACE.pythons)
def tests(session: nox.Session, version: str) -> None:
    """Run unit and contract tests, embedded servers included, on the built wheels, per interpreter."""
    interpreter = find_interpreter(version)
    if interpreter is None:
        session.skip(f"untested: {version} (not found)")
    environment = Environment(session, f"tests-{version}", interpreter)
    environment.install(*wheels_of(WORKSPACE.packages), *group("test"))
    # One file's tests stay in one process, where they share their servers.
    options = ["-n", "2", "--dist", "loadfile", *([] if version == PRIMARY else ["-m", "not slow"])]
    run_pytest(session, [environment.python], [package.tests for package in WORKSPACE.packages], *options)


@nox.session(requires=["wheels"])
def integration(session: nox.Session) -> None:
    """Run what needs real servers, and the README's and the examples' programs."""
    session.install(*wheels_of(WORKSPACE.packages), *group("test", "examples"))
    # Before the tests, whose time is limited. Where npm or Maven is missing, the tests say what they could not run.
    for server in ("postgres", "kinesis", "dynamodb", "localstack"):
        session.run("python", "-m", f"emulators.{server}", "--fetch", success_codes=[0, 1])
    session.run("python", "tests-integration/kcl_consumer.py", success_codes=[0, 1])
    # They wait for servers more than they compute; one file's tests stay in one process, where they share theirs.
    run_pytest(
        session, ["python"], [ROOT / "tests-integration", ROOT / "emulators"], "-n", "2", "--dist", "loadfile"
    )


@nox.session(requires=["wheels"], reuse_venv=True)
def packages(session: nox.Session) -> None:
    """Check every built wheel and sdist, and install each alone: what it declares must be what it needs."""
    session.install(*group("packages"))
    session.run("python", "tools/check_wheels.py", str(DIST))
    session.run("twine", "check", "--strict", *map(str, sorted(DIST.iterdir())))
    session.run("check-wheel-contents", str(DIST))
    for package in WORKSPACE.packages:
        # The metadata names no person, and no home page as long as the project has none.
        unknown = ("--skip-tests", "Author,AuthorEmail,Url")
        session.run("pyroma", "--min", "10", *unknown, str(package.folder))
    for package in WORKSPACE.packages:
        alone = Environment(session, f"alone-{package.name}", Path(sys.executable))
        for extras in (False, True) if package.extras else (False,):
            closure = WORKSPACE.closure(package, with_extras=extras)
            # psycopg needs a libpq, which its users choose; here it is always the one from the wheel.
            native = group("native") if any("psycopg" in member.required for member in closure) else []
            alone.install(*wheels_of(closure, extras=extras), *native)
            flags = ["--extras"] if extras else []
            alone.run("-I", "tools/check_installed.py", package.name, str(DIST), *flags)


@nox.session(requires=["wheels"], reuse_venv=True)
def docs(session: nox.Session) -> None:
    """Build the documentation site into site/; a dead link or reference is an error."""
    session.install(*wheels_of(WORKSPACE.packages), *group("docs", "native"))
    shutil.rmtree(ROOT / "site", ignore_errors=True)
    session.run("sphinx-build", "--fail-on-warning", "--keep-going", "--nitpicky", "-q", "docs", "site")


@nox.session(requires=["wheels"])
def bench(session: nox.Session) -> None:
    """Measure: `nox -s bench -- reader` runs benchmarks/reader.py with the arguments that follow the name."""
    known = sorted(path.stem for path in (ROOT / "benchmarks").glob("[!_]*.py"))
    if not session.posargs or session.posargs[0] not in known:
        session.error(f"name a benchmark: {', '.join(known) or 'there is none yet'}")
    session.install(*wheels_of(WORKSPACE.packages), *group("test"))
    session.run("python", f"benchmarks/{session.posargs[0]}.py", *session.posargs[1:])
