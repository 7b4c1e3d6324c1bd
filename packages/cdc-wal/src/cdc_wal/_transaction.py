"""What the events of one transaction share, and those of one relation within it."""

from __future__ import annotations

import json
from typing import final

from ._relations import RelationState


@final
class RelationInTransaction:
    """What the events of one relation share within one transaction."""

    __slots__ = ("codec", "events", "head", "ignored", "insert", "middle", "table", "tail")

    def __init__(self, state: RelationState, transaction: Transaction, last_end_lsn: int | None) -> None:
        self.codec = state.codec
        self.insert = state.codec.insert
        self.ignored = state.ignored
        self.table = state.table
        self.events = 0
        head, self.middle = state.source_parts(transaction.commit_time_us, transaction.xid, last_end_lsn)
        self.head = f',"source":{head}'
        self.tail = f'{state.source_tail},"transaction":{{"id":"{transaction.id}","total_order":'


@final
class Transaction:
    """The transaction that the stream is in, or was in last."""

    __slots__ = (
        "commit_lsn", "commit_time_us", "committed_at", "events", "id", "open", "ordinal", "origin", "relations", "xid",
    )  # fmt: skip

    def __init__(self) -> None:
        self.relations: dict[int, RelationInTransaction] = {}
        self.begin(0, 0, 0)
        self.open = False

    def begin(self, commit_lsn: int, commit_time_us: int, xid: int) -> None:
        """Enter the next transaction."""
        self.open = True
        self.commit_lsn = commit_lsn
        self.commit_time_us = commit_time_us
        self.committed_at = commit_time_us / 1e6
        self.xid = xid
        # one for the whole transaction; Debezium's differs from event to event
        self.id = f"{xid}:{commit_lsn}"
        self.ordinal = 0
        self.events = 0
        self.relations.clear()  # in place: the loop of `feed` holds the dict
        self.origin = origin_text("null", "null", commit_lsn)

    def set_origin(self, name: str, lsn: int) -> None:
        """Name the node that the transaction came from."""
        self.origin = origin_text(json.dumps(name, ensure_ascii=False), str(int(lsn)), self.commit_lsn)


def origin_text(origin: str, origin_lsn: str, commit_lsn: int) -> str:
    """Return the part of `source` from the origin on, up to the ordinal; origin and its LSN as JSON."""
    return f',"xmin":null,"origin":{origin},"origin_lsn":{origin_lsn},"commit_lsn":{commit_lsn},"ordinal":'
