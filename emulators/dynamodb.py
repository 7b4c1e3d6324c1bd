"""DynamoDB Local, AWS's own, from Maven.

`python -m emulators.dynamodb` starts it and prints its endpoint, until Ctrl-C; `--fetch` only fetches it.
"""

import platform
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cdc_testing.servers import ServerUnavailableError

from ._command import run_command
from ._maven import build_java_program
from ._process import LocalServer, Program, need_program, run_program

_SOURCES = Path(__file__).parent / "java" / "dynamodb"
NAME = "DynamoDBLocal"
# Those that sqlite4java 1.0.392 has native libraries for.
_MACHINES = ("x86_64", "AMD64", "i386", "i686")


def fetch_dynamodb_local() -> Path:
    """The folder with DynamoDBLocal.jar and DynamoDBLocal_lib, from the cache or fetched and compiled now.

    The archive is also an agent for `java -javaagent`, one that does nothing: LocalStack wants one.

    Raises:
        ServerUnavailableError: if there is no Maven or JDK, or one of them fails; or no SQLite for this machine.
    """
    if platform.machine() not in _MACHINES:
        raise ServerUnavailableError(
            f"DynamoDB Local comes with no SQLite for {platform.machine()}",
            where=f"only for {', '.join(_MACHINES)}",
            remedy="use the DynamoDB of cdc-testing[kinesis], or name another: CDC_TEST_DYNAMODB_ENDPOINT",
        )
    return build_java_program(
        NAME,
        pom=_SOURCES / "pom.xml",
        source=_SOURCES / "EmulatedDynamoDb.java",
        main_class="EmulatedDynamoDb",
        manifest={"Premain-Class": "EmulatedDynamoDb"},
    )


@contextmanager
def start_dynamodb_local(*, start_timeout_seconds: float = 60.0) -> Generator[LocalServer]:
    """Start DynamoDB Local on a free port of 127.0.0.1, tables in memory; leaving the block ends it.

    Any credentials do; each access key and region has tables of its own. Nothing is reported to AWS.

    Raises:
        ServerUnavailableError: if there is no Java, or it cannot be fetched.
        ServerStartError, ServerTimeoutError: if it does not come up.
    """
    java = need_program("java", why="DynamoDB Local is a program of Java")
    folder = fetch_dynamodb_local()
    libraries = folder / f"{NAME}_lib"
    options = ["-Xmx256m", f"-Djava.library.path={libraries}", f"-Dsqlite4java.library.path={libraries}"]
    arguments = ["-inMemory", "-disableTelemetry", "-port"]
    program = Program(
        name="DynamoDB Local",
        argv=lambda port, directory: [
            java,
            *options,
            f"-Djava.io.tmpdir={directory}",
            "-jar",
            str(folder / f"{NAME}.jar"),
            *arguments,
            str(port),
        ],
        start_timeout_seconds=start_timeout_seconds,
    )
    with run_program(program) as server:
        yield server


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command("dynamodb", __doc__, fetch=fetch_dynamodb_local, start=start_dynamodb_local)(arguments)


if __name__ == "__main__":
    sys.exit(main())
