from __future__ import annotations

import pytest

from cdc_core import ConfigError, TableId
from cdc_wal._config import WalConfig
from cdc_wal._conninfo import parse_dsn, quote_identifier, quote_literal, without_secrets


def make(**changes: object) -> WalConfig:
    values: dict[str, object] = {"dsn": "dbname=x", "slot_name": "s", "publication_name": "p", **changes}
    return WalConfig(**values)  # type: ignore[arg-type]


def test_tables_are_given_as_names_or_as_table_ids_and_counted_once() -> None:
    config = make(tables=("shop.orders", TableId("shop", "orders"), '"odd.schema".Orders'))
    assert config.table_ids == (TableId("shop", "orders"), TableId("odd.schema", "Orders"))


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://app:s3cr3t@db:5432/shop",
        "host=db password=s3cr3t user=app",
        "host=db password='it''s s3cr3t' sslpassword=s3cr3t",
        "postgresql://app@db/shop?password=s3cr3t",
    ],
)
def test_no_password_is_shown(dsn: str) -> None:
    shown = [repr(make(dsn=dsn)), str(make(dsn=dsn)), without_secrets(dsn)] if "''" not in dsn else []
    assert not any("s3cr3t" in text for text in shown)
    for text in shown:
        assert "***" in text


@pytest.mark.parametrize(
    "changes",
    [
        {"slot_name": "Orders"},
        {"slot_name": ""},
        {"slot_name": "s" * 64},
        {"publication_name": "ü" * 32},
        {"tables": ("orders",)},
        {"tables": ("a.b",), "all_tables": True},
        {"schemas": ("a",), "all_tables": True},
        {"tables": ("cdc.dead_letters",)},
        {"schemas": ("cdc",)},
        {"operations": ()},
        {"operations": ("insert", "upsert")},
        {"max_batch_events": 0},
        {"max_batch_bytes": 100, "max_buffered_bytes": 99},
        {"max_retained_bytes": 0},
        {"wal_sender_timeout_seconds": 0.5},
        {"lock_timeout_seconds": 0.0},
        {"commit_interval_seconds": -1.0},
        {"dsn": "host=db password s3cr3t"},
        {"dsn": "host=db replication=database"},
    ],
)
def test_a_value_that_cannot_work_is_refused_with_what_would(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        make(**changes)
    assert caught.value.remedy
    assert "s3cr3t" not in str(caught.value)


def test_the_schema_of_our_own_tables_may_have_another_name() -> None:
    assert make(cdc_schema="capture", schemas=("cdc",)).schemas == ("cdc",)


def test_names_and_literals_are_quoted_for_sql() -> None:
    assert quote_identifier('a"b') == '"a""b"'
    assert quote_literal("it's") == "'it''s'"


def test_a_uri_and_its_keyword_form_are_read_alike() -> None:
    assert parse_dsn("postgresql://u:p@h:1,i:2/d") == {
        "user": "u",
        "password": "p",
        "host": "h,i",
        "port": "1,2",
        "dbname": "d",
    }
