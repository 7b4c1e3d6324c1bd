"""The shapes of tables: resolved from the catalog, and told to the user's hook when they change (rule 8)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import final

from cdc_core import CdcError, SourceError, TableId
from cdc_pgoutput import Decoder, Relation

from ._catalog import relation_key, type_infos
from ._config import WalConfig
from ._relations import RelationState, SourceName, make_relation_state
from ._side_connection import SideConnection


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaChange:
    """A table's columns are not what they were; told before the first row of the new shape.

    - `old`, `new`: name and type OID of each column, in table order.
    """

    table: TableId
    old: tuple[tuple[str, int], ...]
    new: tuple[tuple[str, int], ...]


SchemaChangeHook = Callable[[SchemaChange], Awaitable[None]]
"""Awaited when all before the new shape was accepted by the publisher, or handled, and nothing of it was."""


@final
class Shapes:
    """The shapes that one connection was told, resolved; `last` are those of the connection before it."""

    def __init__(
        self,
        config: WalConfig,
        side: SideConnection,
        decoder: Decoder,
        source: SourceName,
        hook: SchemaChangeHook | None,
        last: Mapping[int, Relation],
    ) -> None:
        self.last = dict(last)
        self._config = config
        self._side = side
        self._decoder = decoder
        self._source = source
        self._hook = hook
        self._resolved: dict[tuple[Relation, tuple[str, ...]], RelationState] = {}

    def is_new(self, relation: Relation) -> bool:
        """Say whether a hook is to be told of this shape."""
        before = self.last.get(relation.relation_id)
        return self._hook is not None and before is not None and before.columns != relation.columns

    async def resolve(self, relation: Relation) -> RelationState:
        """Return what is to be known of a relation that the server announced.

        Raises:
            SourceError: the hook failed; ConnectionLost: the catalog could not be read.
        """
        # The server repeats a Relation, byte for byte, when something about the table has changed: the order of the
        # key's columns stands in the catalog alone. An unchanged key costs a query, and no new code for its rows.
        async with self._side.use() as connection:
            if unknown := self._decoder.unknown_types(relation):
                for info in await type_infos(connection, unknown):
                    self._decoder.types.register(info)
            key = (await relation_key(connection, relation.relation_id)).columns
        state = self._resolved.get((relation, key))
        if state is None:
            state = make_relation_state(
                relation,
                self._decoder.types,
                key,
                self._source,
                cdc_schema=self._config.cdc_schema,
            )
            self._resolved[relation, key] = state
        await self._announce(state.table, relation)
        return state

    async def _announce(self, table: TableId, relation: Relation) -> None:
        """Tell the hook of a shape that is not the table's last one, and only then take it for that."""
        if self._hook is not None and self.is_new(relation):
            before = self.last[relation.relation_id]
            change = SchemaChange(
                table=table,
                old=tuple((column.name, column.type_oid) for column in before.columns),
                new=tuple((column.name, column.type_oid) for column in relation.columns),
            )
            try:
                await self._hook(change)
            except CdcError:
                raise
            except Exception as error:
                raise SourceError(
                    f"on_schema_change raised {type(error).__name__}",
                    where={"table": str(table), "slot": self._config.slot_name},
                    remedy="mend the hook, or let it raise a retryable CdcError where trying again may help",
                ) from error
        self.last[relation.relation_id] = relation
