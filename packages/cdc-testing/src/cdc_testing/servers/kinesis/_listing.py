"""ListShards, with its filters and pages."""

from collections.abc import Callable, Mapping
from typing import Any, Final, final

import msgspec

from . import _requests as requests
from ._limits import DEFAULT_LIST_SHARDS, TOKEN_SECONDS
from ._refusal import Refusal, in_use, invalid
from ._service import Answer, Service
from ._shard import Shard
from ._stream import Stream


@final
class ShardPage(msgspec.Struct, frozen=True):
    """What a page token holds: what was asked for, and where the next page starts."""

    stream: str
    generation: int
    after: str
    filter: requests.ShardFilter | None
    asked_at: float
    issued_at: float


def list_shards(service: Service, request: requests.ListShards, now: float) -> Answer:
    """List shards in the order of their ids."""
    page = _next_page(service, request, now) if request.next_token else _first_page(service, request, now)
    stream = service.stream_named(page.stream, now)
    if stream.generation != page.generation:
        raise Refusal("ExpiredNextTokenException", "The stream was deleted and created again.")
    stream.trim(now)
    keeps = _FILTERS[page.filter.type if page.filter else "FROM_TRIM_HORIZON"]
    found = [
        shard
        for shard in stream.shards.values()
        if shard.shard_id > page.after and keeps(shard, stream, page, now)
    ]
    shown = found[: request.max_results or DEFAULT_LIST_SHARDS]
    answer: dict[str, Any] = {"Shards": [shard.describe() for shard in shown]}
    if len(shown) < len(found):
        following = msgspec.structs.replace(page, after=shown[-1].shard_id, issued_at=now)
        answer["NextToken"] = service.tokens.write(following)
    return answer


def _first_page(service: Service, request: requests.ListShards, now: float) -> ShardPage:
    stream = service.stream(request, now, creating=True)
    if stream.status == "CREATING":
        raise in_use(f"Stream {stream.name} is in state CREATING.")
    created = request.stream_creation_timestamp
    if created is not None and abs(created - stream.created_at) > 0.001:
        raise invalid(f"Stream {stream.name} was not created at {created}.")
    wanted = request.shard_filter
    after = request.exclusive_start_shard_id or ""
    if wanted is not None:
        if wanted.type == "AFTER_SHARD_ID":
            if wanted.shard_id is None:
                raise invalid("ShardFilter of type AFTER_SHARD_ID needs a ShardId.")
            after = max(after, wanted.shard_id)
        if wanted.type.endswith("_TIMESTAMP") and wanted.timestamp is None:
            raise invalid(f"ShardFilter of type {wanted.type} needs a Timestamp.")
    return ShardPage(stream.name, stream.generation, after, wanted, now, now)


def _next_page(service: Service, request: requests.ListShards, now: float) -> ShardPage:
    # The token says it all; the service refuses the rest beside it (botocore's own paginator fails there too:
    # boto/botocore#2009).
    beside = {
        "StreamName": request.stream_name,
        "StreamARN": request.stream_arn,
        "StreamCreationTimestamp": request.stream_creation_timestamp,
        "ExclusiveStartShardId": request.exclusive_start_shard_id,
        "ShardFilter": request.shard_filter,
    }
    for name, value in beside.items():
        if value is not None:
            raise invalid(f"NextToken and {name} cannot be provided together.")
    page = service.tokens.read(request.next_token or "", ShardPage)
    if page is None:
        raise invalid("NextToken is invalid.")
    if now - page.issued_at > TOKEN_SECONDS:
        raise Refusal("ExpiredNextTokenException", f"NextToken is older than {TOKEN_SECONDS:.0f} seconds.")
    return page


def _always(shard: Shard, stream: Stream, page: ShardPage, now: float) -> bool:
    # Shards older than the retention are gone already.
    del shard, stream, page, now
    return True


def _open_now(shard: Shard, stream: Stream, page: ShardPage, now: float) -> bool:
    del stream, page, now
    return shard.is_open


def _open_at_trim_horizon(shard: Shard, stream: Stream, page: ShardPage, now: float) -> bool:
    # A parent that was closed before the horizon is gone already.
    del page, now
    return not any(parent.shard_id in stream.shards for parent in shard.parents)


def _open_at(shard: Shard, stream: Stream, page: ShardPage, now: float) -> bool:
    when = max(_timestamp(page), stream.trim_horizon(now), stream.created_at)
    return shard.created_at <= when and _ends_at_or_after(shard, when)


def _from(shard: Shard, stream: Stream, page: ShardPage, now: float) -> bool:
    del stream, now
    return _ends_at_or_after(shard, _timestamp(page))


def _ends_at_or_after(shard: Shard, when: float) -> bool:
    return shard.closed_at is None or shard.closed_at >= when


def _timestamp(page: ShardPage) -> float:
    assert page.filter is not None
    assert page.filter.timestamp is not None
    return page.filter.timestamp


_FILTERS: Final[Mapping[requests.FilterType, Callable[[Shard, Stream, ShardPage, float], bool]]] = {
    "AFTER_SHARD_ID": _always,
    "AT_TRIM_HORIZON": _open_at_trim_horizon,
    "FROM_TRIM_HORIZON": _always,
    "AT_LATEST": _open_now,
    "AT_TIMESTAMP": _open_at,
    "FROM_TIMESTAMP": _from,
}
