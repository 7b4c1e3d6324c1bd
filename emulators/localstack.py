"""LocalStack with Kinesis and DynamoDB, without containers.

`python localstack/start.py` starts it and prints its endpoint, until Ctrl-C; `--fetch` only fetches it.
"""

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

from cdc_testing.servers import ServerUnavailableError
from cdc_testing.servers.postgres import cache_directory

from . import dynamodb
from ._command import run_command
from ._process import LOOPBACK, LocalServer, Program, need_program, run_program, run_tool
from .kinesis import LOOPBACK_MODULE, fetch_kinesis_local

_ROOT = Path(__file__).parents[1]
# Used from a checkout, as the noxfile uses it.
sys.path.insert(0, str(_ROOT / "tools"))

from interpreters import find_interpreter  # noqa: E402

_FOLDER = _ROOT / "localstack"
_REQUIREMENTS = _FOLDER / "requirements.txt"
# 4.14.0 evaluates `Lock | None`, which needs 3.13.
_PYTHON = "3.13"
# What LocalStack would fetch by itself, by the versions in its own packages.py files: node's from the registry,
# the other two from hosts that a build machine may not reach.
_KINESIS_LOCAL = "0.5.2"
_JAVA = "21"
_INSTALL_SECONDS = 600.0


def fetch_localstack() -> Path:
    """The Python of LocalStack's own virtual environment; all that it needs is fetched where the cache lacks it.

    Raises:
        ServerUnavailableError: if python3.13, npm, Maven or a JDK is missing, or one of them fails.
        ServerError: if a package is not what was pinned.
    """
    need_program("node", why="LocalStack's Kinesis is a program of Node.js")
    _java_home()
    fetch_kinesis_local(_KINESIS_LOCAL)
    dynamodb.fetch_dynamodb_local()
    return _environment()


@contextmanager
def start_localstack(
    *, init: Path | None = None, transition_seconds: float = 0.05, start_timeout_seconds: float = 90.0
) -> Generator[LocalServer]:
    """Start LocalStack on a free port of 127.0.0.1 with Kinesis and DynamoDB; leaving the block ends both too.

    - `init`: a folder whose `ready.d` holds scripts for LocalStack to run; started is then when they have ended.
    - `transition_seconds`: how long a stream is CREATING, UPDATING or DELETING.

    The first request for a service starts it, which takes seconds. Nothing is reported, and nothing is kept.

    Raises:
        ServerUnavailableError: if something that it needs is missing and cannot be fetched.
        ServerStartError, ServerTimeoutError: if it does not come up.
    """
    python = fetch_localstack()
    program = Program(
        name="LocalStack",
        argv=lambda _port, _directory: [str(python), "-m", "localstack.runtime.main"],
        env=lambda port, directory: _settings(port, directory, init, transition_seconds),
        ready_path="/_localstack/init",
        ready=_ready,
        # Asked to end, it takes up to 20 s of a busy machine, and there is nothing to be saved. Its servers watch it.
        stop_signal=signal.SIGKILL,
        start_timeout_seconds=start_timeout_seconds,
    )
    with run_program(program) as server:
        yield server


def main(arguments: Sequence[str] | None = None) -> int:
    init = _FOLDER / "init"
    start = partial(start_localstack, init=init)
    return run_command("localstack", __doc__, fetch=fetch_localstack, start=start)(arguments)


def _ready(answer: bytes) -> bool:
    # The stages of its start; READY is over once every script has ended.
    stages = cast("dict[str, Any]", json.loads(answer))
    return bool(stages["completed"].get("READY"))


def _settings(port: int, directory: Path, init: Path | None, transition_seconds: float) -> Mapping[str, str]:
    root = directory / "root"
    if init is not None:
        _link(root / "etc" / "localstack" / "init", init)
    _provide(root / "usr" / "lib" / "localstack")
    return {
        "SERVICES": "kinesis,dynamodb",
        "GATEWAY_LISTEN": f"{LOOPBACK}:{port}",
        # Its default server takes the port alone and listens on every address.
        "GATEWAY_SERVER": "hypercorn",
        "DYNAMODB_IN_MEMORY": "1",
        "KINESIS_LATENCY": str(int(transition_seconds * 1000)),
        "KINESIS_SHARD_LIMIT": "1000",
        "KINESIS_ON_DEMAND_STREAM_COUNT_LIMIT": "100",
        "KINESIS_PERSISTENCE": "0",
        "NODE_OPTIONS": f'--require "{LOOPBACK_MODULE}"',
        # In a container it would use the system's own folders.
        "OVERRIDE_IN_DOCKER": "0",
        "FILESYSTEM_ROOT": str(root),
        "DNS_ADDRESS": "0",
        "DISABLE_EVENTS": "1",
        "SKIP_SSL_CERT_DOWNLOAD": "1",
        "USE_SSL": "0",
    }


def _provide(libraries: Path) -> None:
    """Put what LocalStack would otherwise fetch where it looks first."""
    node = libraries / "kinesis-local" / _KINESIS_LOCAL / "node_modules" / "kinesis-local"
    database = libraries / "dynamodb-local" / "2"
    fetched = dynamodb.fetch_dynamodb_local()
    links = {
        libraries / "java" / _JAVA: _java_home(),
        node: fetch_kinesis_local(_KINESIS_LOCAL),
        database / f"{dynamodb.NAME}.jar": fetched / f"{dynamodb.NAME}.jar",
        database / f"{dynamodb.NAME}_lib": fetched / f"{dynamodb.NAME}_lib",
        # It loads this agent beside the database; the archive itself is one that does nothing.
        database / "ddb-local-loader-0.1.jar": fetched / f"{dynamodb.NAME}.jar",
    }
    for link, target in links.items():
        _link(link, target)


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():  # there already if the port was taken at the first try
        link.symlink_to(target)


def _java_home() -> Path:
    java = need_program("java", why="DynamoDB Local is a program of Java")
    answer = subprocess.run(
        [java, "-XshowSettings:properties", "-version"], capture_output=True, text=True, check=False
    )
    found = re.search(r"^\s*java\.home = (.+)$", answer.stderr, re.MULTILINE)
    if found is None:
        raise ServerUnavailableError(
            "java does not say where it lives", where=java, log=answer.stderr[-2000:]
        )
    return Path(found.group(1))


def _environment() -> Path:
    digest = hashlib.sha256(_REQUIREMENTS.read_bytes()).hexdigest()[:12]
    target = cache_directory() / f"localstack-{digest}"
    if target.is_dir():
        return target / "bin" / "python"
    interpreter = find_interpreter(_PYTHON)
    if interpreter is None:
        raise ServerUnavailableError(
            f"LocalStack 4.14.0 runs on Python {_PYTHON} alone, which is not here",
            remedy=f"install python{_PYTHON}, in PATH or with pyenv",
        )
    # Beside its place and renamed: somebody who looks now sees all of it or nothing. A virtual environment may be
    # moved as long as its scripts are not used: it finds itself by the path of its interpreter.
    with tempfile.TemporaryDirectory(prefix=".localstack-", dir=target.parent) as scratch:
        root = Path(scratch, "environment")
        python = str(root / "bin" / "python")
        uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
        create = [uv, "venv", "--quiet", "--python"] if uv else [str(interpreter), "-m", "venv"]
        create += [str(interpreter), str(root)] if uv else [str(root)]
        install = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
        for argv in (create, [*install, "--quiet", "--requirement", str(_REQUIREMENTS)]):
            run_tool(argv, what="installing LocalStack", cwd=Path(scratch), timeout_seconds=_INSTALL_SECONDS)
        try:
            root.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    return target / "bin" / "python"


if __name__ == "__main__":
    sys.exit(main())
