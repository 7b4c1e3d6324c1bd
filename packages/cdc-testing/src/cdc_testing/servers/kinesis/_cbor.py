"""As much of CBOR (RFC 8949) as AWS's x-amz-cbor-1.1 uses: no indefinite maps on the way out, no tag but 1.

Timestamps are tag 1 with *milliseconds* since 1970, where the RFC has seconds: the Java SDK writes and reads
them so (SdkCborGenerator). They become seconds here, as in the JSON protocol.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast, final

_TIMESTAMPS: Final = frozenset(
    ("ApproximateArrivalTimestamp", "ConsumerCreationTimestamp", "StreamCreationTimestamp")
)
_EPOCH_TAG: Final = 1
_BREAK: Final = 0xFF
_INDEFINITE: Final = 31
_MAX_DEPTH: Final = 32


def encode_cbor(value: object) -> bytes:
    """Write JSON-like data and bytes; members that hold a timestamp are known by their names."""
    out = bytearray()
    _write(out, value)
    return bytes(out)


def _write(out: bytearray, value: object) -> None:
    match value:
        case None:
            out.append(0xF6)
        case bool():
            out.append(0xF5 if value else 0xF4)
        case int():
            _write_head(out, 0 if value >= 0 else 1, value if value >= 0 else -1 - value)
        case float():
            out += struct.pack(">Bd", 0xFB, value)
        case bytes():
            _write_head(out, 2, len(value))
            out += value
        case str():
            data = value.encode()
            _write_head(out, 3, len(data))
            out += data
        case Mapping():
            members = cast("Mapping[str, object]", value)
            _write_head(out, 5, len(members))
            for name, member in members.items():
                _write(out, name)
                if name in _TIMESTAMPS and isinstance(member, int | float):
                    _write_head(out, 6, _EPOCH_TAG)
                    member = round(member * 1000)
                _write(out, member)
        case Sequence():
            items = cast("Sequence[object]", value)
            _write_head(out, 4, len(items))
            for item in items:
                _write(out, item)
        case _:
            raise TypeError(f"no CBOR for {type(value).__name__}")


def _write_head(out: bytearray, major: int, number: int) -> None:
    lead = major << 5
    if number < 24:
        out.append(lead | number)
        return
    for code, width in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 1 << (8 * width):
            out.append(lead | code)
            out += number.to_bytes(width, "big")
            return
    raise ValueError(f"too large for CBOR: {number}")


def decode_cbor(data: bytes) -> Any:
    """Read one item.

    Raises:
        ValueError: it is not well-formed, or more than one.
    """
    reader = _Reader(data)
    try:
        value = reader.item(0)
    except IndexError as error:
        raise ValueError("the CBOR data ends early") from error
    except TypeError as error:
        raise ValueError("a key of a CBOR map is not text") from error
    if not reader.at_end():
        raise ValueError("more follows the CBOR item")
    return value


@final
class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def at_end(self) -> bool:
        return self._at == len(self._data)

    def item(self, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise ValueError("the CBOR data nests too deeply")
        lead = self._take(1)[0]
        major, low = lead >> 5, lead & 0x1F
        if major == 7:
            return self._simple(low)
        if low == _INDEFINITE:
            return self._indefinite(major, depth)
        number = low if low < 24 else self._number(low)
        return self._definite(major, number, depth)

    def _definite(self, major: int, number: int, depth: int) -> Any:
        readers: tuple[Callable[[], Any], ...] = (
            lambda: number,
            lambda: -1 - number,
            lambda: self._take(number),
            lambda: self._take(number).decode(),
            lambda: [self.item(depth + 1) for _ in range(number)],
            lambda: {self.item(depth + 1): self.item(depth + 1) for _ in range(number)},
            lambda: self._tagged(number, depth),
        )
        return readers[major]()

    def _indefinite(self, major: int, depth: int) -> Any:
        parts: list[Any] = []
        while self._data[self._at] != _BREAK:
            parts.append(self.item(depth + 1))
        self._at += 1
        match major:
            case 2:
                return b"".join(parts)
            case 3:
                return "".join(parts)
            case 4:
                return parts
            case 5:
                return dict(zip(parts[::2], parts[1::2], strict=True))
            case _:
                raise ValueError(f"CBOR type {major} has no indefinite length")

    def _tagged(self, tag: int, depth: int) -> Any:
        value = self.item(depth + 1)
        return value / 1000 if tag == _EPOCH_TAG and isinstance(value, int | float) else value

    def _simple(self, low: int) -> Any:
        match low:
            case 20 | 21:
                return low == 21
            case 22 | 23:
                return None
            case 25 | 26 | 27:
                width, code = {25: (2, ">e"), 26: (4, ">f"), 27: (8, ">d")}[low]
                return struct.unpack(code, self._take(width))[0]
            case _:
                raise ValueError(f"CBOR simple value {low} is not known")

    def _number(self, low: int) -> int:
        if low > 27:
            raise ValueError(f"CBOR length code {low} is reserved")
        return int.from_bytes(self._take(1 << (low - 24)), "big")

    def _take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        if len(taken) < count:
            raise ValueError("the CBOR data ends early")
        self._at += count
        return taken
