"""Consumers of enhanced fan-out: registered, described and let go."""

from typing import Any, final

import msgspec

from . import _requests as requests
from ._consumer import Consumer
from ._limits import MAX_CONSUMERS, MAX_CREATING_CONSUMERS, TOKEN_SECONDS
from ._refusal import Refusal, in_use, invalid, limit_exceeded, not_found
from ._service import Answer, Service
from ._stream import Stream


@final
class ConsumerPage(msgspec.Struct, frozen=True):
    """What a page token holds."""

    stream: str
    generation: int
    after: str
    issued_at: float


def register(service: Service, request: requests.RegisterStreamConsumer, now: float) -> Answer:
    """Register a consumer; CREATING until its time is over."""
    stream = service.stream_named(service.name_of(request.stream_arn), now)
    if request.consumer_name in stream.consumers:
        raise in_use(f"Consumer {request.consumer_name} of stream {stream.name} already exists.")
    if len(stream.consumers) >= MAX_CONSUMERS:
        raise limit_exceeded(f"A stream may have {MAX_CONSUMERS} consumers at most.")
    creating = sum(consumer.status(now) == "CREATING" for consumer in stream.consumers.values())
    if creating >= MAX_CREATING_CONSUMERS:
        raise limit_exceeded(f"At most {MAX_CREATING_CONSUMERS} consumers may be CREATING at once.")
    consumer = Consumer(
        request.consumer_name,
        stream.arn,
        created_at=now,
        active_at=now + service.durations.create,
    )
    consumer.tags.update(request.tags or {})
    stream.consumers[consumer.name] = consumer
    return {"Consumer": {**consumer.describe(now), "ConsumerStatus": "CREATING"}}


def describe(service: Service, request: requests.DescribeStreamConsumer, now: float) -> Answer:
    """Describe one consumer, named by its ARN or by its stream and name."""
    stream, consumer = find(service, request.stream_arn, request.consumer_name, request.consumer_arn, now)
    return {"ConsumerDescription": {**consumer.describe(now), "StreamARN": stream.arn}}


def deregister(service: Service, request: requests.DeregisterStreamConsumer, now: float) -> Answer:
    """Let a consumer go; DELETING until its time is over."""
    stream, consumer = find(service, request.stream_arn, request.consumer_name, request.consumer_arn, now)
    consumer.leave(now + service.durations.delete)
    stream.settle(now)
    return {}


def list_consumers(service: Service, request: requests.ListStreamConsumers, now: float) -> Answer:
    """List a stream's consumers by name, a page at a time."""
    stream = service.stream_named(service.name_of(request.stream_arn), now)
    after = ""
    if request.next_token is not None:
        page = service.tokens.read(request.next_token, ConsumerPage)
        if page is None or (page.stream, page.generation) != (stream.name, stream.generation):
            raise invalid("NextToken is invalid.")
        if now - page.issued_at > TOKEN_SECONDS:
            raise Refusal(
                "ExpiredNextTokenException", f"NextToken is older than {TOKEN_SECONDS:.0f} seconds."
            )
        after = page.after
    names = sorted(name for name in stream.consumers if name > after)
    shown = names[: request.max_results or 100]
    answer: dict[str, Any] = {"Consumers": [stream.consumers[name].describe(now) for name in shown]}
    if len(shown) < len(names):
        answer["NextToken"] = service.tokens.write(
            ConsumerPage(stream.name, stream.generation, shown[-1], now)
        )
    return answer


def find(
    service: Service, stream_arn: str | None, name: str | None, consumer_arn: str | None, now: float
) -> tuple[Stream, Consumer]:
    """The consumer that a request names; raises ResourceNotFoundException."""
    arn = consumer_arn or stream_arn
    if arn is None or (consumer_arn is None and name is None):
        raise invalid("Either ConsumerARN, or StreamARN and ConsumerName, must be specified.")
    stream = service.stream_named(service.name_of(arn), now)
    for consumer in stream.consumers.values():
        if consumer.arn == consumer_arn or (consumer_arn is None and consumer.name == name):
            return stream, consumer
    raise not_found(f"Consumer {consumer_arn or name} of stream {stream.name} not found.")
