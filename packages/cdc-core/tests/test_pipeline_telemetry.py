"""Metrics and spans, seen through an SDK."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pipeline_source import ScriptedTransport, event, numbers

from cdc_core import (
    UNKNOWN,
    Event,
    Partition,
    PartitionLag,
    Pipeline,
    RetryPolicy,
    current_trace_headers,
)
from cdc_core._telemetry import PipelineTelemetry

pytestmark = pytest.mark.anyio


def figures(reader: InMemoryMetricReader) -> dict[str, list[tuple[Mapping[str, object], object]]]:
    """Return each metric's data points as attributes and value."""
    data = reader.get_metrics_data()
    found: dict[str, list[tuple[Mapping[str, object], object]]] = {}
    for resource in data.resource_metrics if data is not None else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    value = getattr(point, "value", getattr(point, "count", None))
                    found.setdefault(metric.name, []).append((dict(point.attributes or {}), value))
    return found


def traces() -> tuple[TracerProvider, InMemorySpanExporter]:
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider, exporter


async def run(handler: object, *events: Event, **providers: object) -> None:
    transport = ScriptedTransport()
    transport.stream.send(*events)
    value = Pipeline(
        name="t",
        transport=transport,
        handler=handler,  # type: ignore[arg-type]
        retry=RetryPolicy(max_attempts=1),
        **providers,  # type: ignore[arg-type]
    )
    async with value.running():
        await transport.stream.until_acked(*numbers(events))


async def test_outcomes_are_counted_by_pipeline_and_partition() -> None:
    reader = InMemoryMetricReader()

    async def handle(events: Sequence[Event]) -> None:
        if 1 in numbers(events):
            raise ValueError

    await run(handle, event(0), event(1), event(2), event(3), meter_provider=MeterProvider([reader]))
    found = figures(reader)
    base = {"cdc.pipeline": "t", "cdc.partition": "test/p"}
    assert ({**base, "cdc.outcome": "handled"}, 3) in found["cdc.pipeline.events"]
    assert ({**base, "cdc.outcome": "dead_lettered"}, 1) in found["cdc.pipeline.events"]
    assert found["cdc.pipeline.handler.duration"] == [(base, 5)]


async def test_a_call_has_a_span_linked_to_the_traces_of_its_events() -> None:
    provider, exporter = traces()
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("write") as writing:
        headers = current_trace_headers()
    inside: list[trace.SpanContext] = []

    async def handle(events: Sequence[Event]) -> None:
        inside.append(trace.get_current_span().get_span_context())

    await run(
        handle,
        event(0, headers=headers),
        event(1, headers=headers),
        event(2, headers=[("traceparent", b"garbage\xff"), ("traceparent", None)]),
        tracer_provider=provider,
    )
    span = next(span for span in exporter.get_finished_spans() if span.name == "cdc.handle")
    assert [link.context.trace_id for link in span.links] == [writing.get_span_context().trace_id]
    assert inside == [span.get_span_context()]
    assert (span.attributes or {})["messaging.batch.message_count"] == 3


async def test_a_failed_call_says_so_in_its_span_without_quoting_the_row() -> None:
    provider, exporter = traces()

    async def handle(events: Sequence[Event]) -> None:
        raise ValueError("row 4711")

    await run(handle, event(0), tracer_provider=provider)
    span: ReadableSpan = exporter.get_finished_spans()[0]
    assert span.status.description == "ValueError"
    assert "4711" not in span.to_json()


def test_a_lag_that_is_not_known_any_more_is_not_repeated() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    partition = Partition("s", "p")
    known = PartitionLag(partition=partition, lag_events=7, lag_bytes=UNKNOWN, lag_seconds=1.5)
    lags = [known]

    def reported() -> dict[object, object]:
        points = figures(reader).get("cdc.source.lag.events", [])
        return {attributes["cdc.pipeline"]: value for attributes, value in points}

    runs = [
        PipelineTelemetry(name, lag=lambda: lags, meter_provider=provider) for name in ("first", "second")
    ]
    assert reported() == {"first": 7, "second": 7}
    assert "cdc.source.lag.bytes" not in figures(reader)
    lags[:] = [PartitionLag(partition=partition)]
    assert reported() == {}
    lags[:] = [known]
    for run in runs:
        run.close()
    assert reported() == {}
    again = PipelineTelemetry("first", lag=lambda: lags, meter_provider=provider)
    assert reported() == {"first": 7}
    again.close()


def test_outside_of_a_trace_there_are_no_headers() -> None:
    assert list(current_trace_headers()) == []
