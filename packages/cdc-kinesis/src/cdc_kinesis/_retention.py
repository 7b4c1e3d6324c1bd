"""Whether records that were not read may be gone: told from what was read when, never passed over in silence."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import final

from cdc_core import SourceError

from ._config import KinesisConfig


class ShardGap(SourceError):
    """Records of a shard are gone, or may be, that were never read: the stream kept them no longer.

    - `stream_name`, `shard_id`.
    - `from_sequence_number`: the last record that was read; what follows it is missing.
    - `to_sequence_number`: the first record that is there again; None where none is.

    The source ends; what goes on is the operator's choice: first bring the sink back into line (a snapshot), then set
    the lease's checkpoint to TRIM_HORIZON, which reads on with what is left.
    """

    def __init__(
        self, config: KinesisConfig, shard_id: str, from_sequence_number: str | None, to: str | None
    ) -> None:
        super().__init__(
            "records behind the checkpoint were trimmed before they were read, or may have been",
            where={
                "stream": config.stream_name,
                "shard": shard_id,
                "from": from_sequence_number,
                "to": to or "the end",
            },
            remedy=(
                "take a snapshot of what may be missing, and read on with what is left: in the table "
                f"{config.lease_table} set checkpoint to TRIM_HORIZON and checkpointSubSequenceNumber to 0 "
                f"where leaseKey is {shard_id}; a longer retention gives more time"
            ),
        )
        self.stream_name = config.stream_name
        self.shard_id = shard_id
        self.from_sequence_number = from_sequence_number
        self.to_sequence_number = to


@final
class Retention:
    """Knows until when everything of a shard was read, and so whether the stream may have dropped something unread.

    A record that the service has trimmed proves nothing: a quiet shard's last record is trimmed some day, read or
    not. What proves that nothing is missing: that everything was read up to a moment (the reader stood at the tip, or
    at a record of that age) that is within the retention.

    - `retention_seconds`: of the stream.
    - `read_until`: such a moment that an earlier owner has written down, in seconds since 1970; None for none.
    - `clock`: monotonic seconds, for the moments of this reader; no clock is compared with the service's.
    """

    def __init__(
        self,
        config: KinesisConfig,
        retention_seconds: float,
        *,
        read_until: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._retention_seconds = retention_seconds
        self._clock = clock
        self._until: float | None = None if read_until is None else clock() - (time.time() - read_until)

    @property
    def read_until(self) -> float | None:
        """Until when all was read, in seconds since 1970; None where that is not known."""
        return None if self._until is None else time.time() - (self._clock() - self._until)

    def was_read(self, *, sent_at: float, millis_behind_latest: int | None) -> None:
        """Note a read: at `sent_at` it stood so far behind the tip."""
        if millis_behind_latest is not None:
            self._until = sent_at - millis_behind_latest / 1000

    def is_over(self, millis_behind_latest: int | None) -> bool:
        """Say whether a read without records has passed what it looked for: it stands at the tip, or at the oldest."""
        if millis_behind_latest is None:
            return False
        return millis_behind_latest == 0 or millis_behind_latest / 1000 >= 0.999 * self._retention_seconds

    def check(self, shard_id: str, last: str, following: str | None) -> None:
        """Make sure that nothing can be missing between two records.

        Raises:
            ShardGap: something is, or may be.
        """
        if self._until is None or self._clock() - self._until >= self._retention_seconds:
            raise ShardGap(self._config, shard_id, last, following)
