"""The pipeline over the reference transport: crashes, repeats and poison at every point lose nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from cdc_core import Event, Pipeline, Poison, RetryPolicy, TableId, Transient
from cdc_testing import Crash, Duplicate, Fault, Limits, MemoryTransport, run_until_idle

pytestmark = pytest.mark.anyio
TABLE = TableId("shop", "orders")
EVENTS = 40


class Sink:
    """Keeps what it took; some events are poison, and now and then it is down."""

    def __init__(self, chance: random.Random, poison: set[int]) -> None:
        self.chance = chance
        self.poison = poison
        self.taken: list[Event] = []

    async def __call__(self, events: Sequence[Event]) -> None:
        if self.chance.random() < 0.1:
            raise Transient
        for event in events:
            if number_of(event) in self.poison:
                if self.chance.random() < 0.3:
                    raise Poison("bad row", event=event)
                raise ValueError("bad row")
        self.taken += events


def number_of(event: Event) -> int:
    return int(event.value or b"-1")


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("park", [False, True])
@pytest.mark.parametrize("seed", range(6))
async def test_nothing_is_lost_and_each_key_keeps_its_order(seed: int, park: bool, concurrency: int) -> None:
    chance = random.Random(seed)
    points = ["handler", "ack", "commit"]
    faults: list[Fault] = [
        *(Crash(before=chance.choice(points), at=chance.randrange(1, EVENTS)) for _ in range(2)),
        Duplicate(at=chance.randrange(1, EVENTS)),
    ]
    poison = {chance.randrange(EVENTS) for _ in range(3)}
    transport = MemoryTransport(faults=faults, limits=Limits(max_batch_events=7))
    keys = [chance.choice(["a", "b", "c"]) for _ in range(EVENTS)]
    for number, key in enumerate(keys):
        transport.put(key.encode(), str(number).encode(), table=TABLE)
    sink = Sink(chance, poison)
    pipeline = Pipeline(
        name="t",
        transport=transport,
        handler=sink,
        concurrency_per_partition=concurrency,
        poisoned_keys="park" if park else "proceed",
        retry=RetryPolicy(max_attempts=2, max_consecutive_poison=10),
    )
    try:
        await run_until_idle(pipeline)
    except AssertionError as error:
        # a crash at a poison event, which is never acknowledged as handled, cannot happen
        assert "never happened" in str(error)  # noqa: PT017
    taken = [number_of(event) for event in sink.taken]
    letters = {number_of(letter.event): letter for letter in transport.letters}
    assert set(taken) | set(letters) == set(range(EVENTS))
    assert not poison & set(taken)
    first = {number: taken.index(number) for number in set(taken)}
    for key in "abc":
        numbers = [number for number in range(EVENTS) if keys[number] == key and number in first]
        assert [first[number] for number in numbers] == sorted(first[number] for number in numbers)
        poisoned = [number for number in range(EVENTS) if keys[number] == key and number in poison]
        if park and poisoned:
            behind = [number for number in range(poisoned[0] + 1, EVENTS) if keys[number] == key]
            assert all(number in letters for number in behind)
            assert not set(behind) & set(taken)
