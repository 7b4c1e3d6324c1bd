"""Readers of the messages about transactions: their content depends on nothing that came before."""

from __future__ import annotations

from ._messages import (
    Begin,
    BeginPrepare,
    Commit,
    CommitPrepared,
    Origin,
    Prepare,
    RollbackPrepared,
    StreamCommit,
    StreamPrepare,
)
from ._wire import Cursor

__all__ = [
    "read_begin",
    "read_begin_prepare",
    "read_commit",
    "read_commit_prepared",
    "read_origin",
    "read_prepare",
    "read_rollback_prepared",
    "read_stream_commit",
    "read_stream_prepare",
]


def read_begin(c: Cursor) -> Begin:
    message = Begin(
        commit_lsn=c.lsn("the commit LSN"), commit_time_us=c.time_us("the commit time"), xid=c.u32("the xid")
    )
    c.finish()
    return message


def read_commit(c: Cursor) -> Commit:
    message = Commit(
        flags=c.flag_byte("the flags", 0),
        commit_lsn=c.lsn("the commit LSN"),
        end_lsn=c.lsn("the end LSN"),
        commit_time_us=c.time_us("the commit time"),
    )
    c.finish()
    return message


def read_origin(c: Cursor) -> Origin:
    message = Origin(commit_lsn=c.lsn("the origin's commit LSN"), name=c.text("the origin's name"))
    c.finish()
    return message


def read_stream_commit(c: Cursor) -> StreamCommit:
    message = StreamCommit(
        xid=c.u32("the xid"),
        flags=c.flag_byte("the flags", 0),
        commit_lsn=c.lsn("the commit LSN"),
        end_lsn=c.lsn("the end LSN"),
        commit_time_us=c.time_us("the commit time"),
    )
    c.finish()
    return message


def read_begin_prepare(c: Cursor) -> BeginPrepare:
    message = BeginPrepare(
        prepare_lsn=c.lsn("the prepare LSN"),
        end_lsn=c.lsn("the end LSN"),
        prepare_time_us=c.time_us("the prepare time"),
        xid=c.u32("the xid"),
        gid=c.text("the transaction's name"),
    )
    c.finish()
    return message


def read_prepare(c: Cursor) -> Prepare:
    message = Prepare(
        flags=c.flag_byte("the flags", 0),
        prepare_lsn=c.lsn("the prepare LSN"),
        end_lsn=c.lsn("the end LSN"),
        prepare_time_us=c.time_us("the prepare time"),
        xid=c.u32("the xid"),
        gid=c.text("the transaction's name"),
    )
    c.finish()
    return message


def read_commit_prepared(c: Cursor) -> CommitPrepared:
    message = CommitPrepared(
        flags=c.flag_byte("the flags", 0),
        commit_lsn=c.lsn("the commit LSN"),
        end_lsn=c.lsn("the end LSN"),
        commit_time_us=c.time_us("the commit time"),
        xid=c.u32("the xid"),
        gid=c.text("the transaction's name"),
    )
    c.finish()
    return message


def read_rollback_prepared(c: Cursor) -> RollbackPrepared:
    message = RollbackPrepared(
        flags=c.flag_byte("the flags", 0),
        prepare_end_lsn=c.lsn("the prepare's end LSN"),
        rollback_end_lsn=c.lsn("the rollback's end LSN"),
        prepare_time_us=c.time_us("the prepare time"),
        rollback_time_us=c.time_us("the rollback time"),
        xid=c.u32("the xid"),
        gid=c.text("the transaction's name"),
    )
    c.finish()
    return message


def read_stream_prepare(c: Cursor) -> StreamPrepare:
    message = StreamPrepare(
        flags=c.flag_byte("the flags", 0),
        prepare_lsn=c.lsn("the prepare LSN"),
        end_lsn=c.lsn("the end LSN"),
        prepare_time_us=c.time_us("the prepare time"),
        xid=c.u32("the xid"),
        gid=c.text("the transaction's name"),
    )
    c.finish()
    return message
