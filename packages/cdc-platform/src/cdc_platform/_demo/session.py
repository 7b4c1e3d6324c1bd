"""Connections of the demo's own (beside the pipeline's): blocking, used from worker threads, made anew when broken."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Self, TypeAlias, TypeVar, final

import anyio
import anyio.to_thread
import psycopg

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]
T = TypeVar("T")

_POLL_SECONDS: Final = 0.1


def connect(dsn: str, role: str) -> Connection:
    """Connect in autocommit mode; `role` names the session in `pg_stat_activity`."""
    # A thread cannot be cancelled: a server that is silent must end its wait within seconds.
    connection = psycopg.connect(
        dsn,
        autocommit=True,
        application_name=f"cdc demo {role}",
        connect_timeout=5,
        tcp_user_timeout=10_000,
        keepalives_idle=5,
        keepalives_interval=2,
        keepalives_count=3,
    )
    try:
        # a database may be set to "off", and a commit that an answer was given for could then be lost in a crash
        connection.execute("SET synchronous_commit = on")
    except BaseException:
        connection.close()
        raise
    return connection


async def until(
    holds: Callable[[], Awaitable[bool]], *, timeout_seconds: float, poll_seconds: float = _POLL_SECONDS
) -> bool:
    """Ask again and again until it holds; False when the time is over. A server that is away does not hold."""
    with anyio.move_on_after(timeout_seconds):
        while True:
            with contextlib.suppress(psycopg.OperationalError):
                if await holds():
                    return True
            await anyio.sleep(poll_seconds)
    return False


@final
class Session:
    """One connection for whoever calls: one call at a time, in a worker thread."""

    def __init__(self, dsn: str, role: str) -> None:
        self._dsn = dsn
        self._role = role
        self._lock = threading.Lock()
        self._connection: Connection | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._connection.close()

    async def call(self, function: Callable[[Connection], T]) -> T:
        """Call a function with the connection, inside a transaction.

        Raises:
            psycopg.OperationalError: the server is not there, or went away; whether it committed may be unknown.
        """
        return await anyio.to_thread.run_sync(self._call, function)

    def _call(self, function: Callable[[Connection], T]) -> T:
        with self._lock:
            if self._connection is None or self._connection.closed:
                self._connection = connect(self._dsn, self._role)
            with self._connection.transaction():
                return function(self._connection)
