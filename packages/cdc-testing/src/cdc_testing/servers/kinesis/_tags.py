"""Tags of streams and of consumers."""

from typing import Any, Final

from . import _requests as requests
from ._limits import MAX_TAGS
from ._refusal import invalid, not_found
from ._service import Answer, Service

_LISTED_TAGS: Final = 50


def add_tags(service: Service, request: requests.AddTagsToStream, now: float) -> Answer:
    """Set tags of a stream."""
    _add(service.stream(request, now).tags, request.tags)
    return {}


def remove_tags(service: Service, request: requests.RemoveTagsFromStream, now: float) -> Answer:
    """Remove tags of a stream; those it has not are passed over."""
    _remove(service.stream(request, now).tags, request.tag_keys)
    return {}


def list_tags(service: Service, request: requests.ListTagsForStream, now: float) -> Answer:
    """List a stream's tags by key, a page at a time."""
    tags = service.stream(request, now).tags
    keys = sorted(key for key in tags if key > (request.exclusive_start_tag_key or ""))
    page = keys[: request.limit or _LISTED_TAGS]
    return {"Tags": [{"Key": key, "Value": tags[key]} for key in page], "HasMoreTags": len(page) < len(keys)}


def tag_resource(service: Service, request: requests.TagResource, now: float) -> Answer:
    """Set tags of a stream or a consumer."""
    _add(_tags_of(service, request.resource_arn, now), request.tags)
    return {}


def untag_resource(service: Service, request: requests.UntagResource, now: float) -> Answer:
    """Remove tags of a stream or a consumer."""
    _remove(_tags_of(service, request.resource_arn, now), request.tag_keys)
    return {}


def list_tags_of_resource(service: Service, request: requests.ListTagsForResource, now: float) -> Answer:
    """List all tags of a stream or a consumer."""
    tags = _tags_of(service, request.resource_arn, now)
    listed: list[dict[str, Any]] = [{"Key": key, "Value": tags[key]} for key in sorted(tags)]
    return {"Tags": listed}


def _tags_of(service: Service, arn: str, now: float) -> dict[str, str]:
    stream = service.stream_named(service.name_of(arn), now)
    if arn == stream.arn:
        return stream.tags
    for consumer in stream.consumers.values():
        if consumer.arn == arn:
            return consumer.tags
    raise not_found(f"{arn} is neither a stream nor a registered consumer.")


def _add(tags: dict[str, str], more: dict[str, str]) -> None:
    for key, value in more.items():
        if not 1 <= len(key) <= 128 or len(value) > 256:
            raise invalid("A tag's key has 1 to 128 characters, its value 256 at most.")
    if len(tags | more) > MAX_TAGS:
        raise invalid(f"A resource may have {MAX_TAGS} tags at most.")
    tags.update(more)


def _remove(tags: dict[str, str], keys: list[str]) -> None:
    for key in keys:
        tags.pop(key, None)
