"""What a row costs: the generated encoder, with every type handled, beside a minimal one that takes all
columns for text.

    python benchmarks/row_json.py [--rounds N]

Prints one line per shape: microseconds of CPU per row for both, and their ratio. The two take turns, and the
best round of each counts: on a shared machine the others measure the neighbours.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from json.encoder import encode_basestring
from struct import Struct, pack
from typing import Any

from cdc_pgoutput import Decoder

ROWS = 20_000
TEXT = 25
MIXED = [
    ("id", 20, "123456789"),
    ("count", 23, "42"),
    ("name", 1043, "Some Name"),
    ("email", TEXT, "some@example.com"),
    ("amount", 1700, "1234.56"),
    ("active", 16, "t"),
    ("created", 1184, "2024-02-29 12:34:56.123456+00"),
    ("ratio", 701, "3.14159"),
    ("document", 3802, '{"a": 1, "b": "x"}'),
    ("uid", 2950, "b68a35a7-17ad-35b3-af2a-ae46edb4545a"),
]
SHAPES = {
    "3 columns, text": [("id", TEXT, "42"), ("name", TEXT, "some name"), ("note", TEXT, "hello world")],
    "3 columns, mixed": [MIXED[0], MIXED[2], MIXED[6]],
    "10 columns, text": [(f"c{index}", TEXT, "some text value") for index in range(10)],
    "10 columns, mixed": MIXED,
    "50 columns, mixed": [(f"{name}{index}", oid, text) for index in range(5) for name, oid, text in MIXED],
}


def reference_encoder(names: list[str]) -> Callable[[bytes, int], tuple[str, int]]:
    """The least that encodes a row at all: every column text, nothing checked."""
    lines = ["def row(b, o):", " o += 2"]
    for index in range(len(names)):
        lines += [
            " k = b[o]",
            " if k == 116:",
            f"  o += 5; e = o + U32(b, o - 4)[0]; v{index} = ESC(b[o:e].decode()); o = e",
            f" elif k == 110: v{index} = 'null'; o += 1",
            " else: raise ValueError(k)",
        ]
    inner = ",".join(f"{json.dumps(name)}:{{v{index}}}" for index, name in enumerate(names))
    lines.append(f" return f'{{{{{inner}}}}}', o")
    namespace: dict[str, Any] = {"U32": Struct("!I").unpack_from, "ESC": encode_basestring}
    exec("\n".join(lines), namespace)
    encoder: Callable[[bytes, int], tuple[str, int]] = namespace["row"]
    return encoder


def messages(columns: list[tuple[str, int, str]]) -> tuple[bytes, bytes]:
    relation = b"R" + pack("!I", 1) + b"public\0t\0d" + pack("!H", len(columns))
    insert = b"I" + pack("!I", 1) + b"N" + pack("!H", len(columns))
    for name, oid, text in columns:
        relation += b"\0" + name.encode() + b"\0" + pack("!Ii", oid, -1)
        insert += b"t" + pack("!I", len(text)) + text.encode()
    return relation, insert


def cost(encode: Callable[[bytes, int], object], payload: bytes) -> float:
    started = time.process_time()
    for _ in range(ROWS):
        encode(payload, 6)
    return (time.process_time() - started) / ROWS * 1e6


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    for name, columns in SHAPES.items():
        relation, insert = messages(columns)
        decoder = Decoder()
        decoder.decode(relation)
        ours = decoder.codec(1).row_json
        reference = reference_encoder([column for column, _, _ in columns])
        pairs = [(cost(ours, insert), cost(reference, insert)) for _ in range(rounds)]
        best, best_reference = min(one for one, _ in pairs), min(other for _, other in pairs)
        figures = f"{best:6.2f} us   reference {best_reference:6.2f} us   ratio {best / best_reference:.2f}"
        print(f"{name:20} {figures}")  # noqa: T201


if __name__ == "__main__":
    main()
