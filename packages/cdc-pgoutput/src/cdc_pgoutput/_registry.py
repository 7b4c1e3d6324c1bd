from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import final
from uuid import UUID

from ._binary import BINARY_READERS, array_from_binary, range_from_binary
from ._builtin import ARRAYS, EXTENSION_STYLES, SCALARS, STYLES, Style
from ._json_text import UNAVAILABLE, JsonFromText, array_json, bit_json, string_json, timestamptz_json
from ._python_text import PythonFromText, array_python, bit_python

__all__ = ["TypeInfo", "TypeKind", "TypeRegistry", "ValueCodec"]


@final
class TypeKind(Enum):
    """What a type is; the values are `pg_type.typtype`, with ARRAY added for base types that are true
    arrays.
    """

    BASE = "b"
    ARRAY = "a"
    COMPOSITE = "c"
    DOMAIN = "d"
    ENUM = "e"
    PSEUDO = "p"
    RANGE = "r"
    MULTIRANGE = "m"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TypeInfo:
    """One row of pg_type, as far as values depend on it.

    `element_oid` is `typelem` for ARRAY, and `rngsubtype` for RANGE; `base_oid` and `base_type_modifier` are
    `typbasetype` and `typtypmod` of a DOMAIN; `delimiter` is `typdelim`. hstore, ltree and citext are
    recognised by `name`: extensions have other OIDs in every database.
    """

    oid: int
    name: str
    kind: TypeKind = TypeKind.BASE
    schema: str = "public"
    element_oid: int = 0
    base_oid: int = 0
    base_type_modifier: int = -1
    delimiter: str = ","

    def __post_init__(self) -> None:
        if self.kind is TypeKind.ARRAY and not self.element_oid:
            raise ValueError(f"array type {self.name!r} needs element_oid (pg_type.typelem)")
        if self.kind is TypeKind.DOMAIN and not self.base_oid:
            raise ValueError(f"domain {self.name!r} needs base_oid (pg_type.typbasetype)")
        if len(self.delimiter) != 1 or self.delimiter in '{}"\\':
            raise ValueError(
                f"array delimiter of {self.name!r} must be one plain character, not {self.delimiter!r}"
            )


@final
@dataclass(frozen=True, slots=True)
class ValueCodec:
    """How the values of one type (and type modifier) are read.

    `from_binary` turns the binary form into the text that the server would have sent, so that both forms meet
    in one path; it is None where we do not read the binary form. `unchanged` is the JSON of a TOAST value
    that was not sent. `inline` names the generator's own code for hot types,
    `precision` the digits of a second it expects.
    """

    name: str
    to_json: JsonFromText
    to_python: PythonFromText
    from_binary: Callable[[bytes], str] | None
    unchanged: str
    inline: str | None = None
    precision: int = 6


_PLAIN_UNCHANGED = f'"{UNAVAILABLE}"'
# Debezium fills int4 and int8 arrays with the placeholder's bytes, uuid arrays with Java's name UUID (version
# 3: MD5).
_CODES = "[" + ",".join(str(code) for code in UNAVAILABLE.encode()) + "]"
_NAME_UUID = UUID(bytes=hashlib.md5(UNAVAILABLE.encode(), usedforsecurity=False).digest(), version=3)
_UNCHANGED_BY_NAME = {
    **dict.fromkeys(("text[]", "varchar[]", "json[]", "jsonb[]"), f"[{_PLAIN_UNCHANGED}]"),
    **dict.fromkeys(("int4[]", "int8[]"), _CODES),
    "uuid[]": f'["{_NAME_UUID}"]',
}
_HSTORE_UNCHANGED = string_json(f'{{"{UNAVAILABLE}":"{UNAVAILABLE}"}}')

_EXTENSION_NAMES = frozenset({*EXTENSION_STYLES, "lquery", "ltxtquery"})

# Deeper chains of domains and arrays than any catalog has are taken for a cycle.
_MAX_CHAIN = 32

_BIT_OID = 1560
_TIMESTAMP_OID = 1114
_TIMESTAMPTZ_OID = 1184


@final
class TypeRegistry:
    """Knows types by OID: the built-in ones from the start, a database's own ones once they are registered.

    A type that nobody registered is not an error: its values are written as Debezium writes unknown types,
    base64 of PostgreSQL's text. `Decoder.unknown_types` says which OIDs to look up.
    """

    __slots__ = ("_cache", "_infos", "_version")

    def __init__(self, types: Iterable[TypeInfo] = ()) -> None:
        self._infos: dict[int, TypeInfo] = {}
        self._cache: dict[tuple[int, int], ValueCodec] = {}
        self._version = 0
        for info in types:
            self.register(info)

    @property
    def version(self) -> int:
        """Grows with every change: code generated under an older version is out of date."""
        return self._version

    def register(self, info: TypeInfo) -> None:
        """Add or replace a type.

        Raises: ValueError when its OID is that of a built-in type, which never changes.
        """
        if info.oid in SCALARS or info.oid in ARRAYS:
            raise ValueError(f"type OID {info.oid} is built in and cannot be registered as {info.name!r}")
        if self._infos.get(info.oid) == info:
            return
        self._infos[info.oid] = info
        self._cache.clear()
        self._version += 1

    def __contains__(self, type_oid: int) -> bool:
        return type_oid in SCALARS or type_oid in ARRAYS or type_oid in self._infos

    def name(self, type_oid: int) -> str:
        """A type's name for people; `oid N` when it is not known."""
        if type_oid in SCALARS:
            return SCALARS[type_oid][0]
        if type_oid in ARRAYS:
            return ARRAYS[type_oid].name
        info = self._infos.get(type_oid)
        return info.name if info else f"oid {type_oid}"

    def unknown(self, type_oid: int) -> tuple[int, ...]:
        """The OIDs that must be registered before values of this type can be read: itself, or what it is
        made of.
        """
        seen: set[int] = set()
        while type_oid not in seen:
            seen.add(type_oid)
            if type_oid not in self:
                return (type_oid,)
            info = self._infos.get(type_oid)
            if info is None or info.kind not in (TypeKind.ARRAY, TypeKind.DOMAIN):
                return ()
            type_oid = info.element_oid if info.kind is TypeKind.ARRAY else info.base_oid
        return ()

    def codec(self, type_oid: int, type_modifier: int = -1) -> ValueCodec:
        """How to read values of this type; never fails, since unknown types have a form too."""
        cached = self._cache.get((type_oid, type_modifier))
        if cached is None:
            cached = self._resolve(type_oid, type_modifier, 0)
            self._cache[type_oid, type_modifier] = cached
        return cached

    def _resolve(self, type_oid: int, type_modifier: int, depth: int) -> ValueCodec:
        if depth > _MAX_CHAIN:
            return _scalar(f"oid {type_oid}", STYLES["opaque"], None)
        if type_oid in SCALARS:
            return _builtin(type_oid, type_modifier)
        if type_oid in ARRAYS:
            array = ARRAYS[type_oid]
            element = self._resolve(array.element_oid, type_modifier, depth + 1)
            return _array(array.name, array.element_oid, element, array.delimiter)
        info = self._infos.get(type_oid)
        if info is None:
            return _scalar(f"oid {type_oid}", STYLES["opaque"], None)
        match info.kind:
            case TypeKind.DOMAIN:
                return self._resolve(info.base_oid, info.base_type_modifier, depth + 1)
            case TypeKind.ARRAY:
                element = self._resolve(info.element_oid, type_modifier, depth + 1)
                return _array(info.name, info.element_oid, element, info.delimiter)
            case TypeKind.ENUM:
                return _scalar(info.name, STYLES["text"], bytes.decode)
            case TypeKind.RANGE if info.element_oid:
                subtype = self._resolve(info.element_oid, -1, depth + 1)
                return _scalar(info.name, STYLES["opaque"], range_from_binary(subtype.from_binary))
            case TypeKind.BASE:
                style = EXTENSION_STYLES.get(info.name, "opaque")
                # only these names: of a type that somebody else calls int4 nobody here knows the binary form
                reader = BINARY_READERS.get(info.name) if info.name in _EXTENSION_NAMES else None
                codec = _scalar(info.name, STYLES[style], reader)
                return replace(codec, unchanged=_HSTORE_UNCHANGED) if style == "hstore" else codec
            case _:
                return _scalar(info.name, STYLES["opaque"], None)


def _scalar(name: str, style: Style, from_binary: Callable[[bytes], str] | None) -> ValueCodec:
    return ValueCodec(name, style.to_json, style.to_python, from_binary, _PLAIN_UNCHANGED, style.inline)


def _builtin(type_oid: int, type_modifier: int) -> ValueCodec:
    name, style = SCALARS[type_oid]
    codec = _scalar(name, STYLES[style], BINARY_READERS.get(name))
    if type_oid == _BIT_OID and type_modifier == 1:
        return replace(codec, to_json=bit_json, to_python=bit_python)
    if type_oid == _TIMESTAMPTZ_OID and 0 <= type_modifier < 6:
        return replace(codec, to_json=timestamptz_json(type_modifier), precision=type_modifier)
    if type_oid == _TIMESTAMP_OID and 0 <= type_modifier < 6:
        return replace(codec, precision=type_modifier)
    return codec


def _array(name: str, element_oid: int, element: ValueCodec, delimiter: str) -> ValueCodec:
    return ValueCodec(
        name,
        array_json(element.to_json, delimiter),
        array_python(element.to_python, delimiter),
        array_from_binary(element_oid, element.from_binary, delimiter),
        _UNCHANGED_BY_NAME.get(name, _PLAIN_UNCHANGED),
    )
