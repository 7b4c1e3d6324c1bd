"""Connection strings: what is in them, one attempt per host and address, names resolved without blocking the loop."""

from __future__ import annotations

import ipaddress
import random
import re
import socket
from collections.abc import Mapping

import anyio
import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from cdc_core import ConfigError

from ._errors import ConnectionLost

# Rule 14 of the design: no setting of a database or role may change how a value is printed. Options in the startup
# packet override ALTER DATABASE and ALTER ROLE, and the walsender takes them as any backend does.
SESSION_SETTINGS: Mapping[str, str] = {
    "TimeZone": "UTC",
    "DateStyle": "ISO,MDY",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "lc_monetary": "C",
    "search_path": "pg_catalog",  # names of other schemas are printed in full, and none of ours can be shadowed
    "quote_all_identifiers": "off",
    "standard_conforming_strings": "on",  # our quoting of literals relies on it
}

_SECRET_KEYWORDS = frozenset({"password", "sslpassword", "oauth_client_secret"})


def parse_dsn(dsn: str) -> dict[str, str]:
    """Read a libpq connection string or URI into its parameters.

    Raises:
        ConfigError: it is none; the error quotes nothing of it, since a piece may be a password.
    """
    try:
        params = conninfo_to_dict(dsn)
    except psycopg.Error:
        raise ConfigError(
            "dsn is not a connection string",
            remedy="postgresql://user@host:5432/database, or host=... dbname=... user=...",
        ) from None
    return {name: str(value) for name, value in params.items()}


def without_secrets(dsn: str) -> str:
    """Return a connection string with its passwords replaced by `***`, in keyword form."""
    params = parse_dsn(dsn)
    return make_conninfo("", **{k: "***" if k in _SECRET_KEYWORDS else v for k, v in params.items()})


def with_options(params: Mapping[str, str], settings: Mapping[str, str]) -> dict[str, str]:
    """Add server settings to the startup options; the last one of a name wins, so ours come behind the user's."""
    ours = " ".join(f"-c {name}={_escape_option(value)}" for name, value in settings.items())
    return {**params, "options": f"{params.get('options', '')} {ours}".strip()}


async def attempts(params: Mapping[str, str]) -> list[dict[str, str]]:
    """Split a connection string of several hosts into one for each host and address, in the order to try them.

    libpq would go through the hosts itself, but resolves their names synchronously and, driven by polling, knows no
    timeout per host. `host` stays beside `hostaddr`, since TLS verifies the name, and passwords are looked up by it.

    Raises:
        ConfigError: the lists of hosts, addresses and ports do not fit each other.
        ConnectionLost: none of the names could be resolved.
    """
    hosts = _split_hosts(_with_defaults(params))
    tries: list[dict[str, str]] = []
    failures: list[str] = []
    for host in hosts:
        try:
            tries += [{**host, **address} for address in await _addresses(host)]
        except OSError as error:
            failures.append(f"{host.get('host')}: {error.strerror or error}")
    if not tries:
        raise ConnectionLost(f"no host name could be resolved: {'; '.join(failures)}")
    if params.get("load_balance_hosts") == "random":
        random.shuffle(tries)
    if params.get("target_session_attrs") == "prefer-standby":
        return [
            *({**attempt, "target_session_attrs": "standby"} for attempt in tries),
            *({**attempt, "target_session_attrs": "any"} for attempt in tries),
        ]
    return tries


def quote_identifier(name: str) -> str:
    """Quote a name for SQL."""
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """Quote a string for SQL where no parameter can stand; relies on `standard_conforming_strings`."""
    return "'" + text.replace("'", "''") + "'"


def _escape_option(value: str) -> str:
    return re.sub(r"([\\\s])", r"\\\1", value)


def _with_defaults(params: Mapping[str, str]) -> dict[str, str]:
    if "service" in params or any(params.get(name) for name in ("host", "hostaddr")):
        return dict(params)
    # what libpq itself takes from PGHOST and the like: we only need to see it before it does
    defaults = {option.keyword.decode(): option.val for option in pq.Conninfo.get_defaults()}
    seen = {name: value.decode() for name in ("host", "hostaddr", "port") if (value := defaults.get(name))}
    return {**seen, **params}


def _split_hosts(params: Mapping[str, str]) -> list[dict[str, str]]:
    lists = {name: params[name].split(",") for name in ("host", "hostaddr", "port") if params.get(name)}
    count = max((len(values) for name, values in lists.items() if name != "port"), default=1)
    for name, values in lists.items():
        if len(values) == 1 and name == "port":
            lists[name] = values * count
        elif len(values) != count:
            raise ConfigError(
                f"the dsn names {count} hosts and {len(values)} values of {name}",
                remedy=f"one {name} for each host, or a single port for all",
            )
    rest = {name: value for name, value in params.items() if name not in lists}
    return [
        {**rest, **{name: values[i] for name, values in lists.items() if values[i]}} for i in range(count)
    ]


async def _addresses(params: Mapping[str, str]) -> list[dict[str, str]]:
    host = params.get("host", "")
    if not host or host.startswith(("/", "@")) or params.get("hostaddr"):
        return [{}]
    try:
        ipaddress.ip_address(host)
    except ValueError:
        found = await anyio.getaddrinfo(
            host, None, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, family=socket.AF_UNSPEC
        )
        return [{"hostaddr": address} for address in dict.fromkeys(str(entry[4][0]) for entry in found)]
    return [{"hostaddr": host}]
