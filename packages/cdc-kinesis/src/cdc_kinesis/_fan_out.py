"""Enhanced fan-out: a shard's pages by SubscribeToShard. Experimental, and checked against the embedded server only.

AWS says that SubscribeToShard is not supported over HTTP/1.1 and may break at any time (boto3 issue 1690, KCL issue
434), and botocore speaks nothing else. What is read is right all the same: a subscription that breaks is begun anew
behind what it brought.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar, final

import anyio
import anyio.to_thread
from botocore.eventstream import NoInitialResponseError, ParserError
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from cdc_core import CdcError, NotProvisioned, redact

from ._aws import Aws
from ._client import page_of
from ._config import KinesisConfig
from ._errors import AnswerLost, AwsError, translated
from ._feed import Place
from ._inspection import inspect_consumer, inspect_stream
from ._records import Page

T = TypeVar("T")

_logger = logging.getLogger("cdc_kinesis")

# "One call per second per registered consumer per shard" (SubscribeToShard, API reference). Within five seconds of a
# successful call the next is refused, whoever made the first; so that is asked for again at this pace, too.
_PACE_SECONDS: Final = 1.0
_TRIES_UNTIL_TOLD: Final = 10
# For connecting and for what comes next, together. An idle subscription gets empty events every few seconds.
_SILENCE_SECONDS: Final = 25.0
_END_SECONDS: Final = 2.0
_BROKEN: Final = (HTTPError, OSError, ParserError, ResponseParserError)


@final
class FanOutConsumer:
    """The consumer that is registered for a group, by the group's name; what it is called by changes with each."""

    def __init__(self, config: KinesisConfig, aws: Aws) -> None:
        self.arn = ""
        self._config = config
        self._aws = aws

    async def find(self) -> str:
        """Look it up, and return its ARN.

        Raises:
            NotProvisioned: the stream or the consumer is not there.
            AwsError, AwsAccessError, AnswerLost: the service could not be asked.
        """
        stream, name = self._config.stream_name, self._config.group_id
        found = await inspect_stream(self._aws, stream)
        if found is None:
            raise NotProvisioned("the stream does not exist", where={"stream": stream})
        consumer = await inspect_consumer(self._aws, found.arn, name)
        if consumer is None or consumer.status == "DELETING":
            raise NotProvisioned(
                "the consumer for enhanced fan-out is not registered",
                where={"stream": stream, "consumer": name},
                remedy="run the provisioner, or leave enhanced_fan_out out",
            )
        self.arn = consumer.arn
        return self.arn


@final
class FanOut:
    """A `Feed` by SubscribeToShard: the service pushes, for five minutes at most, then it is asked again.

    Events are read from the connection as pages are asked for: what is not read waits in the sockets' buffers.

    - `clock`: monotonic seconds.
    """

    def __init__(
        self,
        config: KinesisConfig,
        aws: Aws,
        consumer: FanOutConsumer,
        shard_id: str,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._aws = aws
        self._consumer = consumer
        self._shard_id = shard_id
        self._where = {"stream": config.stream_name, "shard": shard_id}
        self._clock = clock
        self._free_at = float("-inf")
        self._sent_at = clock()
        self._subscription: _Subscription | None = None
        self._limiter = anyio.CapacityLimiter(2)  # one thread that reads, one that ends it

    @property
    def sent_at(self) -> float:
        # How long an event was under way nobody can tell: it may have waited for us. But not since before this.
        return self._sent_at

    async def begin(self, place: Place) -> None:
        await self.close()
        tries = 0
        while True:
            if (delay := self._free_at - self._clock()) > 0:
                await anyio.sleep(delay)
            arn = self._consumer.arn or await self._consumer.find()
            self._free_at = self._clock() + _PACE_SECONDS
            try:
                await self._subscribe(arn, place)
            except AwsError as error:
                if error.code == "ResourceNotFoundException" and await self._consumer.find() != arn:
                    continue  # it was registered anew
                if error.code != "ResourceInUseException":
                    raise
                tries += 1
                if tries % _TRIES_UNTIL_TOLD == 0:
                    _logger.warning(
                        "another subscription to the shard stands in the way",
                        extra={"shard": self._shard_id, "reason": error.message},
                    )
            else:
                return

    async def next_page(self) -> Page | None:
        subscription = self._subscription
        if subscription is None:
            return None
        event: Mapping[str, Any] | None = None
        try:
            event = await self._in_thread(subscription.next_event)
        except CdcError as error:
            code = error.code if isinstance(error, AwsError) else ""
            # what was taken over, or is gone: a new subscription will tell
            passes = code in ("ResourceInUseException", "ResourceNotFoundException")
            if not (passes or isinstance(error, AnswerLost)):
                await self.close()
                raise
            _logger.warning(
                "a subscription broke, subscribing again",
                extra={"shard": self._shard_id, "reason": error.message},
            )
        page = None if event is None else page_of(event)
        if page is None or (page.continuation is None and not page.children):
            # its time is over; or it claims to be at the end of the shard, where the service names the children
            await self.close()
            return None
        return page

    async def close(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(subscription.end, limiter=self._limiter)

    async def _subscribe(self, arn: str, place: Place) -> None:
        position: dict[str, Any] = {"Type": place.kind}
        if place.sequence_number is not None:
            position["SequenceNumber"] = place.sequence_number
        if place.timestamp is not None:
            position["Timestamp"] = place.timestamp
        subscription = self._subscription = _Subscription(self._aws, self._where)
        sent_at = self._clock()
        await self._in_thread(
            partial(subscription.open, ConsumerARN=arn, ShardId=self._shard_id, StartingPosition=position)
        )
        self._sent_at = sent_at

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Leave the thread behind where cancelled: `close` ends it."""
        return await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._limiter)


@final
class _Subscription:
    """One connection, and the thread that is in it; all methods block."""

    def __init__(self, aws: Aws, where: Mapping[str, object]) -> None:
        self._aws = aws
        self._where = {"service": "kinesis", "operation": "subscribe_to_shard", **where}
        self._in_use = threading.Lock()
        self._is_ended = False
        self._stream: Any = None
        self._events: Iterator[Mapping[str, Any]] = iter(())

    def open(self, **parameters: Any) -> None:
        """Raises AwsError, AwsAccessError, AnswerLost; leaves nothing open where it was ended meanwhile."""
        with self._in_use:
            if self._is_ended:
                return
            client = self._aws.client("kinesis", timeout_seconds=_SILENCE_SECONDS)
            try:
                self._stream = client.subscribe_to_shard(**parameters)["EventStream"]
            except (BotoCoreError, ClientError, *_BROKEN) as error:
                raise self._error_of(error) from error
            self._events = iter(self._stream)
            if self._is_ended:
                self._stream.close()

    def next_event(self) -> Mapping[str, Any] | None:
        """Return the next event, None at the end; raises AwsError, AwsAccessError, AnswerLost."""
        with self._in_use:
            if self._is_ended:
                return None
            try:
                event = next(self._events, None)
            except (BotoCoreError, ClientError, *_BROKEN) as error:
                raise self._error_of(error) from error
        return None if event is None else event["SubscribeToShardEvent"]

    def end(self) -> None:
        """Close the connection, also under a thread that reads from it, and see the thread leave.

        A thread that still connects is not waited for longer than two seconds; it closes what it gets by itself.
        """
        self._is_ended = True
        if self._stream is not None:
            # `close` would wait for the thread that reads, which this wakes. botocore has no public way to it.
            with suppress(OSError, RuntimeError, ValueError):  # it is closed already
                self._stream._raw_stream.shutdown()
        if not self._in_use.acquire(timeout=_END_SECONDS):
            return
        try:
            if self._stream is not None:
                self._stream.close()
        finally:
            self._in_use.release()

    def _error_of(self, error: Exception) -> CdcError:
        # some of botocore's errors are OSErrors as well
        if isinstance(error, (BotoCoreError, ClientError)) and not isinstance(error, NoInitialResponseError):
            return translated(error, where=self._where)
        return AnswerLost(f"{type(error).__name__}: {redact(str(error))}", where=self._where)
