from typing import final

import msgspec

from . import _requests as requests
from ._reading import ShardIterator
from ._service import Service


@final
class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A request as faults and the log see it.

    Attributes:
        operation: Its name, such as "PutRecords".
        stream: The stream that it names, by name, ARN or iterator; "" where it names none.
        shard: The shard that it names, by id or iterator; "" where it names none, as puts do.
        records: How many records it carries.
        access_key: The access key that signed it; "" where none did.
        at: When it came, in seconds since 1970 by the server's clock.
    """

    operation: str
    stream: str = ""
    shard: str = ""
    records: int = 0
    access_key: str = ""
    at: float = 0.0


@final
class LoggedCall(msgspec.Struct, frozen=True, kw_only=True):
    """A request and what became of it.

    Attributes:
        number: Counts the requests since the server's start, from 1, in the order of their ends.
        call: The request.
        code: The error that was answered; "" for success.
        rejected: How many of its records were rejected.
        returned: How many records were returned.
        answered: False where a fault dropped the connection instead.
        stored: Whether the operation was carried out.
    """

    number: int
    call: Call
    code: str = ""
    rejected: int = 0
    returned: int = 0
    answered: bool = True
    stored: bool = True


def describe_call(
    service: Service, request: requests.Request, *, operation: str, access_key: str, at: float
) -> Call:
    """Say what a request is about, as far as its members tell."""
    stream = getattr(request, "stream_name", None) or ""
    arn = getattr(request, "stream_arn", None) or getattr(request, "resource_arn", None)
    arn = arn or getattr(request, "consumer_arn", None)
    if not stream and arn:
        stream = arn.partition(":stream/")[2].partition("/")[0]
    shard = getattr(request, "shard_id", None) or getattr(request, "shard_to_split", None) or ""
    records = 0
    match request:
        case requests.GetRecords():
            iterator = service.tokens.read(request.shard_iterator, ShardIterator)
            if iterator is not None:
                stream, shard = iterator.stream, iterator.shard
        case requests.MergeShards():
            shard = request.shard_to_merge
        case requests.PutRecords():
            records = len(request.records)
        case requests.PutRecord():
            records = 1
        case _:
            pass
    return Call(
        operation=operation, stream=stream, shard=shard, records=records, access_key=access_key, at=at
    )
