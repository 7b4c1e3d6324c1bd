import contextlib
import time
from collections.abc import Mapping
from typing import LiteralString

import psycopg
from psycopg import conninfo, sql

from .._errors import ServerError, ServerTimeoutError

_DROP_SECONDS = 30.0
_POLL_SECONDS = 0.01

_Connection = psycopg.Connection[tuple[object, ...]]


def create_database(dsn: str, name: str) -> None:
    """Create an empty database, UTF8 and locale C; `dsn` leads to another one of the server."""
    with _connect(dsn) as connection:
        connection.execute(
            _with_name(
                "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'", name
            )
        )


def drop_database(dsn: str, inside_dsn: str, name: str, *, timeout_seconds: float = _DROP_SECONDS) -> None:
    """Drop a database, if it is there, with its sessions, slots and prepared transactions.

    Args:
        dsn: Leads to another database of the server.
        inside_dsn: Leads to the database itself.

    Raises:
        ServerTimeoutError: if somebody holds one of its slots beyond the time given.
    """
    with _connect(dsn) as connection:
        if connection.execute("SELECT FROM pg_database WHERE datname = %s", [name]).fetchone() is None:
            return
        # A prepared transaction can be ended only from inside its database, and blocks DROP even with FORCE.
        with _connect(inside_dsn) as inside:
            # From here on a reader that reconnects is refused, and cannot take its slot back.
            connection.execute(_with_name("ALTER DATABASE {} ALLOW_CONNECTIONS false", name))
            prepared = inside.execute("SELECT gid FROM pg_prepared_xacts WHERE database = %s", [name])
            for (gid,) in prepared.fetchall():
                inside.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))
        _drop_slots(connection, name, timeout_seconds)
        connection.execute(_with_name("DROP DATABASE IF EXISTS {} WITH (FORCE)", name))


def server_version(dsn: str) -> str:
    """The server's version as it prints it, "18.4"."""
    with _connect(dsn) as connection:
        row = connection.execute("SHOW server_version").fetchone()
    assert row is not None
    return str(row[0]).split()[0]


def change_dsn(dsn: str, changes: Mapping[str, str | int | None]) -> str:
    """A connection string with some of its members replaced; None leaves a member as it is."""
    return conninfo.make_conninfo(
        dsn, **{name: value for name, value in changes.items() if value is not None}
    )


def dsn_member(dsn: str, name: str) -> str:
    """One member of a connection string, empty where it has none."""
    return str(conninfo.conninfo_to_dict(dsn).get(name) or "")


def _drop_slots(connection: _Connection, name: str, timeout_seconds: float) -> None:
    deadline = time.monotonic() + timeout_seconds
    while True:
        slots = connection.execute(
            "SELECT slot_name FROM pg_replication_slots WHERE database = %s", [name]
        ).fetchall()
        if not slots:
            return
        if time.monotonic() > deadline:
            raise ServerTimeoutError(
                f"replication slots stay in use: {', '.join(str(slot) for (slot,) in slots)}",
                where=f"database {name}",
                remedy="end the readers that hold them before their database is dropped",
            )
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
        )
        # In use again: taken between the list and the drop by a session that is being terminated.
        with contextlib.suppress(psycopg.errors.ObjectInUse):
            connection.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                " WHERE database = %s AND NOT active",
                [name],
            )
        time.sleep(_POLL_SECONDS)


def _with_name(text: LiteralString, name: str) -> sql.Composed:
    return sql.SQL(text).format(sql.Identifier(name))


def _connect(dsn: str) -> _Connection:
    try:
        return psycopg.connect(dsn, autocommit=True, connect_timeout=10)
    except psycopg.OperationalError as error:
        raise ServerError(
            f"cannot connect to the test server: {error}", remedy="is it running? its log() says more"
        ) from error
