from __future__ import annotations

import re
from typing import Self, final

__all__ = ["Lsn"]

_TEXT = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})", re.ASCII)
_LIMIT = 1 << 64


@final
class Lsn(int):
    """A WAL address: an unsigned 64-bit integer that prints as PostgreSQL's `X/Y`.

    It compares, hashes and subtracts as the integer it is; the difference of two is a number of bytes.
    """

    __slots__ = ()

    def __new__(cls, value: int = 0) -> Self:
        """Raises: ValueError when `value` does not fit into 64 bits."""
        if not 0 <= value < _LIMIT:
            raise ValueError(f"an LSN is between 0 and 2**64 - 1, not {value}")
        return super().__new__(cls, value)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read PostgreSQL's spelling, such as `16/B374D848`.

        Raises: ValueError when `text` is not two hexadecimal numbers of at most eight digits around a slash.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError(f"not an LSN: {text!r}; expected two hexadecimal numbers as in '16/B374D848'")
        return cls(int(match[1], 16) << 32 | int(match[2], 16))

    def __str__(self) -> str:
        return f"{int(self) >> 32:X}/{int(self) & 0xFFFFFFFF:X}"

    def __repr__(self) -> str:
        return f"Lsn.parse({str(self)!r})"

    def __format__(self, spec: str) -> str:
        """Format as text for an empty or a string-like spec, as the integer for a spec that ends in an
        integer type.
        """
        if spec[-1:] in tuple("bcdoxXn"):
            return format(int(self), spec)
        return format(str(self), spec)
