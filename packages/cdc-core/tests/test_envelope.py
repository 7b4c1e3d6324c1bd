"""The Debezium envelope: what is real of a row, what was not sent, and what is malformed."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_core import (
    UNCHANGED,
    Change,
    EnvelopeError,
    Event,
    KeyOnly,
    LogicalMessage,
    MessagePrefix,
    Operation,
    Poison,
    RowError,
    Table,
    TableId,
    Unchanged,
    dispatch,
    ignore,
)

# An envelope as Debezium 3.6.3 wrote it, byte for byte.
DEBEZIUM = (
    b'{"before":null,"after":{"id":10,"a":"a","n":1,"b":"2.00"},"source":{"version":"3.6.3.Final","connector":'
    b'"postgresql","name":"ev","ts_ms":1795441360224,"snapshot":"false","db":"ev","sequence":"[\\"41266944\\",'
    b'\\"41266944\\"]","ts_us":1795441360224122,"ts_ns":1795441360224122000,"schema":"public","table":"pk1","txId":'
    b'2704,"lsn":41266944,"xmin":null,"origin":null,"origin_lsn":null},"transaction":{"id":"2704:41266944",'
    b'"total_order":1,"data_collection_order":1},"op":"c","ts_ms":1795441360233,"ts_us":1795441360233157,"ts_ns":'
    b"1795441360233157060}"
)
PLACEHOLDER = "__debezium_unavailable_value"


@dataclass(frozen=True)
class At:
    number: int = 0


@dataclass(frozen=True, kw_only=True)
class Order:
    id: int
    total: Decimal | None = None
    note: str | Unchanged | None = None


ORDERS = Table("shop.orders", Order)
NOTES = MessagePrefix("notes", dict[str, int])


def event(value: bytes | None, key: bytes | None = b'{"id":1}', table: TableId | None = None) -> Event:
    return Event(key=key, value=value, op=None, table=table, position=At())


def envelope(op: str = "u", **members: Any) -> dict[str, Any]:
    source = {"schema": "shop", "table": "orders", **members.pop("source", {})}
    return {"before": None, "after": {"id": 1}, "source": source, "op": op, **members}


def wire(op: str = "u", **members: Any) -> bytes:
    return json.dumps(envelope(op, **members), separators=(",", ":")).encode()


def test_debeziums_own_envelope_is_read_with_all_its_fields() -> None:
    change = event(DEBEZIUM, b'{"id":10}').change()
    assert change.op is Operation.CREATE
    assert change.before is None
    assert change.after == {"id": 10, "a": "a", "n": 1, "b": "2.00"}
    assert change.table == TableId("public", "pk1")
    assert (change.source.xid, change.source.lsn, change.source.database) == (2704, 41266944, "ev")
    assert change.source.ts == datetime(2026, 11, 23, 13, 42, 40, 224122, UTC)
    assert change.ts == datetime(2026, 11, 23, 13, 42, 40, 233157, UTC)
    assert not change.source.is_snapshot
    assert change.transaction is not None
    assert change.transaction.id == "2704:41266944"
    assert change.key == {"id": 10}


@pytest.mark.parametrize("number", [2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1, 2**64, -(2**63) - 1, 10**1000])
def test_integers_of_any_size_stay_exact(number: int) -> None:
    change = event(wire(after={"id": number}), key=json.dumps({"id": number}).encode()).change()
    assert change.after == {"id": number}
    assert change.key_as(int) == number


def test_a_number_that_a_float_cannot_hold_is_refused_not_made_infinite() -> None:
    with pytest.raises(EnvelopeError):
        event(wire().replace(b'"id":1', b'"id":1e400')).change()


def test_with_full_replica_identity_before_is_the_whole_row() -> None:
    full = wire(before={"id": 1, "total": "2.00"}, source={"replica_identity": "full"})
    change = ORDERS.of(event(full))
    assert change is not None
    assert change.before == Order(id=1, total=Decimal("2.00"))


@pytest.mark.parametrize("identity", ["default", "index", "nothing"])
def test_a_partly_sent_before_holds_only_the_columns_that_were_sent(identity: str) -> None:
    partial = wire(
        "d", after=None, before={"id": 1, "total": None, "note": None}, source={"replica_identity": identity}
    )
    change = ORDERS.of(event(partial))
    assert change is not None
    assert change.before == KeyOnly({"id": 1})


def test_before_from_debezium_is_its_key_since_it_invents_the_other_columns() -> None:
    invented = wire("d", after=None, before={"id": 1, "total": "0", "note": ""})
    assert event(invented).change().before == KeyOnly({"id": 1})
    assert event(invented, key=None).change().before == KeyOnly({})


@pytest.mark.parametrize(
    "form",
    [
        PLACEHOLDER,
        [PLACEHOLDER],
        list(PLACEHOLDER.encode()),
        ["b68a35a7-17ad-35b3-af2a-ae46edb4545a"],
        json.dumps({PLACEHOLDER: PLACEHOLDER}, separators=(",", ":")),
        {PLACEHOLDER: PLACEHOLDER},
    ],
)
@pytest.mark.parametrize("side", ["before", "after"])
def test_every_placeholder_of_an_unsent_value_is_unchanged(form: object, side: str) -> None:
    rows: dict[str, Any] = {"after": {"id": 1}, side: {"id": 1, "note": form}}
    change = event(wire(**rows, source={"replica_identity": "full"})).change()
    row = getattr(change, side)
    assert row["note"] is UNCHANGED


@pytest.mark.parametrize(
    "data",
    [
        [[PLACEHOLDER]],
        [PLACEHOLDER, PLACEHOLDER],
        f"x{PLACEHOLDER}",
        json.dumps([PLACEHOLDER]),
        {"a": PLACEHOLDER},
        list(PLACEHOLDER.encode())[:-1],
    ],
)
def test_a_placeholder_inside_a_value_is_data(data: object) -> None:
    change = event(wire(after={"id": 1, "note": data})).change()
    assert change.after is not None
    assert change.after["note"] == data


def test_a_tombstone_says_nothing() -> None:
    tombstone = event(None)
    assert ORDERS.of(tombstone) is None
    with pytest.raises(EnvelopeError, match="is_tombstone"):
        tombstone.change()


def test_an_event_of_another_table_is_none_whether_the_transport_or_the_envelope_says_so() -> None:
    assert ORDERS.of(event(wire(), table=TableId("shop", "customers"))) is None
    assert ORDERS.of(event(wire(source={"table": "customers"}))) is None


def test_a_key_is_a_scalar_a_tuple_or_a_row_type() -> None:
    @dataclass
    class Key:
        tenant: str
        id: int

    change = event(wire(), key=b'{"tenant":"a","id":7}').change()
    assert change.key_as(tuple[str, int]) == ("a", 7)
    with pytest.raises(RowError, match="has 2 columns"):
        change.key_as(int)
    assert event(wire(), key=b'{"n":"1.50"}').change().key_as(Decimal) == Decimal("1.50")
    assert change.key_as(msgspec.defstruct("Key", [("tenant", str), ("id", int)])) is not None


@pytest.mark.parametrize("key", [b"", b"7", b"[1]", b"{", b"\xff", b'{"id":"x"}', b'{"id":true}', None])
def test_a_key_that_does_not_fit_is_an_envelope_error(key: bytes | None) -> None:
    with pytest.raises(EnvelopeError):
        event(wire(), key=key).change().key_as(int)


@pytest.mark.parametrize(
    "broken",
    [
        {"op": "x"},
        {"op": None},
        {"after": None},
        {"after": [1]},
        {"source": None},
        {"transaction": {"total_order": 1}},
        {"source": {"replica_identity": "some"}},
        {"ts_us": "soon"},
    ],
)
def test_a_malformed_envelope_is_an_envelope_error(broken: dict[str, Any]) -> None:
    with pytest.raises(EnvelopeError):
        event(json.dumps({**envelope(), **broken}).encode()).change()


def test_an_envelope_wrapped_in_its_schema_names_the_setting_to_change() -> None:
    with pytest.raises(EnvelopeError, match=r"schemas\.enable=false"):
        event(json.dumps({"schema": {}, "payload": envelope()}).encode()).change()


def test_a_time_out_of_range_is_an_envelope_error() -> None:
    with pytest.raises(EnvelopeError):
        _ = event(wire(ts_us=2**63)).change().ts


def message(prefix: str = "notes", content: bytes = b'{"a":1}', **source: Any) -> bytes:
    return json.dumps(
        {
            "op": "m",
            "ts_ms": 5,
            "source": {"schema": "", "table": "", **source},
            "message": {"prefix": prefix, "content": base64.b64encode(content).decode()},
        }
    ).encode()


def test_a_logical_message_is_read_as_the_type_of_its_prefix() -> None:
    read = NOTES.of(event(message(txId=7)))
    assert isinstance(read, LogicalMessage)
    assert (read.content, read.prefix, read.transactional) == ({"a": 1}, "notes", True)
    assert NOTES.of(event(message(prefix="other"))) is None
    assert NOTES.of(event(wire())) is None
    assert NOTES.of(event(None)) is None


def test_the_content_of_a_message_is_bytes_text_or_json() -> None:
    raw = event(message(content=b"\xff"))
    found = MessagePrefix("notes", bytes).of(raw)
    assert found is not None
    assert found.content == b"\xff"
    assert not found.transactional
    with pytest.raises(EnvelopeError, match="UTF-8"):
        MessagePrefix("notes", str).of(raw)
    with pytest.raises(EnvelopeError, match="JSON"):
        NOTES.of(raw)


def test_a_message_that_does_not_fit_says_where_and_not_what() -> None:
    with pytest.raises(EnvelopeError) as caught:
        NOTES.of(event(message(content=b'{"a":"secret"}')))
    assert "secret" not in str(caught.value)
    assert "$[...]" in str(caught.value)


def try_everything(broken: Event) -> None:
    """Decode in every way there is: EnvelopeError and nothing else may be raised."""
    everything = dispatch(ORDERS.each(_nothing), NOTES.each(_nothing), others=ignore)
    assert [found for run in everything.runs([broken]) for found in run] == [broken]
    for read in (ORDERS.of, NOTES.of, Event.change):
        try:
            found = read(broken)
            if isinstance(found, Change):
                _ = (found.ts, found.source.ts, found.key, found.key_as(int), found.key_as(tuple[int, str]))
        except EnvelopeError:
            pass


async def _nothing(_: object) -> None: ...


@given(st.binary(), st.none() | st.binary())
def test_arbitrary_bytes_raise_an_envelope_error_and_nothing_else(value: bytes, key: bytes | None) -> None:
    try_everything(event(value, key))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([PLACEHOLDER, "NaN", "c", "full"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
MEMBERS = st.sampled_from(
    ["before", "after", "source", "op", "transaction", "ts_ms", "ts_us", "message", "x"]
)


@given(st.dictionaries(MEMBERS, JSON, max_size=3), JSON, st.booleans())
def test_a_mutated_envelope_raises_an_envelope_error_and_nothing_else(
    mutation: dict[str, Any], key: Any, is_message: bool
) -> None:
    base = json.loads(message()) if is_message else envelope()
    mutated = json.dumps({**base, **mutation}, ensure_ascii=False).encode("utf-8", "surrogatepass")
    try_everything(event(mutated, json.dumps(key).encode()))


@given(st.integers(0, len(DEBEZIUM)), st.integers(0, 8), st.binary(max_size=4))
def test_a_garbled_envelope_raises_an_envelope_error_and_nothing_else(at: int, gone: int, new: bytes) -> None:
    try_everything(event(DEBEZIUM[:at] + new + DEBEZIUM[at + gone :], b'{"id":10}'))


def test_endless_nesting_is_an_envelope_error() -> None:
    deep = b'{"op":"c","source":{},"after":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}"
    try_everything(event(deep, b'{"id":' + b"[" * 100_000))
    with pytest.raises(EnvelopeError, match="nested"):
        event(deep).change()


def test_an_undecodable_event_is_poison_at_once() -> None:
    import anyio

    async def main() -> None:
        with pytest.raises(Poison) as caught:
            await ORDERS.each(_nothing)([event(b"{")])
        assert isinstance(caught.value.__cause__, EnvelopeError)

    anyio.run(main)
