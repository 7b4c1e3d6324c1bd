"""The way of a change from the database to the handler: what differs from transport to transport, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import final

from cdc_core import DeadLetters, Provisioner, Transport
from cdc_wal import PostgresTransport, WalConfig, WalReader

from .options import LETTERS_SCHEMA, PUBLICATION, SLOT, DemoOptions, TransportName
from .schema import PUBLISHED


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One way.

    - `log`: the slot, the publication and the dead letters in the database, which every way begins with.
    - `broker`: what a reader publishes to and the pipeline reads from; None where the pipeline reads the log itself.
    - `between`: the broker as people call it, empty where there is none.
    """

    log: PostgresTransport
    broker: Transport | None = None
    between: str = ""

    @property
    def transport(self) -> Transport:
        """The pipeline's."""
        return self.broker or self.log

    @property
    def reader(self) -> WalReader | None:
        """What feeds the broker."""
        return WalReader(self.log.config, to=self.broker) if self.broker is not None else None

    def provisioners(self) -> list[tuple[str, AbstractAsyncContextManager[Provisioner]]]:
        """Return those of all that the way needs, each with the title of its plan, to be opened one after the other."""
        titles = ("The plan", f"The plan for {self.between}")
        return [(title, each.provisioner()) for title, each in zip(titles, self._parts, strict=False)]

    def dead_letters(self) -> list[AbstractAsyncContextManager[DeadLetters]]:
        """Return the stores that may hold some: what a publisher refuses is in the database, what a handler refuses
        is the transport's."""
        return [each.dead_letters() for each in self._parts]

    @property
    def _parts(self) -> list[Transport]:
        return [self.log] if self.broker is None else [self.log, self.broker]


@asynccontextmanager
async def open_route(options: DemoOptions, dsn: str) -> AsyncGenerator[Route]:
    """Open the chosen way, with the servers that it needs beside the database.

    Raises:
        cdc_testing.servers.ServerError: one of them could not be started.
    """
    log = log_of(dsn)
    if options.transport is TransportName.POSTGRES:
        yield Route(log=log)
        return
    from .kinesis import open_kinesis  # its packages are needed by this transport alone

    async with open_kinesis() as (broker, between):
        yield Route(log=log, broker=broker, between=between)


def log_of(dsn: str) -> PostgresTransport:
    """Return the demo's slot in a database, and what belongs to it."""
    return PostgresTransport(
        WalConfig(
            dsn=dsn,
            slot_name=SLOT,
            publication_name=PUBLICATION,
            tables=PUBLISHED,
            operations=("insert", "update", "delete"),
            cdc_schema=LETTERS_SCHEMA,
        )
    )
