"""What a process of one subject is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

PUT: Final = "put"
PUT_AGGREGATED: Final = "put aggregated"
PUT_RAW: Final = "put raw"
PUT_RAW_AGGREGATED: Final = "put raw aggregated"
PUT_BOTO3: Final = "put boto3"
GET: Final = "get"
GET_RAW: Final = "get raw"
GET_BOTO3: Final = "get boto3"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class KinesisJob:
    """One run of one subject.

    - `rows`: ends the run. `buckets`: of the stream.
    - `group`: a new one for each run that needs one.
    """

    subject: str
    backend: str
    kinesis_url: str
    dynamodb_url: str
    region: str
    stream: str
    group: str
    rows: int
    buckets: int = 256
