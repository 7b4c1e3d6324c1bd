"""The worker of one partition stream: takes batches, one run after the other or several keys at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, final

import anyio
from anyio.abc import TaskGroup

from ._events import Event
from ._handlers import split_runs
from ._isolation import RunSettler
from ._iteration import iterating
from ._keys import KeyPlan, Work
from ._parking import ParkedKeys
from ._partition_work import LeavePartition, PartitionWork, logger
from ._protocols import ErrorRouter
from ._set_aside import Batch, SetAside

MAX_BATCHES_IN_HAND: Final = 4
"""With several keys at a time, so many batches are open at most: a slow key does not stop the others at once, and a
transport bounds each batch by count and bytes, so memory stays bounded."""


@final
class PartitionWorker:
    """Works through one stream until it ends, its partition is lost, or the pipeline has to end."""

    def __init__(self, work: PartitionWork, router: ErrorRouter, parked: ParkedKeys | None) -> None:
        self._work = work
        self._parked = parked
        self._concurrency = work.pipeline.concurrency_per_partition
        self._aside = SetAside(work, router, parked, in_order=self._concurrency == 1)
        self._settler = RunSettler(work, self._aside, parked)
        self._finished = False

    async def run(self) -> None:
        """Enter the stream and work through it.

        Raises:
            CdcError: the pipeline has to end.
        """
        async with self._work.stream:
            try:
                if self._parked is not None:
                    await self._work.insist("reading dead letters", self._parked.load)
                if self._concurrency == 1:
                    await self._work_in_order()
                else:
                    await _ManyKeys(self._work, self._aside, self._settler, self._concurrency).run()
                self._finished = True
            except LeavePartition as leave:
                self._finished = not leave.lost
        if not self._finished:
            self._work.tally.partitions_lost += 1
            self._work.telemetry.lost()
            logger.warning(
                "worker ended: its partition is lost or its deadline passed", extra=self._work.fields
            )

    async def _work_in_order(self) -> None:
        progress = self._work.progress
        async with iterating(self._work.stream) as batches:
            async for events in batches:
                progress.begin()
                self._work.delivered(events)
                self._settler.batch_began()
                batch = Batch(events)
                for run in split_runs(self._work.pipeline.handler, events):
                    await self._settler.settle(run, batch)
                await self._aside.batch_ended(batch)
                progress.end()


@final
class _ManyKeys:
    """Works on several keys of one partition at a time, across batches."""

    def __init__(self, work: PartitionWork, aside: SetAside, settler: RunSettler, concurrency: int) -> None:
        self._work = work
        self._aside = aside
        self._settler = settler
        self._concurrency = concurrency
        self._plan = KeyPlan(concurrency)
        self._batches: dict[int, Batch] = {}
        self._decided: set[int] = set()
        self._in_hand: deque[int] = deque()
        self._ending = anyio.Lock()
        self._calling = 0
        self._leaving: LeavePartition | None = None
        self._room = anyio.Event()

    async def run(self) -> None:
        """Work until the stream ends and nothing is under way.

        Raises:
            LeavePartition: there was no time for all of it, or the partition is lost.
        """
        async with anyio.create_task_group() as calls, iterating(self._work.stream) as batches:
            async for events in batches:
                self._take(events)
                self._start(calls)
                while len(self._in_hand) >= MAX_BATCHES_IN_HAND and self._leaving is None:
                    self._room = anyio.Event()
                    await self._room.wait()
                if self._leaving is not None:
                    break
        if self._leaving is not None:
            raise self._leaving

    def _take(self, events: Sequence[Event]) -> None:
        self._work.progress.begin()
        self._work.delivered(events)
        self._settler.batch_began()
        batch = Batch(list(events))
        number = self._plan.add(batch.events)
        self._batches[number] = batch
        self._in_hand.append(number)

    def _start(self, calls: TaskGroup) -> None:
        while self._calling < self._concurrency and self._leaving is None:
            work = self._plan.take()
            if work is None:
                return
            self._calling += 1
            calls.start_soon(self._settle, work, calls)

    async def _settle(self, work: Work, calls: TaskGroup) -> None:
        try:
            for run in split_runs(self._work.pipeline.handler, work.events):
                await self._settler.settle(run, self._batches[work.batch])
        except LeavePartition as leave:
            self._leave(leave, calls)
            return
        finally:
            self._calling -= 1
        is_decided = self._plan.finish(work)
        self._start(calls)
        if is_decided:
            self._decided.add(work.batch)
            try:
                await self._end_batches()
            except LeavePartition as leave:
                self._leave(leave, calls)

    async def _end_batches(self) -> None:
        """End the batches that are decided, in their order."""
        async with self._ending:
            while self._in_hand and self._in_hand[0] in self._decided:
                number = self._in_hand[0]
                await self._aside.batch_ended(self._batches[number])
                self._in_hand.popleft()
                self._decided.remove(number)
                del self._batches[number]
                self._work.progress.end()
                self._room.set()

    def _leave(self, leave: LeavePartition, calls: TaskGroup) -> None:
        """Start nothing more; what is under way may finish, unless the partition is lost."""
        self._leaving = self._leaving or leave
        self._room.set()
        if leave.lost:
            self._leaving = leave
            calls.cancel_scope.cancel()
