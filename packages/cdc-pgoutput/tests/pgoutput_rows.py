"""Rows of one type, decoded."""

from __future__ import annotations

import pgoutput_bytes as wire

from cdc_pgoutput import Decoder, Insert, Row, TypeInfo, TypeRegistry

HSTORE, LTREE, CITEXT, LQUERY = 60001, 60002, 60003, 60004
EXTENSIONS = [
    TypeInfo(oid=HSTORE, name="hstore"),
    TypeInfo(oid=LTREE, name="ltree"),
    TypeInfo(oid=CITEXT, name="citext"),
    TypeInfo(oid=LQUERY, name="lquery"),
]


def row_of(oid: int, *values: wire.Field, modifier: int = -1, types: TypeRegistry | None = None) -> Row:
    decoder = Decoder(types=types or TypeRegistry(EXTENSIONS))
    decoder.decode(wire.relation(*((f"c{index}", oid, modifier) for index in range(len(values)))))
    message = decoder.decode(wire.insert(*values))
    assert isinstance(message, Insert)
    return message.new
