"""Looks after the dead letters: python dead_letters.py list | replay ID | discard ID REASON."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from settings import run, shop_transport
from shop import ORDERS, PrintingMailer, make_handler

from cdc_core import DeadLetters


async def show(letters: DeadLetters) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    async for letter in letters.list(pipeline="shop", table=ORDERS.id, since=yesterday):
        print(letter.id, letter.attempts, letter.cause.type, (letter.key or b"").decode())


async def replay(letters: DeadLetters, letter_id: str) -> None:
    totals: dict[int, Decimal] = {}
    # To a handler, not back into the stream: no other consumer sees it, and `event.replayed` is True.
    report = await letters.replay([letter_id], to=make_handler(totals, PrintingMailer()))
    for failure in report.failed:
        print(f"{failure.id} failed again and is kept: {failure.cause.type}")
    print(f"replayed {len(report.replayed)}, older than their row {len(report.key_moved_on)}: {totals}")


async def main(*arguments: str) -> None:
    async with shop_transport().dead_letters() as letters:
        match arguments:
            case ("list",):
                await show(letters)
            case ("replay", letter_id):
                await replay(letters, letter_id)
            case ("discard", letter_id, reason):
                await letters.discard([letter_id], reason=reason)
            case _:
                sys.exit(__doc__)


if __name__ == "__main__":
    run(main, *sys.argv[1:])
