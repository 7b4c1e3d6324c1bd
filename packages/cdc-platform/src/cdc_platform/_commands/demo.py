"""`cdc demo`: shows live changes of a real PostgreSQL, and proves that none was lost."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import anyio
import typer
from rich.console import Console

from cdc_core import CdcError, redact

from .._demo.options import Backend, DemoFailed, DemoOptions, Fault, TransportName

if TYPE_CHECKING:
    from .._demo.run import Result

# One line for each paragraph: it is filled to the width of the terminal.
_PARAGRAPHS = (
    "Show live changes of a real PostgreSQL, and prove that none was lost.",
    "Several sessions insert, update, delete and roll back in a small shop. The real pipeline reads their changes"
    " from the database's log and gives them to a handler. One order in a while has a note that the handler cannot"
    " read: it lands in the dead letters, and the stream goes on.",
    "At the end the database is asked: triggers wrote a ledger, in the transaction of each change, and it is compared"
    " with what was handled and what is in the dead letters, by key and checksum. The exit status is 0 only when"
    " nothing was lost, nothing came out of order, and nothing that was rolled back was delivered; 1 when the proof"
    " fails, 2 when there is none.",
    "Ctrl-C stops the writers, lets everything arrive, and proves it; a second one abandons.",
    "`cdc demo --transport kinesis` puts an embedded Kinesis between the two: a reader publishes the changes to it, and"
    " the same handler reads them from there.",
    "`cdc demo --fault restart` restarts the server in the middle of it.",
    "`cdc demo --dsn postgresql://me@host/db` uses your own database (with wal_level=logical), and goes on with its"
    " slot when it is run again; `--drop` takes everything away.",
    "`cdc demo --seconds 10 --json | tail -n 1` is for scripts.",
)
_PROVED = (
    "written",
    "handled",
    "dead_letters",
    "lost",
    "duplicates",
    "reordered",
    "resurrected",
    "altered",
)
_MEASURED = (
    "seconds",
    "drain_seconds",
    "rate",
    "written_before",
    "rolled_back",
    "unanswered",
    "fault_seconds",
    "server_version",
)
HELP = "\n\n".join(_PARAGRAPHS)


def demo(
    seconds: Annotated[
        float, typer.Option(min=0, help="How long the writers write; 0: until Ctrl-C.")
    ] = 15.0,
    transport: Annotated[
        TransportName, typer.Option(help="What is between the database and the handler; postgres: nothing.")
    ] = TransportName.POSTGRES,
    dsn: Annotated[
        str | None,
        typer.Option(
            help="Your own database instead of an embedded server. The slot stays for the next run: the statements"
            " that drop it are printed first.",
        ),
    ] = None,
    drop: Annotated[
        bool, typer.Option("--drop", help="Take away what earlier runs made in the database of --dsn.")
    ] = False,
    fault: Annotated[
        Fault | None,
        typer.Option(
            help="Half-way: restart the server, crash it, or end the reader's session (with --dsn only this).",
        ),
    ] = None,
    rate: Annotated[float, typer.Option(min=1, help="Rows a second that the writers aim at.")] = 300.0,
    writers: Annotated[int, typer.Option(min=1, max=16, help="Sessions that write at once.")] = 4,
    backend: Annotated[Backend, typer.Option(help="The event loop.")] = Backend.ASYNCIO,
    seed: Annotated[int | None, typer.Option(help="Of the writers' dice, for the same mix again.")] = None,
    json_only: Annotated[
        bool,
        typer.Option(
            "--json",
            help="No live view; text goes to standard error, the last line of standard output is a JSON object.",
        ),
    ] = False,
) -> None:
    """Run the demo; `HELP` is what its user reads."""
    console = Console(stderr=True, force_terminal=False) if json_only else Console()
    if drop and dsn is None:
        raise typer.BadParameter("needs --dsn: an embedded server leaves nothing behind", param_hint="--drop")
    options = DemoOptions(
        seconds=seconds, transport=transport, dsn=dsn, fault=fault, rate=rate, writers=writers, seed=seed
    )
    _check_extra(transport)
    from psycopg import Error as DatabaseError

    from cdc_testing.servers import ServerError

    from .._demo.run import drop_demo, run_demo

    try:
        if drop:
            anyio.run(drop_demo, options.dsn or "", console, backend=backend.value)
            return
        result = anyio.run(run_demo, options, console, backend=backend.value)
    except (CdcError, DemoFailed, ServerError, DatabaseError) as error:
        text = redact(f"{type(error).__name__}: {error}")
        console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
        if json_only:
            typer.echo(json.dumps(_figures(None, options, backend, text)))
        raise typer.Exit(2) from error
    if result.error:
        console.print(redact(result.error), style="red", markup=False, highlight=False, soft_wrap=True)
    if json_only:
        typer.echo(json.dumps(_figures(result, options, backend)))
    raise typer.Exit(0 if result.good else 1)


def _check_extra(transport: TransportName) -> None:
    try:
        from .._demo import run as run

        if transport is TransportName.KINESIS:
            from .._demo import kinesis as kinesis
    except ModuleNotFoundError as error:
        typer.echo(
            f"the demo needs more than is installed: {error.name}. Remedy: pip install 'cdc-platform[demo]'",
            err=True,
        )
        raise typer.Exit(2) from error


def _figures(
    result: Result | None, options: DemoOptions, backend: Backend, error: str = ""
) -> dict[str, object]:
    """Return the figures of a run; what could not be measured is null, never 0."""
    figures: dict[str, object] = {
        name: getattr(result.proof if result is not None else None, name, None) for name in _PROVED
    }
    figures |= {name: getattr(result, name, None) for name in _MEASURED}
    if result is not None and result.proof is not None:
        figures["rate"] = (result.proof.written - result.written_before) / max(result.seconds, 0.001)
    figures = {
        name: round(value, 3) if isinstance(value, float) else value for name, value in figures.items()
    }
    return figures | {
        "transport": options.transport,
        "fault": options.fault,
        "backend": backend,
        "error": error or (result.error if result is not None else "") or None,
    }
