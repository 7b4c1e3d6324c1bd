"""What is known while the demo runs: sampled beside it, never by making it wait."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, final

import anyio
import psycopg

from cdc_core import (
    UNKNOWN,
    CdcError,
    DeadLetter,
    DeadLetters,
    PartitionLag,
    RunningPipeline,
    Transport,
    Unknown,
)
from cdc_wal import RunningReader

from .handler import Seen
from .options import PIPELINE, SLOT
from .session import Session
from .workload import Tally

_SAMPLE_SECONDS: Final = 0.5
_LETTERS_SHOWN: Final = 3


@final
class Status:
    """One run as the view shows it; a figure that cannot be measured just now is UNKNOWN.

    - `phase`: what goes on, in a few words; `notes`: what happened, each with the second of the run.
    - `confirmed_lsn`: as the server has it; `letters`: the latest of this run.
    """

    def __init__(self, *, place: str, seconds: float) -> None:
        self.place = place
        self.seconds = seconds
        self.phase = "starting"
        self.seen = Seen()
        self.tally = Tally()
        self.live: RunningPipeline | None = None
        self.reading: RunningReader | None = None
        self.confirmed_lsn: str | Unknown = UNKNOWN
        self.letters: deque[DeadLetter] = deque(maxlen=_LETTERS_SHOWN)
        self.notes: list[str] = []
        self.started_at = time.monotonic()
        self._opened_at = time.time()
        self._letters_read = 0

    @property
    def elapsed_seconds(self) -> float:
        """Since the run started."""
        return time.monotonic() - self.started_at

    @property
    def slot_lag(self) -> PartitionLag | None:
        """The slot's, as last sampled; None where there is none yet."""
        return self._own_lag[0] if self._own_lag else None

    @property
    def shard_lags(self) -> Sequence[PartitionLag]:
        """Those of a broker's shards, as last sampled; empty where there is no broker, or no sample yet."""
        return self.live.lag if self.live is not None and self.reading is not None else ()

    @property
    def _own_lag(self) -> Sequence[PartitionLag]:
        source = self.live if self.reading is None else self.reading
        return source.lag if source is not None else ()

    @property
    def dead_lettered(self) -> int:
        """Events set aside in this run."""
        return 0 if self.live is None else self.live.counters.dead_lettered

    def note(self, what: str) -> None:
        """Tell that something happened."""
        self.notes.append(f"{self.elapsed_seconds:5.1f} s  {what}")

    async def sample(self, transport: Transport, session: Session) -> None:
        """Ask the server, again and again, until cancelled."""
        async with transport.dead_letters() as letters:
            while True:
                self.confirmed_lsn = await read_confirmed_lsn(session)
                await self._sample_letters(letters)
                await anyio.sleep(_SAMPLE_SECONDS)

    async def _sample_letters(self, letters: DeadLetters) -> None:
        count = self.dead_lettered
        if count == self._letters_read:
            return
        with contextlib.suppress(CdcError):  # the database is away: they are shown when it is back
            since = datetime.fromtimestamp(self._opened_at, UTC)
            found = [letter async for letter in letters.list(pipeline=PIPELINE, since=since)]
            self.letters.clear()
            self.letters.extend(found)
            self._letters_read = count


async def read_confirmed_lsn(session: Session) -> str | Unknown:
    """Ask the server what the slot has confirmed; UNKNOWN where it does not answer."""
    try:
        row = await session.call(
            lambda connection: connection.execute(
                "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s", [SLOT]
            ).fetchone()
        )
    except psycopg.OperationalError:
        return UNKNOWN
    return UNKNOWN if row is None or row[0] is None else str(row[0])


@final
class NoteWarnings(logging.Handler):
    """Shows the warnings of the libraries as notes: a live view and lines on a terminal do not go together.

    Those about a poison row are left out: it is shown as the dead letter that it becomes.
    """

    def __init__(self, status: Status) -> None:
        super().__init__(logging.WARNING)
        self._status = status

    def emit(self, record: logging.LogRecord) -> None:
        """Take note of a record."""
        if getattr(record, "cause_type", "") == ValueError.__name__:
            return
        fields = (str(getattr(record, name, "")) for name in ("error", "reason", "cause_type", "why"))
        details = ": ".join(field for field in fields if field)
        self._status.note(f"{record.getMessage()} {f'({details})' if details else ''}".rstrip()[:160])
