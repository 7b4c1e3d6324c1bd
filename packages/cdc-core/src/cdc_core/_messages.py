"""Logical messages (`pg_logical_emit_message`) as Python objects: an outbox without a table."""

from __future__ import annotations

import binascii
from datetime import datetime
from typing import Any, Generic, TypeVar, cast, final

import msgspec

from ._envelope import SourceInfo, TransactionInfo, decode_json, moment
from ._errors import ConfigError, EnvelopeError
from ._events import Event, Operation
from ._position import Identity

T = TypeVar("T")
C = TypeVar("C", covariant=True)


@final
class LogicalMessage(msgspec.Struct, Generic[C], frozen=True, kw_only=True):
    """A logical message, decoded.

    - `prefix`: what it was emitted under; `content`: what it says, as the type of its `MessagePrefix`.
    - `source`, `transaction`: where it comes from; a non-transactional message has no transaction.
    - `ts_us`: when the envelope was written, in microseconds since 1970.
    - `event`: the delivery that it was decoded from.
    """

    prefix: str
    content: C
    source: SourceInfo
    event: Event
    transaction: TransactionInfo | None = None
    ts_us: int | None = None

    @property
    def transactional(self) -> bool:
        """Whether it is part of a database transaction: its source names one (Debezium's do as well, measured)."""
        return self.transaction is not None or self.source.xid is not None

    @property
    def identity(self) -> Identity | None:
        """The message's identity, the same on every repeat; None where nothing sure can be said."""
        return self.event.identity

    @property
    def ts(self) -> datetime | None:
        """When the envelope was written, aware, UTC; None where it is not given.

        Raises:
            EnvelopeError: Python's datetime cannot hold it.
        """
        return moment(self.ts_us, None)


class _Message(msgspec.Struct, frozen=True, kw_only=True):
    prefix: str
    content: str = ""


class _Envelope(msgspec.Struct, frozen=True, kw_only=True):
    op: Operation
    source: SourceInfo
    message: _Message
    transaction: TransactionInfo | None = None
    ts_ms: int | None = None
    ts_us: int | None = None


class _Prefix(msgspec.Struct, frozen=True, kw_only=True):
    prefix: str


class _Routing(msgspec.Struct, frozen=True, kw_only=True):
    message: _Prefix


_ENVELOPE = msgspec.json.Decoder(_Envelope)
_ROUTING = msgspec.json.Decoder(_Routing)


def decode_prefix(event: Event) -> str:
    """Return the prefix of a logical message, without decoding its content.

    Raises:
        EnvelopeError: the bytes are not the envelope they should be.
    """
    return decode_json(_ROUTING, event.value or b"", "envelope", event).message.prefix


@final
class ContentReader(Generic[T]):
    """Reads the content of messages: `bytes` as it is, `str` as UTF-8, any other type as JSON with msgspec.

    Raises:
        ConfigError: msgspec cannot decode to this type.
    """

    def __init__(self, content_type: type[T]) -> None:
        self._type = content_type
        if content_type not in (bytes, str):
            try:
                self._decoder = msgspec.json.Decoder(content_type)
            except (TypeError, NameError) as error:
                raise ConfigError(f"a message's content cannot be read as {content_type}: {error}") from error

    def read(self, event: Event) -> LogicalMessage[T]:
        """Decode a message whose prefix is the right one.

        Raises:
            EnvelopeError: the bytes are malformed, or the content does not fit.
        """
        envelope = decode_json(_ENVELOPE, event.value or b"", "envelope", event)
        try:
            content = binascii.a2b_base64(envelope.message.content, strict_mode=True)
        except ValueError as error:
            raise EnvelopeError(
                "the message's content is not base64", where={"position": event.position}
            ) from error
        ts_us = envelope.ts_us
        if ts_us is None and envelope.ts_ms is not None:
            ts_us = envelope.ts_ms * 1000
        return LogicalMessage(
            prefix=envelope.message.prefix,
            content=self._content(content, envelope.message.prefix),
            source=envelope.source,
            event=event,
            transaction=envelope.transaction,
            ts_us=ts_us,
        )

    def _content(self, content: bytes, prefix: str) -> T:
        try:
            if self._type is bytes:
                return cast("T", content)
            if self._type is str:
                return cast("T", content.decode())
            return self._decoder.decode(content)
        # not chained: msgspec's text may hold a value (of an enum), and the value is the user's
        except msgspec.ValidationError as error:
            path = str(error).rpartition(" - at ")[2] if " - at " in str(error) else "its top"
            reason = f"it does not fit at {path}"
        except (msgspec.DecodeError, ValueError, RecursionError):
            reason = "it is not JSON" if self._type is not str else "it is not UTF-8"
        except Exception as error:
            kind: Any = self._type
            raise EnvelopeError(
                f"{getattr(kind, '__qualname__', kind)} refused the message with {type(error).__name__}",
                where={"prefix": prefix},
            ) from error
        raise EnvelopeError(
            f"the message's content is not what {self._type} should be: {reason}", where={"prefix": prefix}
        )
