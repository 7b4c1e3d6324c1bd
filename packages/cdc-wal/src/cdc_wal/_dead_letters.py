"""The dead-letter table in the user's database: failed events go in, and come out again to a handler."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import final

from cdc_core import (
    Cause,
    CdcError,
    ChangeIdentity,
    DeadLetter,
    Event,
    FailedEvent,
    ReplayFailure,
    ReplayReport,
    RoutingError,
    TableId,
    parse_identity,
)

from ._config import WalConfig
from ._connection import Parameter, PasswordProvider
from ._conninfo import quote_identifier
from ._errors import sqlstate_of
from ._letter_rows import STORED_COLUMNS, letter_of, letter_parameters
from ._own_tables import DEAD_LETTER_COLUMNS, dead_letter_table
from ._publications import quote_table
from ._side_connection import SideConnection, open_side_connection

logger = logging.getLogger("cdc_wal")

Handler = Callable[[Sequence[Event]], Awaitable[None]]

# One statement takes 65535 parameters at most (Bind counts them in 16 bits), a letter about 20.
_ROWS_A_STATEMENT = 500
_BYTES_A_STATEMENT = 8 << 20
_ROWS_A_PAGE = 100
_BYTES_A_PAGE = 4 << 20
# A database or role may default to read-only (some hosts make it so when the disk fills up), and a letter that is not
# stored ends the pipeline.
_WRITABLE = {"default_transaction_read_only": "off"}


@asynccontextmanager
async def open_error_router(
    config: WalConfig, *, password: PasswordProvider | None = None
) -> AsyncGenerator[PostgresErrorRouter, None]:
    """Open the way into the dead letters; it connects when the first event fails."""
    async with open_side_connection(config, password=password, session=_WRITABLE) as side:
        yield PostgresErrorRouter(config, side)


@asynccontextmanager
async def open_dead_letters(
    config: WalConfig, *, password: PasswordProvider | None = None
) -> AsyncGenerator[PostgresDeadLetters, None]:
    """Open the dead letters for reading, replaying and discarding."""
    async with open_side_connection(config, password=password, session=_WRITABLE) as side:
        yield PostgresDeadLetters(config, side)


@final
class PostgresErrorRouter:
    """Stores failed events, each once per pipeline and identity (position where there is none)."""

    def __init__(self, config: WalConfig, side: SideConnection) -> None:
        self._config = config
        self._table = quote_table(dead_letter_table(config))
        self._side = side

    async def route(self, failed: Sequence[FailedEvent]) -> None:
        """Store events in one transaction, durably whatever the database's `synchronous_commit` is.

        Raises:
            RoutingError: not stored, or the answer was lost; the same call may be made again if it is retryable.
        """
        if not failed:
            return
        try:
            async with self._side.use() as connection, connection.transaction():
                await connection.execute("SET LOCAL synchronous_commit = on")
                for rows in _chunks(failed):
                    await connection.execute(
                        self._insert(len(rows)), [value for row in rows for value in row]
                    )
        except CdcError as error:
            raise self._routing_error(error) from error

    def _insert(self, count: int) -> str:
        width = len(STORED_COLUMNS)
        rows = (
            "(" + ", ".join(f"${row * width + column}" for column in range(1, width + 1)) + ")"
            for row in range(count)
        )
        return (
            f"INSERT INTO {self._table} ({', '.join(STORED_COLUMNS)}) VALUES {', '.join(rows)}"
            " ON CONFLICT (pipeline, dedup) DO NOTHING"
        )

    def _routing_error(self, error: CdcError) -> RoutingError:
        remedy = error.remedy
        match sqlstate_of(error):
            case "42P01" | "3F000":
                remedy = "run the provisioner: plan, then apply"
            case "42501":
                schema = quote_identifier(self._config.cdc_schema)
                remedy = f"GRANT USAGE ON SCHEMA {schema} TO ...; GRANT SELECT, INSERT, DELETE ON {self._table} TO ..."
            case _:
                pass
        return RoutingError(
            f"failed events were not stored: {error.message}",
            where={"table": self._table, **error.where},
            remedy=remedy,
            retryable=error.retryable,
        )


@final
class PostgresDeadLetters:
    """The dead letters of all pipelines that share a schema; an id is the number of its row."""

    def __init__(self, config: WalConfig, side: SideConnection) -> None:
        self._table = quote_table(dead_letter_table(config))
        self._columns = ", ".join(DEAD_LETTER_COLUMNS)
        self._side = side

    async def list(
        self,
        *,
        pipeline: str | None = None,
        table: TableId | None = None,
        key: bytes | None = None,
        since: datetime | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[DeadLetter]:
        """Iterate in the order in which they were stored, a page of at most 100 letters and about 4 MiB at a time.

        No transaction is held between pages. `key` also finds updates that changed it to or from this one.
        """
        filters, params = _filters(pipeline=pipeline, table=table, key=key, since=since)
        last, left = 0, limit
        while left is None or left > 0:
            page = await self.page(filters, params, after=last, count=min(_ROWS_A_PAGE, left or _ROWS_A_PAGE))
            if not page:
                return
            for letter in page:
                yield letter
            last = int(page[-1].id)
            left = None if left is None else left - len(page)

    async def show(self, letter_id: str) -> DeadLetter:
        """Return one letter.

        Raises:
            LookupError: there is none of that id.
        """
        letter = await self._find(_number(letter_id))
        if letter is None:
            raise LookupError(f"there is no dead letter {letter_id}")
        return letter

    async def replay(self, letter_ids: Sequence[str], *, to: Handler) -> ReplayReport:
        """Give letters to a handler one at a time, and remove those that it handles.

        They come in the order in which they were stored, those of one epoch in the order of their identities. One
        behind a failed one of the same key is not tried. `key_moved_on` stays empty: this table does not know what
        was handled since. A handled letter whose removal fails comes again.
        """
        numbers = {
            number: letter_id for letter_id in letter_ids if (number := _number(letter_id)) is not None
        }
        replayed: list[str] = []
        failed: list[ReplayFailure] = []
        blocked: dict[object, str] = {}
        for number in await self._in_order(numbers):
            letter = await self._find(number)
            if letter is None:  # removed by somebody else in between
                continue
            keys = _occupied(letter.event)
            before = next((blocked[key] for key in keys if key in blocked), None)
            cause: Cause | None
            if before is not None:
                cause = Cause(type="behind", message=f"not tried: letter {before} of the same key failed")
            else:
                cause = await _try(letter.event, to)
            if cause is None:
                await self._delete([number])
                replayed.append(numbers[number])
            else:
                failed.append(ReplayFailure(id=numbers[number], cause=cause))
                blocked = {**dict.fromkeys(keys, letter.id), **blocked}
        seen = {*replayed, *(item.id for item in failed)}
        missing = tuple(letter_id for letter_id in dict.fromkeys(letter_ids) if letter_id not in seen)
        return ReplayReport(replayed=tuple(replayed), failed=tuple(failed), missing=missing)

    async def discard(self, letter_ids: Sequence[str], *, reason: str) -> None:
        """Remove letters for good; ids that there are none of are passed over."""
        numbers = [number for letter_id in letter_ids if (number := _number(letter_id)) is not None]
        count = await self._delete(numbers)
        logger.info(
            "dead letters discarded",
            extra={"letter_ids": list(letter_ids), "discarded": count, "reason": reason},
        )

    async def page(
        self, filters: str, params: Sequence[Parameter], *, after: int, count: int
    ) -> Sequence[DeadLetter]:
        """Return the letters behind an id, as many as fit into a page, one at least; `list` asks for them in turn."""
        # octet_length of a stored value is read from its header: large values cost nothing until they are chosen
        sql = (
            f"SELECT {self._columns} FROM (SELECT *, sum(coalesce(octet_length(value), 0)"
            f" + coalesce(octet_length(key), 0) + octet_length(headers)) OVER (ORDER BY id) AS bytes,"
            f" row_number() OVER (ORDER BY id) AS place FROM (SELECT * FROM {self._table}"
            f" WHERE id > $1::bigint AND {filters} ORDER BY id LIMIT $2::bigint) p) q"
            f" WHERE place = 1 OR bytes <= {_BYTES_A_PAGE} ORDER BY id"
        )
        async with self._side.use() as connection:
            return [letter_of(row) for row in await connection.fetch(sql, [after, count, *params])]

    async def _find(self, number: int | None) -> DeadLetter | None:
        if number is None:
            return None
        async with self._side.use() as connection:
            row = await connection.fetch_one(
                f"SELECT {self._columns} FROM {self._table} WHERE id = $1::bigint", [number]
            )
        return None if row is None else letter_of(row)

    async def _in_order(self, numbers: Iterable[int]) -> Sequence[int]:
        async with self._side.use() as connection:
            rows = await connection.fetch(
                f"SELECT id, identity FROM {self._table} WHERE id = ANY ($1::bigint[]) ORDER BY id",
                [_array(numbers)],
            )
        return _by_identity([(int(number or 0), identity) for number, identity in rows])

    async def _delete(self, numbers: Sequence[int]) -> int:
        async with self._side.use() as connection:
            return await connection.execute(
                f"DELETE FROM {self._table} WHERE id = ANY ($1::bigint[])", [_array(numbers)]
            )


def _chunks(failed: Sequence[FailedEvent]) -> Iterator[Sequence[Sequence[Parameter]]]:
    rows: list[Sequence[Parameter]] = []
    size = 0
    for item in failed:
        row = letter_parameters(item)
        size += sum(len(value) for value in row if isinstance(value, bytes))
        rows.append(row)
        if len(rows) >= _ROWS_A_STATEMENT or size >= _BYTES_A_STATEMENT:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _filters(
    *, pipeline: str | None, table: TableId | None, key: bytes | None, since: datetime | None
) -> tuple[str, Sequence[Parameter]]:
    wanted: list[tuple[str, Sequence[Parameter]]] = []
    if pipeline is not None:
        wanted.append(("pipeline = {}", [pipeline]))
    if table is not None:
        wanted.append(("table_schema = {} AND table_name = {}", [table.schema, table.name]))
    if key is not None:
        wanted.append(("(key = {} OR related_key = {})", [key, key]))
    if since is not None:
        wanted.append(("failed_at >= {}::timestamptz", [since.isoformat()]))
    params: list[Parameter] = []
    conditions = ["true"]
    for condition, values in wanted:
        places = [
            f"${len(params) + number}" for number in range(3, 3 + len(values))
        ]  # $1 and $2 are the page's
        conditions.append(condition.format(*places))
        params += values
    return " AND ".join(conditions), params


def _by_identity(letters: Sequence[tuple[int, str | None]]) -> Sequence[int]:
    """Order letters of one epoch by their identities, in the places that these letters have among all."""
    places: dict[object, list[int]] = {}
    parsed: dict[int, ChangeIdentity] = {}
    for place, (number, text) in enumerate(letters):
        identity = None if text is None else parse_identity(text)
        if isinstance(identity, ChangeIdentity):
            parsed[number] = identity
            places.setdefault(identity.epoch, []).append(place)
    ordered = [number for number, _ in letters]
    for taken in places.values():
        numbers = sorted(
            (letters[place][0] for place in taken),
            key=lambda number: (
                parsed[number].commit_lsn,
                parsed[number].ordinal,
                parsed[number].sub_index,
                number,
            ),
        )
        for place, number in zip(taken, numbers, strict=True):
            ordered[place] = number
    return ordered


def _occupied(event: Event) -> Sequence[object]:
    # events without a key count as one key per table, as the pipeline has it
    keys = [key for key in (event.key, event.related_key) if key is not None]
    return [(event.table, key) for key in keys] or [(event.table, None)]


async def _try(event: Event, handler: Handler) -> Cause | None:
    try:
        await handler([event])
    except Exception as error:  # noqa: BLE001 - whatever the user's handler raises keeps the letter, and is reported
        return Cause.of(error)
    return None


def _number(letter_id: str) -> int | None:
    return int(letter_id) if letter_id.isascii() and letter_id.isdecimal() and len(letter_id) < 19 else None


def _array(numbers: Iterable[int]) -> str:
    return "{" + ",".join(map(str, numbers)) + "}"
