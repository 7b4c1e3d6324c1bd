"""The other parts of journal_transport.py: provisioner, monitor, dead letters."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime

import msgspec
from journal import TABLES, Journal

from cdc_core import (
    Action,
    Cause,
    CdcError,
    Check,
    CheckState,
    ConfigError,
    DeadLetter,
    Event,
    FailedEvent,
    Health,
    Operation,
    Partition,
    PartitionLag,
    Plan,
    PlanOutdated,
    PlanRefused,
    ReplayFailure,
    ReplayReport,
    Step,
    TableId,
    parse_identity,
)


class JournalProvisioner:
    """Creates the tables; they are all this transport needs."""

    def __init__(self, journal: Journal, group_id: str) -> None:
        self._journal = journal
        self._group_id = group_id

    async def plan(self) -> Plan:
        existing = self._journal.existing()
        return Plan(
            steps=tuple(
                Step(action=Action.KEEP, kind="table", name=name)
                if name in existing
                else Step(
                    action=Action.CREATE, kind="table", name=name, statement=f"CREATE TABLE {name} {columns}"
                )
                for name, columns in TABLES.items()
            )
        )

    async def apply(self, plan: Plan) -> None:
        if plan.is_refused:
            raise PlanRefused(plan)
        existing = self._journal.existing()
        for step in plan.steps:
            if step.action is Action.KEEP and step.name not in existing:
                raise PlanOutdated(plan, f"the table {step.name} is gone")
        with self._journal.connect(create=True) as connection:
            for step in plan.steps:
                if step.action is Action.CREATE and step.name not in existing:
                    connection.execute(step.statement)

    async def teardown(self, *, confirm: str) -> Plan:
        if confirm != self._group_id:
            raise ConfigError(f"confirmed with {confirm!r}", remedy=f"confirm with {self._group_id!r}")
        existing = sorted(self._journal.existing())
        with self._journal.connect() as connection:
            for name in existing:
                connection.execute(f"DROP TABLE {name}")
        return Plan(steps=tuple(Step(action=Action.DROP, kind="table", name=name) for name in existing))


class JournalMonitor:
    """Asks the journal, not the consumer."""

    def __init__(self, journal: Journal, group_id: str) -> None:
        self._journal = journal
        self._partition = Partition(journal.path.name, group_id)

    async def lag(self) -> Sequence[PartitionLag]:
        try:
            count, oldest = self._journal.waiting(self._partition.id)
        except CdcError:
            return [PartitionLag(partition=self._partition)]  # every figure UNKNOWN, never 0
        age = 0.0 if oldest is None else max(time.time() - oldest, 1e-6)
        return [PartitionLag(partition=self._partition, lag_events=count, lag_seconds=age)]

    async def health(self) -> Health:
        try:
            count, _ = self._journal.waiting(self._partition.id)
        except CdcError as error:
            return Health.of(
                Check(name="journal", state=CheckState.FAIL, why=error.message, remedy=error.remedy)
            )
        return Health.of(Check(name="journal", state=CheckState.OK, why=f"{count} events wait"))


class _Letter(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter as it is stored."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    op: Operation | None
    table: TableId | None
    position: str
    identity: str | None
    related_key: bytes | None
    committed_at: float | None
    fence: int | None
    delivery: int
    cause_type: str
    cause_message: str
    pipeline: str
    attempts: int
    failed_at: datetime
    parked: bool


class JournalLetters:
    """The way into the dead letters, and back."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def route(self, failed: Sequence[FailedEvent]) -> None:
        """Return when they are on the disk: SQLite syncs it at the end of each transaction."""
        columns = "pipeline, dedup, number, place, key, failed_at, letter"
        with self._journal.connect() as connection:
            connection.executemany(
                f"INSERT INTO journal_letters ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                [_row(one) for one in failed],
            )

    async def list(
        self,
        *,
        pipeline: str | None = None,
        table: TableId | None = None,
        key: bytes | None = None,
        since: datetime | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[DeadLetter]:
        filters = {
            "pipeline = ?": pipeline,
            "place = ?": None if table is None else str(table),
            "key = ?": key,
            "failed_at >= ?": None if since is None else since.timestamp(),
        }
        chosen = {sql: value for sql, value in filters.items() if value is not None}
        where = " AND ".join(chosen) or "true"
        with self._journal.connect() as connection:
            rows = connection.execute(
                f"SELECT id, letter FROM journal_letters WHERE {where} ORDER BY id LIMIT ?",
                [*chosen.values(), -1 if limit is None else limit],
            ).fetchall()
        for letter_id, stored in rows:
            yield _letter(letter_id, stored)

    async def show(self, letter_id: str) -> DeadLetter:
        with self._journal.connect() as connection:
            row = connection.execute(
                "SELECT letter FROM journal_letters WHERE id = ?", [letter_id]
            ).fetchone()
        if row is None:
            raise LookupError(f"there is no dead letter {letter_id}")
        return _letter(letter_id, row[0])

    async def replay(
        self, letter_ids: Sequence[str], *, to: Callable[[Sequence[Event]], Awaitable[None]]
    ) -> ReplayReport:
        replayed: list[str] = []
        failed: list[ReplayFailure] = []
        blocked: set[tuple[TableId | None, bytes]] = set()
        for letter in self._in_order_of_delivery(letter_ids):
            key = None if letter.key is None else (letter.event.table, letter.key)
            if key in blocked:
                failed.append(
                    ReplayFailure(id=letter.id, cause=Cause(type="parked", message="behind another"))
                )
                continue
            try:
                await to([letter.event])
            except Exception as error:  # noqa: BLE001 - whatever a handler raises is the letter's new cause
                failed.append(ReplayFailure(id=letter.id, cause=Cause.of(error)))
                blocked |= {key} if key is not None else set()
            else:
                self._delete([letter.id])
                replayed.append(letter.id)
        seen = {*replayed, *(failure.id for failure in failed)}
        missing = tuple(letter_id for letter_id in letter_ids if letter_id not in seen)
        return ReplayReport(replayed=tuple(replayed), failed=tuple(failed), missing=missing)

    async def discard(self, letter_ids: Sequence[str], *, reason: str) -> None:
        print(f"discarded {', '.join(letter_ids)}: {reason}")
        self._delete(letter_ids)

    def _in_order_of_delivery(self, letter_ids: Sequence[str]) -> Sequence[DeadLetter]:
        with self._journal.connect() as connection:
            rows = connection.execute("SELECT id, letter FROM journal_letters ORDER BY number, id").fetchall()
        return [_letter(letter_id, stored) for letter_id, stored in rows if str(letter_id) in letter_ids]

    def _delete(self, letter_ids: Sequence[str]) -> None:
        with self._journal.connect() as connection:
            connection.executemany("DELETE FROM journal_letters WHERE id = ?", [[one] for one in letter_ids])


def _row(failed: FailedEvent) -> tuple[object, ...]:
    event = failed.event
    stored = _Letter(
        key=event.key,
        value=event.value,
        headers=list(event.headers),
        op=event.op,
        table=event.table,
        position=str(event.position),
        identity=None if event.identity is None else str(event.identity),
        related_key=event.related_key,
        committed_at=event.committed_at,
        fence=event.fence,
        delivery=event.delivery,
        cause_type=failed.cause.type,
        cause_message=failed.cause.message,
        pipeline=failed.pipeline,
        attempts=failed.attempts,
        failed_at=failed.failed_at,
        parked=failed.parked,
    )
    number = int(str(event.position).rpartition("/")[2])
    # Once per change: a repeat after a crash has another position, and the same identity.
    dedup = str(event.position) if event.identity is None else str(event.identity)
    place = None if event.table is None else str(event.table)
    body = msgspec.msgpack.encode(stored)
    return (failed.pipeline, dedup, number, place, event.key, failed.failed_at.timestamp(), body)


def _letter(letter_id: object, stored: bytes) -> DeadLetter:
    found = msgspec.msgpack.decode(stored, type=_Letter)
    return DeadLetter(
        id=str(letter_id),
        event=Event(
            key=found.key,
            value=found.value,
            op=found.op,
            table=found.table,
            position=found.position,  # a string is a position: it can be printed and compared
            identity=None if found.identity is None else parse_identity(found.identity),
            headers=found.headers,
            related_key=found.related_key,
            committed_at=found.committed_at,
            fence=found.fence,
            replayed=True,
            delivery=found.delivery,
        ),
        cause=Cause(type=found.cause_type, message=found.cause_message),
        pipeline=found.pipeline,
        attempts=found.attempts,
        failed_at=found.failed_at.astimezone(UTC),
        parked=found.parked,
    )
