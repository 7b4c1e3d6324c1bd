"""The proof has teeth: whatever a pipeline could do wrong, it finds."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import final

import msgspec
import pytest
from rich.console import Console

from cdc_core import ChangeIdentity, Event, Identity
from cdc_platform._demo.handler import Tamper
from cdc_platform._demo.options import DemoOptions
from cdc_platform._demo.run import Result, run_demo
from cdc_testing.plugin import PostgresDatabase

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@final
class OnTheFirst:
    """Replaces the very first event, each time that it is delivered, by others."""

    def __init__(self, *, times: int = 1, **changes: object) -> None:
        self._times = times
        self._changes = changes
        self._first: Identity | None = None

    def __call__(self, events: Sequence[Event]) -> Sequence[Event]:
        if self._first is None:
            # the content that is changed is an address: the first event that has one
            chosen = (
                event for event in events if not self._changes or b"@example.com" in (event.value or b"")
            )
            self._first = next((event.identity for event in chosen), None)
        return [
            made
            for event in events
            for made in (self._made(event) if event.identity == self._first else [event])
        ]

    def _made(self, event: Event) -> list[Event]:
        if not self._changes:
            return [event] * self._times
        assert event.value is not None
        value = event.value.replace(b"@example.com", b"@example.org")
        return [msgspec.structs.replace(event, value=value)]


def invent(events: Sequence[Event]) -> Sequence[Event]:
    """Deliver a change that nobody committed beside each batch's first: always the same one."""
    event = events[0]
    assert isinstance(event.identity, ChangeIdentity)
    if event.op != "c" or event.table is None or event.table.name != "customers":
        return events
    identity = ChangeIdentity(event.identity.epoch, 1, 0, 0)
    return [msgspec.structs.replace(event, key=b'{"id": 1000000000}', identity=identity), *events]


def backwards(events: Sequence[Event]) -> Sequence[Event]:
    """Deliver each batch from its end."""
    return events[::-1]


def refuse(events: Sequence[Event]) -> Sequence[Event]:
    """Fail, whatever comes."""
    raise ValueError("the sink takes nothing")


async def run(database: PostgresDatabase, tamper: Tamper | None) -> Result:
    console = Console(file=io.StringIO(), force_terminal=False)
    return await run_demo(
        DemoOptions(dsn=database.dsn, seconds=1.0, rate=1000.0, drain_seconds=20.0), console, tamper=tamper
    )


async def test_a_run_that_is_left_alone_is_good(postgres_database: PostgresDatabase) -> None:
    result = await run(postgres_database, None)
    assert result.good, result
    assert result.proof is not None
    assert result.proof.written == result.proof.handled + result.proof.dead_letters > 0


async def test_an_event_that_the_handler_drops_is_lost(postgres_database: PostgresDatabase) -> None:
    result = await run(postgres_database, OnTheFirst(times=0))
    assert result.proof is not None
    assert (result.proof.lost, result.good) == (1, False)
    assert result.proof.examples[0][0] == "lost"


async def test_an_event_that_comes_twice_is_a_duplicate_and_no_loss(
    postgres_database: PostgresDatabase,
) -> None:
    result = await run(postgres_database, OnTheFirst(times=2))
    assert result.proof is not None
    assert (result.proof.duplicates >= 1, result.proof.lost, result.good) == (True, 0, True)


async def test_a_row_with_another_content_is_altered(postgres_database: PostgresDatabase) -> None:
    result = await run(postgres_database, OnTheFirst(content=True))
    assert result.proof is not None
    assert (result.proof.altered, result.proof.lost, result.good) == (1, 0, False)


async def test_a_change_that_was_never_committed_is_found(postgres_database: PostgresDatabase) -> None:
    result = await run(postgres_database, invent)
    assert result.proof is not None
    assert (result.proof.resurrected, result.proof.lost, result.good) == (1, 0, False)


async def test_changes_of_a_key_in_another_order_are_found(postgres_database: PostgresDatabase) -> None:
    result = await run(postgres_database, backwards)
    assert result.proof is not None
    assert (result.proof.reordered > 0, result.proof.lost, result.good) == (True, 0, False)


async def test_a_handler_that_always_fails_ends_the_run_and_the_rest_is_lost(
    postgres_database: PostgresDatabase,
) -> None:
    result = await run(postgres_database, refuse)
    assert result.error.startswith("HandlerFailing")
    assert result.proof is not None
    assert (result.proof.lost > 0, result.good) == (True, False)
