"""What a plan says about each object: keep it, create it, change it, or refuse."""

from __future__ import annotations

from collections.abc import Sequence

from cdc_core import Action, Check, CheckState, Step, TableId

from ._config import WalConfig
from ._connection import Connection
from ._conninfo import quote_identifier
from ._doctor import ServerFacts, letter_privileges
from ._errors import SlotLost, SlotMissing, WrongPlugin
from ._own_tables import (
    DEAD_LETTER_COLUMNS,
    create_created_objects_table,
    create_dead_letter_table,
    create_schema,
    created_objects_table,
    dead_letter_table,
)
from ._provisioned import PUBLICATION, SCHEMA, SLOT, TABLE, Created, is_ours, table_oid
from ._publications import (
    PublicationState,
    PublishableTable,
    change_statements,
    create_statement,
    identity_fault,
    inspect_publication,
    missing,
    publishable_tables,
    quote_table,
)
from ._slots import inspect_slot, verify_slot


async def plan_own(connection: Connection, config: WalConfig, facts: ServerFacts) -> tuple[Step, ...]:
    """Plan our schema and the two tables in it."""
    name = config.cdc_schema
    found = await connection.fetch_one(
        "SELECT has_schema_privilege(oid, 'CREATE') AND has_schema_privilege(oid, 'USAGE')"
        " FROM pg_namespace WHERE nspname = $1",
        [name],
    )
    schema = _keep_or_create(
        SCHEMA, name, exists=found is not None, detail="holds our own tables", statement=create_schema(config)
    )
    steps = [schema]
    for table, detail, statement in (
        (
            created_objects_table(config),
            "what was created here, for which slot",
            create_created_objects_table(config),
        ),
        (dead_letter_table(config), "events that could not be handled", create_dead_letter_table(config)),
    ):
        exists = await table_oid(connection, table) is not None
        step = _keep_or_create(TABLE, str(table), exists=exists, detail=detail, statement=statement)
        if not exists and found is not None and found[0] != "t":
            quoted, role = quote_identifier(name), quote_identifier(facts.role)
            step = refused(
                TABLE,
                str(table),
                f"{facts.role} may not create tables in the schema {name}",
                f"GRANT CREATE, USAGE ON SCHEMA {quoted} TO {role}",
            )
        steps.append(step)
    if steps[-1].action is Action.KEEP:
        steps[-1] = await _existing_letters(connection, config, facts, steps[-1])
    return tuple(steps)


async def plan_slot(connection: Connection, config: WalConfig) -> Step:
    """Plan the slot: one that cannot be read from is refused, never replaced."""
    state = await inspect_slot(connection, config.slot_name)
    try:
        state = verify_slot(state, config=config, database=connection.database)
    except SlotMissing:
        detail = "keeps the log from now on until it is read"
        return Step(
            action=Action.CREATE,
            kind=SLOT,
            name=config.slot_name,
            detail=f"{detail}, on standbys too" if config.failover else detail,
            statement=f"CREATE_REPLICATION_SLOT {config.slot_name} LOGICAL pgoutput",
        )
    except (WrongPlugin, SlotLost) as error:
        return refused(SLOT, config.slot_name, error.message, error.remedy)
    detail = f"confirmed up to {state.confirmed_flush_lsn}{', in use' if state.active else ''}"
    return Step(action=Action.KEEP, kind=SLOT, name=config.slot_name, detail=detail)


async def plan_publication(
    connection: Connection, config: WalConfig, record: tuple[Created, ...], facts: ServerFacts
) -> tuple[Step, tuple[Check, ...]]:
    """Plan the publication, and check the tables that it publishes."""
    name = config.publication_name
    state = await inspect_publication(connection, name)
    chooses = bool(config.table_ids or config.schemas or config.all_tables)
    if state is None and not chooses:
        return (
            refused(
                PUBLICATION,
                name,
                "does not exist, and the config chooses no tables",
                f"set tables, schemas or all_tables, or CREATE PUBLICATION {quote_identifier(name)} FOR TABLE ...",
            ),
            (),
        )
    if not chooses:
        return _keep_publication(config, state), ()
    if config.schemas and connection.server_version < 150000:
        return refused(PUBLICATION, name, "schemas are published since PostgreSQL 15", "name the tables"), ()
    tables = await publishable_tables(connection, config)
    if absent := _absent(config, tables):
        names = ", ".join(str(table) for table in absent)
        return refused(PUBLICATION, name, f"no such table: {names}", "create it, or correct tables"), ()
    if state is None:
        return _create_publication(config, tables, facts), ()
    if not await is_ours(connection, config, record, PUBLICATION, name):
        return _foreign_publication(config, state), _identity_checks(state, tables)
    return _change_publication(config, state, tables, facts), _identity_checks(state, tables)


def refused(kind: str, name: str, detail: str, remedy: str) -> Step:
    """Make a step that stops the plan."""
    return Step(action=Action.REFUSE, kind=kind, name=name, detail=detail, remedy=remedy)


def _keep_or_create(kind: str, name: str, *, exists: bool, detail: str, statement: str) -> Step:
    action = Action.KEEP if exists else Action.CREATE
    return Step(action=action, kind=kind, name=name, detail=detail, statement="" if exists else statement)


async def _existing_letters(
    connection: Connection, config: WalConfig, facts: ServerFacts, keep: Step
) -> Step:
    table = dead_letter_table(config)
    columns = await connection.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = $1::oid AND attnum > 0 AND NOT attisdropped",
        [await table_oid(connection, table)],
    )
    if lacking := [name for name in DEAD_LETTER_COLUMNS if (name,) not in columns]:
        return refused(
            TABLE,
            str(table),
            f"exists, without the columns {', '.join(lacking)}",
            f"ALTER TABLE {quote_table(table)} RENAME TO other_name, or set cdc_schema to another name",
        )
    if denied := await letter_privileges(connection, config):
        schema, role = quote_identifier(config.cdc_schema), quote_identifier(facts.role)
        return refused(
            TABLE,
            str(table),
            f"{facts.role} lacks {', '.join(denied)}",
            f"GRANT USAGE ON SCHEMA {schema} TO {role};"
            f" GRANT SELECT, INSERT, DELETE ON {quote_table(table)} TO {role}",
        )
    return keep


def _absent(config: WalConfig, tables: Sequence[PublishableTable]) -> list[TableId]:
    present = {table.chosen for table in tables}
    return [table for table in config.table_ids if table not in present]


def _create_publication(config: WalConfig, tables: Sequence[PublishableTable], facts: ServerFacts) -> Step:
    name = config.publication_name
    if (reason := _not_publishable(config, tables, facts)) is not None:
        return refused(PUBLICATION, name, *reason)
    return Step(
        action=Action.CREATE,
        kind=PUBLICATION,
        name=name,
        detail=f"{len({table.chosen for table in tables})} tables now",
        statement=create_statement(config),
    )


def _change_publication(
    config: WalConfig, state: PublicationState, tables: Sequence[PublishableTable], facts: ServerFacts
) -> Step:
    name = config.publication_name
    if config.all_tables and not state.all_tables:
        return refused(
            PUBLICATION,
            name,
            "was made for chosen tables, and cannot be altered to take all",
            "choose another publication_name (it starts at its creation), or name the tables",
        )
    statements = change_statements(config, state)
    if not statements:
        return _keep_publication(config, state)
    added, schemas = missing(config, state)
    new = [t for t in tables if t.chosen in added or t.chosen.schema in schemas]
    widened = bool({"update", "delete"} & (set(config.operations) - state.operations))
    if (reason := _not_publishable(config, tables if widened else new, facts)) is not None:
        return refused(PUBLICATION, name, *reason)
    return Step(
        action=Action.CHANGE,
        kind=PUBLICATION,
        name=name,
        detail=f"lacks {_lacking(config, state)}",
        statement="; ".join(statements),
    )


def _foreign_publication(config: WalConfig, state: PublicationState) -> Step:
    statements = change_statements(config, state)
    if config.all_tables and not state.all_tables:
        return refused(
            PUBLICATION,
            state.name,
            "was made by somebody else, and not for all tables",
            "choose another publication_name, or name the tables",
        )
    if not statements:
        return _keep_publication(config, state)
    return refused(
        PUBLICATION,
        state.name,
        f"was made by somebody else, and lacks {_lacking(config, state)}",
        "; ".join(statements),
    )


def _lacking(config: WalConfig, state: PublicationState) -> str:
    tables, schemas = missing(config, state)
    operations = [f"the operation {word}" for word in config.operations if word not in state.operations]
    return ", ".join([*map(str, tables), *(f"the schema {schema}" for schema in schemas), *operations])


def _keep_publication(config: WalConfig, state: PublicationState | None) -> Step:
    parts: list[str] = []
    if state is not None:
        parts.append("all tables" if state.all_tables else f"{len(state.tables)} tables")
        parts += [f"schema {schema}" for schema in sorted(state.schemas)]
        parts += [f"{table} with its column list or row filter" for table in sorted(state.narrowed)]
    return Step(action=Action.KEEP, kind=PUBLICATION, name=config.publication_name, detail=", ".join(parts))


def _not_publishable(
    config: WalConfig, tables: Sequence[PublishableTable], facts: ServerFacts
) -> tuple[str, str] | None:
    if needs_identity(config.operations) and (fault := identity_fault(tables)) is not None:
        return fault
    if (config.all_tables or config.schemas) and not (facts.superuser or facts.managed_admin):
        what = "all tables" if config.all_tables else "a schema"
        return f"only a superuser may publish {what}", "name the tables, or provision as a superuser"
    if foreign := sorted({t.chosen for t in tables if not t.owned}):
        role = quote_identifier(facts.role)
        return (
            f"{facts.role} does not own {', '.join(map(str, foreign))}",
            "; ".join(f"ALTER TABLE {quote_table(table)} OWNER TO {role}" for table in foreign)
            + ", or provision as the owner",
        )
    if hidden := sorted({t.chosen.schema for t in tables if not t.reachable}):
        role = quote_identifier(facts.role)
        return (
            f"{facts.role} may not use the schema {', '.join(hidden)}",
            "; ".join(f"GRANT USAGE ON SCHEMA {quote_identifier(schema)} TO {role}" for schema in hidden),
        )
    return None


def needs_identity(operations: Sequence[str]) -> bool:
    """Say whether publishing these operations makes the server demand a replica identity."""
    return not {"update", "delete"}.isdisjoint(operations)


def _identity_checks(state: PublicationState, tables: Sequence[PublishableTable]) -> tuple[Check, ...]:
    fault = identity_fault(tables, sends_generated=state.sends_generated)
    if fault is None or not needs_identity(tuple(state.operations)):
        return ()
    why, remedy = fault
    return (
        Check(name="replica_identity", state=CheckState.WARN, why=f"already published: {why}", remedy=remedy),
    )
