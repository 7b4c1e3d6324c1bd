"""The proof: what the ledger says was committed, against what was handled and what is in the dead letters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, final

from .rows import Delivery
from .session import Connection

_STORE: Final = """
INSERT INTO cdc_demo.outcomes (identity, outcome, deliveries, table_name, key, op, version, checksum)
SELECT identity, %s, deliveries, table_name, key, op, version, checksum
FROM unnest(%s::text[], %s::integer[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::text[])
    WITH ORDINALITY AS new (identity, deliveries, table_name, key, op, version, checksum, place)
ORDER BY place
"""

# Counted per change, so that a key that is deleted and used again is told apart from a repeat. What was committed
# after the snapshot may be missing, but is not invented.
_COMPARE: Final = """
WITH expected AS (
    SELECT table_name, key, op, version, count(*) AS written, array_agg(checksum ORDER BY checksum) AS checksums,
        count(*) FILTER (WHERE pg_visible_in_snapshot(transaction, %(snapshot)s::pg_snapshot)) AS due
    FROM cdc_demo.ledger GROUP BY table_name, key, op, version
), actual AS (
    SELECT table_name, key, op, version, count(*) AS arrived, array_agg(checksum ORDER BY checksum) AS checksums,
        count(*) FILTER (WHERE outcome = 'dead letter') AS letters, sum(deliveries - 1) AS repeats
    FROM cdc_demo.outcomes GROUP BY table_name, key, op, version
), compared AS (
    SELECT table_name, key, op, version, coalesce(due, 0) AS due, coalesce(written, 0) AS written,
        coalesce(arrived, 0) AS arrived, coalesce(letters, 0) AS letters, coalesce(repeats, 0) AS repeats,
        written = arrived AND expected.checksums <> actual.checksums AS altered
    FROM expected FULL JOIN actual USING (table_name, key, op, version)
)
"""
_COUNT: Final = (
    _COMPARE
    + """
SELECT coalesce(sum(due), 0)::bigint, coalesce(sum(least(letters, due)), 0)::bigint,
    coalesce(sum(greatest(due - arrived, 0)), 0)::bigint, coalesce(sum(repeats), 0)::bigint,
    coalesce(sum(greatest(arrived - written, 0)), 0)::bigint, count(*) FILTER (WHERE altered)
FROM compared
"""
)
_EXAMPLES: Final = (
    _COMPARE
    + """
SELECT CASE WHEN arrived < due THEN 'lost' WHEN arrived > written THEN 'not committed' ELSE 'altered' END,
    table_name, key, op, version
FROM compared WHERE arrived < due OR arrived > written OR altered ORDER BY 1, 2, 3, 5 LIMIT 10
"""
)
# Order is that of first deliveries; a poisoned row is not in it.
_REORDERED: Final = """
SELECT count(*) FROM (
    SELECT op, version, lag(op) OVER in_order AS last_op, lag(version) OVER in_order AS last_version
    FROM cdc_demo.outcomes WHERE outcome = 'handled'
    WINDOW in_order AS (PARTITION BY table_name, key ORDER BY seq)
) AS pairs
WHERE last_op IS NOT NULL AND CASE op
    WHEN 'c' THEN last_op <> 'd'
    WHEN 'd' THEN last_op = 'd'
    ELSE last_op = 'd' OR version <= last_version
END
"""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """The end of what must have arrived: the transactions that `snapshot` sees all committed before `lsn`."""

    snapshot: str
    lsn: str
    written: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What the comparison found, over everything since the demo's schema was made.

    - `written`: changes in the ledger; each of them is `handled`, in the `dead_letters`, or `lost`.
    - `duplicates`: deliveries of an identity that was handled already.
    - `reordered`: changes of a key handled before an older one; `resurrected`: delivered, but never committed;
      `altered`: delivered with another content.
    - `examples`: what, table, key, operation and version of the first ten that are wrong.
    """

    written: int
    dead_letters: int
    lost: int
    duplicates: int
    reordered: int
    resurrected: int
    altered: int
    examples: tuple[tuple[str, str, str, str, int], ...] = ()

    @property
    def handled(self) -> int:
        """Committed changes that the handler took."""
        return self.written - self.lost - self.dead_letters

    @property
    def holds(self) -> bool:
        """Whether every committed change arrived, as it was and in its order, and nothing else did."""
        return not (self.lost or self.reordered or self.resurrected or self.altered)


def store(
    connection: Connection, deliveries: Sequence[Delivery], *, outcome: Literal["handled", "dead letter"]
) -> None:
    """Write down what became of deliveries, each once per identity; repeats are counted."""
    again = "DO UPDATE SET deliveries = outcomes.deliveries + excluded.deliveries"
    # one INSERT cannot touch a row twice, so a repeat within the batch is counted before
    counts = Counter(delivery.identity for delivery in deliveries)
    first = list({delivery.identity: delivery for delivery in reversed(deliveries)}.values())[::-1]
    connection.execute(
        f"{_STORE} ON CONFLICT (identity) {again if outcome == 'handled' else 'DO NOTHING'}".encode(),
        [
            outcome,
            [delivery.identity for delivery in first],
            [counts[delivery.identity] for delivery in first],
            [delivery.table for delivery in first],
            [delivery.key for delivery in first],
            [delivery.op for delivery in first],
            [delivery.version for delivery in first],
            [delivery.checksum for delivery in first],
        ],
    )


def read_mark(connection: Connection) -> Mark:
    """Mark what is committed now. The snapshot is taken first: what it sees lies before the LSN."""
    row = connection.execute("SELECT pg_current_snapshot()::text, count(*) FROM cdc_demo.ledger").fetchone()
    lsn = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
    assert row is not None
    assert lsn is not None
    return Mark(snapshot=row[0], written=row[1], lsn=lsn[0])


def prove(connection: Connection, mark: Mark) -> Proof:
    """Compare, in the database."""
    values = {"snapshot": mark.snapshot}
    counts = connection.execute(_COUNT, values).fetchone()
    reordered = connection.execute(_REORDERED).fetchone()
    assert counts is not None
    assert reordered is not None
    written, letters, lost, repeats, resurrected, altered = counts
    examples = connection.execute(_EXAMPLES, values).fetchall()
    return Proof(
        written=written,
        dead_letters=letters,
        lost=lost,
        duplicates=repeats,
        reordered=reordered[0],
        resurrected=resurrected,
        altered=altered,
        examples=tuple((what, table, key, op, version) for what, table, key, op, version in examples),
    )
