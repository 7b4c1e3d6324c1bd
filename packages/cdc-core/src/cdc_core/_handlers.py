"""Handlers: from a function of one row type to a callable of mixed batches, and who gets which event."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, final

from ._envelope import Change, decode_routing, decode_typed_change
from ._errors import ConfigError, EnvelopeError, Poison
from ._events import Event, Operation, TableId
from ._messages import ContentReader, LogicalMessage, decode_prefix
from ._rows import RowReader

Handler: TypeAlias = Callable[[Sequence[Event]], Awaitable[None]]
"""What a pipeline calls: any `async def handle(events: Sequence[Event]) -> None`. Returning means done, all of them."""

Route: TypeAlias = TableId | str
"""What a typed handler is chosen by: a table, or the prefix of a logical message."""

R = TypeVar("R")
C = TypeVar("C")
D = TypeVar("D", covariant=True)


class SplitsRuns(Protocol):
    """A handler that says which parts of a batch can be called, retried and acknowledged by themselves."""

    def runs(self, events: Sequence[Event]) -> Iterator[Sequence[Event]]:
        """Yield consecutive sub-sequences of `events`, none empty, none left out. Never raises."""
        ...


def split_runs(handler: Handler, events: Sequence[Event]) -> Iterator[Sequence[Event]]:
    """Yield the runs of a batch for a handler: all of it where the handler does not split."""
    runs: Callable[[Sequence[Event]], Iterator[Sequence[Event]]] | None = getattr(handler, "runs", None)
    if runs is not None:
        yield from runs(events)
    elif events:
        yield events


class UnhandledEvent(Poison):
    """Nobody handles the event's table or message prefix, and no `others=` says what to do with such events.

    - `route`: the table, or the prefix of a logical message.
    """

    def __init__(self, *, event: Event, route: Route | None) -> None:
        what = f"message prefix {route!r}" if isinstance(route, str) else f"table {route}"
        super().__init__(
            f"no handler for {what}. Remedy: add one, or pass others=ignore to dispatch() to skip such events",
            event=event,
        )
        self.route = route


class Target(Protocol[D]):
    """Which events a function handles, and what it gets of each: a `Table` or a `MessagePrefix`."""

    @property
    def route(self) -> Route:
        """What its events are chosen by."""
        ...

    def of(self, event: Event) -> D | None:
        """Decode an event; None where it is another's."""
        ...


@final
@dataclass(frozen=True, slots=True, eq=False)
class EachHandler(Generic[C]):
    """Calls a function with one event at a time; each is a run of its own. Tombstones are skipped."""

    target: Target[C]
    function: Callable[[C], Awaitable[None]]

    async def __call__(self, events: Sequence[Event]) -> None:
        """Handle events in order.

        Raises:
            Poison: an event cannot be decoded, or (`UnhandledEvent`) is another's.
        """
        for event in events:
            if event.value is not None:
                await self.function(_decode(self.target, event))

    def runs(self, events: Sequence[Event]) -> Iterator[Sequence[Event]]:
        """Yield each event by itself."""
        for event in events:
            yield (event,)


@final
@dataclass(frozen=True, slots=True, eq=False)
class BatchHandler(Generic[C]):
    """Calls a function with a batch; a run is a row of neighbours of its table. Tombstones are skipped."""

    target: Target[C]
    function: Callable[[Sequence[C]], Awaitable[None]]

    async def __call__(self, events: Sequence[Event]) -> None:
        """Handle events in order, with one call.

        Raises:
            Poison: an event cannot be decoded, or (`UnhandledEvent`) is another's; the function was not called then.
        """
        decoded = [_decode(self.target, event) for event in events if event.value is not None]
        if decoded:
            await self.function(decoded)

    def runs(self, events: Sequence[Event]) -> Iterator[Sequence[Event]]:
        """Yield the neighbours that are this handler's; each of the others by itself."""
        route = self.target.route
        run: list[Event] = []
        for event in events:
            if event.value is None or _route_of(event) == route:
                run.append(event)
                continue
            if run:
                yield run
                run = []
            yield (event,)
        if run:
            yield run


@final
@dataclass(frozen=True, slots=True, init=False)
class Table(Generic[R]):
    """A table and the type of its rows.

    - `id`: the table, or `schema.name` as `TableId.parse` reads it.
    - `row_type`: a dataclass or msgspec struct. A column is read by its field's annotation:

      - `int`, `bool`, `str`: as they are; `float`; `Decimal` for numeric and money; `UUID`; `bytes` for bytea and bits;
      - `date`; `time` without zone, or `AwareTime` (timetz); `timedelta`, where years and months are 0;
      - `datetime` for timestamptz: aware, UTC; `NaiveDatetime` for timestamp. Both end in Z on the wire;
      - enums and `Literal`; `list[...]`, nested for more dimensions, and `tuple[X, ...]`;
      - `dict[...]`, a dataclass, struct, TypedDict or `list[...]` for json and hstore: msgspec decodes the text;
      - `X | None`; `X | Unchanged`; `date | str` takes as text what Python's date cannot hold (infinity, BC);
      - `object` or `Any`: the wire form.

    Raises:
        ConfigError: the name is none, or a field's annotation is none that a column can be read as.
    """

    id: TableId
    row_type: type[R]
    _rows: RowReader[R] = field(repr=False, compare=False)

    def __init__(self, id: TableId | str, row_type: type[R]) -> None:  # noqa: A002 (`table.id` is what it becomes)
        try:
            table = TableId.parse(id) if isinstance(id, str) else id
        except ValueError as error:
            raise ConfigError(f"not a table: {error}", remedy='Table("schema.name", RowType)') from error
        object.__setattr__(self, "id", table)
        object.__setattr__(self, "row_type", row_type)
        object.__setattr__(self, "_rows", RowReader(row_type, where=str(table)))

    @property
    def route(self) -> TableId:
        """What its events are chosen by: its id."""
        return self.id

    def of(self, event: Event) -> Change[R] | None:
        """Decode an event of this table; None for another table's, a logical message, and a tombstone.

        Raises:
            EnvelopeError: the bytes are not the envelope they should be.
            RowError: a row does not fit the row type.
        """
        if event.value is None:
            return None
        table = event.table if event.table is not None else decode_routing(event)[1]
        return decode_typed_change(event, self._rows) if table == self.id else None

    def each(self, function: Callable[[Change[R]], Awaitable[None]]) -> EachHandler[Change[R]]:
        """Decorate a function of one change: called one event at a time, in order."""
        return EachHandler(self, function)

    def batch(self, function: Callable[[Sequence[Change[R]]], Awaitable[None]]) -> BatchHandler[Change[R]]:
        """Decorate a function of several changes: called with neighbouring events of this table, in order."""
        return BatchHandler(self, function)


@final
@dataclass(frozen=True, slots=True, init=False)
class MessagePrefix(Generic[R]):
    """The prefix of logical messages and the type of their content.

    - `prefix`: the whole prefix, as given to `pg_logical_emit_message`.
    - `content_type`: `bytes`, `str`, or what msgspec decodes the content's JSON to: a dataclass, struct, dict, ...

    Raises:
        ConfigError: msgspec cannot decode to this type.
    """

    prefix: str
    content_type: type[R]
    _contents: ContentReader[R] = field(repr=False, compare=False)

    def __init__(self, prefix: str, content_type: type[R]) -> None:
        object.__setattr__(self, "prefix", prefix)
        object.__setattr__(self, "content_type", content_type)
        object.__setattr__(self, "_contents", ContentReader(content_type))

    @property
    def route(self) -> str:
        """What its events are chosen by: the prefix."""
        return self.prefix

    def of(self, event: Event) -> LogicalMessage[R] | None:
        """Decode a message of this prefix; None for any other event.

        Raises:
            EnvelopeError: the bytes are not the envelope they should be, or the content does not fit.
        """
        if event.value is None or decode_routing(event)[0] is not Operation.MESSAGE:
            return None
        return self._contents.read(event) if decode_prefix(event) == self.prefix else None

    def each(
        self, function: Callable[[LogicalMessage[R]], Awaitable[None]]
    ) -> EachHandler[LogicalMessage[R]]:
        """Decorate a function of one message: called one event at a time, in order."""
        return EachHandler(self, function)


@final
@dataclass(frozen=True, slots=True, init=False, eq=False)
class Dispatch:
    """Gives each event to the handler of its table or prefix; made by `dispatch`."""

    routes: Mapping[Route, EachHandler[Any] | BatchHandler[Any]]
    others: Handler | None

    def __init__(
        self, handlers: Sequence[EachHandler[Any] | BatchHandler[Any]], others: Handler | None
    ) -> None:
        routes: dict[Route, EachHandler[Any] | BatchHandler[Any]] = {}
        for handler in handlers:
            route = handler.target.route
            if route in routes:
                raise ConfigError(
                    f"two handlers for {route}",
                    remedy="call both from one function: an event has one handler",
                )
            routes[route] = handler
        object.__setattr__(self, "routes", routes)
        object.__setattr__(self, "others", others)

    async def __call__(self, events: Sequence[Event]) -> None:
        """Call the handlers, one call per group of neighbours, in order.

        Raises:
            Poison: an event cannot be decoded, or (`UnhandledEvent`) nobody handles it and there is no `others`.
        """
        for handler, group in self._groups(events):
            await handler(group)

    def runs(self, events: Sequence[Event]) -> Iterator[Sequence[Event]]:
        """Yield each group of neighbours of one handler, split as that handler splits."""
        for handler, group in self._groups(events):
            yield from split_runs(handler, group)

    def _groups(self, events: Sequence[Event]) -> Iterator[tuple[Handler, Sequence[Event]]]:
        current: Handler | None = None
        group: list[Event] = []
        for event in events:
            # a tombstone goes with its neighbours: nobody looks at it, it only has to be acknowledged in order
            handler = current if event.value is None else self._handler_of(event)
            if handler is not current and current is not None:
                yield current, group
                group = []
            current = handler
            group.append(event)
        if group:
            yield current or ignore, group

    def _handler_of(self, event: Event) -> Handler:
        route = _route_of(event)
        if route is _UNDECODABLE:
            return _REFUSE
        return self.routes.get(route) or self.others or _REFUSE


def dispatch(*handlers: EachHandler[Any] | BatchHandler[Any], others: Handler | None = None) -> Dispatch:
    """Compose typed handlers: each event goes to the handler of its table or message prefix.

    It calls once per run of neighbours, not once per table: events keep their order across tables.

    - `others`: the handler of all other events, e.g. `ignore`; without it such an event is an error.

    Raises:
        ConfigError: two handlers for one table or prefix.
    """
    return Dispatch(handlers, others)


async def ignore(events: Sequence[Event]) -> None:
    """Handle events by doing nothing: they count as done."""


# The route of an event whose bytes do not say where it belongs: equal to no table or prefix, since a prefix holds no
# NUL in PostgreSQL. Whoever is called with the event raises why.
_UNDECODABLE = "\0"


def _route_of(event: Event) -> Route:
    try:
        op, table = decode_routing(event)
        return decode_prefix(event) if op is Operation.MESSAGE else table or _UNDECODABLE
    except EnvelopeError:
        return _UNDECODABLE


def _decode(target: Target[C], event: Event) -> C:
    try:
        if (decoded := target.of(event)) is not None:
            return decoded
        op, table = decode_routing(event)
        route = decode_prefix(event) if op is Operation.MESSAGE else table
    except EnvelopeError as error:  # no attempt of any number will decode it
        raise Poison(str(error), event=event) from error
    raise UnhandledEvent(event=event, route=route)


@final
@dataclass(frozen=True, slots=True)
class _Nobody:
    """The target of the events that nobody handles: decodes none of them."""

    route: str = ""

    def of(self, event: Event) -> None:
        return None


async def _never(nothing: None) -> None:
    """Be called by nobody."""


_REFUSE: EachHandler[None] = EachHandler(_Nobody(), _never)
