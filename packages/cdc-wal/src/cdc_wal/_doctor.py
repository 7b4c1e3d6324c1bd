"""The doctor: what a server and a role must have, each finding with the statement that mends it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from cdc_core import Check, CheckState

from ._config import WalConfig
from ._connection import Connection
from ._conninfo import quote_identifier
from ._own_tables import dead_letter_table

_RESTART = ", and restart the server"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What one query says about the server and our role."""

    server_version: int
    wal_level: str
    max_replication_slots: int
    used_replication_slots: int
    max_wal_senders: int
    used_wal_senders: int
    max_slot_wal_keep_size_mb: int
    idle_slot_timeout_seconds: int
    in_recovery: bool
    role: str
    database: str
    superuser: bool
    may_replicate: bool
    may_create: bool
    managed_admin: bool
    synchronous_commit: str


async def read_facts(connection: Connection) -> ServerFacts:
    """Ask the server."""
    row = await connection.fetch_one(_FACTS)
    return ServerFacts(
        server_version=connection.server_version, **json.loads((row[0] if row else None) or "{}")
    )


async def letter_privileges(connection: Connection, config: WalConfig) -> tuple[str, ...]:
    """Return which privileges on the dead-letter table, which exists, our role lacks."""
    table = dead_letter_table(config)
    rows = await connection.fetch(
        "SELECT p FROM unnest(ARRAY['SELECT', 'INSERT', 'DELETE']) p, pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2"
        " AND NOT (has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, p))",
        [table.schema, table.name],
    )
    return tuple(row[0] or "" for row in rows)


def check_server(
    facts: ServerFacts, config: WalConfig, *, slot_exists: bool, creates_in_database: bool
) -> tuple[Check, ...]:
    """Judge what was read; a plan with a failed check is refused.

    - `creates_in_database`: whether the plan has a schema or publication to create.
    """
    return (
        _wal_level(facts),
        _replication(facts),
        *_create(facts, creates_in_database=creates_in_database),
        *_free_slots(facts, slot_exists=slot_exists),
        _wal_senders(facts),
        *_standby(facts, config, slot_exists=slot_exists, creates_in_database=creates_in_database),
        *_retention(facts),
        _synchronous_commit(facts),
    )


def _wal_level(facts: ServerFacts) -> Check:
    if facts.wal_level == "logical":
        return Check(name="wal_level", state=CheckState.OK, why="wal_level is logical")
    return Check(
        name="wal_level",
        state=CheckState.FAIL,
        why=f"wal_level is {facts.wal_level}",
        remedy=f"ALTER SYSTEM SET wal_level = 'logical'{_RESTART}"
        " (on RDS and Aurora: rds.logical_replication = 1 in the parameter group)",
    )


def _replication(facts: ServerFacts) -> Check:
    if facts.may_replicate:
        return Check(name="replication_privilege", state=CheckState.OK, why=f"{facts.role} may replicate")
    return Check(
        name="replication_privilege",
        state=CheckState.FAIL,
        why=f"{facts.role} may not open a replication connection",
        remedy=f"ALTER ROLE {quote_identifier(facts.role)} REPLICATION"
        f" (on RDS and Aurora: GRANT rds_replication TO {quote_identifier(facts.role)})",
    )


def _create(facts: ServerFacts, *, creates_in_database: bool) -> Iterator[Check]:
    if not creates_in_database:
        return
    if facts.may_create:
        yield Check(
            name="create_privilege", state=CheckState.OK, why=f"{facts.role} may create in the database"
        )
    else:
        yield Check(
            name="create_privilege",
            state=CheckState.FAIL,
            why=f"{facts.role} may create neither a schema nor a publication in {facts.database}",
            remedy=f"GRANT CREATE ON DATABASE {quote_identifier(facts.database)} TO {quote_identifier(facts.role)}",
        )


def _free_slots(facts: ServerFacts, *, slot_exists: bool) -> Iterator[Check]:
    if slot_exists:
        return
    used, allowed = facts.used_replication_slots, facts.max_replication_slots
    if used < allowed:
        yield Check(
            name="max_replication_slots", state=CheckState.OK, why=f"{used} of {allowed} slots are taken"
        )
    else:
        yield Check(
            name="max_replication_slots",
            state=CheckState.FAIL,
            why=f"all {allowed} replication slots are taken",
            remedy=f"ALTER SYSTEM SET max_replication_slots = {allowed + 5}{_RESTART}; or drop a slot that nobody"
            " needs: SELECT slot_name, active FROM pg_replication_slots",
        )


def _wal_senders(facts: ServerFacts) -> Check:
    used, allowed = facts.used_wal_senders, facts.max_wal_senders
    if used < allowed:
        return Check(
            name="max_wal_senders", state=CheckState.OK, why=f"{used} of {allowed} senders are taken"
        )
    return Check(
        name="max_wal_senders",
        state=CheckState.FAIL
        if allowed == 0
        else CheckState.WARN,  # one of them may be our own running reader
        why=f"all {allowed} WAL senders are taken",
        remedy=f"ALTER SYSTEM SET max_wal_senders = {allowed + 5}{_RESTART}",
    )


def _standby(
    facts: ServerFacts, config: WalConfig, *, slot_exists: bool, creates_in_database: bool
) -> Iterator[Check]:
    if not facts.in_recovery:
        return
    if creates_in_database:
        yield Check(
            name="primary",
            state=CheckState.FAIL,
            why="the server is a standby: nothing can be created on it",
            remedy="name the primary, or several hosts with target_session_attrs=read-write, in the dsn",
        )
    elif facts.server_version < 160000:
        yield Check(
            name="primary",
            state=CheckState.FAIL,
            why="the server is a standby, and decodes nothing before PostgreSQL 16",
            remedy="name the primary in the dsn",
        )
    elif not slot_exists:
        yield Check(
            name="primary",
            state=CheckState.WARN,
            why=f"the server is a standby: creating {config.slot_name} waits for a snapshot record of the primary",
            remedy="SELECT pg_log_standby_snapshot() on the primary",
        )


def _retention(facts: ServerFacts) -> Iterator[Check]:
    if facts.max_slot_wal_keep_size_mb < 0:
        yield Check(
            name="max_slot_wal_keep_size",
            state=CheckState.WARN,
            why="a slot that nobody reads may fill the server's disk",
            remedy="ALTER SYSTEM SET max_slot_wal_keep_size = '50GB' (less than what is free); SELECT pg_reload_conf()",
        )
    else:
        yield Check(
            name="max_slot_wal_keep_size",
            state=CheckState.OK,
            why=f"a slot that falls {facts.max_slot_wal_keep_size_mb} MB behind is invalidated",
        )
    if facts.idle_slot_timeout_seconds > 0:
        yield Check(
            name="idle_replication_slot_timeout",
            state=CheckState.WARN,
            why=f"a slot that nobody reads for {facts.idle_slot_timeout_seconds} s is invalidated",
            remedy="ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf()",
        )


def _synchronous_commit(facts: ServerFacts) -> Check:
    return Check(
        name="synchronous_commit",
        state=CheckState.OK,
        why=f"{facts.synchronous_commit} here; dead letters are written with on",
    )


# managed_admin: RDS, Cloud SQL and Azure give their customers a role of their own instead of a superuser.
_FACTS = """
SELECT jsonb_build_object(
    'wal_level', current_setting('wal_level'),
    'max_replication_slots', current_setting('max_replication_slots')::int,
    'used_replication_slots', (SELECT count(*) FROM pg_replication_slots),
    'max_wal_senders', current_setting('max_wal_senders')::int,
    'used_wal_senders', (SELECT count(*) FROM pg_stat_get_wal_senders()),
    'max_slot_wal_keep_size_mb', (SELECT setting::bigint FROM pg_settings WHERE name = 'max_slot_wal_keep_size'),
    'idle_slot_timeout_seconds', coalesce((
        SELECT setting::bigint * CASE unit WHEN 'min' THEN 60 ELSE 1 END
        FROM pg_settings WHERE name = 'idle_replication_slot_timeout'), 0),
    'in_recovery', pg_is_in_recovery(),
    'role', current_user,
    'database', current_database(),
    'superuser', r.rolsuper,
    'may_replicate', r.rolsuper OR r.rolreplication OR EXISTS (
        SELECT FROM pg_roles m WHERE m.rolname = 'rds_replication' AND pg_has_role(m.oid, 'MEMBER')),
    'may_create', has_database_privilege(current_database(), 'CREATE'),
    'managed_admin', EXISTS (
        SELECT FROM pg_roles m WHERE m.rolname IN ('rds_superuser', 'cloudsqlsuperuser', 'azure_pg_admin')
        AND pg_has_role(m.oid, 'MEMBER')),
    'synchronous_commit', current_setting('synchronous_commit'))::text
FROM pg_roles r WHERE r.rolname = current_user
"""
