"""Plans, creates and tears down what a reader needs in a database: schema, dead-letter table, publication, slot."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import final

import anyio

from cdc_core import Action, CdcError, ConfigError, Plan, PlanOutdated, PlanRefused, Step

from ._config import WalConfig
from ._connection import Connection, PasswordProvider
from ._conninfo import quote_identifier
from ._doctor import check_server, read_facts
from ._errors import sqlstate_of
from ._own_tables import created_objects_table, dead_letter_table
from ._plan_steps import plan_own, plan_publication, plan_slot
from ._provisioned import (
    PUBLICATION,
    SCHEMA,
    SLOT,
    TABLE,
    Created,
    created_objects,
    forget,
    is_ours,
    remember,
    table_oid,
)
from ._publications import quote_table, require_identities
from ._side_connection import SideConnection, open_side_connection
from ._slots import create_slot, drop_slot, inspect_slot

logger = logging.getLogger("cdc_wal")

_UNDO_TIMEOUT_SECONDS = 10.0


@asynccontextmanager
async def open_provisioner(
    config: WalConfig, *, password: PasswordProvider | None = None
) -> AsyncGenerator[PostgresProvisioner, None]:
    """Open the provisioner of a slot and of what belongs to it; it connects when it is first asked."""
    lock_timeout = f"{max(1, round(config.lock_timeout_seconds * 1000))}ms"
    async with open_side_connection(
        config, password=password, session={"lock_timeout": lock_timeout}
    ) as side:
        yield PostgresProvisioner(config, side, password)


@final
class PostgresProvisioner:
    """The provisioner of one `WalConfig`.

    What it creates it writes down, in a table beside the dead letters, with the object's OID and the slot it was
    for. Teardown takes away what is written down for its slot and still is the same object, unless another slot of
    ours uses it too; dead letters that are still there keep their table. (A slot has no OID: one that somebody
    dropped and made again under the same name cannot be told from ours.)
    """

    def __init__(self, config: WalConfig, side: SideConnection, password: PasswordProvider | None) -> None:
        self._config = config
        self._side = side
        self._password = password

    async def plan(self) -> Plan:
        """Read what exists and what is missing; change nothing.

        A publication that somebody else made stays as it is, and is refused where it lacks a chosen table. One that
        we made gets what is missing; nothing is ever taken out of it.
        """
        async with self._side.use() as connection:
            return await self._plan(connection)

    async def apply(self, plan: Plan) -> None:
        """Create what the plan says, the publication before the slot; what was done already is left alone.

        When the slot cannot be created, what this call created before it is removed again.

        Raises:
            PlanRefused, PlanOutdated: as the protocol says; nothing was changed.
            SlotCreationBlocked, NoFreeSlot, MissingPrivilege: from `create_slot`.
        """
        if plan.is_refused:
            raise PlanRefused(plan)
        async with self._side.use() as connection, _alone(connection):
            now = await self._plan(connection)
            if now.is_refused:
                raise PlanRefused(now)
            if (changed := _outdated(plan, now)) is not None:
                raise PlanOutdated(now, f"{changed} is not any more what the plan says")
            await self._carry_out(connection, now)

    async def teardown(self, *, confirm: str) -> Plan:
        """Drop the slot, then the publication, then our tables and schema, as far as we created them.

        Raises:
            ConfigError: `confirm` is not the slot's name.
            SlotInUse: a reader holds the slot; nothing was dropped.
        """
        config = self._config
        if confirm != config.slot_name:
            raise ConfigError(
                f"teardown was confirmed with {confirm!r}",
                remedy=f"confirm with the slot's name, {config.slot_name!r}",
            )
        async with self._side.use() as connection, _alone(connection):
            record = await created_objects(connection, config)
            steps = [await self._drop_slot(connection, record)]
            async with connection.transaction():
                steps.append(await self._drop_publication(connection, record))
                steps += await self._drop_tables(connection, record)
            steps.append(await self._drop_schema(connection, record, steps))
        return Plan(steps=tuple(step for step in steps if step is not None))

    async def _plan(self, connection: Connection) -> Plan:
        config = self._config
        facts = await read_facts(connection)
        record = await created_objects(connection, config)
        own = await plan_own(connection, config, facts)
        publication, publication_checks = await plan_publication(connection, config, record, facts)
        slot = await plan_slot(connection, config)
        creates = any(step.action is Action.CREATE for step in (own[0], publication))
        checks = check_server(
            facts, config, slot_exists=slot.action is not Action.CREATE, creates_in_database=creates
        )
        return Plan(steps=(*own, publication, slot), checks=(*checks, *publication_checks))

    async def _carry_out(self, connection: Connection, plan: Plan) -> None:
        config = self._config
        made = [step for step in plan.steps if step.action is Action.CREATE]
        async with connection.transaction():
            record = await created_objects(connection, config)
            for step in plan.steps:
                if step.kind != SLOT and step.action in (Action.CREATE, Action.CHANGE):
                    if step.kind == PUBLICATION and step.action is Action.CREATE:
                        await require_identities(connection, config)
                    await connection.simple(step.statement)
            if any(step.kind == SLOT for step in made):
                await self._remember(connection, plan, record)
        if any(step.kind == SLOT for step in made):
            try:
                await create_slot(config, password=self._password, side=connection)
            except BaseException:
                with anyio.move_on_after(_UNDO_TIMEOUT_SECONDS, shield=True):
                    try:
                        await self._undo(connection, made)
                    except (
                        CdcError
                    ) as error:  # the first error is the one to act on; a new plan finds what is left
                        logger.warning("what was created is still there", extra={"error": error.message})
                raise

    async def _remember(self, connection: Connection, plan: Plan, record: tuple[Created, ...]) -> None:
        for step in plan.steps:
            if step.action is Action.CREATE or await is_ours(
                connection, self._config, record, step.kind, step.name
            ):
                await remember(connection, self._config, step.kind, step.name)

    async def _undo(self, connection: Connection, made: list[Step]) -> None:
        drops = {step.kind: _drop_statement(step.kind, step.name) for step in made if step.kind != TABLE}
        tables = [step for step in made if step.kind == TABLE]
        async with connection.transaction():
            if PUBLICATION in drops:
                await connection.simple(drops[PUBLICATION])
            for table in (created_objects_table(self._config), dead_letter_table(self._config)):
                if any(step.name == str(table) for step in tables):
                    await connection.simple(f"DROP TABLE {quote_table(table)}")
            if SCHEMA in drops:
                await connection.simple(drops[SCHEMA])
            if await table_oid(connection, created_objects_table(self._config)) is not None:
                for step in made:
                    await forget(connection, self._config, step.kind, step.name)

    async def _drop_slot(self, connection: Connection, record: tuple[Created, ...]) -> Step | None:
        name = self._config.slot_name
        if await inspect_slot(connection, name) is None:
            return None
        if not any(item.kind == SLOT and item.name == name for item in record):
            return _kept(SLOT, name, "was not created here")
        await drop_slot(connection, name)
        return Step(action=Action.DROP, kind=SLOT, name=name)

    async def _drop_publication(self, connection: Connection, record: tuple[Created, ...]) -> Step | None:
        config, name = self._config, self._config.publication_name
        mine = any(
            item.kind == PUBLICATION and item.name == name and item.slot_name == config.slot_name
            for item in record
        )
        if not mine or not await is_ours(connection, config, record, PUBLICATION, name):
            return _kept(PUBLICATION, name, "was not created here")
        others = _others(record, PUBLICATION, name, config.slot_name)
        await forget(connection, config, PUBLICATION, name)
        if others:
            return _kept(PUBLICATION, name, f"is used by {', '.join(others)}")
        statement = _drop_statement(PUBLICATION, name)
        await connection.simple(statement)
        return Step(action=Action.DROP, kind=PUBLICATION, name=name, statement=statement)

    async def _drop_tables(self, connection: Connection, record: tuple[Created, ...]) -> list[Step]:
        config, letters, objects = (
            self._config,
            dead_letter_table(self._config),
            created_objects_table(self._config),
        )
        if not record:
            return []
        await forget(connection, config, SLOT, config.slot_name)
        others = sorted({item.slot_name for item in record if item.kind == SLOT} - {config.slot_name})
        row = await connection.fetch_one(f"SELECT count(*) FROM {quote_table(letters)}")
        count = int((row[0] if row else None) or 0)
        reason = (
            f"is used by {', '.join(others)}" if others else f"holds {count} dead letters" if count else ""
        )
        steps: list[Step] = []
        for table in (letters, objects):
            if reason or not await is_ours(connection, config, record, TABLE, str(table)):
                steps.append(_kept(TABLE, str(table), reason or "was not created here"))
                continue
            statement = f"DROP TABLE {quote_table(table)}"
            await connection.simple(statement)
            steps.append(Step(action=Action.DROP, kind=TABLE, name=str(table), statement=statement))
        return steps

    async def _drop_schema(
        self, connection: Connection, record: tuple[Created, ...], steps: list[Step | None]
    ) -> Step | None:
        name = self._config.cdc_schema
        if not record or any(step and step.kind == TABLE and step.action is Action.KEEP for step in steps):
            return None
        if not await is_ours(connection, self._config, record, SCHEMA, name):
            return _kept(SCHEMA, name, "was not created here")
        statement = _drop_statement(SCHEMA, name)
        try:
            await connection.simple(statement)
        except CdcError as error:
            if sqlstate_of(error) != "2BP01":  # dependent_objects_still_exist
                raise
            return _kept(SCHEMA, name, "holds objects of somebody else")
        return Step(action=Action.DROP, kind=SCHEMA, name=name, statement=statement)


@asynccontextmanager
async def _alone(connection: Connection) -> AsyncGenerator[None, None]:
    """Keep other provisioners of this database out; no transaction is open meanwhile, which a new slot would await."""
    key = "hashtextextended('cdc-wal provisioner', 0)"
    await connection.fetch(f"SELECT pg_advisory_lock({key})")
    try:
        yield
    finally:
        if connection.alive():
            with anyio.move_on_after(_UNDO_TIMEOUT_SECONDS, shield=True):
                await connection.fetch(f"SELECT pg_advisory_unlock({key})")


def _outdated(plan: Plan, now: Plan) -> str | None:
    planned = {(step.kind, step.name): step for step in plan.steps}
    for step in now.steps:
        before = planned.get((step.kind, step.name))
        if step.action is Action.KEEP and before is not None:
            continue  # it was there, or somebody has done meanwhile what the plan would have
        if before is None or (before.action, before.statement) != (step.action, step.statement):
            return f"{step.kind} {step.name}"
    return None


def _others(record: tuple[Created, ...], kind: str, name: str, slot_name: str) -> list[str]:
    return sorted(
        item.slot_name
        for item in record
        if item.kind == kind and item.name == name and item.slot_name != slot_name
    )


def _kept(kind: str, name: str, detail: str) -> Step:
    return Step(action=Action.KEEP, kind=kind, name=name, detail=detail)


def _drop_statement(kind: str, name: str) -> str:
    words = {PUBLICATION: "PUBLICATION", SCHEMA: "SCHEMA"}
    return f"DROP {words[kind]} {quote_identifier(name)}" if kind in words else ""
