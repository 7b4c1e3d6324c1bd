"""What CloudWatch says of a stream: all its readers together, minutes late."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, final

from cdc_core import UNKNOWN, CdcError, Unknown

from ._aws import Aws

# Metrics of a stream come by the minute and a little late (Kinesis developer guide, "Monitoring").
_PERIOD_SECONDS: Final = 60
_WINDOW: Final = timedelta(minutes=10)
_METRICS: Final = {
    "iterator_age": ("GetRecords.IteratorAgeMilliseconds", "Maximum"),
    "reads_refused": ("ReadProvisionedThroughputExceeded", "Sum"),
    "writes_refused": ("WriteProvisionedThroughputExceeded", "Sum"),
}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StreamMetrics:
    """The last that is known, of the last ten minutes; UNKNOWN where there is nothing, or nobody who may ask.

    - `iterator_age_seconds`: of the reader that is furthest behind, of any group.
    - `reads_refused`, `writes_refused`: in the last minute that was counted.
    - `why_unknown`: why nothing could be asked.
    """

    iterator_age_seconds: float | Unknown = UNKNOWN
    reads_refused: float | Unknown = UNKNOWN
    writes_refused: float | Unknown = UNKNOWN
    why_unknown: str = ""


async def stream_metrics(aws: Aws, stream_name: str, *, now: datetime | None = None) -> StreamMetrics:
    """Ask CloudWatch; never raises for what it answers, or does not."""
    # the end is exclusive, and the minute under way is the latest that there is
    end = (now or datetime.now(UTC)) + timedelta(seconds=_PERIOD_SECONDS)
    queries = [
        {
            "Id": name,
            "MetricStat": {
                "Metric": {
                    "Namespace": "AWS/Kinesis",
                    "MetricName": metric,
                    "Dimensions": [{"Name": "StreamName", "Value": stream_name}],
                },
                "Period": _PERIOD_SECONDS,
                "Stat": statistic,
            },
        }
        for name, (metric, statistic) in _METRICS.items()
    ]
    try:
        answer = await aws.call(
            "cloudwatch",
            "get_metric_data",
            MetricDataQueries=queries,
            StartTime=end - _WINDOW,
            EndTime=end,
            ScanBy="TimestampDescending",
        )
    except CdcError as error:
        return StreamMetrics(why_unknown=f"CloudWatch could not be asked: {error.message}")
    results: Sequence[Mapping[str, Any]] = answer.get("MetricDataResults", ())
    latest: dict[str, float] = {result["Id"]: result["Values"][0] for result in results if result["Values"]}
    age = latest.get("iterator_age")
    return StreamMetrics(
        iterator_age_seconds=UNKNOWN if age is None else age / 1000,
        reads_refused=latest.get("reads_refused", UNKNOWN),
        writes_refused=latest.get("writes_refused", UNKNOWN),
    )
