"""OpenTelemetry, its API only: metrics and spans of a pipeline, and trace context in event headers.

Without an SDK every call here ends in the API's no-op objects. Attributes are few: pipeline, partition, outcome.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import final

from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ._events import Event, Headers
from ._health import PartitionLag, Unknown
from ._position import Partition
from ._version import __version__

# The SDK keeps 128 links of a span by default (OTEL_SPAN_LINK_COUNT_LIMIT); more would be work for nothing.
_MAX_LINKS = 128
_FIELDS = ("traceparent", "tracestate")

_LAG_GAUGES = (
    ("cdc.source.lag.events", "lag_events", "{event}", "events not acknowledged"),
    ("cdc.source.lag.bytes", "lag_bytes", "By", "bytes of the source's log not acknowledged"),
    ("cdc.source.lag.age", "lag_seconds", "s", "age of the oldest event not acknowledged"),
)

Attributes = Mapping[str, str]


def current_trace_headers() -> Headers:
    """Return the headers that carry the current trace context, for an event on its way out; none outside a trace."""
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return [(name, value.encode("ascii")) for name, value in carrier.items()]


def links_of(events: Sequence[Event]) -> list[Link]:
    """Return a span link for each distinct trace context in the headers of events, 128 at most."""
    links: dict[tuple[bytes, ...], Link] = {}
    for event in events:
        found = {name: value for name, value in event.headers if name in _FIELDS and value is not None}
        parent = found.get("traceparent")
        if parent is None or (parent,) in links:
            continue
        carrier = {name: value.decode("ascii", "replace") for name, value in found.items()}
        context = trace.get_current_span(TraceContextTextMapPropagator().extract(carrier)).get_span_context()
        if context.is_valid:
            links[(parent,)] = Link(context)
        if len(links) == _MAX_LINKS:
            break
    return list(links.values())


@final
class PipelineTelemetry:
    """The instruments of one run of a pipeline; made anew for each run, so nothing is global.

    - `lag`: returns the last sample of the lag; a figure that is UNKNOWN is not reported.
    - `meter_provider`, `tracer_provider`: None for those that the process has set up.
    """

    def __init__(
        self,
        pipeline: str,
        *,
        lag: Callable[[], Sequence[PartitionLag]],
        meter_provider: MeterProvider | None = None,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._lag: Callable[[], Sequence[PartitionLag]] | None = lag
        self.tracer = trace.get_tracer("cdc_core", __version__, tracer_provider)
        meter = metrics.get_meter("cdc_core", __version__, meter_provider)
        self.events = meter.create_counter(
            "cdc.pipeline.events", "{event}", "events done with, by outcome: handled, dead_lettered, parked"
        )
        self.retries = meter.create_counter(
            "cdc.pipeline.retries", "{call}", "calls made again after a failure"
        )
        self.lost = meter.create_counter(
            "cdc.pipeline.partitions_lost", "{partition}", "partitions lost while events were in hand"
        )
        self.duration = meter.create_histogram(
            "cdc.pipeline.handler.duration", "s", "duration of one call of the handler"
        )
        # Observable, so that an UNKNOWN figure is absent: a synchronous gauge repeats its last value for ever, and
        # the SDK (1.45) ignores a NaN. It also ignores the callbacks of a second instrument of one name and scope,
        # and no callback can be taken back: hence a scope of its own for each run.
        own = metrics.get_meter(
            "cdc_core.lag", __version__, meter_provider, attributes={"cdc.run": uuid.uuid4().hex}
        )
        for name, figure, unit, what in _LAG_GAUGES:
            own.create_observable_gauge(name, [self._observe(figure)], unit, what)

    def of(self, partition: Partition) -> PartitionTelemetry:
        """Return what one partition's worker records with."""
        return PartitionTelemetry(self, self._attributes(partition))

    def close(self) -> None:
        """Report no lag from now on."""
        self._lag = None

    def _attributes(self, partition: Partition) -> dict[str, str]:
        return {"cdc.pipeline": self._pipeline, "cdc.partition": str(partition)}

    def _observe(self, figure: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(options: CallbackOptions) -> Iterable[Observation]:
            for lag in self._lag() if self._lag is not None else ():
                value: int | float | Unknown = getattr(lag, figure)
                if not isinstance(value, Unknown):
                    yield Observation(value, self._attributes(lag.partition))

        return observe


@final
class PartitionTelemetry:
    """Records what happens in one partition."""

    def __init__(self, telemetry: PipelineTelemetry, attributes: Attributes) -> None:
        self._telemetry = telemetry
        self._attributes = attributes
        self._outcomes = {
            outcome: {**attributes, "cdc.outcome": outcome}
            for outcome in ("handled", "dead_lettered", "parked")
        }

    def span(self, events: Sequence[Event]) -> AbstractContextManager[object]:
        """Enter the span of one call of the handler, linked to the traces that its events came from."""
        span = self._telemetry.tracer.start_span("cdc.handle", kind=SpanKind.CONSUMER)
        if not span.get_span_context().is_valid:  # no SDK
            return nullcontext()
        if span.is_recording():
            for link in links_of(events):
                span.add_link(link.context)
            span.set_attributes({**self._attributes, "messaging.batch.message_count": len(events)})
        return _entered(span)

    def done(self, outcome: str, count: int) -> None:
        """Count events done with."""
        self._telemetry.events.add(count, self._outcomes[outcome])

    def called(self, seconds: float) -> None:
        """Record how long a call took."""
        self._telemetry.duration.record(seconds, self._attributes)

    def retried(self) -> None:
        """Count a retry."""
        self._telemetry.retries.add(1, self._attributes)

    def lost(self) -> None:
        """Count a lost partition."""
        self._telemetry.lost.add(1, self._attributes)


@contextmanager
def _entered(span: Span) -> Generator[None]:
    # The exception's text stays out of the span: it may quote a row.
    with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield
        except BaseException as error:
            span.set_status(StatusCode.ERROR, type(error).__qualname__)
            raise
