"""Feeds a transport with a broker: reads the slot, publishes, and confirms what every receipt has settled."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import final

from cdc_core import Health, PartitionLag, Provisioner, Transport, run_beside
from cdc_pgoutput import Lsn

from ._config import WalConfig
from ._connection import PasswordProvider
from ._provisioner import open_provisioner
from ._reader_run import ReaderRun
from ._schema_changes import SchemaChangeHook


@final
class WalReader:
    """Reads a slot and publishes its events through a transport; nothing is confirmed before it is durable there.

    - `to`: the transport; its publisher is opened anew after a terminal error, from the confirmed LSN.
    - `name`: in logs, health and the dead letters of what the publisher rejects; default: the slot's name.
    - `password`: called on every connection.
    - `on_schema_change`: awaited when the publisher has accepted all before a table's new shape, and nothing of it.
    - `drain_timeout_seconds`: how long leaving waits for receipts.

    A value: each `running()` or `run()` is a new run.
    """

    def __init__(
        self,
        config: WalConfig,
        *,
        to: Transport,
        name: str | None = None,
        password: PasswordProvider | None = None,
        on_schema_change: SchemaChangeHook | None = None,
        drain_timeout_seconds: float = 20.0,
    ) -> None:
        self.config = config
        self.name: str = name or config.slot_name
        self.to = to
        self.password = password
        self.on_schema_change = on_schema_change
        self.drain_timeout_seconds = drain_timeout_seconds

    def __repr__(self) -> str:
        return f"WalReader({self.name!r}, {self.config!r})"

    def provisioner(self) -> AbstractAsyncContextManager[Provisioner]:
        """Open the provisioner of the publication, the slot and the dead-letter table."""
        return open_provisioner(self.config, password=self.password)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[RunningReader]:
        """Run beside the body of an `async with`.

        Leaving the body drains: nothing more is read, open receipts may settle within `drain_timeout_seconds`, what
        is durable is confirmed. Cancelling it abandons. If the reader fails, the body is cancelled.

        Raises:
            CdcError: what ended the reader; one error, never a group. An exception of the body's own passes
                unchanged, and goes before it.
        """
        run = ReaderRun(self)
        async with run_beside(run):
            yield RunningReader(run)

    async def run(self) -> None:
        """Run until cancelled, or until it fails.

        Raises:
            CdcError: what ended the reader.
        """
        async with self.running() as live:
            await live.wait()


@final
class RunningReader:
    """A running reader, as its host sees it; what it tells is in memory, so that asking never waits."""

    def __init__(self, run: ReaderRun) -> None:
        self._run = run

    @property
    def confirmed_lsn(self) -> Lsn | None:
        """The LSN up to which all is durable; None before the first connection."""
        return self._run.confirmed_lsn

    @property
    def published(self) -> int:
        """How many events are durable in the transport, of the connections that have ended."""
        return self._run.published

    @property
    def rejected(self) -> int:
        """How many events the dead letters have instead of the transport, of the connections that have ended."""
        return self._run.rejected

    @property
    def health(self) -> Health:
        """The reader's own state, then the last sample of the slot's health; not ready once it has ended."""
        return self._run.health

    @property
    def lag(self) -> Sequence[PartitionLag]:
        """The last sample of the slot's lag; all UNKNOWN before the first."""
        return self._run.lag

    def stop(self) -> None:
        """Ask it to drain; returns at once. `wait` tells when it is done."""
        self._run.stop()

    async def wait(self) -> None:
        """Wait until it has ended."""
        await self._run.ended.wait()
