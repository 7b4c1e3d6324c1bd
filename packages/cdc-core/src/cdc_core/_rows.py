"""Typed rows: from the wire forms of a row's columns to a dataclass or msgspec struct, by its annotations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, TypeVar, cast, final, get_args, get_origin, get_type_hints

import msgspec

from ._annotations import Spec, UnsupportedAnnotation, compile_annotation, is_row_type
from ._errors import ConfigError, RowError
from ._unchanged import Unchanged
from ._wire_values import Mismatch

R = TypeVar("R")
_MISSING: Final = object()
_PLAIN_KEYS: Final = frozenset[type]({int, str})


@final
class RowReader(Generic[R]):
    """Reads rows of one type; made once per `Table`, since it looks at every annotation.

    - `row_type`: a dataclass or msgspec struct. A field's column is its name, a struct's renamed name, or what the
      dataclass field says: `field(metadata={"column": "..."})`.
    - `where`: what a `RowError` names as the table.

    Columns that no field names are ignored. A field without a default whose column is missing is an error.

    Raises:
        ConfigError: a field's annotation is none that a column can be read as.
    """

    def __init__(self, row_type: type[R], *, where: str) -> None:
        self._row_type = row_type
        self._where = where
        self._fields = tuple(
            (field.name, field.column, field.spec, field.spec.exact, field.spec.convert, field.required)
            for field in compile_fields(row_type, where)
        )

    def read(self, columns: Mapping[str, object]) -> R:
        """Return a row of the row type.

        Raises:
            RowError: a column is missing, its value is none that the field allows, or the row type refused the row.
        """
        values: dict[str, object] = {}
        for name, column, spec, exact, convert, required in self._fields:
            value = columns.get(column, _MISSING)
            if value.__class__ in exact:
                values[name] = value
            elif value is _MISSING:
                if required:
                    raise self._error(column, "a value", "no such column")
            elif convert is None:
                raise self._error(column, spec.expected, _found(value))
            else:
                try:
                    values[name] = convert(value)
                except Mismatch as mismatch:
                    # the cause would only repeat it, without the table
                    raise self._error(column, str(mismatch), _found(value)) from None
        try:
            return self._row_type(**values)
        except Exception as error:  # whatever the row type's own __post_init__ raises
            raise RowError(
                f"{self._row_type.__qualname__} refused the row with {type(error).__name__}",
                where={"table": self._where},
            ) from error

    def _error(self, column: str, expected: str, found: str) -> RowError:
        return RowError(
            f"column {column!r} does not fit {self._row_type.__qualname__}: expected {expected}, found {found}",
            where={"table": self._where, "column": column},
            remedy="annotate the field `... | Unchanged`, or set REPLICA IDENTITY FULL on the table"
            if found == "UNCHANGED"
            else "",
        )


K = TypeVar("K")


def read_key(key_type: type[K], columns: Mapping[str, object], *, where: object) -> K:
    """Return a key as a scalar, a tuple or a row type.

    Raises:
        RowError: the key is of another shape or type.
        ConfigError: rows cannot be read as `key_type`.
    """
    if len(columns) == 1 and key_type in _PLAIN_KEYS:
        (value,) = columns.values()
        kind: object = key_type
        if value.__class__ is kind:  # nearly every key there is; the rest costs 4 us
            return cast("K", value)
    if is_row_type(key_type):
        return RowReader(key_type, where=str(where)).read(columns)
    is_tuple = get_origin(key_type) is tuple
    annotations = cast("tuple[object, ...]", get_args(key_type)) if is_tuple else (key_type,)
    if len(annotations) != len(columns) or Ellipsis in annotations:
        raise RowError(
            f"the key has {len(columns)} columns, and {describe(key_type)} has {len(annotations)}",
            where={"table": where, "columns": ", ".join(columns)},
            remedy="use key_as(tuple[...]) with one type per column of the key",
        )
    values = tuple(
        _read_column(annotation, column, value, where)
        for annotation, (column, value) in zip(annotations, columns.items(), strict=True)
    )
    return cast("K", values if is_tuple else values[0])


def _read_column(annotation: object, column: str, value: object, where: object) -> object:
    try:
        spec = compile_annotation(annotation)
    except UnsupportedAnnotation as error:
        raise ConfigError(f"a key column cannot be read as {error}", where={"table": where}) from None
    try:
        return spec.read(value)
    except Mismatch as mismatch:
        raise RowError(
            f"key column {column!r} does not fit: expected {mismatch}, found {_found(value)}",
            where={"table": where, "column": column},
        ) from None


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """One field of a row type: its name, its column, how it is read, and whether its column must be there."""

    name: str
    column: str
    spec: Spec
    required: bool


def field_columns(kind: type) -> list[tuple[str, str, bool]]:
    """Return for each field that a row type is made of its name, its column, and whether it has no default."""
    if issubclass(kind, msgspec.Struct):
        return [(field.name, field.encode_name, field.required) for field in msgspec.structs.fields(kind)]
    return [
        (
            field.name,
            str(field.metadata.get("column", field.name)),
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
        )
        for field in dataclasses.fields(cast("Any", kind))
        if field.init
    ]


def compile_fields(kind: type, where: str) -> list[Field]:
    """Compile the annotations of a row type.

    Raises:
        ConfigError: it is no row type, or an annotation is none that a column can be read as.
    """
    if not is_row_type(kind):
        raise ConfigError(
            f"{describe(kind)} is no row type",
            where={"table": where},
            remedy="use a dataclass or a msgspec struct",
        )
    hints = type_hints(kind, where)
    fields: list[Field] = []
    for name, column, required in field_columns(kind):
        try:
            spec = compile_annotation(hints[name], nested=_read_nested)
        except UnsupportedAnnotation as error:
            raise ConfigError(
                f"field {name!r} of {kind.__qualname__} cannot be read from a column: {error}",
                where={"table": where},
                remedy="annotate it with one of the supported types, or `object` for the wire form",
            ) from None
        fields.append(Field(name, column, spec, required))
    return fields


def type_hints(kind: type, where: str) -> dict[str, object]:
    """Return a row type's annotations, evaluated.

    Raises:
        ConfigError: one names something that is not defined where the row type is.
    """
    try:
        return get_type_hints(kind, include_extras=True)
    except (NameError, TypeError, SyntaxError, AttributeError) as error:
        raise ConfigError(
            f"the annotations of {kind.__qualname__} cannot be evaluated: {error}",
            where={"table": where},
            remedy="define the row type, and all that its annotations name, at module level",
        ) from error


def describe(annotation: object) -> str:
    """Return an annotation as its user wrote it, nearly."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation.__qualname__
    return str(annotation).replace("typing.", "")


def _found(value: object) -> str:
    return "UNCHANGED" if isinstance(value, Unchanged) else "null" if value is None else type(value).__name__


def _read_nested(kind: type) -> Callable[[Mapping[str, object]], object]:
    """Read a JSON object that stands in the row itself (a point), by the same rules as the row."""
    reader = RowReader[object](kind, where=kind.__qualname__)

    def read(columns: Mapping[str, object]) -> object:
        try:
            return reader.read(columns)
        except RowError as error:
            raise Mismatch(f"a {kind.__qualname__} ({error.message})") from None

    return read
