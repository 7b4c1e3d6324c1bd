"""Learns of a fast shutdown: the walsender waits for our confirmation in silence, a plain session hears of it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Final, final

import anyio

from cdc_core import CdcError

from ._config import WalConfig
from ._connection import Connection, PasswordProvider, open_connection
from ._errors import ConnectionLost, ServerStopping

_RETRY_SECONDS: Final = 1.0


@final
class ShutdownWatch:
    """Watches the server over a plain session of its own."""

    def __init__(self, config: WalConfig, password: PasswordProvider | None) -> None:
        self._config = config
        self._password = password

    async def wait(self) -> None:
        """Return when the server goes down."""
        while True:
            try:
                async with self._open_plain() as connection:
                    await connection.watch()
            except ServerStopping:
                if await self._is_going_down():
                    return
            except CdcError:
                # the replication connection finds out for itself whether the server is gone
                await anyio.sleep(_RETRY_SECONDS)

    async def _is_going_down(self) -> bool:
        """Tell a shutdown from one terminated session: only a server that goes down refuses the next one."""
        try:
            async with self._open_plain():
                return False
        except ConnectionLost:
            return True
        except CdcError:
            return False

    def _open_plain(self) -> AbstractAsyncContextManager[Connection]:
        return open_connection(
            self._config.dsn,
            password=self._password,
            application_name=self._config.application_name,
            connect_timeout_seconds=self._config.connect_timeout_seconds,
        )
