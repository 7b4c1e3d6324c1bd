"""What one run of the demo is told, and the names of everything that it makes."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

SCHEMA: Final = "cdc_demo"
LETTERS_SCHEMA: Final = "cdc_demo_letters"
SLOT: Final = "cdc_demo"
PUBLICATION: Final = "cdc_demo"
PIPELINE: Final = "cdc_demo"

DROP_STATEMENTS: Final = (
    f"SELECT pg_drop_replication_slot('{SLOT}');",
    f"DROP PUBLICATION IF EXISTS {PUBLICATION};",
    f"DROP SCHEMA IF EXISTS {SCHEMA}, {LETTERS_SCHEMA} CASCADE;",
)
"""What takes away everything that the demo makes in a user's database; the slot's first: it keeps WAL on disk."""


class Fault(enum.StrEnum):
    """What is done to the database during a run."""

    RESTART = "restart"
    IMMEDIATE = "immediate"
    TERMINATE = "terminate"


class TransportName(enum.StrEnum):
    """What is between the database and the handler."""

    POSTGRES = "postgres"
    KINESIS = "kinesis"


class Backend(enum.StrEnum):
    """The event loop."""

    ASYNCIO = "asyncio"
    TRIO = "trio"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """One run.

    - `seconds`: how long the workload runs; 0 until a signal.
    - `transport`: `postgres` for nothing in between.
    - `dsn`: the user's own database; None for an embedded server.
    - `rate`: rows a second that the writers aim at together; `writers`: their sessions.
    - `drain_seconds`: how long what was written last may take to arrive.
    - `seed`: of the workload's dice; None for new ones each run.
    """

    seconds: float = 15.0
    transport: TransportName = TransportName.POSTGRES
    dsn: str | None = None
    fault: Fault | None = None
    rate: float = 300.0
    writers: int = 4
    drain_seconds: float = 60.0
    seed: int | None = None


class DemoFailed(Exception):
    """The demo could not be run, or its result says nothing; `remedy` says what to do."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(f"{message}. Remedy: {remedy}" if remedy else message)
