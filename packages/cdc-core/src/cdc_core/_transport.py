"""One transport's parts in one object, what it promises, and how an installed one is found by name."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Generic, Protocol, TypeVar, cast, final

import msgspec

from ._dead_letters import DeadLetters
from ._errors import ConfigError
from ._protocols import ErrorRouter, EventSource, Provisioner, SourceMonitor
from ._publisher import Fence, WalPublisher

ENTRY_POINT_GROUP = "cdc.transports"

ConfigT = TypeVar("ConfigT")


class Granularity(enum.StrEnum):
    """What one commit can cover: single events, or whole database transactions only (a slot)."""

    EVENT = "event"
    TRANSACTION = "transaction"


class CommitPrefix(enum.StrEnum):
    """Whose contiguous done prefix is committed: the partition's, or each lane's by itself (Pub/Sub)."""

    PARTITION = "partition"
    LANE = "lane"


class FreshStart(enum.StrEnum):
    """Where a group that never committed starts."""

    EARLIEST = "earliest"
    CREATION = "creation"
    CONFIGURED = "configured"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What holds for a transport; the contract suite runs what its traits promise.

    - `granularity`: what one commit covers.
    - `exclusive`: a partition has one owner at a time; False where replicas share them (Pub/Sub).
    - `revocable`: a partition can be taken away with notice, not only lost.
    - `commit_prefix`: by partition or by lane.
    - `seekable`: a group can be put back to an earlier position.
    - `fresh_start`: where a group without a commit starts: at the earliest record, at the creation of its slot or
      subscription, or as configured.
    - `fenced`: `Event.fence` is an integer that grows with every change of owner.
    - `publishes`: it has a `publisher`: a reader can feed it.
    - `drops_repeats`: a pipeline drops the repeats it knows unless its user says otherwise: whoever feeds the
      transport repeats what it cannot know to be stored, and no commit of the consumer can prevent that.
    """

    granularity: Granularity
    exclusive: bool = True
    revocable: bool = True
    commit_prefix: CommitPrefix = CommitPrefix.PARTITION
    seekable: bool = False
    fresh_start: FreshStart = FreshStart.CREATION
    fenced: bool = False
    publishes: bool = True
    drops_repeats: bool = False


class Transport(Protocol):
    """One transport's parts, made from its config; making one of these objects opens nothing."""

    @property
    def traits(self) -> Traits:
        """What holds for this transport."""
        ...

    def source(self) -> EventSource:
        """Return the event source; its `open()` joins the group."""
        ...

    def provisioner(self) -> AbstractAsyncContextManager[Provisioner]:
        """Open the provisioner."""
        ...

    def error_router(self) -> AbstractAsyncContextManager[ErrorRouter]:
        """Open the way into the dead letters."""
        ...

    def monitor(self) -> AbstractAsyncContextManager[SourceMonitor]:
        """Open the monitor."""
        ...

    def dead_letters(self) -> AbstractAsyncContextManager[DeadLetters]:
        """Open the dead letters."""
        ...

    def publisher(self, fence: Fence) -> AbstractAsyncContextManager[WalPublisher]:
        """Open the publisher for a reader; `fence` bounds each of its requests.

        Raises:
            ConfigError: the transport is fed by nobody (`Traits.publishes` is False).
        """
        ...


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TransportEntry(Generic[ConfigT]):
    """What an entry point of the group `cdc.transports` names.

    - `config`: the transport's config type, a frozen dataclass or msgspec struct; `make`: makes the transport of it.
    """

    config: type[ConfigT]
    make: Callable[[ConfigT], Transport]


def installed_transports() -> tuple[str, ...]:
    """Return the names of the installed transports, sorted."""
    return tuple(sorted({entry.name for entry in entry_points(group=ENTRY_POINT_GROUP)}))


def load_transport(name: str, config: Mapping[str, Any]) -> Transport:
    """Make an installed transport by name from plain data, as files and plugins do.

    Raises:
        ConfigError: no transport of that name is installed, or `config` does not fit its config type.
    """
    found = [entry for entry in entry_points(group=ENTRY_POINT_GROUP) if entry.name == name]
    if not found:
        raise ConfigError(
            f"no transport named {name!r} is installed",
            remedy=f"install its package; installed now: {', '.join(installed_transports()) or 'none'}",
        )
    loaded = cast("object", found[0].load())
    if not isinstance(loaded, TransportEntry):
        raise ConfigError(f"the entry point {found[0].value} of transport {name!r} is not a TransportEntry")
    known: TransportEntry[Any] = cast("Any", loaded)
    if unknown := sorted(set(config) - _field_names(known.config)):
        # a misspelt setting would otherwise be its default, without a word
        raise ConfigError(
            f"the config of transport {name!r} has no {', '.join(map(repr, unknown))}",
            remedy=f"its settings are {', '.join(sorted(_field_names(known.config)))}",
        )
    try:
        typed = msgspec.convert(dict(config), known.config)
    except (msgspec.ValidationError, ValueError, TypeError) as error:
        raise ConfigError(f"the config of transport {name!r} does not fit: {error}") from error
    return known.make(typed)


def _field_names(config: type[object]) -> set[str]:
    if dataclasses.is_dataclass(config):
        return {field.name for field in dataclasses.fields(config)}
    return {field.encode_name for field in msgspec.structs.fields(cast("type[msgspec.Struct]", config))}
