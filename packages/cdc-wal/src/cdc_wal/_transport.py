"""The broker-less transport: PostgreSQL is the source, the offset store and the home of the dead letters."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Final, final

from cdc_core import (
    ConfigError,
    DeadLetters,
    ErrorRouter,
    EventSource,
    Fence,
    FreshStart,
    Granularity,
    Provisioner,
    SourceMonitor,
    Traits,
    TransportEntry,
    WalPublisher,
)

from ._config import WalConfig
from ._connection import PasswordProvider
from ._dead_letters import open_dead_letters, open_error_router
from ._monitor import open_monitor
from ._provisioner import open_provisioner
from ._schema_changes import SchemaChangeHook
from ._source import SlotSource

_TRAITS: Final = Traits(
    granularity=Granularity.TRANSACTION,
    exclusive=True,
    revocable=False,
    seekable=False,
    fresh_start=FreshStart.CREATION,
    fenced=False,
    publishes=False,
)


@final
class PostgresTransport:
    """A pipeline with this transport needs nothing but PostgreSQL.

    - `config`: the slot, what it publishes, and the bounds of reading it.
    - `password`: called on every connection, sync or async; for tokens that expire.
    - `on_schema_change`: awaited before the first row of a table's new shape.

    >>> transport = PostgresTransport(WalConfig(dsn="postgresql://app@db/shop", slot_name="shop",
    ...                               publication_name="shop", tables=("shop.orders",)))
    """

    def __init__(
        self,
        config: WalConfig,
        *,
        password: PasswordProvider | None = None,
        on_schema_change: SchemaChangeHook | None = None,
    ) -> None:
        self.config = config
        self._password = password
        self._on_schema_change = on_schema_change

    def __repr__(self) -> str:
        return f"PostgresTransport({self.config!r})"

    @property
    def traits(self) -> Traits:
        """A slot confirms whole transactions, has one owner, and can be lost but not taken with notice."""
        return _TRAITS

    def source(self) -> EventSource:
        """Return the event source: the slot as one partition.

        Raises:
            ConfigError: `truncate` is anything but `deliver`: here a TRUNCATE comes in order, for the handler to judge.
        """
        if self.config.truncate not in (None, "deliver"):
            raise ConfigError(
                f"truncate is {self.config.truncate!r}, and the postgres transport delivers a TRUNCATE in its order",
                remedy="leave truncate out, and raise Poison in the handler where a TRUNCATE is to be set aside",
            )
        return SlotSource(self.config, password=self._password, on_schema_change=self._on_schema_change)

    def provisioner(self) -> AbstractAsyncContextManager[Provisioner]:
        """Open the provisioner of the schema, the dead-letter table, the publication and the slot."""
        return open_provisioner(self.config, password=self._password)

    def error_router(self) -> AbstractAsyncContextManager[ErrorRouter]:
        """Open the way into the dead-letter table."""
        return open_error_router(self.config, password=self._password)

    def monitor(self) -> AbstractAsyncContextManager[SourceMonitor]:
        """Open the monitor of the slot."""
        return open_monitor(self.config, password=self._password)

    def dead_letters(self) -> AbstractAsyncContextManager[DeadLetters]:
        """Open the dead-letter table."""
        return open_dead_letters(self.config, password=self._password)

    def publisher(self, fence: Fence) -> AbstractAsyncContextManager[WalPublisher]:
        """Refuse: this transport reads the log itself, nobody feeds it.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "the postgres transport has no publisher: its event source reads the log itself",
            remedy="use it with a Pipeline, or give the WalReader a transport with a broker",
        )


entry: TransportEntry[WalConfig] = TransportEntry(config=WalConfig, make=PostgresTransport)
"""What the entry point `postgres` of the group `cdc.transports` names."""
