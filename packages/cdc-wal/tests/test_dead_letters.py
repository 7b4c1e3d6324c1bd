from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wal_database import Database

from cdc_core import (
    Cause,
    ChangeIdentity,
    DeadLetter,
    DeadLetters,
    Epoch,
    ErrorRouter,
    Event,
    FailedEvent,
    Lane,
    Operation,
    RoutingError,
    TableId,
)
from cdc_wal._config import WalConfig
from cdc_wal._connection import open_connection
from cdc_wal._dead_letters import (
    PostgresDeadLetters,
    PostgresErrorRouter,
    open_dead_letters,
    open_error_router,
)
from cdc_wal._letter_rows import letter_of, letter_parameters
from cdc_wal._own_tables import create_dead_letter_table, create_schema

_: type[ErrorRouter] = PostgresErrorRouter
__: type[DeadLetters] = PostgresDeadLetters

ORDERS = TableId("shop", "orders")
EPOCH = Epoch("7711773157978423806", 1, "shop", "abc")
NOON = datetime(2026, 2, 28, 12, 0, 0, 123456, tzinfo=UTC)


def failed(
    number: int,
    *,
    key: bytes | None = b'{"id":1}',
    related_key: bytes | None = None,
    value: bytes | None = b"{}",
    pipeline: str = "billing",
    table: TableId | None = ORDERS,
    failed_at: datetime = NOON,
    message: str = "no",
) -> FailedEvent:
    return FailedEvent(
        event=Event(
            key=key,
            value=value,
            op=Operation.UPDATE,
            table=table,
            position=f"0/{number:X}",
            identity=ChangeIdentity(EPOCH, number, 0),
            lane=Lane("shop"),
            related_key=related_key,
        ),
        cause=Cause(type="ValueError", message=message),
        pipeline=pipeline,
        attempts=5,
        failed_at=failed_at,
    )


async def prepared(database: Database) -> WalConfig:
    config = database.config()
    await database.run(create_schema(config))
    await database.run(create_dead_letter_table(config))
    return config


async def store(config: WalConfig, *events: FailedEvent) -> None:
    async with open_error_router(config) as router:
        await router.route(events)


async def stored(config: WalConfig) -> list[DeadLetter]:
    async with open_dead_letters(config) as letters:
        return [letter async for letter in letters.list()]


@pytest.mark.anyio
async def test_a_letter_comes_back_byte_for_byte_with_its_cause(any_database: Database) -> None:
    config = await prepared(any_database)
    everything = FailedEvent(
        event=Event(
            key=b"\x00\xff'\\key",
            value=bytes(range(256)) * 40,
            op=Operation.DELETE,
            table=TableId('o"dd', "tïble"),
            position="0/1",
            identity=ChangeIdentity(EPOCH, 2**64 - 1, 2**40, 2),
            lane=Lane("lane"),
            headers=(("cdc-id", b"\x00"), ("cdc-id", None), ("h\x00ü", b"")),
            related_key=b"other",
            committed_at=1772280000.123456,
            fence=2**70,
            delivery=12,
        ),
        cause=Cause(type="x.Y", message="quotes ' and \x00 and \ud800"),
        pipeline="billing",
        attempts=7,
        failed_at=NOON,
        parked=True,
    )
    nothing = FailedEvent(
        event=Event(key=None, value=None, op=None, table=None, position="only"),
        cause=Cause(type="t", message=""),
        pipeline="billing",
        attempts=1,
        failed_at=NOON,
    )
    await store(config, everything, nothing)
    first, second = await stored(config)
    for letter, original in ((first, everything), (second, nothing)):
        event = letter.event
        assert event.replayed
        for name in ("key", "value", "op", "table", "identity", "lane", "related_key", "fence", "delivery"):
            assert getattr(event, name) == getattr(original.event, name), name
        assert event.committed_at == original.event.committed_at
        assert list(event.headers) == list(original.event.headers)
        assert str(event.position) == str(original.event.position)
        assert (letter.pipeline, letter.attempts, letter.failed_at, letter.parked) == (
            original.pipeline,
            original.attempts,
            original.failed_at,
            original.parked,
        )
    assert first.cause == Cause(type="x.Y", message="quotes ' and \N{REPLACEMENT CHARACTER} and ?")
    async with open_dead_letters(config) as letters:
        assert await letters.show(first.id) == first


@pytest.mark.anyio
async def test_an_event_is_stored_once_for_each_pipeline(any_database: Database) -> None:
    config = await prepared(any_database)
    await store(config, failed(1), failed(1, message="again"), failed(2))
    await store(config, failed(2), failed(1, pipeline="mailing"))
    letters = await stored(config)
    assert [(letter.pipeline, str(letter.event.position), letter.cause.message) for letter in letters] == [
        ("billing", "0/1", "no"),
        ("billing", "0/2", "no"),
        ("mailing", "0/1", "no"),
    ]


@pytest.mark.anyio
async def test_letters_are_durable_whatever_the_database_says(database: Database) -> None:
    config = await prepared(database)
    await database.run(f"ALTER DATABASE {database.name} SET synchronous_commit = off")
    # what the inserting transaction runs with, as the server sees it
    await database.run(
        "CREATE TABLE public.seen (value text); CREATE FUNCTION public.look() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO public.seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;"
        " CREATE TRIGGER look AFTER INSERT ON cdc.dead_letters EXECUTE FUNCTION public.look()"
    )
    await store(config, failed(1))
    assert (await database.run("SELECT value FROM public.seen"))[0] == [("on",)]
    assert (await database.run("SHOW synchronous_commit"))[0] == [("off",)]


@pytest.mark.anyio
async def test_letters_are_stored_and_replayed_where_the_database_defaults_to_read_only(
    database: Database,
) -> None:
    config = await prepared(database)
    await database.run(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")
    await store(config, failed(1))
    handled: list[Event] = []

    async def handle(events: Sequence[Event]) -> None:
        handled.extend(events)

    async with open_dead_letters(config) as letters:
        await letters.replay([letter.id for letter in await stored(config)], to=handle)
    assert len(handled) == 1
    assert await stored(config) == []


@pytest.mark.anyio
async def test_all_of_a_call_is_stored_or_nothing(database: Database) -> None:
    config = await prepared(database)
    await database.run("ALTER TABLE cdc.dead_letters ADD CHECK (position <> '0/3E9')")
    with pytest.raises(RoutingError) as caught:
        await store(config, *(failed(number) for number in range(1, 1002)))
    assert not caught.value.retryable
    assert await stored(config) == []
    await store(config, *(failed(number) for number in range(1, 1001)))
    assert len(await stored(config)) == 1000


@pytest.mark.anyio
async def test_a_missing_table_and_a_missing_privilege_say_what_to_do(database: Database) -> None:
    with pytest.raises(RoutingError, match="provisioner"):
        await store(database.config(), failed(1))
    await prepared(database)
    role, dsn = await database.role()
    with pytest.raises(RoutingError) as caught:
        await store(database.config(dsn=dsn), failed(1))
    assert not caught.value.retryable
    await database.run(caught.value.remedy.replace("...", role))
    await store(database.config(dsn=dsn), failed(1))


@pytest.mark.anyio
async def test_a_router_connects_again_after_its_session_was_ended(database: Database) -> None:
    config = await prepared(database)
    async with open_error_router(config) as router:
        await router.route([failed(1)])
        await database.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'cdc:%'"
        )
        with anyio.fail_after(10):
            while len(await stored(config)) < 2:
                with suppress(RoutingError):  # it was used before the server's farewell arrived
                    await router.route([failed(2)])
    assert len(await stored(config)) == 2


@pytest.mark.anyio
async def test_letters_are_listed_in_pages_and_by_filters(database: Database) -> None:
    config = await prepared(database)
    other = TableId("shop", "customers")
    await store(
        config,
        *(failed(number, key=b"%d" % (number % 2)) for number in range(1, 251)),
        failed(300, table=other, failed_at=NOON + timedelta(hours=1)),
        failed(301, key=b"new", related_key=b"old", pipeline="mailing"),
    )
    async with open_dead_letters(config) as letters:

        async def positions(**filters: object) -> Sequence[int]:
            found = letters.list(**filters)  # type: ignore[arg-type]
            return [int(str(letter.event.position)[2:], 16) async for letter in found]

        assert await positions() == [*range(1, 251), 300, 301]
        assert await positions(limit=130) == list(range(1, 131))
        assert await positions(limit=0) == []
        assert await positions(key=b"1") == list(range(1, 251, 2))
        assert await positions(table=other) == [300]
        assert await positions(pipeline="mailing") == [301]
        assert await positions(key=b"old") == [301]
        assert await positions(since=NOON + timedelta(minutes=1)) == [300]
        assert await positions(since=NOON, pipeline="billing", table=ORDERS, key=b"0", limit=2) == [2, 4]


@pytest.mark.anyio
async def test_a_page_of_large_letters_is_bounded_in_bytes(database: Database) -> None:
    config = await prepared(database)
    await store(config, *(failed(number, value=b"x" * (3 << 20)) for number in range(1, 6)))
    async with open_dead_letters(config) as letters:
        page = await letters.page("true", [], after=0, count=100)
        assert len(page) == 1
        assert [letter.id async for letter in letters.list()] == ["1", "2", "3", "4", "5"]


@pytest.mark.anyio
async def test_a_replay_removes_what_is_handled_and_keeps_what_fails_with_those_behind_it(
    any_database: Database,
) -> None:
    config = await prepared(any_database)
    await store(
        config,
        failed(10, key=b"a"),
        failed(20, key=b"b"),
        failed(30, key=b"c", related_key=b"a"),
        failed(40, key=b"c"),
        failed(50, key=b"b"),
        failed(60, key=None),
        failed(70, key=None),
    )
    handled: list[str] = []

    async def handle(events: Sequence[Event]) -> None:
        (event,) = events
        assert event.replayed
        handled.append(str(event.position))
        if event.key == b"a":
            raise ValueError("still no")

    async with open_dead_letters(config) as letters:
        report = await letters.replay(["7", "6", "5", "4", "3", "2", "1", "99", "no id", "1"], to=handle)
        assert handled == ["0/A", "0/14", "0/32", "0/3C", "0/46"]
        assert report.replayed == ("2", "5", "6", "7")
        assert [(failure.id, failure.cause.type) for failure in report.failed] == [
            ("1", "ValueError"),
            ("3", "behind"),
            ("4", "behind"),
        ]
        assert report.missing == ("99", "no id")
        assert report.key_moved_on == ()
    assert [letter.id for letter in await stored(config)] == ["1", "3", "4"]


@pytest.mark.anyio
async def test_letters_of_one_epoch_are_replayed_in_the_order_of_their_identities(database: Database) -> None:
    config = await prepared(database)
    opaque = FailedEvent(
        event=Event(key=b"x", value=b"", op=None, table=None, position="p"),
        cause=Cause(type="t", message=""),
        pipeline="billing",
        attempts=1,
        failed_at=NOON,
    )
    await store(config, failed(30), opaque, failed(10), failed(20))
    handled: list[str] = []

    async def handle(events: Sequence[Event]) -> None:
        handled.extend(str(event.position) for event in events)

    async with open_dead_letters(config) as letters:
        await letters.replay(["1", "2", "3", "4"], to=handle)
    assert handled == ["0/A", "p", "0/14", "0/1E"]


@pytest.mark.anyio
async def test_no_transaction_is_open_while_a_handler_runs(database: Database) -> None:
    config = await prepared(database)
    await store(config, failed(1))

    async def handle(events: Sequence[Event]) -> None:
        async with open_connection(database.dsn) as connection:
            assert await connection.fetch(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND state LIKE 'idle in%'",
                [database.name],
            ) == [("0",)]

    async with open_dead_letters(config) as letters:
        assert (await letters.replay(["1"], to=handle)).failed == ()


@pytest.mark.anyio
async def test_letters_are_discarded_by_id_only(database: Database) -> None:
    config = await prepared(database)
    await store(config, failed(1), failed(2))
    async with open_dead_letters(config) as letters:
        await letters.discard(["1", "77", "1; DROP TABLE cdc.dead_letters"], reason="test data")
        with pytest.raises(LookupError):
            await letters.show("1")
        with pytest.raises(LookupError):
            await letters.show("1; DROP TABLE cdc.dead_letters")
        assert (await letters.show("2")).id == "2"


headers = st.lists(st.tuples(st.text(), st.none() | st.binary()))
text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=st.none() | st.binary(),
    value=st.none() | st.binary(),
    pairs=headers,
    committed_at=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    message=text,
    position=text,
)
def test_what_goes_into_a_row_comes_out_of_it(
    key: bytes | None,
    value: bytes | None,
    pairs: list[tuple[str, bytes | None]],
    committed_at: float | None,
    message: str,
    position: str,
) -> None:
    event = Event(
        key=key,
        value=value,
        op=None,
        table=None,
        position=position,
        headers=tuple(pairs),
        committed_at=committed_at,
    )
    item = FailedEvent(
        event=event,
        cause=Cause(type="t", message=message),
        pipeline="p",
        attempts=1,
        failed_at=NOON,
    )
    # what PostgreSQL prints for these parameters: bytea in hex, everything else as it is
    row = tuple(
        f"\\x{item.hex()}" if isinstance(item, bytes) else None if item is None else str(item)
        for item in ("1", *letter_parameters(item))
    )
    letter = letter_of(row)
    assert (letter.key, letter.value, list(letter.headers)) == (key, value, pairs)
    assert (letter.event.committed_at, letter.cause.message) == (committed_at, message)
    assert letter.event.position == position
