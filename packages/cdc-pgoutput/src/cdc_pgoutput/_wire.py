"""Fixed-size integers of the protocol and a cursor that never reads past its payload.

https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
"""

from __future__ import annotations

import struct
from struct import Struct
from typing import final

from ._errors import DecodeError
from ._lsn import Lsn

__all__ = ["POSTGRES_EPOCH_US", "U16", "U32", "Cursor"]

U16 = Struct("!H")
U32 = Struct("!I")
_I32 = Struct("!i")
_I64 = Struct("!q")
_U64 = Struct("!Q")

# PostgreSQL counts microseconds from 2000-01-01 00:00 UTC; this is that moment in Unix time.
POSTGRES_EPOCH_US = 946_684_800_000_000


@final
class Cursor:
    """Reads one payload from front to back; every failure is a DecodeError with the place and the message's
    kind.
    """

    __slots__ = ("kind", "offset", "payload", "tag")

    def __init__(self, payload: bytes, *, tag: int | None, kind: str | None, offset: int = 0) -> None:
        self.payload = payload
        self.tag = tag
        self.kind = kind
        self.offset = offset

    def error(self, reason: str, *, offset: int | None = None, remedy: str | None = None) -> DecodeError:
        place = self.offset if offset is None else offset
        return DecodeError(reason, offset=place, tag=self.tag, kind=self.kind, remedy=remedy)

    def _number(self, layout: Struct, what: str) -> int:
        try:
            (value,) = layout.unpack_from(self.payload, self.offset)
        except struct.error:
            raise self.error(f"truncated: {what} needs {layout.size} bytes") from None
        self.offset += layout.size
        return int(value)

    def u8(self, what: str) -> int:
        if self.offset >= len(self.payload):
            raise self.error(f"truncated: {what} needs 1 byte")
        self.offset += 1
        return self.payload[self.offset - 1]

    def u16(self, what: str) -> int:
        return self._number(U16, what)

    def u32(self, what: str) -> int:
        return self._number(U32, what)

    def i32(self, what: str) -> int:
        return self._number(_I32, what)

    def lsn(self, what: str) -> Lsn:
        return Lsn(self._number(_U64, what))

    def time_us(self, what: str) -> int:
        """A server time as microseconds of the Unix epoch."""
        return self._number(_I64, what) + POSTGRES_EPOCH_US

    def text(self, what: str) -> str:
        """A string that ends in a zero byte."""
        end = self.payload.find(0, self.offset)
        if end < 0:
            raise self.error(f"truncated: {what} has no terminating zero byte")
        try:
            value = self.payload[self.offset : end].decode()
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is not UTF-8", offset=self.offset + error.start) from error
        self.offset = end + 1
        return value

    def take(self, length: int, what: str) -> bytes:
        end = self.offset + length
        if end > len(self.payload):
            raise self.error(f"truncated: {what} needs {length} bytes")
        value = self.payload[self.offset : end]
        self.offset = end
        return value

    def flag_byte(self, what: str, allowed: int) -> int:
        """A byte of option bits of which only those in `allowed` may be set."""
        flags = self.u8(what)
        if flags & ~allowed:
            raise self.error(f"{what} has unknown bits: {flags:#04x}", offset=self.offset - 1)
        return flags

    def finish(self) -> None:
        rest = len(self.payload) - self.offset
        if rest:
            raise self.error(f"{rest} bytes follow the end of the message")
