"""What a field's annotation says about its column, compiled once: which JSON values are taken as they are."""

from __future__ import annotations

import enum
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from datetime import datetime, time
from typing import Annotated, Any, Literal, NewType, Union, cast, get_args, get_origin, is_typeddict

import msgspec

from ._unchanged import Unchanged
from ._wire_values import (
    READERS,
    Mismatch,
    read_aware_datetime,
    read_aware_time,
    read_naive_datetime,
    read_naive_time,
)

NaiveDatetime = Annotated[datetime, msgspec.Meta(tz=False)]
"""Annotates the field of a `timestamp` column: a datetime without zone. A plain `datetime` is aware, in UTC, as a
`timestamptz` column is; the wire does not tell one from the other, both end in Z."""

AwareTime = Annotated[time, msgspec.Meta(tz=True)]
"""Annotates the field of a `timetz` column: a time in UTC. A plain `time` has no zone, as a `time` column has none."""

NO_TYPES: frozenset[type] = frozenset()
_JSON_TYPES: frozenset[type] = frozenset({str, int, float, bool, list, dict, types.NoneType, Unchanged})
_Nested = Callable[[type], Callable[[Mapping[str, object]], object]]


class UnsupportedAnnotation(Exception):
    """An annotation is none that a column can be read as."""


@dataclass(frozen=True, slots=True)
class Spec:
    """How a value is read.

    - `exact`: the types of the values that are taken as they are.
    - `convert`: reads the others, or raises `Mismatch`; None where there are none.
    - `expected`: what a mismatch says.
    """

    exact: frozenset[type]
    expected: str
    convert: Callable[[object], object] | None = None
    takes: frozenset[type] = NO_TYPES

    def read(self, value: object) -> object:
        """Return the value as the annotation has it, or raise `Mismatch`."""
        if value.__class__ in self.exact:
            return value
        if self.convert is None:
            raise Mismatch(self.expected)
        return self.convert(value)


def compile_annotation(annotation: Any, *, nested: _Nested | None = None, zone: bool | None = None) -> Spec:
    """Compile an annotation.

    - `nested`: compiles a dataclass or struct for JSON objects that stand in the row itself.
    - `zone`: whether a datetime or time has a zone, where an `Annotated` around it says so.

    Raises:
        UnsupportedAnnotation: it is none that a column can be read as.
    """
    annotation, zone = _unwrap(annotation, zone)
    origin = get_origin(annotation)
    if annotation in (Any, object):
        return Spec(_JSON_TYPES, "any value")
    if origin in (Union, types.UnionType):
        return _union([compile_annotation(part, nested=nested, zone=zone) for part in get_args(annotation)])
    if annotation in (None, types.NoneType):
        return Spec(frozenset({types.NoneType}), "null")
    if origin is Literal:
        return _one_of({(type(value), value): value for value in get_args(annotation)}, "one of its literals")
    if isinstance(annotation, type) and annotation in _EXPECTED:
        return Spec(frozenset({annotation}), _EXPECTED[annotation])
    if zone is not None and annotation in _ZONED:
        return Spec(NO_TYPES, "", _ZONED[annotation][zone], frozenset({str}))
    if isinstance(annotation, type) and annotation in READERS:
        convert, takes = READERS[annotation]
        return Spec(frozenset({float}) if annotation is float else NO_TYPES, "", convert, takes)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        members: dict[tuple[type, object], object] = {
            (type(member.value), member.value): member for member in annotation
        }
        return _one_of(members, f"a value of {annotation.__qualname__}")
    return _container(annotation, nested)


def is_row_type(kind: Any) -> bool:
    """Say whether this is a dataclass or a msgspec struct."""
    return isinstance(kind, type) and (is_dataclass(kind) or issubclass(kind, msgspec.Struct))


def _unwrap(annotation: Any, zone: bool | None) -> tuple[Any, bool | None]:
    """Take off Annotated, NewType and `type X = ...`; return what is inside, and whether it asks for a zone."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *extras = get_args(annotation)
            for extra in extras:
                if isinstance(extra, msgspec.Meta) and extra.tz is not None:
                    zone = extra.tz
        elif isinstance(annotation, NewType):
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType":  # `type X = ...` of Python 3.12
            annotation = annotation.__value__
        else:
            return annotation, zone


_EXPECTED = {bool: "a boolean", int: "an integer", str: "text", Unchanged: "UNCHANGED"}
_ZONED: dict[type, dict[bool, Callable[[object], object]]] = {
    datetime: {True: read_aware_datetime, False: read_naive_datetime},
    time: {True: read_aware_time, False: read_naive_time},
}


def _one_of(members: dict[tuple[type, object], object], expected: str) -> Spec:
    def convert(value: object) -> object:
        try:
            return members[type(value), value]
        except (KeyError, TypeError):
            raise Mismatch(expected) from None

    return Spec(NO_TYPES, expected, convert, frozenset(kind for kind, _ in members))


def _union(parts: list[Spec]) -> Spec:
    """The first part that takes the value; but a plain `str` comes last: it takes what the others refuse."""
    exact = frozenset[type]().union(*(part.exact for part in parts))
    converting = [part for part in parts if part.convert is not None]
    wanted = frozenset[type]().union(*(part.takes for part in converting))
    if not converting:
        return Spec(exact, " or ".join(part.expected for part in parts))
    ordered = sorted(parts, key=lambda part: part.convert is None and str in part.exact)

    def convert(value: object) -> object:
        reasons: list[str] = []
        for part in ordered:
            try:
                return part.read(value)
            except Mismatch as mismatch:
                reasons.append(str(mismatch))
        raise Mismatch(" or ".join(reasons))

    return Spec(exact - wanted, "", convert, wanted)


def _container(annotation: Any, nested: _Nested | None) -> Spec:
    origin: Any
    arguments: tuple[Any, ...]
    origin, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if origin in (list, Sequence):
        return _list(annotation, arguments[0] if arguments else object, list, nested)
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return _list(annotation, arguments[0], tuple, nested)
    if origin in (dict, Mapping):
        values = compile_annotation(arguments[1], nested=nested) if arguments else None
        return _object(annotation, lambda found: _read_mapping(found, values))
    if is_typeddict(annotation):
        return _object(annotation, lambda found: _convert(found, annotation))
    if is_row_type(origin):
        reader: list[Callable[[Mapping[str, object]], object]] = []

        def read(found: Mapping[str, object]) -> object:
            if nested is None:
                return _convert(found, annotation)
            if not reader:  # made when first needed: a row type may refer to itself
                reader.append(nested(origin))
            return reader[0](found)

        return _object(annotation, read)
    raise UnsupportedAnnotation(str(annotation))


def _list(
    annotation: Any, element: Any, make: Callable[[list[object]], object], nested: _Nested | None
) -> Spec:
    spec = compile_annotation(element, nested=nested)
    exact, read = spec.exact, spec.read
    try:
        from_json = _json_reader(annotation)
    except UnsupportedAnnotation:  # an array of what JSON alone does not tell apart: list[Decimal | str]
        from_json = None

    def convert(value: object) -> object:
        if isinstance(value, str) and from_json is not None:  # a json column: its text
            return from_json(value)
        if not isinstance(value, list):
            raise Mismatch("an array")
        items = cast("list[object]", value)
        try:
            return make([item if item.__class__ in exact else read(item) for item in items])
        except Mismatch as mismatch:
            raise Mismatch(f"an array of {mismatch}") from None

    return Spec(NO_TYPES, "an array", convert, frozenset({list, str}))


def _object(annotation: Any, read: Callable[[Mapping[str, object]], object]) -> Spec:
    from_json = _json_reader(annotation)

    def convert(value: object) -> object:
        if isinstance(value, str):  # a json or hstore column: its text
            return from_json(value)
        if isinstance(value, dict):  # a point, or an hstore in map mode: it stands in the row itself
            return read(cast("dict[str, object]", value))
        raise Mismatch("a JSON object")

    return Spec(NO_TYPES, "a JSON object", convert, frozenset({dict, str}))


def _read_mapping(found: Mapping[str, object], values: Spec | None) -> dict[str, object]:
    return dict(found) if values is None else {name: values.read(value) for name, value in found.items()}


def _json_reader(annotation: Any) -> Callable[[str], object]:
    """Read the text of a json column with msgspec: what stands in it is the user's own JSON, not wire forms."""
    try:
        decoder = msgspec.json.Decoder[object](annotation)
    except TypeError as error:
        raise UnsupportedAnnotation(f"{annotation} ({error})") from None

    def read(text: str) -> object:
        try:
            return decoder.decode(text)
        # not chained: msgspec's text may hold a value, and the value is a row's
        except msgspec.ValidationError as error:
            path = str(error).rpartition(" - at ")[2] if " - at " in str(error) else "its top"
            raise Mismatch(f"JSON text that fits {annotation}, which it does not at {path}") from None
        except (msgspec.DecodeError, ValueError, RecursionError):
            raise Mismatch(
                "JSON text that msgspec can decode (annotate `str` to take the text itself)"
            ) from None

    return read


def _convert(found: Mapping[str, object], annotation: Any) -> object:
    try:
        return msgspec.convert(found, annotation)
    except (msgspec.ValidationError, ValueError, RecursionError):
        raise Mismatch(f"a JSON object that fits {annotation}") from None
