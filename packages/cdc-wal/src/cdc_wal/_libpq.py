"""Small pieces around libpq's non-blocking calls: waiting for its socket, parameters in, text rows out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import final

import anyio
import anyio.to_thread
import psycopg
from psycopg import pq

Parameter = str | bytes | int | None
"""What a statement takes: text as the server reads it, bytes as `bytea`."""

Row = tuple[str | None, ...]
"""A result row in PostgreSQL's own text."""

_BYTEA_OID = 17


@final
class Readiness:
    """Lets several tasks wait for the same socket, which neither event loop allows by itself."""

    def __init__(self, wait: Callable[[], Awaitable[None]]) -> None:
        self._wait = wait
        self._waiting: anyio.Event | None = None

    async def wait(self) -> None:
        if self._waiting is not None:
            await self._waiting.wait()
            return
        self._waiting = anyio.Event()
        try:
            await self._wait()
        finally:
            waiting, self._waiting = self._waiting, None
            waiting.set()


async def poll_connection(pgconn: pq.abc.PGconn) -> None:
    """Drive a started connection until it stands; TLS and authentication are inside.

    Raises:
        psycopg.OperationalError: it failed; `pgconn` has the message.
    """
    if pgconn.status == pq.ConnStatus.BAD:
        raise psycopg.OperationalError
    while (state := pq.PollingStatus(pgconn.connect_poll())) != pq.PollingStatus.OK:
        # the socket is read anew each time: a retry without TLS opens another one
        await wait_for_socket(state, pgconn.socket)


async def wait_for_socket(state: int, socket: int) -> None:
    """Wait for what a polling state asks for; raises psycopg.OperationalError where it says that polling failed."""
    if state == pq.PollingStatus.READING:
        await anyio.wait_readable(socket)
    elif state == pq.PollingStatus.WRITING:
        await anyio.wait_writable(socket)
    else:
        raise psycopg.OperationalError


async def request_cancel(pgconn: pq.abc.PGconn) -> None:
    """Ask the server, on a connection of its own, to stop what `pgconn` runs.

    Raises:
        psycopg.OperationalError: the request was not delivered.
    """
    try:
        request = pgconn.cancel_conn()
    except psycopg.NotSupportedError:  # libpq before 17: only its blocking call exists
        await anyio.to_thread.run_sync(pgconn.get_cancel().cancel, abandon_on_cancel=True)
        return
    try:
        request.start()
        while (state := request.poll()) != pq.PollingStatus.OK:
            await wait_for_socket(state, request.socket)
    finally:
        request.finish()


def encode_parameters(
    params: Sequence[Parameter],
) -> tuple[list[bytes | None], list[int], list[int]]:
    """Return values, type OIDs (0 where the server decides) and formats as libpq takes them."""
    values = [value if value is None or isinstance(value, bytes) else str(value).encode() for value in params]
    binary = [isinstance(value, bytes) for value in params]
    types = [_BYTEA_OID if is_bytes else 0 for is_bytes in binary]
    return values, types, [pq.Format.BINARY if is_bytes else pq.Format.TEXT for is_bytes in binary]


def rows_of(result: pq.abc.PGresult) -> list[Row]:
    """Return the rows of a text result."""
    columns = range(result.nfields)
    return [
        tuple(
            None if (value := result.get_value(row, column)) is None else value.decode() for column in columns
        )
        for row in range(result.ntuples)
    ]


def field_of(result: pq.abc.PGresult, field: pq.DiagnosticField) -> str | None:
    """Return a field of an error or notice, None where it has none."""
    value = result.error_field(field)
    return None if value is None else value.decode(errors="replace")


def one_line(text: str) -> str:
    """Return a message of libpq without its line breaks."""
    return " ".join(text.split())
