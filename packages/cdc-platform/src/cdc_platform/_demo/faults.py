"""What `--fault` does to the database in the middle of a run."""

from __future__ import annotations

from typing import Final

import psycopg

from cdc_testing.servers.postgres import EmbeddedPostgres

from .options import SLOT, DemoFailed, Fault
from .session import Session, until

_FIND_SECONDS: Final = 10.0
_TERMINATE: Final = (
    "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
    " WHERE slot_name = %s AND active_pid IS NOT NULL"
)


def check_fault(fault: Fault | None, *, own_server: bool) -> None:
    """Refuse what cannot be done to a server that is not ours.

    Raises:
        DemoFailed: the server would have to be restarted.
    """
    if fault is not None and fault is not Fault.TERMINATE and not own_server:
        raise DemoFailed(
            f"--fault {fault} restarts the server, and the demo does not restart a user's own",
            remedy="use --fault terminate, or leave --dsn out: the embedded server may be restarted",
        )


async def cause(fault: Fault, server: EmbeddedPostgres | None, session: Session) -> None:
    """Do it, and return once it is done: the server is up again, or the session was told to end.

    Raises:
        DemoFailed: there was no session to end, or the user's role may not end it.
    """
    if fault is not Fault.TERMINATE:
        assert server is not None
        await server.restart_async("fast" if fault is Fault.RESTART else "immediate")
        return
    if await until(lambda: _terminate(session), timeout_seconds=_FIND_SECONDS):
        return
    raise DemoFailed("the slot had no reader whose session could be ended", remedy="run the demo again")


async def _terminate(session: Session) -> bool:
    try:
        row = await session.call(lambda connection: connection.execute(_TERMINATE, [SLOT]).fetchone())
    except psycopg.errors.InsufficientPrivilege as error:
        raise DemoFailed(
            "the role may not end the reader's session", remedy="GRANT pg_signal_backend TO it"
        ) from error
    return row is not None and bool(row[0])
