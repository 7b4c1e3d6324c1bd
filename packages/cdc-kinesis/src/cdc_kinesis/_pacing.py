"""How often and how much may be read of a shard: the service's limits, kept by whoever shares one `Pacing`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, final
from weakref import WeakValueDictionary

import anyio

from cdc_core import ConfigError

from ._config import KinesisConfig

# GetRecords, API reference: five calls a second and two megabytes a second of each shard, whoever reads it; an answer
# of 10 MiB makes the calls of the next five seconds fail. One of the five calls is left to others.
_CALLS_PER_SECOND: Final = 4.0
_BYTES_PER_SECOND: Final = 2.0 * 1024 * 1024


@final
class Pacing:
    """Spaces the reads of each shard so that the service's limits are not met.

    The limits are those of a shard, not of a reader: sources of several groups in one process should share one object.
    Nobody else can be seen from here: another process on the same shard is met by backing off.

    - `calls_per_second`, `bytes_per_second`: of one shard. Other servers than AWS may allow more.
    - `clock`: monotonic seconds.

    Raises:
        ConfigError: a limit is not above 0.
    """

    def __init__(
        self,
        *,
        calls_per_second: float = _CALLS_PER_SECOND,
        bytes_per_second: float = _BYTES_PER_SECOND,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for name, value in (("calls_per_second", calls_per_second), ("bytes_per_second", bytes_per_second)):
            if value <= 0:
                raise ConfigError(f"{name} is {value}", remedy="a number greater than 0")
        self._interval = 1 / calls_per_second
        self._seconds_per_byte = 1 / bytes_per_second
        self._clock = clock
        self._shards: WeakValueDictionary[tuple[str | None, ...], ShardPace] = WeakValueDictionary()

    def of(self, config: KinesisConfig, shard_id: str) -> ShardPace:
        """Return the pace of a shard, the same object for all that read it."""
        key = (config.kinesis_endpoint_url, config.region, config.stream_name, shard_id)
        pace = self._shards.get(key)
        if pace is None:
            pace = self._shards[key] = ShardPace(self._interval, self._seconds_per_byte, self._clock)
        return pace


@final
class ShardPace:
    """When the next read of one shard may be sent."""

    def __init__(self, interval: float, seconds_per_byte: float, clock: Callable[[], float]) -> None:
        self._interval = interval
        self._seconds_per_byte = seconds_per_byte
        self._clock = clock
        self._free_at = float("-inf")

    async def turn(self) -> None:
        """Wait until a read may be sent, and take that turn."""
        while (delay := self._free_at - self._clock()) > 0:  # noqa: ASYNC110 - it waits for a time
            # others may take the turn meanwhile, and what they read is known only later
            await anyio.sleep(delay)
        self._free_at = self._clock() + self._interval

    def spent(self, size: int) -> None:
        """Count what a read brought."""
        self._free_at = max(self._free_at, self._clock() + size * self._seconds_per_byte)
