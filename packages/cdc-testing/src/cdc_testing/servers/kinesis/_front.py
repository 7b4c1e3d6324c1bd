"""From an HTTP request to its answer, without sockets: codec, faults, the service, the log."""

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, final

from . import _eventstream
from ._calls import Call, LoggedCall, describe_call
from ._codec import CODECS, JSON, Codec
from ._consumer import Subscription
from ._faults import Delay, Drop, Fault, Faults, Hold, Refuse
from ._operations import OPERATIONS, Operation
from ._refusal import Refusal
from ._service import Answer, Service
from ._signature import check_signature, parse_authorization
from ._subscribing import next_event
from ._writing import put_record, put_records

_TARGET: Final = "Kinesis_20131202."
_IDLE_SECONDS: Final = 1.0
_logger = logging.getLogger("cdc_testing.servers.kinesis")


class HttpAnswer(NamedTuple):
    """What goes back to a client: the body, or one that comes in pieces."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    pieces: Iterator[bytes] | None = None


@final
class Front:
    """One server's service, faults, clock and log; safe for threads.

    Args:
        service: The streams.
        clock: Seconds since 1970.
        secret: What every request must be signed with; None for not looking at signatures.
        log_size: How many requests the log holds.
    """

    def __init__(
        self,
        service: Service,
        *,
        clock: Callable[[], float] = time.time,
        secret: str | None = None,
        log_size: int = 10_000,
    ) -> None:
        self.service = service
        self._secret = secret
        self.faults = Faults()
        self.lock = threading.Lock()
        # What subscriptions wait for; the lock is the same.
        self._changed = threading.Condition(self.lock)
        self._closed = False
        self._clock = clock
        self._advanced = 0.0
        self._log: deque[LoggedCall] = deque(maxlen=log_size)
        self._logged = 0

    def now(self) -> float:
        """The server's time, to the millisecond: the precision of all times that the service tells."""
        return round(self._clock() + self._advanced, 3)

    def advance(self, seconds: float) -> None:
        """Move the server's time on."""
        if seconds < 0:
            raise ValueError(f"time does not run backwards: {seconds}")
        with self._changed:
            self._advanced += seconds
            self._changed.notify_all()

    def close(self) -> None:
        """Let go on what faults hold, and end every subscription."""
        self.faults.clear()
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def calls(self) -> Sequence[LoggedCall]:
        """The latest requests, oldest first."""
        with self.lock:
            return tuple(self._log)

    def reset(self) -> None:
        """Forget every stream, fault and logged request."""
        self.faults.clear()
        with self._changed:
            self.service.streams.clear()
            self._log.clear()
            self._changed.notify_all()

    def answer(self, path: str, headers: Mapping[str, str], body: bytes) -> HttpAnswer | None:
        """Carry out a request; None: close the connection without an answer.

        Args:
            headers: By their names in lower case.
        """
        codec = CODECS.get(headers.get("content-type", JSON).partition(";")[0].strip(), CODECS[JSON])
        try:
            operation = _operation(headers)
            authorization = parse_authorization(headers)
            if self._secret is not None:
                check_signature(
                    authorization,
                    self._secret,
                    region=self.service.region,
                    path=path,
                    headers=headers,
                    body=body,
                )
            request = codec.decode(operation, body)
        except Refusal as refusal:
            return _refused(refusal, codec)
        call = describe_call(
            self.service,
            request,
            operation=operation.name,
            access_key=authorization.access_key,
            at=self.now(),
        )
        return self._carry_out(operation, request, call, codec)

    def _carry_out(
        self, operation: Operation[Any], request: Any, call: Call, codec: Codec
    ) -> HttpAnswer | None:
        met = self.faults.meeting(call, call.at)
        answer: Answer | None = None
        refusal: Refusal | None = None
        stored = False
        answered = True
        try:
            answered = self._meet(met, stored=False)
            if answered:
                answer = self._call(operation, request, call)
                stored = True
                answered = self._meet(met, stored=True)
        except Refusal as error:
            refusal = error
        except Exception:
            # A bug of this server's: the client sees what it would see of the service's own.
            _logger.exception("the embedded Kinesis failed", extra={"operation": call.operation})
            refusal = Refusal("InternalFailure", "the embedded server failed; see its log", status=500)
        self._record(call, answer, refusal, stored=stored, answered=answered)
        if not answered:
            return None
        if refusal is not None:
            return _refused(refusal, codec)
        if answer is not None and call.operation == "SubscribeToShard":
            headers = _headers(codec, _eventstream.CONTENT_TYPE)
            return HttpAnswer(200, headers, b"", self._events(answer["Subscription"], codec))
        return HttpAnswer(200, _headers(codec), codec.encode(answer))

    def _call(self, operation: Operation[Any], request: Any, call: Call) -> Answer:
        with self._changed:
            now = self.now()
            rejecting = self.faults.rejecting(call, now) if call.records else None
            if rejecting is None:
                answer = operation(self.service, request, now)
            else:
                put: Callable[..., Answer] = put_records if call.operation == "PutRecords" else put_record
                answer = put(self.service, request, now, rejecting)
            self._changed.notify_all()
            return answer

    def _events(self, subscription: Subscription, codec: Codec) -> Iterator[bytes]:
        """The messages of a subscription, as they come; an empty one each second, as a sign of life."""
        yield _eventstream.encode_event("initial-response", codec.content_type, codec.encode({}))
        idle = False
        while True:
            with self._changed:
                try:
                    event = None if self._closed else next_event(self.service, subscription, self.now())
                except Refusal as refusal:
                    content = codec.encode({"message": refusal.message})
                    last = _eventstream.encode_exception(refusal.code, codec.content_type, content)
                    break
                if event is None:
                    return
                if not event["Records"] and not subscription.ended and not idle:
                    idle = not self._changed.wait(_IDLE_SECONDS)
                    continue
            idle = False
            yield _eventstream.encode_event("SubscribeToShardEvent", codec.content_type, codec.encode(event))
        yield last

    def _meet(self, met: Sequence[Fault], *, stored: bool) -> bool:
        """Undergo the faults of one side; whether the request goes on. Raises what is to be answered."""
        for fault in met:
            match fault.rule.action:
                case Delay() | Hold() as wait if wait.stored == stored:
                    self.faults.pause(fault)
                case Drop() as drop if drop.stored == stored:
                    return False
                case Refuse() as refuse if refuse.stored == stored:
                    raise Refusal(refuse.code, refuse.message, status=refuse.status)
                case _:
                    pass
        return True

    def _record(
        self, call: Call, answer: Answer | None, refusal: Refusal | None, *, stored: bool, answered: bool
    ) -> None:
        rejected = returned = 0
        if answer is not None:
            rejected = answer.get("FailedRecordCount", 0)
            returned = len(answer["Records"]) if call.operation == "GetRecords" else 0
        with self.lock:
            self._logged += 1
            self._log.append(
                LoggedCall(
                    number=self._logged,
                    call=call,
                    code="" if refusal is None else refusal.code,
                    rejected=rejected,
                    returned=returned,
                    answered=answered,
                    stored=stored,
                )
            )


def _operation(headers: Mapping[str, str]) -> Operation[Any]:
    target = headers.get("x-amz-target", "")
    operation = OPERATIONS.get(target.removeprefix(_TARGET)) if target.startswith(_TARGET) else None
    if operation is None:
        raise Refusal("UnknownOperationException", f"{target or 'no X-Amz-Target'} is not known here")
    return operation


def _refused(refusal: Refusal, codec: Codec) -> HttpAnswer:
    content = {"__type": refusal.code, "message": refusal.message}
    return HttpAnswer(refusal.status, _headers(codec), codec.encode(content))


def _headers(codec: Codec, content_type: str | None = None) -> tuple[tuple[str, str], ...]:
    return (
        ("Content-Type", content_type or codec.content_type),
        ("x-amzn-RequestId", str(uuid.uuid4())),
    )
