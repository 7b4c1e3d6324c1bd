import bisect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal, final

from ._consumer import Consumer
from ._limits import DEFAULT_RECORD_KIB, MAX_HASH_KEY, MIN_RETENTION_HOURS
from ._refusal import in_use, invalid, not_found
from ._shard import Shard

StreamStatus = Literal["CREATING", "UPDATING", "ACTIVE", "DELETING"]
StreamMode = Literal["PROVISIONED", "ON_DEMAND"]
_HOUR: Final = 3600.0


@final
class Stream:
    """A stream: its shards, open and closed, its settings, and the change that is under way.

    A change (split, encryption, ...) takes effect when its time is over; until then the stream is UPDATING and
    takes records and reads as before. `settle` brings a stream up to a time.
    """

    def __init__(
        self, name: str, arn: str, *, generation: int, mode: StreamMode, shards: int, now: float
    ) -> None:
        self.name = name
        self.arn = arn
        self.generation = generation
        self.mode: StreamMode = mode
        self.created_at = now
        self.status: StreamStatus = "ACTIVE"
        self.retention_hours = MIN_RETENTION_HOURS
        self.max_record_kib = DEFAULT_RECORD_KIB
        self.distribution: str | None = None
        self.spread = self._spread()
        self.key_id: str | None = None
        self.tags: dict[str, str] = {}
        self.consumers: dict[str, Consumer] = {}
        self.metrics: set[str] = set()
        self.shards: dict[str, Shard] = {}
        self._shards_made = 0
        self._change: Callable[[float], None] | None = None
        self._change_at = 0.0
        self._open: list[Shard] = []
        self._first_hashes: list[int] = []
        width = (MAX_HASH_KEY + 1) // shards
        starts = [number * width for number in range(shards)]
        for start, end in zip(starts, [*(start - 1 for start in starts[1:]), MAX_HASH_KEY], strict=True):
            self._add_shard(start, end, (), now)
        self._index()

    @property
    def open_shards(self) -> Sequence[Shard]:
        """In the order of their hash ranges."""
        return self._open

    @property
    def encryption_type(self) -> str | None:
        return None if self.key_id is None else "KMS"

    def begin(
        self, status: StreamStatus, seconds: float, now: float, change: Callable[[float], None]
    ) -> None:
        """Enter a state; the change is made once the seconds are over, and the stream is ACTIVE then."""
        self.status = status
        self._change = change
        self._change_at = now + seconds
        self.settle(now)

    def settle(self, now: float) -> None:
        """Make the change whose time has come, drop what is older than the retention."""
        if self._change is not None and now >= self._change_at:
            change, self._change = self._change, None
            if self.status != "DELETING":
                self.status = "ACTIVE"
            change(self._change_at)
        for consumer in [consumer for consumer in self.consumers.values() if consumer.gone(now)]:
            del self.consumers[consumer.name]

    def trim(self, now: float) -> None:
        """Drop records, and closed shards, that are older than the retention."""
        horizon = self.trim_horizon(now)
        expired = [
            shard
            for shard in self.shards.values()
            if shard.closed_at is not None and shard.closed_at < horizon
        ]
        for shard in expired:
            del self.shards[shard.shard_id]
        for shard in self.shards.values():
            if shard.records and shard.records[0].approximate_arrival_timestamp < horizon:
                shard.trim(horizon)

    def trim_horizon(self, now: float) -> float:
        """Records that arrived before this time are gone."""
        return now - self.retention_hours * _HOUR

    def require_active(self) -> None:
        """Raises ResourceInUseException: a change needs a stream at rest."""
        if self.status != "ACTIVE":
            raise in_use(f"Stream {self.arn} is not ACTIVE, instead in state {self.status}")

    def shard(self, shard_id: str) -> Shard:
        """Find a shard, open or closed; raises ResourceNotFoundException."""
        shard = self.shards.get(shard_id)
        if shard is None:
            raise not_found(f"Could not find shard {shard_id} in stream {self.name} ({self.arn}).")
        return shard

    def open_shard(self, shard_id: str) -> Shard:
        """Find a shard that can be split or merged; raises InvalidArgumentException for a closed one."""
        shard = self.shard(shard_id)
        if not shard.is_open:
            raise invalid(
                f"Shard {shard_id} in stream {self.name} has already been merged or split, "
                "and thus is not eligible for merging or splitting."
            )
        return shard

    def shard_for(self, hash_key: int) -> Shard:
        """The open shard that takes a hash key."""
        return self._open[bisect.bisect_right(self._first_hashes, hash_key) - 1]

    def split(self, shard: Shard, first_hash: int, now: float) -> tuple[Shard, Shard]:
        """Close a shard; two children take its range from now on, the second from `first_hash`."""
        children = (
            self._add_shard(shard.first_hash, first_hash - 1, (shard,), now),
            self._add_shard(first_hash, shard.last_hash, (shard,), now),
        )
        shard.close(now)
        self._index()
        return children

    def merge(self, shard: Shard, adjacent: Shard, now: float) -> Shard:
        """Close two neighbours; one child takes their ranges."""
        first, last = sorted((shard, adjacent), key=lambda each: each.first_hash)
        child = self._add_shard(first.first_hash, last.last_hash, (shard, adjacent), now)
        shard.close(now)
        adjacent.close(now)
        self._index()
        return child

    def resize(self, count: int, now: float) -> None:
        """Split and merge until `count` equal ranges are open; shards of neither shape are closed on the way."""
        width = (MAX_HASH_KEY + 1) // count
        starts = [number * width for number in range(count)]
        for start in starts:
            shard = self.shard_for(start)
            if shard.first_hash != start:
                self.split(shard, start, now)
        for start in starts:
            last = start + width - 1 if start != starts[-1] else MAX_HASH_KEY
            shard = self.shard_for(start)
            while shard.last_hash < last:
                shard = self.merge(shard, self.shard_for(shard.last_hash + 1), now)

    def summary(self) -> dict[str, Any]:
        """What all descriptions of a stream share, in the service's words."""
        return {
            "StreamName": self.name,
            "StreamARN": self.arn,
            "StreamStatus": self.status,
            "StreamModeDetails": {"StreamMode": self.mode},
            "StreamCreationTimestamp": self.created_at,
        }

    def details(self) -> dict[str, Any]:
        """`summary`, and the settings."""
        details: dict[str, Any] = {
            **self.summary(),
            "RetentionPeriodHours": self.retention_hours,
            "EnhancedMonitoring": [{"ShardLevelMetrics": sorted(self.metrics)}],
            "EncryptionType": self.encryption_type or "NONE",
        }
        if self.key_id is not None:
            details["KeyId"] = self.key_id
        return details

    def _add_shard(self, first: int, last: int, parents: tuple[Shard, ...], now: float) -> Shard:
        shard = Shard(
            self._shards_made,
            first,
            last,
            created_at=now,
            generation=self.generation,
            parents=parents,
        )
        self._shards_made += 1
        self.shards[shard.shard_id] = shard
        for parent in parents:
            parent.children.append(shard)
        return shard

    def _index(self) -> None:
        self._open = sorted(
            (shard for shard in self.shards.values() if shard.is_open), key=lambda shard: shard.first_hash
        )
        self._first_hashes = [shard.first_hash for shard in self._open]

    def _spread(self) -> Iterator[Shard]:
        while True:
            yield from tuple(self._open)
