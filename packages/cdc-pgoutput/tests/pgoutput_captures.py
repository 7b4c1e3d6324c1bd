"""The recorded streams beside this file, and the catalog that belongs to them."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from cdc_pgoutput import (
    Decoder,
    TypeInfo,
    TypeKind,
    TypeRegistry,
    XLogData,
    parse_replication_message,
)

_FOLDER = Path(__file__).parent / "captures"
NAMES = sorted(path.name.removesuffix(".capture.gz") for path in _FOLDER.glob("*.capture.gz"))
MAJORS = (15, 18)


def frames(name: str) -> list[bytes]:
    content = gzip.decompress((_FOLDER / f"{name}.capture.gz").read_bytes())
    found: list[bytes] = []
    position = 0
    while position < len(content):
        size = int.from_bytes(content[position : position + 4])
        found.append(content[position + 4 : position + 4 + size])
        position += 4 + size
    return found


def payloads(name: str) -> list[bytes]:
    """The pgoutput messages of a capture, without their frames."""
    parsed = [parse_replication_message(frame) for frame in frames(name)]
    return [one.payload for one in parsed if isinstance(one, XLogData)]


def printed(major: int) -> list[dict[str, Any]]:
    """What SELECT printed: dicts of `case` (an index into the type table) and `text`."""
    return list(_document(major)["values"])


def registry(major: int) -> TypeRegistry:
    rows: list[dict[str, Any]] = _document(major)["types"]
    return TypeRegistry(replace(TypeInfo(**row), kind=TypeKind(row["kind"])) for row in rows)


def decoder(name: str) -> Decoder:
    version = int(name.split("-")[1]) if name.startswith("changes") else 1
    return Decoder(version, registry(int(name.rsplit("-", 1)[1])))


def _document(major: int) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(gzip.decompress((_FOLDER / f"values-{major}.json.gz").read_bytes()))
    return document
