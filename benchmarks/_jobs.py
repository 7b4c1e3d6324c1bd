"""What a client process is told, and what it reports: one line of JSON each way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

RAW: Final = "raw"
JSON: Final = "json"
TRANSPORT: Final = "transport"
EACH: Final = "each"
LATENCY: Final = "latency"
CODEC: Final = "codec"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run of one subject.

    - `rows`: ends the run; `end_lsn`: the end of the last of them, for what counts no rows.
    - `key`: the table's primary key.
    """

    subject: str
    backend: str
    dsn: str
    slot_name: str
    publication_name: str
    table: str
    key: str
    rows: int
    end_lsn: int


@final
@dataclass(slots=True, kw_only=True)
class Outcome:
    """What one run took, from connecting to the last row; starting the interpreter is not in it.

    - `rss_mib`: the process's highest resident size, interpreter and libraries included; None: UNKNOWN.
    - `walsender_cpu_seconds`: None: UNKNOWN.
    - `other_cores`: how many cores something else kept busy meanwhile; None: UNKNOWN.
    """

    rows: int
    seconds: float
    cpu_seconds: float
    rss_mib: float | None = None
    walsender_cpu_seconds: float | None = None
    other_cores: float | None = None

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.rows / self.seconds
