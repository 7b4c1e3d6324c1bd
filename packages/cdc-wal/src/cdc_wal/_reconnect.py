"""When to try again, and when an error is final (rule 11). No I/O."""

from __future__ import annotations

from typing import final

from cdc_core import AccessError, Backoff, CdcError, PublishError, RetryPolicy

from ._config import WalConfig
from ._errors import SlotInUse

_ACCESS_TRIES = 3
# Once it has worked: a rotated password may reach the provider seconds after the server. 6 to 13 s with this backoff.
_ACCESS_TRIES_ONCE_CONNECTED = 8
_BACKOFF = RetryPolicy(initial_delay_seconds=0.1, max_delay_seconds=10.0)
# A slot whose owner died or was cut off is freed within the owner's wal_sender_timeout; this much is added for it.
_GRACE_SECONDS = 5.0
_STANDBY_POLL_SECONDS = 0.5
_HEALTHY_AFTER_SECONDS = 10.0


@final
class Reconnects:
    """Decides about each failed connection of one reader."""

    def __init__(self, config: WalConfig) -> None:
        self._config = config
        self._backoff = Backoff(_BACKOFF)
        self._access_failures = 0
        self._was_connected = False
        self._busy_since: float | None = None

    def connected(self) -> None:
        """The slot is ours."""
        self._was_connected = True
        self._busy_since = None

    def ended(self, *, seconds: float, is_progress: bool) -> None:
        """A connection is over; delays start over if it did some good.

        Connecting alone is no health: what fails at the same place of the log each time would be tried ten times a
        second, for ever.

        - `seconds`: for how long it held; `is_progress`: whether a transaction was confirmed over it.
        """
        if is_progress or seconds >= _HEALTHY_AFTER_SECONDS:
            self._backoff.reset()
            self._access_failures = 0

    def delay_seconds(self, error: CdcError, *, now: float) -> float:
        """Return how long to wait before the next try.

        - `now`: monotonic, in seconds.

        Raises:
            CdcError: `error` itself, where trying again is of no use.
        """
        if isinstance(error, SlotInUse):
            return self._slot_delay_seconds(error, now=now)
        self._busy_since = None
        if isinstance(error, AccessError) and not error.retryable:
            self._access_failures += 1
            tries = _ACCESS_TRIES_ONCE_CONNECTED if self._was_connected else _ACCESS_TRIES
            if self._access_failures >= tries:
                raise error
        elif not error.retryable and not isinstance(error, PublishError):
            # (an error of the publisher is the end of that publisher only: a new one begins at the confirmed LSN)
            raise error
        return self._backoff.next_delay_seconds()

    def _slot_delay_seconds(self, error: SlotInUse, *, now: float) -> float:
        if self._busy_since is None:
            self._busy_since = now
        waited = now - self._busy_since
        if (
            not self._config.wait_for_slot
            and waited > self._config.wal_sender_timeout_seconds + _GRACE_SECONDS
        ):
            raise error
        return _STANDBY_POLL_SECONDS
