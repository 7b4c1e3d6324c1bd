"""The frames around the messages: what travels in CopyData while a replication connection streams.

https://www.postgresql.org/docs/current/protocol-replication.html (START_REPLICATION)
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import TypeAlias, final

from ._errors import DecodeError
from ._lsn import Lsn
from ._wire import POSTGRES_EPOCH_US, Cursor

__all__ = [
    "PrimaryKeepalive",
    "ReplicationMessage",
    "StandbyStatusUpdate",
    "XLogData",
    "parse_replication_message",
]

_XLOG_HEADER = Struct("!QQq")
_STATUS = Struct("!BQQQqB")


@final
@dataclass(frozen=True, slots=True)
class XLogData:
    """One pgoutput message. `start_lsn` is 0/0 for messages that have no place in the WAL, such as
    Relation.
    """

    start_lsn: Lsn
    end_lsn: Lsn
    send_time_us: int
    payload: bytes


@final
@dataclass(frozen=True, slots=True)
class PrimaryKeepalive:
    """The server lives; `end_lsn` is how far it has read its WAL for us, times are of the Unix epoch."""

    end_lsn: Lsn
    send_time_us: int
    reply_requested: bool


ReplicationMessage: TypeAlias = XLogData | PrimaryKeepalive


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StandbyStatusUpdate:
    """What the client has done: `flush_lsn` is the promise that nothing before it is needed again.

    `write_lsn` and `apply_lsn` default to `flush_lsn`: with `write_lsn` far ahead the server stops sending
    keepalives (measured on 15: none in 3 s, 6 with both equal). `timestamp_us` is of the Unix epoch; this
    package reads no clock, and the server uses it for display only.
    """

    flush_lsn: Lsn
    write_lsn: Lsn | None = None
    apply_lsn: Lsn | None = None
    timestamp_us: int = POSTGRES_EPOCH_US
    reply_requested: bool = False

    def to_bytes(self) -> bytes:
        """Encode for CopyData."""
        write = self.flush_lsn if self.write_lsn is None else self.write_lsn
        apply = self.flush_lsn if self.apply_lsn is None else self.apply_lsn
        moment = self.timestamp_us - POSTGRES_EPOCH_US
        return _STATUS.pack(0x72, write, self.flush_lsn, apply, moment, self.reply_requested)


def parse_replication_message(data: bytes) -> ReplicationMessage:
    """Take one CopyData payload apart.

    Raises: DecodeError when it is neither a whole XLogData nor a primary keepalive.
    """
    tag = data[0] if data else None
    match tag:
        case 0x77:
            if len(data) < 25:
                raise DecodeError(
                    "truncated: the header is 25 bytes", offset=len(data), tag=tag, kind="XLogData"
                )
            start, end, moment = _XLOG_HEADER.unpack_from(data, 1)
            return XLogData(Lsn(start), Lsn(end), moment + POSTGRES_EPOCH_US, data[25:])
        case 0x6B:
            cursor = Cursor(data, tag=tag, kind="PrimaryKeepalive", offset=1)
            keepalive = PrimaryKeepalive(
                cursor.lsn("the WAL end"),
                cursor.time_us("the server time"),
                cursor.flag_byte("the reply request", 1) == 1,
            )
            cursor.finish()
            return keepalive
        case None:
            raise DecodeError("an empty replication frame", offset=0)
        case _:
            raise DecodeError("neither XLogData nor a keepalive", offset=0, tag=tag, kind="replication frame")
