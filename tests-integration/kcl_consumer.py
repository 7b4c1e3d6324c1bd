"""The Java Kinesis Client Library as a consumer that a test tells what to do: see kcl/KclConsumer.java."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, final

from cdc_testing.servers import ServerUnavailableError

# The emulators are run from a checkout and are not installed.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from emulators._maven import build_java_program
from emulators._process import need_program

_FOLDER: Final = Path(__file__).parent / "kcl"
VERSIONS: Final = ("3.5.1", "2.7.2")
# Keeps the table as version 2 has it: no index, no rows beside the leases.
PURE_TABLE: Final = {"3.5.1": "COMPATIBLE_WITH_2X_PHASE1", "2.7.2": ""}
_PATIENCE_SECONDS: Final = 90.0
_STOP_SECONDS: Final = 40.0


class KclRecord(NamedTuple):
    """One record as the library hands it over."""

    shard: str
    sequence: str
    sub_sequence: int
    aggregated: bool
    partition_key: str
    explicit_hash_key: str | None
    data: bytes


def fetch_kcl(version: str) -> Path:
    """Return the program for a version of the library, from the cache or fetched with Maven and compiled now.

    Raises:
        ServerUnavailableError: if there is no Maven or JDK, or one of them fails.
    """
    return build_java_program(
        f"kcl-{version}",
        pom=_FOLDER / f"pom-{version}.xml",
        source=_FOLDER / "KclConsumer.java",
        main_class="KclConsumer",
    )


@final
class KclConsumer:
    """A running worker of the library; what it prints is read by a thread of its own."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log
        self._changed = threading.Condition()
        self._events: list[Mapping[str, Any]] = []
        self._reader = threading.Thread(target=self._read, name="kcl-output", daemon=True)
        self._reader.start()

    @property
    def records(self) -> list[KclRecord]:
        """What it has been handed so far, in order."""
        return [_record(event) for event in self._seen() if event["event"] == "record"]

    def shards(self, event: str) -> list[str]:
        """The shards that something happened to: "initialized", "shard_ended", "lease_lost", "checkpointed"."""
        return [str(seen["shard"]) for seen in self._seen() if seen["event"] == event]

    def wait(self, condition: Callable[[KclConsumer], object], *, what: str) -> None:
        """Wait until a condition on what it has printed comes true.

        Raises:
            AssertionError: it has not in time, or the program has ended.
        """

        def met() -> bool:
            return bool(condition(self)) or self._process.poll() is not None

        with self._changed:
            self._changed.wait_for(met, _PATIENCE_SECONDS)
        assert condition(self), f"not seen: {what}\n{self._seen()[-20:]}\n{self._log.read_text()[-4000:]}"

    def checkpoint(self, record: KclRecord) -> None:
        """Tell it that everything of the shard up to and with this record is done, and wait until it is written."""
        count = self.shards("checkpointed").count(record.shard)
        self._tell(f"checkpoint {record.shard} {record.sequence} {record.sub_sequence}")
        self.wait(lambda kcl: kcl.shards("checkpointed").count(record.shard) > count, what="the checkpoint")

    def stop(self) -> None:
        """Shut it down gracefully and wait for its end."""
        self._tell("stop")
        status = self._process.wait(_STOP_SECONDS)
        assert status == 0, self._log.read_text()[-4000:]
        self._reader.join(_STOP_SECONDS)

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._process.wait(_STOP_SECONDS)

    def _tell(self, line: str) -> None:
        pipe = _pipe(self._process.stdin)
        pipe.write(f"{line}\n")
        pipe.flush()

    def _seen(self) -> list[Mapping[str, Any]]:
        return list(self._events)  # only ever added to

    def _read(self) -> None:
        for line in _pipe(self._process.stdout):
            with self._changed:
                self._events.append(json.loads(line))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()


@contextmanager
def start_kcl(
    version: str,
    *,
    stream: str,
    table: str,
    kinesis_endpoint: str,
    dynamodb_endpoint: str,
    log: Path,
    worker: str = "java",
    position: str = "TRIM_HORIZON",
    client_version: str | None = None,
) -> Generator[KclConsumer]:
    """Start a worker; leaving the block kills it, should it still run.

    - `table`: the application's name, and so the lease table's: three characters at least.
    - `client_version`: how version 3 treats the table; by default it leaves it as version 2 has it.

    Where the table has rows, the first shard is read after some 4 s; otherwise the library waits up to 30 s for
    another worker to fill it.
    """
    java = need_program("java", why="the Kinesis Client Library is Java's")
    folder = fetch_kcl(version)
    mode = PURE_TABLE[version] if client_version is None else client_version
    options = ["-Xmx256m", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
    arguments = [stream, table, worker, kinesis_endpoint, dynamodb_endpoint, position, mode]
    argv = [java, *options, "-jar", str(folder / f"kcl-{version}.jar"), *arguments]
    with (
        log.open("ab") as errors,
        subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        consumer = KclConsumer(process, log)
        try:
            yield consumer
        finally:
            consumer.kill()


def _record(event: Mapping[str, Any]) -> KclRecord:
    fields = {name: event[name] for name in KclRecord._fields if name != "data"}
    return KclRecord(**fields, data=base64.b64decode(event["data"]))


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


def main() -> int:
    """Fetch every version: `python tests-integration/kcl_consumer.py`, which `nox -s integration` runs first."""
    try:
        for version in VERSIONS:
            fetch_kcl(version)
    except ServerUnavailableError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
