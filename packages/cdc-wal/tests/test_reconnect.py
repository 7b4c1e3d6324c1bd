"""When a failed connection is tried again, and when its error is final (rule 11). No server, no clock."""

from __future__ import annotations

import pytest

from cdc_core import AccessError, CdcError
from cdc_wal import ConnectionLost, SlotInUse, SlotMissing, WalConfig
from cdc_wal._reconnect import Reconnects

CONFIG = WalConfig(dsn="host=db", slot_name="shop", publication_name="shop", wal_sender_timeout_seconds=5.0)


def fail(reconnects: Reconnects, error: CdcError, *, at_most: int) -> list[float]:
    """Fail again and again, and return the delays before the error was final."""
    delays: list[float] = []
    for _ in range(at_most):
        try:
            delays.append(reconnects.delay_seconds(error, now=sum(delays)))
        except type(error):
            break
    return delays


def test_a_refused_login_is_final_after_three_tries_where_it_never_worked() -> None:
    assert len(fail(Reconnects(CONFIG), AccessError("no"), at_most=20)) == 2


def test_a_login_that_worked_has_seconds_to_recover() -> None:
    reconnects = Reconnects(CONFIG)
    reconnects.connected()
    delays = fail(reconnects, AccessError("no"), at_most=20)
    assert len(delays) == 7
    assert 6 < sum(delays) < 13


def test_what_fails_at_the_same_place_each_time_is_tried_less_and_less_often() -> None:
    reconnects = Reconnects(CONFIG)
    delays: list[float] = []
    for _ in range(10):
        reconnects.connected()
        reconnects.ended(seconds=0.2, is_progress=False)
        delays.append(reconnects.delay_seconds(ConnectionLost("again"), now=0.0))
    assert delays[0] <= 0.1
    assert delays[-1] >= 5.0


@pytest.mark.parametrize(("seconds", "is_progress"), [(0.2, True), (60.0, False)])
def test_a_connection_that_did_some_good_starts_the_delays_over(seconds: float, is_progress: bool) -> None:
    reconnects = Reconnects(CONFIG)
    fail(reconnects, ConnectionLost("again"), at_most=10)
    reconnects.connected()
    reconnects.ended(seconds=seconds, is_progress=is_progress)
    assert reconnects.delay_seconds(ConnectionLost("again"), now=0.0) <= 0.1


def test_a_slot_in_use_is_waited_for_as_long_as_a_dead_owner_may_hold_it() -> None:
    delays = fail(Reconnects(CONFIG), SlotInUse("busy"), at_most=1000)
    assert 10.0 <= sum(delays) <= 11.0


def test_a_missing_slot_is_final_at_once() -> None:
    assert fail(Reconnects(CONFIG), SlotMissing("gone"), at_most=20) == []
