from __future__ import annotations

from struct import pack, unpack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_pgoutput import (
    DecodeError,
    Lsn,
    PrimaryKeepalive,
    StandbyStatusUpdate,
    XLogData,
    parse_replication_message,
)

LSNS = st.integers(0, 2**64 - 1).map(Lsn)
TIMES = st.integers(-(2**62), 2**62)


@given(LSNS, LSNS, TIMES, st.binary())
def test_wal_data_is_taken_from_its_frame(start: Lsn, end: Lsn, moment: int, payload: bytes) -> None:
    frame = b"w" + pack("!QQq", start, end, moment) + payload
    parsed = parse_replication_message(frame)
    assert parsed == XLogData(start, end, moment + 946_684_800_000_000, payload)


@given(LSNS, TIMES, st.booleans())
def test_a_keepalive_says_whether_a_reply_is_wanted(end: Lsn, moment: int, wanted: bool) -> None:
    frame = b"k" + pack("!QqB", end, moment, wanted)
    assert parse_replication_message(frame) == PrimaryKeepalive(end, moment + 946_684_800_000_000, wanted)


@pytest.mark.parametrize("frame", [b"w" + bytes(24), b"k" + bytes(17)])
def test_a_frame_that_is_cut_is_refused(frame: bytes) -> None:
    parse_replication_message(frame)
    for size in range(len(frame)):
        with pytest.raises(DecodeError):
            parse_replication_message(frame[:size])


def test_a_keepalive_has_no_more_bytes() -> None:
    with pytest.raises(DecodeError, match="follow"):
        parse_replication_message(b"k" + bytes(18))


@pytest.mark.parametrize("frame", [b"", b"x", b"p" + bytes(17), b"r" + bytes(33), b"k" + bytes(16) + b"\2"])
def test_another_frame_is_refused(frame: bytes) -> None:
    with pytest.raises(DecodeError):
        parse_replication_message(frame)


def test_a_status_update_reports_one_position_for_all_three_unless_told_otherwise() -> None:
    assert unpack("!cQQQqB", StandbyStatusUpdate(flush_lsn=Lsn(5)).to_bytes()) == (b"r", 5, 5, 5, 0, 0)


def test_a_status_update_carries_each_field_in_its_place() -> None:
    update = StandbyStatusUpdate(
        write_lsn=Lsn(3),
        flush_lsn=Lsn(2),
        apply_lsn=Lsn(1),
        timestamp_us=946_684_800_000_007,
        reply_requested=True,
    )
    assert unpack("!cQQQqB", update.to_bytes()) == (b"r", 3, 2, 1, 7, 1)


@given(LSNS)
def test_an_lsn_prints_and_parses_as_postgresql_does(lsn: Lsn) -> None:
    assert Lsn.parse(str(lsn)) == lsn
    assert Lsn.parse(str(lsn).lower()) == lsn
    assert f"{lsn}" == str(lsn)
    assert f"{lsn:d}" == str(int(lsn))
    assert eval(repr(lsn)) == lsn


def test_an_lsn_is_a_number_of_bytes() -> None:
    assert str(Lsn.parse("16/B374D848")) == "16/B374D848"
    assert int(Lsn.parse("1/0")) == 2**32
    assert Lsn.parse("1/10") - Lsn.parse("1/0") == 16
    assert Lsn() == 0
    assert hash(Lsn(7)) == hash(7)


@pytest.mark.parametrize(
    "text", ["", "1", "1/", "/1", "1/2/3", "g/1", "100000000/0", " 1/1", "1/1\n", "+1/1", "१/1"]
)
def test_what_is_not_an_lsn_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an LSN"):
        Lsn.parse(text)


@pytest.mark.parametrize("value", [-1, 2**64])
def test_an_lsn_fits_into_64_bits(value: int) -> None:
    with pytest.raises(ValueError, match="between 0"):
        Lsn(value)
