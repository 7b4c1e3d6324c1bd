"""Logging in: the password provider, and what a refusal means (libpq gives its text and no SQLSTATE)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping

from psycopg import pq

from cdc_core import AccessError, CdcError, ConfigError, redact

from ._errors import (
    ConnectionLost,
    EncodingUnsupported,
    MissingPrivilege,
    NoFreeWalSender,
    ServerStopping,
    ServerTooOld,
)

PasswordProvider = Callable[[], str | Awaitable[str]]
"""Called for every connection, so that a short-lived token is fresh; may be async."""


async def call_provider(password: PasswordProvider) -> str:
    """Ask a password provider.

    Raises:
        AccessError: it failed; retryable where it looks like the network's fault.
    """
    try:
        answer = password()
        return answer if isinstance(answer, str) else await answer
    except CdcError:
        raise
    except Exception as error:
        # whatever it is, it came from the user's code; an exception of theirs is never swallowed
        raise AccessError(
            f"the password provider failed: {type(error).__name__}", retryable=isinstance(error, OSError)
        ) from error


def login_error(pgconn: pq.abc.PGconn, where: Mapping[str, object]) -> CdcError:
    """Make the typed error of a connection attempt that failed; what is not known is taken for a network error."""
    text = redact(" ".join(pgconn.get_error_message("utf-8").split()))
    if pgconn.needs_password:
        return AccessError("the server asks for a password and none was given", where=where, remedy=_PASSWORD)
    for pattern, kind, remedy in _KNOWN:
        if pattern.search(text):
            return kind(text, where=where, remedy=remedy)
    # A server that answers in another language: a password that was sent and not taken is the usual case.
    if pgconn.used_password:
        return AccessError(text, where=where, remedy=_PASSWORD)
    return ConnectionLost(text, where=where)


def check_server(version: int, encoding: str | None) -> None:
    """Refuse a server or database that cannot be read from.

    Raises:
        ServerTooOld, EncodingUnsupported: as their names say.
    """
    if version < _OLDEST_SERVER:
        raise ServerTooOld(
            f"the server is PostgreSQL {version // 10000}",
            remedy="use PostgreSQL 14 or newer: older ones cannot send logical messages to pgoutput",
        )
    if encoding == "SQL_ASCII":
        raise EncodingUnsupported(
            "the database's encoding is SQL_ASCII, so its text has no known meaning",
            remedy="CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0, and restore the data into it",
        )


_OLDEST_SERVER = 140000
_PASSWORD = "check the role and its password; a provider is called for every connection"

_Kind = type[AccessError] | type[ConfigError] | type[ConnectionLost] | type[NoFreeWalSender]

# Texts of PostgreSQL 14 to 18: src/backend/libpq/auth.c, utils/init/postinit.c, postmaster, replication/walsender.c
# and libpq's own, src/interfaces/libpq/fe-connect.c and fe-secure-openssl.c
_KNOWN: tuple[tuple[re.Pattern[str], _Kind, str], ...] = (
    (
        re.compile(
            r"invalid (connection option|integer value|port number|\w+ value)"
            r"|unrecognized configuration parameter"
        ),
        ConfigError,
        "correct the dsn",
    ),
    (
        re.compile(
            r"could not (receive|send) data|SSL SYSCALL error|unexpected eof|closed (the connection )?unexpectedly"
            r"|Connection (refused|reset|timed out)|Network is unreachable|No route to host"
        ),
        ConnectionLost,
        "",
    ),
    (
        re.compile(r"session is (not )?read-only|server is (not )?in hot standby mode"),
        ConnectionLost,
        "none of the hosts is what target_session_attrs asks for; a failover may be under way",
    ),
    (
        re.compile(
            r"database system is (starting up|shutting down|in recovery)|not (yet )?accepting connections"
        ),
        ServerStopping,
        "",
    ),
    (re.compile(r"terminating connection due to"), ServerStopping, ""),
    (
        re.compile(r'exceeds "?max_wal_senders'),
        NoFreeWalSender,
        "ALTER SYSTEM SET max_wal_senders = 20, and restart the server; or stop a replica or reader that nobody needs",
    ),
    (re.compile(r"too many (clients|connections)|connection slots are reserved"), ConnectionLost, ""),
    (
        re.compile(
            r"must be superuser or replication role|permission denied to start WAL sender|REPLICATION attribute"
        ),
        MissingPrivilege,
        "ALTER ROLE ... REPLICATION (on RDS: GRANT rds_replication TO ...)",
    ),
    (re.compile(r"permission denied for database"), MissingPrivilege, "GRANT CONNECT ON DATABASE ... TO ..."),
    (re.compile(r"authentication failed|pg_hba\.conf|is not permitted to log in"), AccessError, _PASSWORD),
    (re.compile(r'role ".*" does not exist'), AccessError, _PASSWORD),
    (
        re.compile(r'database ".*" does not exist'),
        ConfigError,
        "create the database, or name another in the dsn",
    ),
    (
        re.compile(
            r"certificate|SSL error|server does not support SSL|root\.crt|sslmode|SSL negotiation|tlsv1 alert"
        ),
        AccessError,
        "check sslmode, sslrootcert and the server's certificate",
    ),
)
