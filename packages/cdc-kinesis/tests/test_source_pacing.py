"""The limits of a shard are kept by all who share one pacing."""

from __future__ import annotations

import math
from collections.abc import Callable

import anyio
import pytest

from cdc_core import ConfigError
from cdc_kinesis._config import KinesisConfig
from cdc_kinesis._pacing import Pacing

pytestmark = pytest.mark.anyio


class SteppedClock:
    """A clock that stands still, and is moved by whoever sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> tuple[SteppedClock, list[float]]:
    clock, delays = SteppedClock(), list[float]()

    async def sleep(seconds: float) -> None:
        delays.append(seconds)
        clock.now += seconds
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr("cdc_kinesis._pacing.anyio.sleep", sleep)
    return clock, delays


CONFIG = KinesisConfig(stream_name="s")
OTHER_GROUP = KinesisConfig(stream_name="s", group_id="other")
OTHER_STREAM = KinesisConfig(stream_name="t")


async def test_reads_of_one_shard_are_a_quarter_of_a_second_apart(
    slept: tuple[SteppedClock, list[float]],
) -> None:
    clock, _ = slept
    pace = Pacing(clock=clock).of(CONFIG, "shard-0")
    times: list[float] = []
    for _ in range(5):
        await pace.turn()
        times.append(clock.now)
    assert times == [1000.0, 1000.25, 1000.5, 1000.75, 1001.0]


async def test_two_groups_share_the_limit_of_a_shard_and_two_streams_do_not(
    slept: tuple[SteppedClock, list[float]],
) -> None:
    clock, _ = slept
    pacing = Pacing(clock=clock)
    mine, others, elsewhere = (pacing.of(config, "shard-0") for config in (CONFIG, OTHER_GROUP, OTHER_STREAM))
    await mine.turn()
    await elsewhere.turn()
    assert clock.now == 1000.0
    await others.turn()
    assert clock.now == 1000.25


async def test_ten_mebibytes_are_followed_by_five_seconds_of_silence(
    slept: tuple[SteppedClock, list[float]],
) -> None:
    clock, _ = slept
    pace = Pacing(clock=clock).of(CONFIG, "shard-0")
    await pace.turn()
    pace.spent(10 << 20)
    await pace.turn()
    assert clock.now == 1005.0


async def test_a_turn_is_looked_for_again_when_another_reader_spent_it_meanwhile(
    slept: tuple[SteppedClock, list[float]],
) -> None:
    clock, delays = slept
    pace = Pacing(clock=clock).of(CONFIG, "shard-0")
    await pace.turn()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pace.turn)
        tasks.start_soon(pace.turn)
    assert math.isclose(clock.now, 1000.5)
    assert len(delays) >= 2


async def test_a_shard_that_nobody_reads_any_more_is_forgotten() -> None:
    pacing = Pacing()
    pace = pacing.of(CONFIG, "shard-0")
    assert pacing.of(CONFIG, "shard-0") is pace
    first = id(pace)
    del pace
    assert pacing.of(CONFIG, "shard-0") is not None
    assert first  # the object is gone: nothing is kept of closed shards


@pytest.mark.parametrize(
    "make",
    [lambda: Pacing(calls_per_second=0), lambda: Pacing(bytes_per_second=-1)],
)
async def test_a_limit_of_nothing_is_refused(make: Callable[[], Pacing]) -> None:
    with pytest.raises(ConfigError):
        make()
