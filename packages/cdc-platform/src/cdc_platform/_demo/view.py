"""Shows a run: a live view on a terminal, a line every few seconds anywhere else, and the summary at its end."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import anyio
from rich import box
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cdc_core import UNKNOWN, Action, CheckState, DeadLetter, Plan, Unknown

from .options import DROP_STATEMENTS
from .proof import Proof
from .status import Status

_LIVE_SECONDS: Final = 0.25
_LINE_SECONDS: Final = 2.0
_NOTES_SHOWN: Final = 4
_TABLES: Final = ("customers", "orders", "order_lines")
_OPERATIONS: Final = {"c": "insert", "u": "update", "d": "delete"}


@asynccontextmanager
async def showing(console: Console, status: Status, *, live: bool) -> AsyncGenerator[None]:
    """Show a run beside the body."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_show_live if live else _show_lines, console, status)
        yield
        tasks.cancel_scope.cancel()


async def _show_live(console: Console, status: Status) -> None:
    from rich.live import Live

    with Live(console=console, auto_refresh=False, transient=False) as view:
        try:
            while True:
                view.update(_screen(status), refresh=True)
                await anyio.sleep(_LIVE_SECONDS)
        finally:
            view.update(_screen(status), refresh=True)


async def _show_lines(console: Console, status: Status) -> None:
    told = 0
    while True:
        await anyio.sleep(_LINE_SECONDS)
        for note in status.notes[told:]:
            console.print(note, markup=False, highlight=False, soft_wrap=True)
        told = len(status.notes)
        console.print(_line(status), markup=False, highlight=False, soft_wrap=True)


def _line(status: Status) -> str:
    counts = dict.fromkeys(_OPERATIONS.values(), 0)
    for (_, op), count in status.seen.by_table.items():
        counts[_OPERATIONS.get(op, op)] += count
    changes = ", ".join(f"{count:,} {name}s" for name, count in counts.items())
    return (
        f"{status.elapsed_seconds:5.1f} s  {status.phase}: {changes}; lag {_lag(status)};"
        + (f" shards {shards};" if (shards := _shards(status)) else "")
        + f" confirmed {shown(status.confirmed_lsn)}; {status.dead_lettered} dead letters"
    )


def _screen(status: Status) -> RenderableType:
    bar = Table.grid(padding=(0, 1))
    total = status.seconds or None
    bar.add_row(
        ProgressBar(
            total=total, completed=min(status.elapsed_seconds, total or 0), width=40, pulse=not total
        ),
        Text(f"{status.elapsed_seconds:.0f} s{f' of {total:g}' if total else ''}, {status.phase}"),
    )
    parts: list[RenderableType] = [
        Text.assemble(("cdc demo", "bold"), f"  {status.place}"),
        bar,
        _columns(_changes(status), _figures(status)),
    ]
    if status.letters:
        parts.append(letters_table(list(status.letters), title="Dead letters, the latest"))
    parts += [Text(note, style="yellow") for note in status.notes[-_NOTES_SHOWN:]]
    parts.append(_recent(status))  # last: what a small terminal cuts off
    hint = "Ctrl-C stops the writers, lets everything arrive, and proves it"
    return Panel(Group(*parts), box=box.ROUNDED, title=hint)


def _columns(*parts: RenderableType) -> RenderableType:
    grid = Table.grid(padding=(0, 3))
    grid.add_row(*parts)
    return grid


def _changes(status: Status) -> RenderableType:
    table = Table("handled", *_OPERATIONS.values(), box=box.SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    for name in _TABLES:
        table.add_row(name, *(f"{status.seen.by_table[name, op]:,}" for op in _OPERATIONS))
    return table


def _figures(status: Status) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_row("")
    rate = status.seen.total / max(status.elapsed_seconds, 0.001)
    for name, value in (
        ("rate", f"{rate:,.0f} changes/s handled"),
        ("lag", _lag(status)),
        *((("shards", shards),) if (shards := _shards(status)) else ()),
        ("commit to handled", _seconds(status.seen.delay_seconds)),
        ("confirmed LSN", shown(status.confirmed_lsn)),
        ("dead letters", str(status.dead_lettered)),
        ("transactions", f"{status.tally.transactions:,}, and {status.tally.rolled_back:,} rolled back"),
    ):
        table.add_row(Text(name, style="dim"), value)
    return table


def _recent(status: Status) -> RenderableType:
    table = Table("latest changes", "key", "operation", "version", "checksum", box=box.SIMPLE_HEAD)
    for delivery in reversed(list(status.seen.recent)):
        operation = _OPERATIONS.get(delivery.op, delivery.op)
        version = str(delivery.version) if delivery.version else "-"
        table.add_row(delivery.table, delivery.key, operation, version, delivery.checksum or "-")
    return table


def letters_table(letters: list[DeadLetter], *, title: str) -> Table:
    """Show dead letters: id, key and cause."""
    table = Table("id", "table", "key", "cause", title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for letter in letters:
        cause = f"{letter.cause.type}: {letter.cause.message}"
        table.add_row(letter.id, str(letter.event.table), _key(letter), escape(cause))
    return table


def print_drop_statements(console: Console) -> None:
    """Print what takes away all that a run is about to make in a user's database."""
    console.print(
        "[bold]This makes a replication slot in your database, which keeps its write-ahead log until the slot is"
        " dropped.[/] It is kept for the next run; this drops it, and the rest:"
    )
    for statement in DROP_STATEMENTS:
        console.print(f"  {statement}", markup=False, highlight=False, soft_wrap=True)
    console.print("or: cdc demo --dsn ... --drop", markup=False, highlight=False)


def print_plan(console: Console, plan: Plan, *, title: str = "The plan") -> None:
    """Print the steps of a plan, and its checks that are not in order."""
    console.print(f"[bold]{title}[/]")
    for step in plan.steps:
        detail = step.detail if step.action is not Action.CREATE else ""
        line = f"  {step.action.value:7} {step.kind} {step.name}{f': {detail}' if detail else ''}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for check in plan.checks:
        if check.state is not CheckState.OK:
            line = f"  {check.state.value:7} {check.name}: {check.why}. {check.remedy}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_proof(console: Console, proof: Proof) -> None:
    """Print what the comparison found."""
    table = Table(box=box.SIMPLE, show_header=False)
    table.add_column(justify="right")
    table.add_column()
    for count, what in (
        (proof.written, "committed changes, as the ledger in the database has them"),
        (proof.handled, "of them handled"),
        (proof.dead_letters, "of them in the dead letters"),
        (proof.lost, "[bold]of them lost[/]"),
        (proof.duplicates, "delivered again, which at-least-once allows after a fault"),
        (proof.reordered, "handled out of the order of their key"),
        (proof.resurrected, "delivered though they were never committed (rolled back)"),
        (proof.altered, "delivered with another content than was written"),
    ):
        table.add_row(f"{count:,}", what)
    console.print(table)
    for what, name, key, op, version in proof.examples:
        console.print(f"  {what}: {name} {key}, {_OPERATIONS.get(op, op)}, version {version}", markup=False)
    verdict = "[bold green]Nothing was lost.[/]" if proof.holds else "[bold red]The proof failed.[/]"
    console.print(verdict)


def shown(figure: object) -> str:
    """Return a figure as text; UNKNOWN as "unknown"."""
    return "unknown" if figure is UNKNOWN else str(figure)


def _lag(status: Status) -> str:
    if (lag := status.slot_lag) is None:
        return "unknown"
    size = "unknown" if lag.lag_bytes is UNKNOWN else f"{lag.lag_bytes:,}"
    return f"{size} bytes, {_seconds(lag.lag_seconds)}"


def _shards(status: Status) -> str:
    """Return the number of a broker's shards and the lag of the one that is furthest behind; empty without a broker."""
    if status.reading is None:
        return ""
    if not (lags := status.shard_lags):
        return "unknown"
    known = [lag.lag_seconds for lag in lags if lag.lag_seconds is not UNKNOWN]
    worst = max(known) if len(known) == len(lags) else UNKNOWN
    return f"{len(lags)}, {_seconds(worst)} behind"


def _seconds(figure: float | Unknown) -> str:
    return "unknown seconds" if figure is UNKNOWN else f"{figure:.3f} seconds"


def _key(letter: DeadLetter) -> str:
    try:
        return json.dumps(json.loads(letter.key or b"null"))
    except ValueError:
        return repr(letter.key)
