"""A Kinesis for tests in a process of its own: prints one JSON line with its endpoint, serves until SIGTERM."""

import argparse
import signal

import msgspec

from ._front import Front
from ._launch import ACCOUNT_ID, DEFAULT_REGION, serving
from ._limits import Rates
from ._program import announce
from ._service import Durations, Service


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m cdc_testing.servers.kinesis", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1; 0 for a free one")
    parser.add_argument("--region", default=DEFAULT_REGION, help="of the streams' ARNs")
    parser.add_argument(
        "--durations", metavar="JSON", default="{}", help="seconds of changes: create, update, delete"
    )
    parser.add_argument(
        "--rates", metavar="JSON", default=None, help="what a shard bears; {} for the service's rates"
    )
    parser.add_argument("--secret", default=None, help="a secret key that every request must be signed with")
    arguments = parser.parse_args()
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # inherited by the server's threads
    service = Service(
        region=arguments.region,
        account_id=ACCOUNT_ID,
        durations=msgspec.json.decode(arguments.durations, type=Durations),
        rates=None if arguments.rates is None else msgspec.json.decode(arguments.rates, type=Rates),
    )
    with serving(Front(service, secret=arguments.secret), arguments.port) as endpoint_url:
        announce(endpoint_url)
        signal.sigwait(signals)


if __name__ == "__main__":
    main()
