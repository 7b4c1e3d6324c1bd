"""The dead letters of a group: what its pipelines could not handle, in a stream of its own."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Literal, final

from cdc_core import (
    Cause,
    CdcError,
    DeadLetter,
    Event,
    FailedEvent,
    NotProvisioned,
    ReplayFailure,
    ReplayReport,
    RoutingError,
    TableId,
)

from ._aws import Aws
from ._config import KinesisConfig
from ._errors import AwsError
from ._inspection import inspect_stream
from ._key_progress import keys_moved_on
from ._letter_chunks import (
    Facts,
    LetterTooLarge,
    Removal,
    encode_letter,
    encode_removal,
    key_digest,
    letter_id,
)
from ._letter_index import Entry, in_order_of_delivery
from ._letter_shelf import LetterShelf
from ._letter_stream import LetterRecord, put_in_order

logger = logging.getLogger("cdc_kinesis")

Handler = Callable[[Sequence[Event]], Awaitable[None]]


@asynccontextmanager
async def open_error_router(config: KinesisConfig, aws: Aws) -> AsyncGenerator[KinesisErrorRouter, None]:
    """Open the way into the dead letters; nothing is asked before the first event fails."""
    yield KinesisErrorRouter(config, aws)


@asynccontextmanager
async def open_dead_letters(config: KinesisConfig, aws: Aws) -> AsyncGenerator[KinesisDeadLetters, None]:
    """Open the dead letters for reading, replaying and discarding."""
    yield KinesisDeadLetters(config, aws)


def source_of(config: KinesisConfig) -> str:
    """Return whose letters a group's are; a dead-letter stream may be shared."""
    return f"{config.stream_name}/{config.group_id}"


@final
class KinesisErrorRouter:
    """Stores failed events, each once per pipeline and identity (position where there is none).

    A stream cannot be asked what it holds, so an event that is routed again is stored again, under the same id, and
    dropped when letters are read.
    """

    def __init__(self, config: KinesisConfig, aws: Aws) -> None:
        self._config = config
        self._aws = aws
        self._max_record_bytes: int | None = None

    async def route(self, failed: Sequence[FailedEvent]) -> None:
        """Store events, those of a key in their order; return once the service has all of their chunks.

        Raises:
            RoutingError: not stored, or only some, or nobody knows; the same call may be made again if retryable.
        """
        if not failed:
            return
        source = source_of(self._config)
        each = {letter_id(source, item): item for item in failed}
        try:
            limit = await self._limit()
            records = [
                LetterRecord(letter=letter, data=data)
                for letter, item in each.items()
                for data in encode_letter(
                    item, source=source, copy=secrets.token_hex(8), max_record_bytes=limit
                )
            ]
            await put_in_order(self._aws, self._config.dead_letter_stream, records)
        except CdcError as error:
            raise self._routing_error(error) from error
        except LetterTooLarge as error:
            raise RoutingError(f"a failed event was not stored: {error}") from error

    async def _limit(self) -> int:
        if self._max_record_bytes is None:
            name = self._config.dead_letter_stream
            found = await inspect_stream(self._aws, name)
            if found is None:
                raise NotProvisioned("the dead-letter stream does not exist", where={"stream": name})
            self._max_record_bytes = found.max_record_bytes
        return self._max_record_bytes

    def _routing_error(self, error: CdcError) -> RoutingError:
        remedy = error.remedy
        if isinstance(error, AwsError) and error.code == "ResourceNotFoundException":
            remedy = "run the provisioner: plan, then apply"
        return RoutingError(
            f"failed events were not stored: {error.message}",
            where={**error.where, "stream": self._config.dead_letter_stream},
            remedy=remedy,
            retryable=error.retryable,
        )


@final
class KinesisDeadLetters:
    """The dead letters of one group of one stream.

    The first reading begins at the stream's oldest record, each later one where the last ended: which letters there
    are is known only at the end, since what was replayed or discarded is marked by later records. Of each letter less
    than a kilobyte stays in memory. Letters leave by the stream's retention, too.
    """

    def __init__(self, config: KinesisConfig, aws: Aws) -> None:
        self._config = config
        self._aws = aws
        self._shelf = LetterShelf(aws, config.dead_letter_stream, source=source_of(config))

    async def list(
        self,
        *,
        pipeline: str | None = None,
        table: TableId | None = None,
        key: bytes | None = None,
        since: datetime | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[DeadLetter]:
        """Iterate in the order in which they were stored; `key` also finds updates that changed it to or from this one.

        Raises:
            NotProvisioned: there is no dead-letter stream.
            AwsError, AwsAccessError, AnswerLost: it could not be read.
        """
        digest = key_digest(key)

        def is_wanted(facts: Facts) -> bool:
            return (
                (pipeline is None or facts.pipeline == pipeline)
                and (table is None or facts.table_id == table)
                and (digest is None or digest in (facts.key, facts.related_key))
                and (since is None or datetime.fromisoformat(facts.failed_at) >= since)
            )

        given = 0
        async with self._shelf.reading() as reader:
            for entry in [entry for entry in await self._shelf.letters() if is_wanted(entry.facts)]:
                if given == limit:
                    return
                if (letter := await reader.fetch(entry)) is not None:
                    given += 1
                    yield letter

    async def show(self, letter_id: str) -> DeadLetter:
        """Return one letter.

        Raises:
            LookupError: there is none of that id.
        """
        async with self._shelf.reading() as reader:
            for entry in await self._find([letter_id]):
                if (letter := await reader.fetch(entry)) is not None:
                    return letter
        raise LookupError(f"there is no dead letter {letter_id}")

    async def replay(self, letter_ids: Sequence[str], *, to: Handler) -> ReplayReport:
        """Give letters to a handler one at a time, and mark those that it handles as gone.

        They come in the order of delivery: those of one epoch by their identities, others of a shard by their
        positions, the rest as they were stored. One behind a failed one of the same key is not tried. A handled
        letter whose marker cannot be stored comes again.

        `key_moved_on` names those tried whose key has later events in the stream: it is read from their positions
        on, as far as retention still has it, for at most ten seconds and 16 MiB; a warning says where that was not
        enough to tell.
        """
        replayed: list[str] = []
        failed: list[ReplayFailure] = []
        tried: list[str] = []
        blocked: dict[object, str] = {}
        async with self._shelf.reading() as reader:
            entries = in_order_of_delivery(await self._find(letter_ids))
            moved_on = await keys_moved_on(
                self._config, self._aws, {entry.letter: entry.facts for entry in entries}
            )
            for entry in entries:
                keys = entry.facts.keys
                before = next((blocked[key] for key in keys if key in blocked), None)
                cause: Cause | None
                if before is not None:
                    cause = Cause(type="behind", message=f"not tried: letter {before} of the same key failed")
                elif (letter := await reader.fetch(entry)) is None:
                    continue
                else:
                    tried.append(entry.letter)
                    cause = await _try(letter.event, to)
                if cause is None:
                    await self._remove([entry], how="replayed", reason="handled")
                    replayed.append(entry.letter)
                else:
                    failed.append(ReplayFailure(id=entry.letter, cause=cause))
                    blocked = {**dict.fromkeys(keys, entry.letter), **blocked}
        seen = {*replayed, *(item.id for item in failed)}
        return ReplayReport(
            replayed=tuple(replayed),
            failed=tuple(failed),
            missing=tuple(one for one in dict.fromkeys(letter_ids) if one not in seen),
            key_moved_on=tuple(one for one in tried if one in moved_on),
        )

    async def discard(self, letter_ids: Sequence[str], *, reason: str) -> None:
        """Mark letters as gone for good; ids that there are none of are passed over."""
        entries = await self._find(letter_ids)
        await self._remove(entries, how="discarded", reason=reason)
        logger.info(
            "dead letters discarded",
            extra={"letter_ids": list(letter_ids), "discarded": len(entries), "reason": reason},
        )

    async def _find(self, letter_ids: Sequence[str]) -> Sequence[Entry]:
        ids = frozenset(letter_ids)
        return [entry for entry in await self._shelf.letters() if entry.letter in ids]

    async def _remove(
        self, entries: Sequence[Entry], *, how: Literal["replayed", "discarded"], reason: str
    ) -> None:
        removal = Removal(how=how, reason=reason, removed_at=datetime.now(UTC).isoformat())
        records = [
            LetterRecord(letter=entry.letter, data=encode_removal(entry.letter, removal)) for entry in entries
        ]
        await put_in_order(self._aws, self._config.dead_letter_stream, records)


async def _try(event: Event, handler: Handler) -> Cause | None:
    try:
        await handler([event])
    except Exception as error:  # noqa: BLE001 - whatever the user's handler raises keeps the letter, and is reported
        return Cause.of(error)
    return None
