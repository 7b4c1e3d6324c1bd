import contextlib
import errno
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from .._accounts import Account, account_can, server_account
from .._errors import ServerError, ServerStartError, ServerTimeoutError
from .._guard import Guard
from ._builds import Build
from ._certificates import make_certificate
from ._copies import executable_by
from ._settings import DEFAULT_SETTINGS, Setting, render_settings

StopMode = Literal["smart", "fast", "immediate"]
"""How a server is stopped, in pg_ctl's words: wait for clients, disconnect them, or crash."""
Auth = Literal["trust", "scram-sha-256"]

# https://www.postgresql.org/docs/18/server-shutdown.html
_STOP_SIGNALS: Mapping[StopMode, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}
_INITDB_SECONDS = 60.0
_KILL_SECONDS = 10.0
_POLL_SECONDS = 0.005
_PORT_ATTEMPTS = 10
# Below the range that Linux gives to outgoing connections (32768 and up), one of which could take the port of
# a server that is down between stop and start.
_PORTS = range(15000, 32000)
# sun_path holds 108 bytes on Linux, 104 elsewhere; the rest of ours is
# "/cdc-pg-xxxxxxxx/socket/.s.PGSQL.65535".
_MAX_PARENT_LENGTH = 60


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """How a cluster is made: see `start_postgres`."""

    settings: Mapping[str, Setting]
    auth: Auth
    tls: bool
    fsync: bool
    start_timeout_seconds: float


@final
class Cluster:
    """One data directory and its postmaster, under guard. Not for several threads at a time, `log` apart."""

    user = "postgres"
    host = "127.0.0.1"

    def __init__(self, build: Build, options: ClusterOptions) -> None:
        self._account = server_account()
        self.build: Build = executable_by(build, self._account)
        self._options = options
        self._postmaster: subprocess.Popen[bytes] | None = None
        self.port: int = 0
        self.password: str | None = secrets.token_urlsafe(18) if options.auth == "scram-sha-256" else None
        self.directory: Path = _make_directory(self._account)
        self._data = self.directory / "data"
        self._log = self.directory / "server.log"
        self.socket_directory: Path = self.directory / "socket"
        self.authority: Path | None = self.directory / "ca.crt" if options.tls else None
        with contextlib.ExitStack() as undo:
            undo.callback(shutil.rmtree, self.directory, ignore_errors=True)
            self._guard = Guard()
            undo.callback(self._guard.close)
            self._guard.remove_at_end(self.directory)
            undo.pop_all()

    @property
    def running(self) -> bool:
        return self._postmaster is not None and self._postmaster.poll() is None

    @property
    def pid(self) -> int | None:
        return self._postmaster.pid if self._postmaster is not None and self.running else None

    def create(self) -> None:
        """Run initdb and write the configuration.

        Raises:
            ServerStartError: if initdb fails; its output is in the error.
        """
        for path in (self._data, self.socket_directory):
            path.mkdir(mode=0o700)
            self._give(path)
        argv = [str(self.build.bin_dir / "initdb"), "-D", str(self._data), "-U", self.user]
        argv += ["-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions", "-A", self._options.auth]
        if self.build.major >= 15:
            argv.append("--locale-provider=libc")
        if self.password is not None:
            secret = self.directory / "password"
            secret.touch(mode=0o600)
            secret.write_text(self.password + "\n")
            self._give(secret)
            argv.append(f"--pwfile={secret}")
        process = self._spawn(argv, signal.SIGKILL)
        try:
            status = process.wait(_INITDB_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill(process)
            status = -signal.SIGKILL
        self._guard.forget(process)
        if status != 0:
            raise ServerStartError(
                f"initdb ended with status {status}",
                where=f"PostgreSQL {self.build.version} in {self.build.bin_dir}",
                remedy="read its output below; a full disk and a missing library are the usual causes",
                log=self.log(),
            )
        self._configure()

    def start(self) -> None:
        """Start the postmaster and wait until it accepts connections; the first start chooses the port.

        Raises:
            ServerStartError: if it ends instead.
            ServerTimeoutError: if it is not ready in time; it has been killed then.
        """
        if self.running:
            return
        if self._postmaster is not None:  # it ended by itself, or after a stop that we gave up waiting for
            self._guard.forget(self._postmaster)
            self._postmaster = None
        fixed_port = self.port
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            self.port = fixed_port or free_port()
            mark = self._log.stat().st_size
            if self._start_once():
                return
            # Somebody took the port between our look and the server's; or, at a restart, while it was down.
            if attempt == _PORT_ATTEMPTS or not self._port_was_taken(mark):
                break
            if fixed_port:
                time.sleep(0.1 * attempt)
        raise ServerStartError(
            f"PostgreSQL {self.build.version} ended while it started",
            where=f"port {self.port}, {self._data}",
            remedy="read its log below; a setting that this version does not know is the usual cause",
            log=self.log(),
        )

    def stop(self, mode: StopMode, timeout_seconds: float) -> None:
        """Ask the postmaster to stop and wait for its end.

        Raises:
            ServerTimeoutError: if it is still there; it goes on stopping.
        """
        process = self._postmaster
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(_STOP_SIGNALS[mode])
        try:
            process.wait(timeout_seconds)
        except subprocess.TimeoutExpired as error:
            raise ServerTimeoutError(
                f"PostgreSQL did not stop within {timeout_seconds:g} s (mode {mode})",
                where=f"port {self.port}, process {process.pid}",
                remedy="a fast stop waits for clients of walsenders to confirm; stop('immediate') does not",
                log=self.log(20),
            ) from error
        self._postmaster = None
        self._guard.forget(process)

    def destroy(self) -> None:
        """End the postmaster, whatever it is doing, and remove the directory."""
        process = self._postmaster
        self._postmaster = None
        try:
            if process is not None:
                if process.poll() is None:
                    process.send_signal(signal.SIGQUIT)
                self._kill(process, patience_seconds=5.0)
        finally:
            self._guard.close()
            # The guard has done it already, unless it was killed.
            shutil.rmtree(self.directory, ignore_errors=True)

    def log(self, lines: int = 50) -> str:
        """The last lines of what the server wrote; empty where it wrote nothing."""
        try:
            with self._log.open("rb") as file:
                file.seek(max(0, self._log.stat().st_size - 400 * lines))
                text = file.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def _start_once(self) -> bool:
        endpoint: dict[str, Setting] = {
            "listen_addresses": self.host,
            "port": self.port,
            "unix_socket_directories": str(self.socket_directory),
        }
        self._write(self._data / "cdc_endpoint.conf", render_settings(endpoint))
        process = self._spawn([str(self.build.bin_dir / "postgres"), "-D", str(self._data)], signal.SIGQUIT)
        self._postmaster = process  # from here on `destroy` ends it, should we be interrupted
        deadline = time.monotonic() + self._options.start_timeout_seconds
        while not self._ready(process.pid):
            if process.poll() is not None:
                self._postmaster = None
                self._guard.forget(process)
                return False
            if time.monotonic() > deadline:
                self._kill(process)
                self._postmaster = None
                self._guard.forget(process)
                raise ServerTimeoutError(
                    f"PostgreSQL was not ready within {self._options.start_timeout_seconds:g} s",
                    where=f"port {self.port}, {self._data}",
                    remedy="a long recovery or a busy machine: give it more with start_timeout_seconds=",
                    log=self.log(),
                )
            time.sleep(_POLL_SECONDS)
        return True

    def _ready(self, pid: int) -> bool:
        # Lines 1 and 8 of the lock file, which pg_ctl reads too (src/include/utils/pidfile.h). After a crash
        # the file is first the former postmaster's; removing it would take away the server's own check that
        # none of that one's backends is left.
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"

    def _port_was_taken(self, mark: int) -> bool:
        with self._log.open("rb") as file:
            file.seek(mark)
            return os.strerror(errno.EADDRINUSE).encode() in file.read()

    def _configure(self) -> None:
        settings: dict[str, Setting] = {**DEFAULT_SETTINGS, "fsync": self._options.fsync}
        method = self._options.auth
        hba = [f"local all all {method}", f"local replication all {method}"]
        host = "hostssl" if self._options.tls else "host"
        hba += [f"{host} {database} all {self.host}/32 {method}" for database in ("all", "replication")]
        if self._options.tls:
            files = make_certificate(self.directory)
            self._give(files.key)
            settings |= {"ssl": True, "ssl_cert_file": str(files.certificate), "ssl_key_file": str(files.key)}
        self._write(self._data / "pg_hba.conf", "\n".join(hba) + "\n")
        self._write(self._data / "cdc_settings.conf", render_settings({**settings, **self._options.settings}))
        with (self._data / "postgresql.conf").open("a") as file:
            file.write("\ninclude 'cdc_settings.conf'\ninclude 'cdc_endpoint.conf'\n")

    def _spawn(self, argv: list[str], stop_signal: signal.Signals) -> subprocess.Popen[bytes]:
        # Nothing of ours but the search paths: PGPORT, PGDATA and the like would change what the programs do.
        env = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        env |= {"LC_ALL": "C", "TZ": "UTC", "HOME": str(self._data)}
        return self._guard.spawn(argv, log=self._log, account=self._account, env=env, stop_signal=stop_signal)

    def _kill(self, process: subprocess.Popen[bytes], *, patience_seconds: float = 0.0) -> None:
        try:
            process.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            # Its children notice its end by themselves; initdb's are in its process group.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(_KILL_SECONDS)

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text)
        self._give(path)

    def _give(self, path: Path) -> None:
        if self._account is not None:
            os.chown(path, self._account.uid, self._account.gid)


def free_port() -> int:
    """A port of the loopback address that nobody listens on now; somebody may at any time later.

    Raises:
        ServerError: if none of a hundred looked at is free.
    """
    for port in random.sample(_PORTS, 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ServerError("found no free port on 127.0.0.1", where=f"{_PORTS.start} to {_PORTS.stop - 1}")


def _make_directory(account: Account | None) -> Path:
    parents = [
        path
        for path in (tempfile.gettempdir(), "/tmp", "/var/tmp")
        if len(os.fsencode(path)) <= _MAX_PARENT_LENGTH
    ]
    for parent in parents:
        if os.access(parent, os.W_OK | os.X_OK) and account_can(account, "-x", parent):
            directory = Path(tempfile.mkdtemp(prefix="cdc-pg-", dir=parent))
            if account is not None:
                directory.chmod(0o711)
            (directory / "server.log").touch(mode=0o600)
            return directory
    raise ServerError(
        "no temporary directory for a data directory and its socket",
        where=", ".join(parents) or tempfile.gettempdir(),
        remedy=f"set TMPDIR to a path of at most {_MAX_PARENT_LENGTH} bytes that all may enter, such as /tmp",
    )
