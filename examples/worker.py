"""A worker process; doctor.py has provisioned for it, so that its role needs no right to create anything.

The first SIGTERM or SIGINT drains and acknowledges, the second one abandons.
"""

from __future__ import annotations

import logging

from own_transaction import open_handler
from settings import run, shop_transport

from cdc_core import Pipeline, RetryPolicy, serve


async def main() -> None:
    transport = shop_transport()
    async with open_handler(transport.config.dsn) as handler:
        pipeline = Pipeline(
            name="shop",
            transport=transport,
            handler=handler,
            drain_timeout_seconds=20.0,
            retry=RetryPolicy(max_attempts=5, max_delay_seconds=30.0),
        )
        await serve(pipeline)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    run(main)
