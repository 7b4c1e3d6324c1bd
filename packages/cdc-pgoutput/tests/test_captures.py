from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pgoutput_captures as captures
import pytest

from cdc_pgoutput import (
    UNAVAILABLE,
    AnyMessage,
    Delete,
    Insert,
    Message,
    Origin,
    PrimaryKeepalive,
    Relation,
    StreamAbort,
    StreamStart,
    Truncate,
    Update,
    parse_replication_message,
)

CHANGES = [name for name in captures.NAMES if name.startswith("changes")]
FIRST = [name for name in CHANGES if name.startswith("changes-1")]


def decoded(name: str) -> list[AnyMessage]:
    decoder = captures.decoder(name)
    return [decoder.decode(payload) for payload in captures.payloads(name)]


def after(message: Update | Insert) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(message.new.to_json())
    return document


@pytest.mark.parametrize("name", captures.NAMES)
def test_every_frame_of_a_recorded_session_is_read(name: str) -> None:
    frames = captures.frames(name)
    assert isinstance(parse_replication_message(frames[-1]), PrimaryKeepalive)
    assert len(decoded(name)) == len(frames) - 1


def test_the_recorded_sessions_hold_every_kind_of_message() -> None:
    kinds = {type(message).__name__ for name in CHANGES for message in decoded(name)}
    missing = {
        *(
            "Begin",
            "Commit",
            "Origin",
            "Relation",
            "Type",
            "Insert",
            "Update",
            "Delete",
            "Truncate",
            "Message",
        ),
        *("StreamStart", "StreamStop", "StreamCommit", "StreamAbort"),
        *("BeginPrepare", "Prepare", "CommitPrepared", "RollbackPrepared", "StreamPrepare"),
    } - kinds
    assert missing == set()


@pytest.mark.parametrize("name", FIRST)
def test_a_plain_session_tells_what_happened_to_the_rows(name: str) -> None:
    messages = decoded(name)
    updates = [message for message in messages if isinstance(message, Update)]
    plain = [message for message in updates if message.relation.name == "plain"]
    assert [message.old is not None for message in plain] == [False, True, False]
    assert plain[1].old is not None
    assert plain[1].old.to_dict() == {"id": 1, "body": None, "made": None}
    assert after(plain[2])["body"] == UNAVAILABLE
    whole = next(message for message in updates if message.relation.name == "whole")
    assert whole.old is not None
    assert after(whole) == {"id": 1, "body": "y" * 9000, "amount": "2"}
    assert json.loads(whole.old.to_json())["amount"] == "1.50"
    coded = [message for message in updates if message.relation.name == "coded"]
    assert [message.old is not None and message.old.is_key_only for message in coded] == [False, True]
    deletes = [message for message in messages if isinstance(message, Delete)]
    assert [message.old.is_key_only for message in deletes] == [True, False, False, True]
    assert any(isinstance(message, Origin) and message.name == "elsewhere" for message in messages)


@pytest.mark.parametrize("name", FIRST)
def test_a_plain_session_has_its_messages_truncates_and_new_columns(name: str) -> None:
    messages = decoded(name)
    texts = [(message.prefix, message.transactional) for message in messages if isinstance(message, Message)]
    assert texts == [("prefix", True), ("alone", False)]
    truncate = next(message for message in messages if isinstance(message, Truncate))
    assert {relation.name for relation in truncate.relations} == {"plain", "whole"}
    assert (truncate.cascade, truncate.restart_identity) == (True, True)
    shapes = [message for message in messages if isinstance(message, Relation) and message.name == "plain"]
    assert [column.name for column in shapes[-1].columns] == ["id", "body", "made", "extra"]
    odd = next(
        message for message in messages if isinstance(message, Insert) and "Odd" in message.relation.name
    )
    assert after(odd) == {'a {x} "q"\\n': 1, "é": "a"}


@pytest.mark.parametrize("name", [name for name in CHANGES if name not in FIRST])
def test_a_streamed_session_names_aborted_subtransactions(name: str) -> None:
    messages = decoded(name)
    started = {message.xid for message in messages if isinstance(message, StreamStart)}
    aborts = [message for message in messages if isinstance(message, StreamAbort)]
    assert {message.xid for message in aborts} <= started
    assert Counter(message.xid == message.sub_xid for message in aborts)[False] >= 1
    is_parallel = name.startswith("changes-4")
    assert all((message.abort_lsn is not None) is is_parallel for message in aborts)
    rows = [message for message in messages if isinstance(message, Insert) and message.xid is not None]
    assert len({message.xid for message in rows}) > len(started)
