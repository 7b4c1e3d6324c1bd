"""An ordinary connection beside the stream: opened when first needed, and again after it broke."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import final

import anyio

from ._config import WalConfig
from ._connection import Connection, PasswordProvider, open_connection


@asynccontextmanager
async def open_side_connection(
    config: WalConfig, *, password: PasswordProvider | None = None, session: Mapping[str, str] | None = None
) -> AsyncGenerator[SideConnection, None]:
    """Give a connection that connects when first used; it is closed at the end of the block."""
    side = SideConnection(config, password, session or {})
    try:
        yield side
    finally:
        await side.close()


@final
class SideConnection:
    """Lends one session to one task at a time, and connects anew when the last user left it broken."""

    def __init__(
        self, config: WalConfig, password: PasswordProvider | None, session: Mapping[str, str]
    ) -> None:
        self._config = config
        self._password = password
        self._session = session
        self._lock = anyio.Lock()
        self._stack = AsyncExitStack()
        self._connection: Connection | None = None

    @asynccontextmanager
    async def use(self) -> AsyncGenerator[Connection, None]:
        """Lend the session.

        An idle session that the server ended in the meantime is seen and replaced first.

        Raises:
            CdcError: no session could be had; what the user of the session raises is left as it is.
        """
        async with self._lock:
            if self._connection is None or not self._connection.alive():
                await self._stack.aclose()
                self._connection = await self._stack.enter_async_context(
                    open_connection(
                        self._config.dsn,
                        password=self._password,
                        application_name=self._config.application_name,
                        connect_timeout_seconds=self._config.connect_timeout_seconds,
                        session=self._session,
                    )
                )
            yield self._connection

    async def close(self) -> None:
        """Close the session, if there is one."""
        self._connection = None
        await self._stack.aclose()
