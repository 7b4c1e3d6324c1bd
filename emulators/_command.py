"""What `python -m emulators.NAME` does for every server that needs no settings."""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from cdc_testing.servers import ServerError

from ._process import LocalServer

_ENDING = {signal.SIGINT, signal.SIGTERM}


def run_command(
    name: str,
    description: str | None,
    *,
    fetch: Callable[[], object],
    start: Callable[[], AbstractContextManager[LocalServer]],
) -> Callable[[Sequence[str] | None], int]:
    """Return the `main` of an emulator: start it, print its endpoint, end it at Ctrl-C; or fetch it only."""

    def main(arguments: Sequence[str] | None) -> int:
        parser = argparse.ArgumentParser(prog=f"python -m emulators.{name}", description=description)
        parser.add_argument("--fetch", action="store_true", help="fetch what it needs, start nothing")
        options = parser.parse_args(arguments)
        try:
            if options.fetch:
                fetch()
                return 0
            with start() as server:
                wait_for_the_end(server.endpoint_url)
        except ServerError as error:
            sys.stderr.write(f"{error}\n")
            return 1
        return 0

    return main


def wait_for_the_end(line: str) -> None:
    """Print a line, then wait for Ctrl-C or SIGTERM."""
    # Blocked only now: a server started before would not have inherited it.
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
    signal.sigwait(_ENDING)
