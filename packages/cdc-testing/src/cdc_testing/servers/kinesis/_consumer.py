from typing import Any, final


@final
class Subscription:
    """A consumer's view of one shard, for five minutes."""

    def __init__(
        self, stream: str, generation: int, consumer: str, shard: str, position: int, began_at: float
    ) -> None:
        self.stream = stream
        self.generation = generation
        self.consumer = consumer
        self.shard = shard
        self.position = position
        self.began_at = began_at
        self.continuation = ""
        self.ended = False


@final
class Consumer:
    """A registered consumer of enhanced fan-out."""

    def __init__(self, name: str, stream_arn: str, *, created_at: float, active_at: float) -> None:
        self.name = name
        self.arn = f"{stream_arn}/consumer/{name}:{int(created_at)}"
        self.created_at = created_at
        self.tags: dict[str, str] = {}
        self.subscriptions: dict[str, Subscription] = {}
        self._active_at = active_at
        self._gone_at: float | None = None

    def status(self, now: float) -> str:
        """CREATING, ACTIVE or DELETING."""
        if self._gone_at is not None:
            return "DELETING"
        return "ACTIVE" if now >= self._active_at else "CREATING"

    def leave(self, at: float) -> None:
        """Be gone at a time."""
        self._gone_at = at

    def gone(self, now: float) -> bool:
        return self._gone_at is not None and now >= self._gone_at

    def describe(self, now: float) -> dict[str, Any]:
        """The service's Consumer structure."""
        return {
            "ConsumerName": self.name,
            "ConsumerARN": self.arn,
            "ConsumerStatus": self.status(now),
            "ConsumerCreationTimestamp": self.created_at,
        }
