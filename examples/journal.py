"""A journal of changes in a SQLite file, and who has read it how far: all that journal_transport.py needs of a broker.

Each call opens the file and closes it again, and takes well below a millisecond, so that it is made on the event
loop. A broker that is asked over a network would be awaited.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cdc_core import NotProvisioned, OutgoingEvent, SourceError

TABLES = {
    "journal_events": "(number INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB, value BLOB, op TEXT, table_schema TEXT,"
    " table_name TEXT, committed_at REAL)",
    "journal_groups": "(name TEXT PRIMARY KEY, committed INTEGER NOT NULL, generation INTEGER NOT NULL, owner TEXT,"
    " expires_at REAL)",
    "journal_letters": "(id INTEGER PRIMARY KEY AUTOINCREMENT, pipeline TEXT NOT NULL, dedup TEXT NOT NULL,"
    " number INTEGER NOT NULL, place TEXT, key BLOB, failed_at REAL NOT NULL, letter BLOB NOT NULL,"
    " UNIQUE (pipeline, dedup))",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """An owner's right to read for a group: its generation grows with each owner; `committed` is where it starts."""

    generation: int
    committed: int


class Journal:
    """One file, as one process sees it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def connect(self, *, create: bool = False) -> Generator[sqlite3.Connection]:
        """Open the file for one transaction.

        Raises:
            NotProvisioned: the file or a table is not there.
            SourceError: it cannot be read; trying again may help.
        """
        if not create and not self.path.exists():
            raise NotProvisioned("there is no journal", where={"journal": self.path.name})
        try:
            with closing(sqlite3.connect(self.path)) as connection, connection:
                yield connection
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                raise NotProvisioned(
                    "the journal lacks a table", where={"journal": self.path.name}
                ) from error
            raise SourceError(f"the journal cannot be read: {error}", retryable=True) from error

    def append(self, events: Sequence[OutgoingEvent]) -> None:
        """Write events in one transaction."""
        rows = [
            (
                event.key,
                event.value,
                event.op,
                event.table.schema if event.table else None,
                event.table.name if event.table else None,
                time.time() if event.committed_at is None else event.committed_at,
            )
            for event in events
        ]
        columns = "key, value, op, table_schema, table_name, committed_at"
        with self.connect() as connection:
            connection.executemany(f"INSERT INTO journal_events ({columns}) VALUES (?, ?, ?, ?, ?, ?)", rows)

    def claim(self, group: str, owner: str, lease_seconds: float) -> Claim | None:
        """Become the group's owner, if it has none or its lease has run out."""
        now = time.time()
        with self.connect() as connection:
            connection.execute(
                "INSERT INTO journal_groups VALUES (?, 0, 0, NULL, NULL) ON CONFLICT DO NOTHING", [group]
            )
            row = connection.execute(
                "UPDATE journal_groups SET generation = generation + 1, owner = ?, expires_at = ?"
                " WHERE name = ? AND (owner IS NULL OR expires_at < ?) RETURNING generation, committed",
                [owner, now + lease_seconds, group, now],
            ).fetchone()
        return None if row is None else Claim(generation=row[0], committed=row[1])

    def is_owner(self, group: str, claim: Claim) -> bool:
        """Say whether the group still has this owner."""
        with self.connect() as connection:
            row = connection.execute(
                "SELECT 1 FROM journal_groups WHERE name = ? AND generation = ? AND owner IS NOT NULL",
                [group, claim.generation],
            ).fetchone()
        return row is not None

    def renew(self, group: str, claim: Claim, lease_seconds: float) -> bool:
        """Prolong the lease; False where somebody else is the owner, or nobody."""
        return self._as_owner("expires_at = ?", time.time() + lease_seconds, group, claim)

    def commit(self, group: str, claim: Claim, number: int) -> bool:
        """Record how far the group is; False, and nothing recorded, where another owner came between: a fence."""
        return self._as_owner("committed = ?", number, group, claim)

    def release(self, group: str, claim: Claim) -> None:
        """Give the group back."""
        self._as_owner("owner = ?", None, group, claim)

    def read(self, after: int, limit: int) -> list[tuple[int, bytes, bytes | None, str, str, str, float]]:
        """Return the next rows."""
        with self.connect() as connection:
            return connection.execute(
                "SELECT * FROM journal_events WHERE number > ? ORDER BY number LIMIT ?", [after, limit]
            ).fetchall()

    def waiting(self, group: str) -> tuple[int, float | None]:
        """Return how many events the group has not committed, and when the oldest of them was written."""
        with self.connect() as connection:
            row = connection.execute(
                "SELECT count(*), min(committed_at) FROM journal_events WHERE number >"
                " coalesce((SELECT committed FROM journal_groups WHERE name = ?), 0)",
                [group],
            ).fetchone()
        return int(row[0]), row[1]

    def existing(self) -> frozenset[str]:
        """Return the names of our tables that exist."""
        if not self.path.exists():
            return frozenset()
        with self.connect() as connection:
            rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return frozenset(row[0] for row in rows) & TABLES.keys()

    def _as_owner(self, change: str, value: object, group: str, claim: Claim) -> bool:
        with self.connect() as connection:
            done = connection.execute(
                f"UPDATE journal_groups SET {change} WHERE name = ? AND generation = ? AND owner IS NOT NULL",
                [value, group, claim.generation],
            )
        return done.rowcount == 1
