"""The policy of one run: called until it is handled, or taken apart until it is known which event fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

from ._errors import Poison
from ._events import Event
from ._parking import ParkedKeys
from ._partition_work import PartitionWork
from ._retry import Backoff, Verdict
from ._set_aside import Batch, SetAside
from ._tasks import leaves_of


@final
@dataclass(slots=True)
class Subset:
    """Neighbouring events still to be decided.

    - `calls_left`: calls that may still fail with an error that is not transient; `calls`: how often all of these
      events were tried together so far; `error`: what the one event in it failed with for good.
    """

    events: Sequence[Event]
    calls_left: int
    calls: int = 0
    error: Exception | None = None


def take_apart(subset: Subset, error: Exception, *, named: int | None, max_attempts: int) -> list[Subset]:
    """Cut a failing subset into what is to be decided next, from left to right.

    The event that the handler named (its index) is set aside, and its neighbours are runs of their own: nothing
    speaks against them. Otherwise the subset is halved, each half to be tried once. Nothing is reordered, so a
    later event of a key is never handled before an earlier one is decided.
    """
    events, calls = subset.events, subset.calls
    if named is None and len(events) > 1:
        half = len(events) // 2
        return [Subset(events[:half], 1, calls), Subset(events[half:], 1, calls)]
    at = named or 0
    parts = [
        Subset(events[:at], max_attempts, calls),
        Subset(events[at : at + 1], 0, calls, error),
        Subset(events[at + 1 :], max_attempts, calls),
    ]
    return [part for part in parts if part.events]


def named_event(error: BaseException, events: Sequence[Event]) -> int | None:
    """Return the index of the event that a `Poison` (or one in a group) names, None where there is none."""
    named = [leaf.event for leaf in leaves_of(error) if isinstance(leaf, Poison)]
    if not named:
        return None
    # by equality too: a sequence may make its events on access
    return next(
        (i for i, event in enumerate(events) if any(event is one or event == one for one in named)), None
    )


@final
class RunSettler:
    """Carries the runs of one partition through the policy."""

    def __init__(self, work: PartitionWork, aside: SetAside, parked: ParkedKeys | None) -> None:
        self._work = work
        self._aside = aside
        self._parked = parked

    def batch_began(self) -> None:
        """A batch came; say so before its first run."""
        if self._parked is not None:
            self._parked.batch_began()

    async def settle(self, run: Sequence[Event], batch: Batch) -> None:
        """Handle a run, whatever it takes: each of its events is handled and acknowledged, or held to be set aside.

        Raises:
            HandlerFailing: it is the handler or its sink, not the data.
            LeavePartition: there is no time for another call, or the partition is lost.
        """
        successes_before = self._aside.successes
        backoff = self._work.backoff()
        todo = [Subset(run, self._work.pipeline.retry.max_attempts)]
        try:
            while todo:
                subset = todo.pop()
                if subset.error is not None:
                    self._aside.failed(
                        subset.events[0],
                        subset.error,
                        batch,
                        attempts=subset.calls,
                        successes_before=successes_before,
                    )
                    continue
                subset.events = await self._to_handle(subset.events, batch)
                if subset.events:
                    todo += reversed(await self._call(subset, batch, backoff))
        finally:
            self._work.progress.recovered(backoff)

    async def _call(self, subset: Subset, batch: Batch, backoff: Backoff) -> list[Subset]:
        """Call the handler once, and return what is still to be decided."""
        work, policy, events = self._work, self._work.pipeline.retry, subset.events
        work.require_time()
        error = await work.call(events)
        subset.calls += 1
        if error is None:
            work.progress.recovered(backoff)
            backoff.reset()
            await self._aside.handled(events, batch)
            return []
        verdict = policy.judge(error)
        if verdict is Verdict.TRANSIENT:
            await work.pause(backoff, backoff, error, "the handler", endless=True)
            return [subset]
        work.progress.recovered(backoff)
        named = named_event(error, events) if verdict is Verdict.POISON else None
        subset.calls_left -= 1
        if named is None and subset.calls_left > 0:
            await work.pause(backoff, backoff, error, "the handler", endless=False)
            return [subset]
        backoff.reset()
        return take_apart(subset, error, named=named, max_attempts=policy.max_attempts)

    async def _to_handle(self, events: Sequence[Event], batch: Batch) -> Sequence[Event]:
        parked = self._parked
        if parked:
            free: list[Event] = []
            for event in events:
                if parked.is_parked(event):
                    await self._work.insist("reading dead letters", partial(parked.release, event))
                if parked.is_parked(event):
                    self._aside.park(event, batch)
                else:
                    free.append(event)
            events = free
        ours = self._work.current(events) if events else events
        if ours is not events:
            kept = set(map(id, ours))
            batch.untried.update(id(event) for event in events if id(event) not in kept)
        return ours
