"""Messages of application/vnd.amazon.eventstream: prelude, headers, payload, and a CRC-32 after each half."""

import struct
import zlib
from collections.abc import Mapping
from typing import Final

CONTENT_TYPE: Final = "application/vnd.amazon.eventstream"
_STRING: Final = 7


def encode_message(headers: Mapping[str, str], payload: bytes) -> bytes:
    """Write one message."""
    head = b"".join(
        struct.pack(">B", len(name))
        + name.encode()
        + struct.pack(">BH", _STRING, len(value))
        + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack(">II", 12 + len(head) + len(payload) + 4, len(head))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + head + payload
    return message + struct.pack(">I", zlib.crc32(message))


def encode_event(kind: str, content_type: str, payload: bytes) -> bytes:
    """Write one event."""
    headers = {":message-type": "event", ":event-type": kind, ":content-type": content_type}
    return encode_message(headers, payload)


def encode_exception(code: str, content_type: str, payload: bytes) -> bytes:
    """Write what ends a stream early."""
    headers = {":message-type": "exception", ":exception-type": code, ":content-type": content_type}
    return encode_message(headers, payload)
