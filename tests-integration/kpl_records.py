"""Aggregated records as the Kinesis Producer Library writes them, by an encoder that is not ours."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

MAGIC = b"\xf3\x89\x9a\xc2"


def aggregate(rows: Sequence[tuple[str, bytes]], *, hash_key: int) -> bytes:
    """Return one record of rows (partition key, data), all of the same explicit hash key."""
    message = b"".join(_member(1, key.encode()) for key, _ in rows)
    message += _member(2, str(hash_key).encode())
    for number, (_, data) in enumerate(rows):
        message += _member(3, b"\x08" + _varint(number) + b"\x10\x00" + _member(3, data))
    return MAGIC + message + hashlib.md5(message, usedforsecurity=False).digest()


def _member(field: int, content: bytes) -> bytes:
    return bytes([field << 3 | 2]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])
