"""Drives a source as a pipeline would, and writes down what it saw."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, cast, final

import anyio
import anyio.abc

from cdc_core import CdcError, Event, PartitionStream, Transport, provision

from ._harness import Harness, SeedRow

DRAIN_SECONDS: Final = 30.0
"""The drain timeout where a check does not care: so long that reaching it fails the check for lack of patience."""
SHORT_DRAIN_SECONDS: Final = 0.2
"""The drain timeout where a check waits for it, or disturbs the source such that leaving may have to."""


@final
@dataclass(frozen=True, slots=True)
class Delivery:
    """One event as a worker got it."""

    stream: PartitionStream
    event: Event
    key: str
    number: int


@final
class Consumer:
    """What the workers of one opened source saw, and what they shall do."""

    def __init__(self, harness: Harness, *, acks: bool) -> None:
        self._harness = harness
        self._acks = acks
        self._changed = anyio.Event()
        self.deliveries: list[Delivery] = []
        self.batches: list[Sequence[Event]] = []
        self.assigned: list[PartitionStream] = []
        self.entered: list[PartitionStream] = []
        self.ended: list[PartitionStream] = []
        self.left: list[PartitionStream] = []
        self.errors: list[CdcError] = []
        self.source_left: anyio.Event = anyio.Event()
        self.before_iterating: Callable[[], Awaitable[None]] = _nothing
        self.in_hand: Callable[[PartitionStream, Sequence[Event]], Awaitable[None]] = _nothing_with
        self.before_leaving: Callable[[], Awaitable[None]] = _nothing

    @property
    def numbers(self) -> list[int]:
        """The numbers of the rows in the order of their deliveries."""
        return [delivery.number for delivery in self.deliveries]

    @property
    def first_deliveries(self) -> list[Delivery]:
        """The deliveries without repeats."""
        seen: dict[int, Delivery] = {}
        for delivery in self.deliveries:
            seen.setdefault(delivery.number, delivery)
        return list(seen.values())

    def of(self, stream: PartitionStream) -> list[Delivery]:
        """Return the deliveries of one stream."""
        return [delivery for delivery in self.deliveries if delivery.stream is stream]

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until a condition on what the workers saw holds.

        Raises:
            AssertionError: it does not within the harness's patience; it says what.
        """
        with anyio.move_on_after(self._harness.patience_seconds):
            while not condition():
                await self._changed.wait()
            return
        raise AssertionError(
            f"{what}: not within {self._harness.patience_seconds:g} seconds; "
            f"delivered: {self.numbers}, streams: {len(self.assigned)}, left: {len(self.left)}, "
            f"errors: {self.errors}"
        )

    async def until_delivered(self, numbers: Iterable[int]) -> None:
        """Wait until the rows with these numbers were delivered."""
        wanted = set(numbers)
        await self.until(lambda: wanted <= set(self.numbers), f"rows {sorted(wanted)} are delivered")

    async def ack(self, deliveries: Iterable[Delivery]) -> None:
        """Acknowledge deliveries, to the streams that they came from."""
        by_stream: dict[int, list[Delivery]] = {}
        for delivery in deliveries:
            by_stream.setdefault(id(delivery.stream), []).append(delivery)
        for group in by_stream.values():
            await group[0].stream.ack([delivery.event for delivery in group])

    async def flush(self) -> None:
        """Commit what is acknowledged on every stream."""
        for stream in self.assigned:
            await stream.flush()

    async def take_streams(self, streams: AsyncIterable[PartitionStream], tasks: anyio.abc.TaskGroup) -> None:
        """Start a worker for each stream, as they are assigned."""
        try:
            async for stream in streams:
                self.assigned.append(stream)
                self.change()
                tasks.start_soon(self._work, stream)
        except CdcError as error:
            self.errors.append(error)
            self.change()

    def change(self) -> None:
        """Have `until` look again."""
        self._changed.set()
        self._changed = anyio.Event()

    async def _work(self, stream: PartitionStream) -> None:
        try:
            async with stream:
                self.entered.append(stream)
                self.change()
                await self.before_iterating()
                async for batch in stream:
                    self.batches.append(batch)
                    for event in batch:
                        key, number = self._harness.read(event)
                        self.deliveries.append(Delivery(stream, event, key, number))
                    self.change()
                    await self.in_hand(stream, batch)
                    if self._acks:
                        await stream.ack(batch)
                self.ended.append(stream)
                self.change()
                await self.before_leaving()
        except CdcError as error:
            self.errors.append(error)
        self.left.append(stream)
        self.change()


@asynccontextmanager
async def consuming(
    harness: Harness,
    transport: Transport,
    *,
    acks: bool = False,
    tolerant: bool = False,
    drain_timeout_seconds: float = DRAIN_SECONDS,
) -> AsyncGenerator[Consumer, None]:
    """Open a source and work on its streams until the block ends.

    - `acks`: acknowledge each batch as it comes; otherwise the check does.
    - `tolerant`: the source may fail in the end, for it is disturbed on purpose.
    """
    consumer = Consumer(harness, acks=acks)
    failure: Exception | None = None
    try:
        async with anyio.create_task_group() as workers:
            try:
                async with transport.source().open(drain_timeout_seconds=drain_timeout_seconds) as streams:
                    intake = anyio.CancelScope()

                    async def take() -> None:
                        with intake:
                            await consumer.take_streams(streams, workers)

                    workers.start_soon(take)
                    try:
                        yield consumer
                    except BaseException as error:
                        if isinstance(error, Exception):
                            failure = error
                        workers.cancel_scope.cancel()  # the check failed: nobody has to be waited for
                        raise
                    intake.cancel()
            except CdcError as error:
                if not tolerant:
                    raise
                consumer.errors.append(error)
            finally:
                consumer.source_left.set()
            # The source has let them go, or has cancelled them: none may stay for ever.
            try:
                await consumer.until(
                    lambda: len(consumer.left) == len(consumer.assigned), "all workers leave"
                )
            except AssertionError:
                workers.cancel_scope.cancel()
                raise
    except BaseExceptionGroup as group:
        raise _most_telling(group) from group
    if failure is not None:
        raise failure  # the cancellation of its own workers went before it
    if not tolerant and consumer.errors:
        raise AssertionError(f"the source failed: {consumer.errors[0]}") from consumer.errors[0]


async def provisioned(harness: Harness) -> Transport:
    """Return a transport whose source is provisioned."""
    transport = harness.transport()
    await provision(transport)
    return transport


async def write_singly(harness: Harness, numbers: Iterable[int], *, keys: int = 4) -> list[int]:
    """Write a row for each number, in a transaction each, over some keys; return the numbers."""
    written = list(numbers)
    for number in written:
        await harness.write((f"key-{number % keys}", number))
    return written


def rows(numbers: Iterable[int], *, key: str) -> list[SeedRow]:
    """Return rows of one key."""
    return [(key, number) for number in numbers]


async def eventually(harness: Harness, condition: Callable[[], Awaitable[object]], what: str) -> None:
    """Ask until the answer is truthy.

    Raises:
        AssertionError: it is not within the harness's patience; it says what.
    """
    pause = 0.005
    with anyio.move_on_after(harness.patience_seconds):
        while not await condition():
            await anyio.sleep(pause)
            pause = min(2 * pause, 0.25)
        return
    raise AssertionError(f"{what}: not within {harness.patience_seconds:g} seconds")


async def _nothing() -> None:
    pass


async def _nothing_with(stream: PartitionStream, batch: Sequence[Event]) -> None:
    pass


def _most_telling(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the failed assertion among what a group holds, else its first error; never a group."""
    leaves = list(_leaves_of(group))
    return next((leaf for leaf in leaves if isinstance(leaf, AssertionError)), leaves[0])


def _leaves_of(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for member in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from _leaves_of(member)
    else:
        yield error
