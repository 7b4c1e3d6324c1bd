"""The `cdc` command: arguments and dispatch only; each verb stands in its own module."""

from __future__ import annotations

from typing import Annotated

import typer

from ._commands.demo import HELP, demo
from ._version import __version__

app = typer.Typer(
    name="cdc",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # they may hold credentials
)
app.command(help=HELP)(demo)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"cdc {__version__}")
        raise typer.Exit


@app.callback()
def cdc(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Change data capture for PostgreSQL: run it, inspect it, see it work."""


def main() -> None:
    """Run the command line; the entry point of the console script `cdc`."""
    app()
