"""SubscribeToShard: what a subscription may see, and when it ends."""

from typing import Any, Final

from . import _requests as requests
from ._consumer import Consumer, Subscription
from ._consumers import find
from ._reading import millis_behind, page_of, start_position
from ._refusal import Refusal, in_use
from ._service import Answer, Service
from ._stream import Stream

SUBSCRIPTION_SECONDS: Final = 300.0
_TAKE_OVER_SECONDS: Final = 5.0


def subscribe(service: Service, request: requests.SubscribeToShard, now: float) -> Answer:
    """Begin a subscription; it takes over from an older one of the same consumer and shard."""
    stream, consumer = find(service, None, None, request.consumer_arn, now)
    if consumer.status(now) != "ACTIVE":
        raise in_use(f"Consumer {consumer.arn} is {consumer.status(now)}.")
    stream.trim(now)
    shard = stream.shard(request.shard_id)
    earlier = consumer.subscriptions.get(shard.shard_id)
    if earlier is not None and now - earlier.began_at < _TAKE_OVER_SECONDS:
        raise in_use(
            f"Another active subscription exists for shard {shard.shard_id} of consumer {consumer.arn}, "
            f"younger than {_TAKE_OVER_SECONDS:.0f} seconds."
        )
    start = request.starting_position
    position = start_position(service, stream, shard, start.type, start.sequence_number, start.timestamp, now)
    subscription = Subscription(stream.name, stream.generation, consumer.name, shard.shard_id, position, now)
    consumer.subscriptions[shard.shard_id] = subscription
    return {"Subscription": subscription}


def next_event(service: Service, subscription: Subscription, now: float) -> dict[str, Any] | None:
    """The next event, empty where no record is there; None at the subscription's end.

    Raises:
        Refusal: it was taken over, or its stream or consumer is gone.
    """
    if subscription.ended or now - subscription.began_at >= SUBSCRIPTION_SECONDS:
        return None
    stream, consumer = _owner(service, subscription, now)
    if consumer.subscriptions.get(subscription.shard) is not subscription:
        raise in_use(f"Another subscription took over shard {subscription.shard}.")
    stream.trim(now)
    shard = stream.shard(subscription.shard)
    start = shard.index_at(subscription.position)
    records, _, _ = page_of(shard, start)
    end = start + len(records)
    subscription.position = max(subscription.position, shard.next_position - len(shard.records) + end)
    if records:
        subscription.continuation = records[-1].sequence_number
    event: dict[str, Any] = {
        "Records": records,
        "ContinuationSequenceNumber": subscription.continuation or shard.number_before(start),
        "MillisBehindLatest": millis_behind(shard, end, now),
    }
    if end >= len(shard.records) and not shard.is_open:
        # The end of a closed shard: no continuation, its children instead.
        del event["ContinuationSequenceNumber"]
        event["ChildShards"] = [child.describe_child() for child in shard.children]
        subscription.ended = True
    return event


def _owner(service: Service, subscription: Subscription, now: float) -> tuple[Stream, Consumer]:
    stream = service.stream_named(subscription.stream, now)
    consumer = stream.consumers.get(subscription.consumer)
    if stream.generation != subscription.generation or consumer is None:
        raise Refusal("ResourceNotFoundException", f"Consumer {subscription.consumer} not found.")
    return stream, consumer
