"""Handlers: who gets which event, in which runs, and what happens to those that nobody handles."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_core import (
    Change,
    ConfigError,
    Event,
    Handler,
    LogicalMessage,
    MessagePrefix,
    Operation,
    Poison,
    Table,
    TableId,
    UnhandledEvent,
    dispatch,
    encode_change,
    encode_message,
    ignore,
    split_runs,
)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@dataclass(frozen=True)
class At:
    number: int


@dataclass(frozen=True)
class Order:
    id: int


@dataclass(frozen=True)
class Customer:
    id: int


ORDERS, CUSTOMERS = Table("shop.orders", Order), Table("shop.customers", Customer)
PLACED = MessagePrefix("placed", dict[str, int])
TABLES = {"o": ORDERS.id, "c": CUSTOMERS.id, "x": TableId("shop", "other")}


def make_event(kind: str, number: int, *, named: bool = True) -> Event:
    """Make an event: o(rder), c(ustomer), x (another table), m(essage), T(ombstone), ?: undecodable."""
    at = At(number)
    if kind == "T":
        return Event(key=b"{}", value=None, op=None, table=None, position=at)
    if kind == "?":
        return Event(key=b"{}", value=b"{", op=None, table=None, position=at)
    if kind == "m":
        content = json.dumps({"number": number}).encode()
        value = encode_message(prefix="placed", content=content)
        return Event(key=None, value=value, op=Operation.MESSAGE if named else None, table=None, position=at)
    value = encode_change(op=Operation.CREATE, table=TABLES[kind], after={"id": number})
    op, table = (Operation.CREATE, TABLES[kind]) if named else (None, None)
    return Event(key=b"{}", value=value, op=op, table=table, position=at)


def make_events(kinds: str, *, named: bool = True) -> list[Event]:
    return [make_event(kind, number, named=named) for number, kind in enumerate(kinds)]


class Recorder:
    """Three handlers that note their calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[int]]] = []

        @ORDERS.each
        async def on_order(change: Change[Order]) -> None:
            assert change.after is not None
            self.calls.append(("o", [change.after.id]))

        @CUSTOMERS.batch
        async def on_customers(changes: Sequence[Change[Customer]]) -> None:
            self.calls.append(("c", [change.after.id for change in changes if change.after is not None]))

        @PLACED.each
        async def on_placed(message: LogicalMessage[dict[str, int]]) -> None:
            self.calls.append(("m", [message.content["number"]]))

        self.on_order, self.on_customers, self.on_placed = on_order, on_customers, on_placed

    async def others(self, events: Sequence[Event]) -> None:
        self.calls.append(("x", [int(str(event.position.number)) for event in events]))  # type: ignore[attr-defined]

    def dispatch(self, others: Handler | None = None) -> Handler:
        return dispatch(self.on_order, self.on_customers, self.on_placed, others=others)


def sizes(handler: Handler, kinds: str) -> list[int]:
    return [len(run) for run in split_runs(handler, make_events(kinds))]


@pytest.mark.anyio
@pytest.mark.parametrize("named", [True, False])
async def test_dispatch_calls_per_run_of_neighbours_and_keeps_the_order(named: bool) -> None:
    recorder = Recorder()
    await recorder.dispatch(recorder.others)(make_events("ooccTcmxxo", named=named))
    assert recorder.calls == [
        ("o", [0]),
        ("o", [1]),
        ("c", [2, 3, 5]),
        ("m", [6]),
        ("x", [7, 8]),
        ("o", [9]),
    ]


def test_runs_are_single_events_for_each_neighbours_for_batch_and_both_for_dispatch() -> None:
    recorder = Recorder()
    assert sizes(recorder.on_order, "ooTo") == [1, 1, 1, 1]
    assert sizes(recorder.on_customers, "ccTcocTx?c") == [4, 1, 2, 1, 1, 1]
    assert sizes(recorder.dispatch(), "ooccTcxx?m") == [1, 1, 4, 1, 1, 1, 1]
    assert sizes(recorder.dispatch(ignore), "ooccTcxx?m") == [1, 1, 4, 2, 1, 1]
    assert sizes(ignore, "oc?") == [3]
    assert sizes(ignore, "") == []


@given(st.text("ocxmT?", max_size=20), st.booleans(), st.booleans())
def test_runs_are_consecutive_and_leave_nothing_out(kinds: str, others: bool, named: bool) -> None:
    recorder = Recorder()
    events = make_events(kinds, named=named)
    for handler in (
        recorder.dispatch(ignore if others else None),
        recorder.on_order,
        recorder.on_customers,
        recorder.on_placed,
    ):
        runs = list(split_runs(handler, events))
        assert all(runs)
        assert [event for run in runs for event in run] == events


@pytest.mark.anyio
@given(st.text("ocxmT", max_size=20))
async def test_calling_run_by_run_does_the_same_as_calling_once(kinds: str) -> None:
    events = make_events(kinds)
    once, by_run = Recorder(), Recorder()
    await once.dispatch(once.others)(events)
    handler = by_run.dispatch(by_run.others)
    for run in split_runs(handler, events):
        await handler(run)
    assert by_run.calls == once.calls


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["x", "m"])
async def test_an_event_that_nobody_handles_is_poison_that_names_its_table_and_the_remedy(kind: str) -> None:
    recorder = Recorder()
    events = make_events(f"o{kind}")
    with pytest.raises(UnhandledEvent, match="others=ignore") as caught:
        await dispatch(recorder.on_order)(events)
    assert caught.value.event is events[1]
    assert caught.value.route == (TABLES["x"] if kind == "x" else "placed")
    assert recorder.calls == [("o", [0])]


@pytest.mark.anyio
async def test_a_handler_used_without_dispatch_refuses_other_tables_too() -> None:
    recorder = Recorder()
    with pytest.raises(UnhandledEvent):
        await recorder.on_customers(make_events("cc" + "o"))
    assert recorder.calls == []


@pytest.mark.anyio
async def test_a_batch_with_an_undecodable_event_is_not_handled_in_part() -> None:
    recorder = Recorder()
    events = make_events("ccc")
    broken = Event(key=None, value=b'{"op":"c"}', op=Operation.CREATE, table=CUSTOMERS.id, position=At(3))
    with pytest.raises(Poison) as caught:
        await recorder.on_customers([*events, broken])
    assert caught.value.event is broken
    assert recorder.calls == []


@pytest.mark.anyio
async def test_an_undecodable_event_is_poison_even_where_others_are_ignored() -> None:
    with pytest.raises(Poison):
        await Recorder().dispatch(ignore)(make_events("?"))


@pytest.mark.anyio
async def test_tombstones_alone_are_handled_by_nobody_and_are_no_error() -> None:
    recorder = Recorder()
    for handler in (recorder.dispatch(), recorder.on_order, recorder.on_customers, recorder.on_placed):
        await handler(make_events("TT"))
    assert recorder.calls == []


@pytest.mark.anyio
async def test_a_truncate_reaches_the_handler_of_its_table() -> None:
    seen: list[Operation] = []

    @ORDERS.each
    async def on_order(change: Change[Order]) -> None:
        seen.append(change.op)

    value = encode_change(op=Operation.TRUNCATE, table=ORDERS.id)
    event = Event(key=None, value=value, op=Operation.TRUNCATE, table=ORDERS.id, position=At(0))
    await dispatch(on_order)([event])
    assert seen == [Operation.TRUNCATE]


def test_two_handlers_for_one_table_are_refused() -> None:
    recorder = Recorder()
    with pytest.raises(ConfigError, match=r"shop\.orders"):
        dispatch(recorder.on_order, ORDERS.batch(ignore_all))


async def ignore_all(changes: Sequence[Change[Order]]) -> None: ...


def test_a_change_is_matched_by_its_row_type() -> None:
    change = ORDERS.of(make_event("o", 7))
    match change:
        case Change(after=Order() as order):
            assert order.id == 7
        case _:
            pytest.fail("not matched")


def test_a_message_of_foreign_spelling_is_found_by_its_prefix() -> None:
    value = json.dumps(
        {
            "op": "m",
            "ts_ms": 1,
            "source": {"schema": "", "table": "", "ts_ms": 1},
            "transaction": None,
            "message": {"prefix": "placed", "content": base64.b64encode(b'{"number":1}').decode()},
        }
    )
    found = PLACED.of(
        Event(key=b'{"prefix":"placed"}', value=value.encode(), op=None, table=None, position=At(0))
    )
    assert found is not None
    assert found.content == {"number": 1}
