"""Identities: the same text for ever, an order within one epoch only; and the names of tables."""

from __future__ import annotations

import operator
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_core import (
    ChangeIdentity,
    Epoch,
    Identity,
    IncomparableIdentities,
    OpaqueIdentity,
    Partition,
    SnapshotIdentity,
    TableId,
    parse_identity,
)

EPOCH = Epoch("7460000000000000001", 1, "shop", "a1b2")
LSN = st.integers(0, 2**64 - 1)
NUMBER = st.integers(0, 2**63)
EPOCHS = st.builds(
    Epoch,
    st.integers(0, 2**64 - 1).map(str),
    NUMBER,
    st.text("abcdefghijklmnopqrstuvwxyz0123456789_", min_size=1, max_size=63),
    st.text("0123456789abcdef", max_size=16),
)
TEXT = st.text(st.characters(codec="utf-8"), min_size=1)
IDENTITIES: st.SearchStrategy[Identity] = st.one_of(
    st.builds(ChangeIdentity, EPOCHS, LSN, NUMBER, NUMBER),
    st.builds(SnapshotIdentity, st.from_regex(r"[0-9a-f-]{1,36}", fullmatch=True), TEXT, NUMBER, NUMBER),
    st.builds(OpaqueIdentity, st.text(st.characters(codec="utf-8"))),
)


@given(IDENTITIES)
def test_an_identity_is_read_back_from_its_text(identity: Identity) -> None:
    assert parse_identity(str(identity)) == identity
    assert pickle.loads(pickle.dumps(identity)) == identity


@given(IDENTITIES, IDENTITIES)
def test_different_identities_have_different_texts(one: Identity, other: Identity) -> None:
    assert (str(one) == str(other)) == (one == other)
    if one == other:
        assert hash(one) == hash(other)


@given(st.text())
def test_any_other_text_is_a_value_error(text: str) -> None:
    try:
        identity = parse_identity(text)
    except ValueError:
        return
    assert isinstance(identity, (ChangeIdentity, SnapshotIdentity, OpaqueIdentity))


def test_the_text_of_an_identity_is_what_it_always_was() -> None:
    change = ChangeIdentity(EPOCH, 0x16B3748, 3, 1)
    assert str(change) == "7460000000000000001:1:shop:a1b2:0/16B3748:3.1"
    assert str(SnapshotIdentity("run", "shop.orders", 2, 5)) == "snapshot:run:2:5:shop.orders"
    assert str(OpaqueIdentity("x:y")) == "opaque:x:y"
    assert str(Partition("db", "slot")) == "db/slot"


@given(st.tuples(LSN, NUMBER, NUMBER), st.tuples(LSN, NUMBER, NUMBER))
def test_changes_of_one_epoch_are_ordered_by_commit_then_ordinal_then_sub_index(
    one: tuple[int, int, int], other: tuple[int, int, int]
) -> None:
    first, second = ChangeIdentity(EPOCH, *one), ChangeIdentity(EPOCH, *other)
    assert (first < second, first <= second, first > second, first >= second, first == second) == (
        one < other,
        one <= other,
        one > other,
        one >= other,
        one == other,
    )


def test_changes_of_different_epochs_have_no_order() -> None:
    one, other = ChangeIdentity(EPOCH, 1, 0), ChangeIdentity(Epoch("1", 2, "shop", "a1b2"), 2, 0)
    assert one != other
    for compare in (operator.lt, operator.le, operator.gt, operator.ge):
        with pytest.raises(IncomparableIdentities):
            compare(one, other)


NAMES = st.text(st.characters(codec="utf-8"), min_size=1)


@given(NAMES, NAMES)
def test_a_table_is_read_back_from_its_text(schema: str, name: str) -> None:
    assert TableId.parse(str(TableId(schema, name))) == TableId(schema, name)


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("shop.orders", TableId("shop", "orders")),
        ('"a.b".c', TableId("a.b", "c")),
        ('a."b""c"', TableId("a", 'b"c')),
        ("Weird Sch.Tab", TableId("Weird Sch", "Tab")),
    ],
)
def test_a_table_is_two_names_with_quotes_around_a_dot(text: str, table: TableId) -> None:
    assert TableId.parse(text) == table


@pytest.mark.parametrize("text", ["", "orders", "a.b.c", ".orders", "shop.", '"shop.orders', '"a"."', '"".x'])
def test_what_is_not_two_names_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"schema\.name|quote"):
        TableId.parse(text)


@given(st.text('a."', max_size=12))
def test_any_text_is_a_table_or_a_value_error(text: str) -> None:
    try:
        table = TableId.parse(text)
    except ValueError:
        return
    assert table.schema
    assert table.name
