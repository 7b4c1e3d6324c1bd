"""Promises on the dead letters: stored once and durably, unchanged, replayed and discarded."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from cdc_core import Cause, DeadLetter, Event, FailedEvent, Transport

from ._consumer import consuming, provisioned, write_singly
from ._harness import Harness

_PIPELINE = "contract"
_FAILED_AT = datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=UTC)


async def check_a_letter_is_stored_once_per_identity_and_pipeline(harness: Harness) -> None:
    """Routing an event again is a success and stores nothing more; another pipeline has its own letter."""
    transport = await provisioned(harness)
    events = await _deliver(harness, transport, 3)
    async with transport.error_router() as router:
        await router.route([_failed(event) for event in events])
        await router.route([_failed(event) for event in events])
        await router.route([_failed(events[0]), _failed(events[0])])
        await router.route([_failed(events[0], pipeline="other")])
    assert len(await _letters(transport)) == 3, "a repeat was stored again, or an event is missing"
    assert len(await _letters(transport, pipeline="other")) == 1, "another pipeline's letter is missing"


async def check_a_letter_without_identity_goes_by_position(harness: Harness) -> None:
    """Where nothing sure is known of the change, the delivery's position tells letters apart."""
    transport = await provisioned(harness)
    events = [
        msgspec.structs.replace(event, identity=None) for event in await _deliver(harness, transport, 2)
    ]
    async with transport.error_router() as router:
        await router.route([_failed(event) for event in events])
        await router.route([_failed(event) for event in events])
    assert len(await _letters(transport)) == 2, "letters without identity are lost, or stored twice"


async def check_a_stored_letter_survives_a_crash(harness: Harness) -> None:
    """Once routing returned, the letters are durable."""
    transport = await provisioned(harness)
    events = await _deliver(harness, transport, 2)
    async with transport.error_router() as router:
        await router.route([_failed(event) for event in events])
        await harness.crash(transport)
    assert len(await _letters(harness.transport())) == 2, "routed before a crash, missing after it"


async def check_a_letter_keeps_the_original_event(harness: Harness) -> None:
    """Key, value and headers are kept byte for byte; identity, table, cause, attempts and time are kept, too."""
    transport = await provisioned(harness)
    [event] = await _deliver(harness, transport, 1)
    headers = [*event.headers, ("twice", b"1"), ("twice", b"\x00\xff"), ("absent", None)]
    event = msgspec.structs.replace(event, headers=headers)
    failed = _failed(event, attempts=7)
    async with transport.error_router() as router:
        await router.route([failed])
    [letter] = await _letters(harness.transport())
    assert (letter.key, letter.value) == (event.key, event.value), "key or value changed in the dead letters"
    assert [tuple(header) for header in letter.headers] == headers, "the headers changed in the dead letters"
    assert letter.event.identity == event.identity, "the identity changed in the dead letters"
    assert (letter.event.op, letter.event.table) == (event.op, event.table), "op or table changed"
    assert str(letter.event.position) == str(event.position), "the position changed in the dead letters"
    assert letter.event.replayed, "the event of a letter is not marked as replayed"
    assert (letter.cause, letter.attempts, letter.pipeline) == (failed.cause, 7, _PIPELINE)
    assert letter.failed_at == _FAILED_AT, f"failed_at {_FAILED_AT} became {letter.failed_at}"
    assert not letter.parked, "a letter that was not parked is marked as parked"


async def check_letters_are_listed_in_order_and_filtered(harness: Harness) -> None:
    """Letters come in the order in which they were stored; filters are combined; show finds one by its id."""
    transport = await provisioned(harness)
    await write_singly(harness, range(6), keys=1)
    events = await _deliver(harness, transport, 0, expected=6)
    async with transport.error_router() as router:
        await router.route([_failed(event) for event in events[:3]])
        await router.route([_failed(event, parked=True) for event in events[3:]])
    letters = await _letters(transport)
    assert [harness.read(letter.event)[1] for letter in letters] == list(range(6)), "letters are out of order"
    assert [letter.parked for letter in letters] == [False] * 3 + [True] * 3, "parked letters are not marked"
    key = events[0].key
    async with transport.dead_letters() as store:
        assert (await store.show(letters[2].id)).value == letters[2].value, "show found another letter"
        limited = [letter.id async for letter in store.list(pipeline=_PIPELINE, limit=2)]
        assert limited == [letter.id for letter in letters[:2]], "limit does not take the first letters"
        assert len([letter async for letter in store.list(key=key)]) == 6, "letters of a key are not found"
        assert not [letter async for letter in store.list(key=b"no such key")], "a key filter finds another's"
        assert not [letter async for letter in store.list(pipeline="no such")], (
            "a pipeline filter finds another's"
        )
        later = _FAILED_AT + timedelta(seconds=1)
        assert not [letter async for letter in store.list(since=later)], "since finds older letters"
        assert len([letter async for letter in store.list(since=_FAILED_AT)]) == 6, "since leaves letters out"
        if (table := events[0].table) is not None:
            found = [letter async for letter in store.list(table=table, key=key)]
            assert len(found) == 6, "letters of a table are not found"


async def check_a_replay_keeps_what_fails_in_order(harness: Harness) -> None:
    """A replay calls the handler once a letter, in order; a failed letter holds back the later ones of its key."""
    transport = await provisioned(harness)
    await harness.write(("a", 0))
    await harness.write(("b", 1))
    await harness.write(("a", 2), ("b", 3))
    events = await _deliver(harness, transport, 0, expected=4)
    async with transport.error_router() as router:
        await router.route([_failed(event) for event in events])
    calls: list[int] = []

    async def handle(replayed: Sequence[Event]) -> None:
        [event] = replayed
        assert event.replayed, "an event of a replay is not marked"
        key, number = harness.read(event)
        calls.append(number)
        if key == "a":
            raise LookupError("still failing")

    letters = {harness.read(letter.event)[1]: letter.id for letter in await _letters(transport)}
    async with transport.dead_letters() as store:
        ids = [letters[number] for number in (3, 2, 1, 0)]
        report = await store.replay([*ids, "999999999"], to=handle)
        assert sorted(calls) == [0, 1, 3], f"called with {calls}: 2 waits behind the failed 0"
        assert calls.index(1) < calls.index(3), f"not in the order of delivery: {calls}"
        assert set(report.replayed) == {letters[1], letters[3]}, f"wrongly reported: {report}"
        assert letters[0] in {failure.id for failure in report.failed}, f"wrongly reported: {report}"
        assert report.missing == ("999999999",), f"wrongly reported as missing: {report.missing}"
        left = [harness.read(letter.event)[1] async for letter in store.list(pipeline=_PIPELINE)]
        assert left == [0, 2], f"handled letters stay, or failed ones are gone: {left}"


async def check_discarded_letters_are_gone(harness: Harness) -> None:
    """Discarding removes the named letters and no other; showing one that is gone raises `LookupError`."""
    transport = await provisioned(harness)
    events = await _deliver(harness, transport, 2)
    async with transport.error_router() as router:
        await router.route([_failed(event) for event in events])
    first, second = await _letters(transport)
    async with transport.dead_letters() as store:
        await store.discard([first.id], reason="contract")
        assert [letter.id async for letter in store.list()] == [second.id], "discarding took the wrong letter"
        try:
            await store.show(first.id)
        except LookupError:
            return
    raise AssertionError("a discarded letter was shown")


async def _deliver(
    harness: Harness, transport: Transport, count: int, *, expected: int | None = None
) -> list[Event]:
    """Write `count` rows of distinct keys and return the events of the first deliveries."""
    if count:
        await harness.write(*((f"key-{number}", number) for number in range(count)))
    async with consuming(harness, transport, acks=True) as consumer:
        await consumer.until_delivered(range(expected or count))
        deliveries = sorted(consumer.first_deliveries, key=lambda delivery: delivery.number)
        return [delivery.event for delivery in deliveries]


async def _letters(transport: Transport, *, pipeline: str = _PIPELINE) -> list[DeadLetter]:
    async with transport.dead_letters() as store:
        return [letter async for letter in store.list(pipeline=pipeline)]


def _failed(
    event: Event, *, pipeline: str = _PIPELINE, attempts: int = 1, parked: bool = False
) -> FailedEvent:
    return FailedEvent(
        event=event,
        cause=Cause(type="contract.Failure", message="failed on purpose: \u00e9\u4e16"),
        pipeline=pipeline,
        attempts=attempts,
        failed_at=_FAILED_AT,
        parked=parked,
    )
