from __future__ import annotations

import json
from typing import Any

import pgoutput_captures as captures
import pytest
from pgoutput_cases import ALL

from cdc_pgoutput import DecodeError, Insert, Row

VALUES: list[tuple[int, int, str | None]] = [
    (major, row["case"], row["text"]) for major in captures.MAJORS for row in captures.printed(major)
]
IDS = [f"{major}-{ALL[index].name}" for major, index, _ in VALUES]

# their binary form is not read: it must be refused, never guessed
TEXT_ONLY = {
    *("box", "circle", "line", "lseg", "path", "polygon", "tsquery", "tsvector", "int4multirange", "pair"),
    *("pg_snapshot", "txid_snapshot", "regclass", "regproc", "pair[]", "box[]", "tsvector[]"),
}


def inserts(name: str) -> list[Insert]:
    decoder = captures.decoder(name)
    messages = [decoder.decode(payload) for payload in captures.payloads(name)]
    return [message for message in messages if isinstance(message, Insert)]


@pytest.fixture(scope="module")
def text_rows() -> dict[tuple[int, int], Insert]:
    return {
        (major, row["case"]): message
        for major in captures.MAJORS
        for row, message in zip(captures.printed(major), inserts(f"values-{major}"), strict=True)
    }


@pytest.fixture(scope="module")
def binary_rows() -> dict[tuple[int, int], Insert]:
    return {
        (major, row["case"]): message
        for major in captures.MAJORS
        for row, message in zip(captures.printed(major), inserts(f"values-binary-{major}"), strict=True)
    }


def payload_of(row: Row) -> bytes:
    return row._payload  # pyright: ignore[reportPrivateUsage]


def exactly(value: Any) -> str:
    """Tells -0.0 from 0 and 1 from 1.0, which `==` does not."""
    return json.dumps(value, sort_keys=True)


@pytest.mark.parametrize(("major", "index", "text"), VALUES, ids=IDS)
def test_a_value_is_encoded_as_the_type_table_says(
    major: int, index: int, text: str | None, text_rows: dict[tuple[int, int], Insert]
) -> None:
    value = json.loads(text_rows[major, index].new.to_json())["v"]
    assert exactly(value) == exactly(ALL[index].json)


@pytest.mark.parametrize(("major", "index", "text"), VALUES, ids=IDS)
def test_a_value_arrives_as_the_text_that_postgresql_prints(
    major: int, index: int, text: str | None, text_rows: dict[tuple[int, int], Insert]
) -> None:
    row = text_rows[major, index].new
    raw = payload_of(row)[8:]
    assert raw == (b"n" if text is None else b"t" + len(text.encode()).to_bytes(4) + text.encode())


@pytest.mark.parametrize(("major", "index", "text"), VALUES, ids=IDS)
def test_the_binary_form_gives_the_same_json_and_python_value_or_is_refused(
    major: int,
    index: int,
    text: str | None,
    text_rows: dict[tuple[int, int], Insert],
    binary_rows: dict[tuple[int, int], Insert],
) -> None:
    row = binary_rows[major, index].new
    if ALL[index].type in TEXT_ONLY and payload_of(row)[8:9] == b"b":
        with pytest.raises(DecodeError, match="is not read") as caught:
            row.to_json()
        assert caught.value.remedy
        with pytest.raises(DecodeError, match="binary form"):
            row.values()
        return
    expected = text_rows[major, index].new
    assert exactly(json.loads(row.to_json())) == exactly(json.loads(expected.to_json()))
    assert repr(row.values()) == repr(expected.values())


def test_every_case_of_the_table_was_recorded_on_some_server() -> None:
    recorded = {index for _, index, _ in VALUES}
    missing = [case.name for index, case in enumerate(ALL) if index not in recorded]
    assert missing == []
