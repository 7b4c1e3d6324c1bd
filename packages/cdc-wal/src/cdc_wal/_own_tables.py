"""Our own schema in the user's database: what it holds, and who made what in it."""

from __future__ import annotations

from cdc_core import TableId

from ._config import WalConfig
from ._conninfo import quote_identifier
from ._publications import quote_table

DEAD_LETTER_COLUMNS: tuple[str, ...] = (
    "id",
    "pipeline",
    "dedup",
    "identity",
    "position",
    "lane",
    "key",
    "related_key",
    "value",
    "headers",
    "op",
    "table_schema",
    "table_name",
    "committed_at",
    "fence",
    "delivery",
    "cause_type",
    "cause_message",
    "attempts",
    "failed_at",
    "parked",
)


def dead_letter_table(config: WalConfig) -> TableId:
    """Return the name of the dead-letter table."""
    return TableId(config.cdc_schema, "dead_letters")


def created_objects_table(config: WalConfig) -> TableId:
    """Return the name of the table that remembers what the provisioner created, and for which slot."""
    return TableId(config.cdc_schema, "created_objects")


def create_schema(config: WalConfig) -> str:
    """Return the statement that creates our schema."""
    return f"CREATE SCHEMA {quote_identifier(config.cdc_schema)}"


def create_dead_letter_table(config: WalConfig) -> str:
    """Return the statement that creates the dead-letter table.

    It has a primary key, so that it may be published under FOR ALL TABLES; `dedup` is the identity, or the position
    where there is none, and with the pipeline it makes a letter unique.
    """
    return f"""CREATE TABLE {quote_table(dead_letter_table(config))} (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pipeline text NOT NULL,
    dedup text NOT NULL,
    identity text,
    position text NOT NULL,
    lane text,
    key bytea,
    related_key bytea,
    value bytea,
    headers bytea NOT NULL,
    op text,
    table_schema text,
    table_name text,
    committed_at double precision,
    fence numeric,
    delivery bigint NOT NULL,
    cause_type text NOT NULL,
    cause_message text NOT NULL,
    attempts integer NOT NULL,
    failed_at timestamptz NOT NULL,
    parked boolean NOT NULL,
    UNIQUE (pipeline, dedup)
)"""


def create_created_objects_table(config: WalConfig) -> str:
    """Return the statement that creates the table of what we created.

    A slot cannot carry a comment, and a comment on the others would be the user's to change; an object that was
    dropped and made again by somebody else has another OID, and is not ours.
    """
    return f"""CREATE TABLE {quote_table(created_objects_table(config))} (
    kind text NOT NULL,
    name text NOT NULL,
    slot_name text NOT NULL,
    object_oid bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (kind, name, slot_name)
)"""
