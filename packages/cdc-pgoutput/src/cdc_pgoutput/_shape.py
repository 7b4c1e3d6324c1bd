from __future__ import annotations

from typing import final

from ._errors import DecodeError
from ._messages import Relation
from ._registry import TypeRegistry, ValueCodec
from ._row_codec import RowCodec

__all__ = ["Shape"]


@final
class Shape:
    """A relation together with the code that reads its rows, made again when the type registry has
    changed.
    """

    __slots__ = ("_codec", "_codecs", "_types", "_version", "relation")

    def __init__(self, relation: Relation, types: TypeRegistry) -> None:
        self.relation: Relation = relation
        self._types = types
        self._version = -1
        self._codec: RowCodec | None = None
        self._codecs: tuple[ValueCodec, ...] = ()

    def forget_code(self) -> None:
        """The next row compiles anew."""
        self._version = -1

    def codec(self) -> RowCodec:
        if self._codec is None or self._version != self._types.version:
            self._codec = RowCodec(self.relation, self._types)
            self._codecs = self._codec.value_codecs
            self._version = self._types.version
        return self._codec

    def python_value(self, index: int, payload: bytes, start: int, end: int, *, is_binary: bool) -> object:
        """Read one value.

        Raises: DecodeError when the bytes are not of the column's type.
        """
        self.codec()
        codec = self._codecs[index]
        try:
            if is_binary:
                if codec.from_binary is None:
                    raise ValueError(f"the binary form of type {codec.name} is not read")
                return codec.to_python(codec.from_binary(payload[start:end]))
            return codec.to_python(payload[start:end].decode())
        # whatever a value reader raises on hostile bytes means the same: this is not a value of the type
        except Exception as error:
            raise DecodeError(
                _reason(error),
                offset=start,
                column=self.relation.columns[index].name,
                remedy="ask the server for text (binary 'false')"
                if codec.from_binary is None and is_binary
                else None,
            ) from error


def _reason(error: Exception) -> str:
    return (
        str(error)
        if type(error) is ValueError
        else f"not a value of the column's type ({type(error).__name__})"
    )
