"""What was measured, as lines of a table or of JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import final

from _jobs import Outcome


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One answer. None is UNKNOWN, or does not apply.

    - `ratio`: of `subject` to `peer`: of rates, or of costs where the question says so.
    - `rate`: rows a second; `cpu_us_per_row`: of the client process; `walsender_us_per_row`: of the server's.
    - `other_cores`: how many cores something else kept busy meanwhile: beside a busy machine, compare CPU, not rates.
    - `p50_ms`, `p99_ms`: from commit to handler.
    """

    question: str
    subject: str
    peer: str | None = None
    ratio: float | None = None
    rate: float | None = None
    cpu_us_per_row: float | None = None
    rss_mib: float | None = None
    walsender_us_per_row: float | None = None
    other_cores: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None

    def as_json(self) -> str:
        """The line as one JSON object; the last four members stand there only where they are known."""
        members = asdict(self)
        for name in ("walsender_us_per_row", "other_cores", "p50_ms", "p99_ms"):
            if members[name] is None:
                del members[name]
        return json.dumps(
            {name: round(value, 3) if isinstance(value, float) else value for name, value in members.items()}
        )


def line_of(
    question: str, subject: str, outcomes: Sequence[Outcome], peer: str, peers: Sequence[Outcome]
) -> Line:
    """Return the medians over the rounds, and the ratio of the medians of the rates."""
    rows = outcomes[0].rows
    rate = median(outcome.rate for outcome in outcomes)
    return Line(
        question=question,
        subject=subject,
        peer=None if subject == peer else peer,
        ratio=None if subject == peer else rate / median(outcome.rate for outcome in peers),
        rate=rate,
        cpu_us_per_row=median(outcome.cpu_seconds for outcome in outcomes) / rows * 1e6,
        rss_mib=_median([outcome.rss_mib for outcome in outcomes]),
        walsender_us_per_row=_per_row([outcome.walsender_cpu_seconds for outcome in outcomes], rows),
        other_cores=_median([outcome.other_cores for outcome in outcomes]),
    )


def print_table(lines: Sequence[Line]) -> None:
    """Print the lines, under each question once."""
    columns = ("rows/s", "ratio", "CPU s/M rows", "walsender", "RSS MiB", "other cores", "p50 ms", "p99 ms")
    question = None
    for line in lines:
        if line.question != question:
            question = line.question
            print(f"\n{question}")
            print(f"  {'':42s}" + "".join(f"{column:>13s}" for column in columns))
        cells = (
            _cell(line.rate, ",.0f"),
            _cell(line.ratio, ".2f"),
            _cell(line.cpu_us_per_row, ".2f"),
            _cell(line.walsender_us_per_row, ".2f"),
            _cell(line.rss_mib, ".0f"),
            _cell(line.other_cores, ".1f"),
            _cell(line.p50_ms, ".1f"),
            _cell(line.p99_ms, ".1f"),
        )
        print(f"  {line.subject:42s}" + "".join(f"{cell:>13s}" for cell in cells))


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _per_row(seconds: Sequence[float | None], rows: int) -> float | None:
    middle = _median(seconds)
    return None if middle is None else middle / rows * 1e6
