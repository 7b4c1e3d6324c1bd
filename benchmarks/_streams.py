"""The tables whose rows are read, and the server-side procedures that write them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

SCHEMA: Final = "bench"
ROWS_PER_TRANSACTION: Final = 10


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One table, and how a row of it is made from a number `n`.

    - `columns`: name, type and SQL expression of each; the first is the primary key.
    - `rows`: how many are written where the command line does not say.
    """

    name: str
    about: str
    columns: tuple[tuple[str, str, str], ...]
    rows: int

    @property
    def table(self) -> str:
        """The table's name with its schema."""
        return f"{SCHEMA}.{self.name}"

    def create_sql(self) -> str:
        """Statements that make the table and the procedures that fill it.

        Writing in the server leaves the two cores to what is measured: a client that sends ten thousand
        transactions a second needs most of one. The pace is looked at once a millisecond.
        """
        (key, key_type, _), *others = self.columns
        declared = ", ".join(f"{name} {kind}" for name, kind, _ in others)
        values = ", ".join(expression for _, _, expression in self.columns)
        numbers = f"generate_series(first, first + {ROWS_PER_TRANSACTION - 1}) AS n"
        insert = f"INSERT INTO {self.table} SELECT {values} FROM {numbers}"
        return f"""
            CREATE TABLE {self.table} ({key} {key_type} PRIMARY KEY, {declared});
            CREATE PROCEDURE {SCHEMA}.write_{self.name}(start bigint, total bigint, per_second float)
            LANGUAGE plpgsql AS $$
            DECLARE began timestamptz := clock_timestamp(); first bigint := start; ahead float;
            BEGIN
                WHILE first < start + total LOOP
                    {insert};
                    COMMIT;
                    first := first + {ROWS_PER_TRANSACTION};
                    IF per_second > 0 THEN
                        ahead := (first - start) / per_second - extract(epoch FROM clock_timestamp() - began);
                        IF ahead > 0.001 THEN PERFORM pg_sleep(ahead); END IF;
                    END IF;
                END LOOP;
            END $$;
        """

    def write_sql(self, *, start: int, rows: int, per_second: float = 0.0) -> str:
        """The statement that writes `rows` rows from key `start` on; as fast as it goes where `per_second` is 0."""
        return f"CALL {SCHEMA}.write_{self.name}({start}, {rows}, {per_second})"


_WIDE: Final = (
    ("text", "'note number ' || n"),
    ("integer", "n % 100000"),
    ("numeric(12,2)", "n * 0.01"),
    ("timestamptz", "'2026-01-01'::timestamptz + n * interval '1.234567 seconds'"),
    ("boolean", "n % 2 = 0"),
    ("double precision", "n / 8.0"),
    ("bigint", "n * 1000003::bigint"),
)

STREAMS: Final = {
    stream.name: stream
    for stream in (
        Stream(
            name="narrow",
            about="3 columns",
            columns=(
                ("id", "bigint", "n"),
                ("customer", "text", "'customer ' || n % 10000"),
                ("total", "numeric(12,2)", "n % 100000 * 0.01"),
            ),
            rows=500_000,
        ),
        Stream(
            name="mixed",
            about="10 columns of ten types",
            columns=(
                ("id", "bigint", "n"),
                ("customer", "integer", "n % 10000"),
                ("sku", "text", "'sku-' || n % 5000"),
                ("quantity", "smallint", "n % 100"),
                ("price", "numeric(12,2)", "n % 100000 * 0.01"),
                ("weight", "double precision", "n / 8.0"),
                ("paid", "boolean", "n % 2 = 0"),
                ("ordered_at", "timestamptz", "'2026-01-01'::timestamptz + n * interval '1.234567 seconds'"),
                ("due", "date", "'2026-01-01'::date + (n % 365)::integer"),
                ("details", "jsonb", "jsonb_build_object('gift', n % 3 = 0, 'note', 'note ' || n)"),
            ),
            rows=200_000,
        ),
        Stream(
            name="wide",
            about="50 columns",
            columns=(
                ("id", "bigint", "n"),
                *((f"column_{i}", *_WIDE[i % len(_WIDE)]) for i in range(1, 50)),
            ),
            rows=50_000,
        ),
    )
}
