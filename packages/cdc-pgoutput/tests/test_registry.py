from __future__ import annotations

from typing import Any

import pgoutput_bytes as wire
import pytest
from pgoutput_rows import EXTENSIONS, HSTORE, row_of

from cdc_pgoutput import DecodeError, Decoder, Insert, Relation, TypeInfo, TypeKind, TypeRegistry


def test_unknown_types_are_named_until_they_are_registered() -> None:
    types = TypeRegistry()
    decoder = Decoder(types=types)
    relation = decoder.decode(wire.relation(("a", 50001), ("b", 23), ("c", 50002), ("d", 50001)))
    row = decoder.decode(wire.insert("{x,y}", "1", "7", "{}"))
    assert isinstance(relation, Relation)
    assert isinstance(row, Insert)
    assert decoder.unknown_types(relation) == (50001, 50002)
    assert row.new.to_dict() == {"a": "{x,y}", "b": 1, "c": "7", "d": "{}"}
    assert row.new.to_json() == b'{"a":"e3gseX0=","b":1,"c":"Nw==","d":"e30="}'
    types.register(TypeInfo(oid=50001, name="_mood", kind=TypeKind.ARRAY, element_oid=50003))
    types.register(TypeInfo(oid=50002, name="age", kind=TypeKind.DOMAIN, base_oid=23))
    assert decoder.unknown_types(relation) == (50003,)
    types.register(TypeInfo(oid=50003, name="mood", kind=TypeKind.ENUM))
    assert decoder.unknown_types(relation) == ()
    assert row.new.to_json() == b'{"a":["x","y"],"b":1,"c":7,"d":[]}'
    assert row.new.to_dict() == {"a": ["x", "y"], "b": 1, "c": 7, "d": []}
    decoder.recompile(relation)
    assert row.new.to_json() == b'{"a":["x","y"],"b":1,"c":7,"d":[]}'


def test_a_type_of_another_owner_with_a_known_name_is_not_taken_for_it() -> None:
    types = TypeRegistry([TypeInfo(oid=50001, name="int4")])
    assert row_of(50001, "7", types=types).to_json() == b'{"c0":"Nw=="}'
    with pytest.raises(DecodeError, match="binary form of type int4 is not read"):
        row_of(50001, wire.Binary(b"\0\0\0\7"), types=types).to_json()


def test_a_domain_takes_the_modifier_of_its_base() -> None:
    types = TypeRegistry(
        [
            TypeInfo(oid=50001, name="inner", kind=TypeKind.DOMAIN, base_oid=1184, base_type_modifier=3),
            TypeInfo(oid=50002, name="outer", kind=TypeKind.DOMAIN, base_oid=50001),
            TypeInfo(oid=50003, name="_outer", kind=TypeKind.ARRAY, element_oid=50002),
        ]
    )
    text = "2024-02-29 12:34:56+00"
    assert row_of(50002, text, types=types).to_json() == b'{"c0":"2024-02-29T12:34:56.000Z"}'
    assert row_of(50003, f'{{"{text}"}}', types=types).to_json() == b'{"c0":["2024-02-29T12:34:56.000Z"]}'


def test_types_that_are_made_of_each_other_end_as_unknown_ones() -> None:
    types = TypeRegistry(
        [
            TypeInfo(oid=50001, name="a", kind=TypeKind.DOMAIN, base_oid=50002),
            TypeInfo(oid=50002, name="b", kind=TypeKind.DOMAIN, base_oid=50001),
        ]
    )
    assert types.unknown(50001) == ()
    assert row_of(50001, "x", types=types).to_json() == b'{"c0":"eA=="}'


def test_a_type_that_is_registered_again_replaces_the_old_one() -> None:
    types = TypeRegistry([TypeInfo(oid=50001, name="mood", kind=TypeKind.ENUM)])
    row = row_of(50001, "x", types=types)
    version = types.version
    assert row.to_json() == b'{"c0":"x"}'
    types.register(TypeInfo(oid=50001, name="mood", kind=TypeKind.ENUM))
    assert types.version == version
    types.register(TypeInfo(oid=50001, name="mood", kind=TypeKind.COMPOSITE))
    assert types.version > version
    assert row.to_json() == b'{"c0":"eA=="}'


def test_a_built_in_type_can_not_be_replaced() -> None:
    for oid in (23, 1007):
        with pytest.raises(ValueError, match="built in"):
            TypeRegistry([TypeInfo(oid=oid, name="mine")])


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": TypeKind.ARRAY},
        {"kind": TypeKind.DOMAIN},
        {"delimiter": ""},
        {"delimiter": "ab"},
        {"delimiter": "{"},
    ],
)
def test_a_type_that_can_not_be_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="x"):
        TypeInfo(oid=50001, name="x", **fields)


def test_a_registry_names_types_for_people() -> None:
    types = TypeRegistry(EXTENSIONS)
    assert [types.name(oid) for oid in (23, 1007, HSTORE, 61000)] == ["int4", "int4[]", "hstore", "oid 61000"]
    assert 23 in types
    assert HSTORE in types
    assert 61000 not in types


def test_an_array_with_a_delimiter_of_its_own_is_split_at_that() -> None:
    types = TypeRegistry(
        [
            TypeInfo(oid=50001, name="odd", kind=TypeKind.BASE),
            TypeInfo(oid=50002, name="_odd", kind=TypeKind.ARRAY, element_oid=50001, delimiter="|"),
        ]
    )
    row = row_of(50002, '{a,b|"c|d"}', types=types)
    assert row.values() == (["a,b", "c|d"],)
