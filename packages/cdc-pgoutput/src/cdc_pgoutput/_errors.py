"""Errors of this package. It has a root of its own because it depends on nothing, not even on cdc-core."""

from __future__ import annotations

from typing import final

__all__ = ["DecodeError", "PgOutputError"]


class PgOutputError(Exception):
    """Root of every error that cdc_pgoutput raises on purpose; `remedy` says what to do, when there is
    something.
    """

    remedy: str | None = None


@final
class DecodeError(PgOutputError):
    """The bytes are not a valid message, frame or value in the decoder's present state.

    `offset` is the byte within the payload at which decoding gave up, `tag` the message's type byte (None
    when the payload is empty or is not a message), `kind` the message's name in the protocol documentation,
    `column` the column whose value was bad, where it was a value.

    Decoding raises this and nothing else for bytes of any kind; another exception is a bug of ours: please
    report it.
    """

    def __init__(
        self,
        reason: str,
        *,
        offset: int,
        tag: int | None = None,
        kind: str | None = None,
        column: str | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.offset = offset
        self.tag = tag
        self.kind = kind
        self.column = column
        self.remedy = remedy

    def within(self, tag: int | None, kind: str | None) -> DecodeError:
        """The same error, of a message whose tag and kind were not known where it was found."""
        return DecodeError(
            self.reason, offset=self.offset, tag=tag, kind=kind, column=self.column, remedy=self.remedy
        )

    def __str__(self) -> str:
        where = f"{self.kind or 'message'} at byte {self.offset}"
        if self.tag is not None:
            where += f" (tag {bytes([self.tag])!r})"
        if self.column is not None:
            where += f", column {self.column!r}"
        text = f"{where}: {self.reason}"
        return f"{text}. {self.remedy}" if self.remedy else text

    def __reduce__(self) -> tuple[object, ...]:
        fields = {
            "offset": self.offset,
            "tag": self.tag,
            "kind": self.kind,
            "column": self.column,
            "remedy": self.remedy,
        }
        return _rebuild, (self.reason, fields)


def _rebuild(reason: str, fields: dict[str, object]) -> DecodeError:
    return DecodeError(reason, **fields)  # type: ignore[arg-type]
