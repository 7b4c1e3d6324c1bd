"""What a reader of a PostgreSQL log is told: frozen data, no YAML, no environment, no live object."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Literal, get_args

from annotated_types import Ge, Gt, Le, MaxLen, MinLen

from cdc_core import ConfigError, TableId, check_constraints

from ._conninfo import parse_dsn, without_secrets

OPERATIONS = ("insert", "update", "delete", "truncate")
"""What a publication may publish, in PostgreSQL's words."""

TruncatePolicy = Literal["error", "dead_letter", "deliver"]
"""What becomes of a TRUNCATE; see `WalConfig`."""

Seconds = Annotated[float, Gt(0)]
# NAMEDATALEN - 1: the server cuts longer names, and would then not find them again
Name = Annotated[str, MinLen(1), MaxLen(63)]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class WalConfig:
    """One replication slot: where it is, what it publishes, and the bounds within which it is read.

    What to read:

    - `dsn`: libpq's connection string or URI; several hosts may stand in it.
    - `slot_name`: lower-case letters, digits and underscores, as the server demands.
    - `publication_name`: created for `tables`, `schemas` (PostgreSQL 15 or newer) or `all_tables`; with none of the
      three it must exist, and is used as its owner made it.
    - `tables`: `TableId` or `schema.name`.
    - `operations`: what is published, in PostgreSQL's words.
    - `failover`: create the slot so that standbys keep a copy of it (PostgreSQL 17 or newer).
    - `message_keys`: prefix of a logical message to the member of its JSON content that is its key.
    - `truncate`: what becomes of a TRUNCATE, which no broker with partitions can order with the rows of its table. With
      `error` the `WalReader` stops in front of it, with `dead_letter` it is put into the dead letters of PostgreSQL
      instead of the broker, with `deliver` it is published, before or behind rows as it happens. None for `error`
      with a `WalReader`, and `deliver` on the `postgres` transport, which keeps the order and knows nothing else.
    - `cdc_schema`: the schema of our own tables; their rows never become events.

    How to read it (seconds as float, sizes in bytes):

    - `wait_for_slot`: where another reader holds the slot, wait for it as a hot standby.
    - `wal_sender_timeout_seconds`: our session's own: a frozen owner loses the slot after it.
    - `connect_timeout_seconds`: for each address; `lock_timeout_seconds`: for each lock while provisioning;
      `slot_timeout_seconds`: for the slot's creation, which waits for the transactions that are open.
    - `max_batch_events`, `max_batch_bytes`: of one batch given to a handler; `max_buffered_bytes`: of all batches
      that wait for it.
    - `commit_interval_seconds`: a confirmation is sent within it, and within a quarter of the timeout anyhow.
    - `drain_timeout_seconds`: how long the server's shutdown may be held up for the work in flight.
    - `max_retained_bytes`: health fails when the slot holds back more of the log; None for no bound of ours.
    """

    dsn: str
    slot_name: Name
    publication_name: Name
    tables: tuple[TableId | str, ...] = ()
    schemas: tuple[str, ...] = ()
    all_tables: bool = False
    operations: tuple[str, ...] = OPERATIONS
    failover: bool = False
    message_keys: Mapping[str, str] = field(default_factory=dict[str, str])
    truncate: TruncatePolicy | None = None
    cdc_schema: Name = "cdc"
    wait_for_slot: bool = False
    wal_sender_timeout_seconds: Annotated[float, Ge(1), Le(3600)] = 30.0
    connect_timeout_seconds: Seconds = 10.0
    lock_timeout_seconds: Seconds = 10.0
    slot_timeout_seconds: Seconds = 60.0
    max_batch_events: Annotated[int, Ge(1)] = 1000
    max_batch_bytes: Annotated[int, Ge(1)] = 1 << 20
    max_buffered_bytes: Annotated[int, Ge(1)] = 16 << 20
    commit_interval_seconds: Annotated[float, Ge(0)] = 0.1
    drain_timeout_seconds: Annotated[float, Ge(0)] = 10.0
    max_retained_bytes: Annotated[int, Ge(1)] | None = None

    def __post_init__(self) -> None:
        check_constraints(self)
        if "replication" in parse_dsn(self.dsn):
            raise ConfigError("the dsn sets replication", remedy="leave it out: each connection sets its own")
        if re.fullmatch(r"[a-z0-9_]+", self.slot_name) is None:
            raise ConfigError(
                f"slot_name is {self.slot_name!r}",
                remedy="use lower-case letters, digits and underscores only",
            )
        self._check_selection()
        unknown = set(self.operations) - set(OPERATIONS)
        if unknown or not self.operations:
            raise ConfigError(
                f"operations is {self.operations!r}", remedy=f"one or more of {', '.join(OPERATIONS)}"
            )
        if self.truncate not in (None, *get_args(TruncatePolicy)):
            raise ConfigError(
                f"truncate is {self.truncate!r}",
                remedy=f"one of {', '.join(get_args(TruncatePolicy))}, or None",
            )
        if self.max_buffered_bytes < self.max_batch_bytes:
            raise ConfigError(
                f"max_buffered_bytes {self.max_buffered_bytes} is less than max_batch_bytes {self.max_batch_bytes}",
                remedy="at least one batch has to fit",
            )

    @property
    def table_ids(self) -> tuple[TableId, ...]:
        """The chosen tables, each once, in the order given."""
        return tuple(
            dict.fromkeys(TableId.parse(item) if isinstance(item, str) else item for item in self.tables)
        )

    @property
    def application_name(self) -> str:
        """What sessions of ours call themselves in `pg_stat_activity`."""
        return f"cdc:{self.slot_name}"

    def __repr__(self) -> str:
        shown = [f"dsn={without_secrets(self.dsn)!r}"]
        shown += [f"{item.name}={getattr(self, item.name)!r}" for item in fields(self) if item.name != "dsn"]
        return f"WalConfig({', '.join(shown)})"

    def _check_selection(self) -> None:
        try:
            chosen = self.table_ids
        except ValueError as error:
            raise ConfigError(f"tables: {error}", remedy="name each table as schema.name") from None
        if self.all_tables and (chosen or self.schemas):
            raise ConfigError(
                "all_tables is set beside tables or schemas", remedy="choose all_tables, or name them"
            )
        if any(table.schema == self.cdc_schema for table in chosen) or self.cdc_schema in self.schemas:
            raise ConfigError(
                f"the schema {self.cdc_schema!r} holds our own tables, whose rows never become events",
                remedy="do not publish it, or set cdc_schema to another name",
            )
