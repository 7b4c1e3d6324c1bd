"""Whether records that were not read may be gone: told from what was read when, never passed over in silence."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, final

from cdc_core import SourceError

from ._aws import Aws
from ._config import KinesisConfig
from ._meta_table import KEY

# A quiet shard is marked so often within the retention: a consumer that was stopped for less than the rest of it
# is not suspected of having missed anything.
_MARK_SHARE: Final = 1 / 8


class ShardGap(SourceError):
    """Records of a shard are gone, or may be, that were never read: the stream kept them no longer.

    - `stream_name`, `shard_id`.
    - `from_sequence_number`: the last record that was read; what follows it is missing.
    - `to_sequence_number`: the first record that is there again; None where none is.

    The source ends; what goes on is the operator's choice: first bring the sink back into line (a snapshot), then set
    the lease's checkpoint to TRIM_HORIZON, which reads on with what is left; or, where the stream has dropped the whole
    shard, delete the lease, which lets its children be read.
    """

    def __init__(
        self,
        config: KinesisConfig,
        shard_id: str,
        from_sequence_number: str | None,
        to: str | None,
        *,
        shard_is_gone: bool = False,
    ) -> None:
        change = f"in the table {config.lease_table} " + (
            f"delete the item whose leaseKey is {shard_id}"
            if shard_is_gone
            else f"set checkpoint to TRIM_HORIZON and checkpointSubSequenceNumber to 0 where leaseKey is {shard_id}"
        )
        super().__init__(
            "records behind the checkpoint were trimmed before they were read, or may have been",
            where={
                "stream": config.stream_name,
                "shard": shard_id,
                "from": from_sequence_number,
                "to": to or "the end",
            },
            remedy=(
                f"take a snapshot of what may be missing, and read on with what is left: {change}; "
                "a longer retention gives more time"
            ),
        )
        self.stream_name: str = config.stream_name
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
    - `marks`: such moments that earlier owners have written down.
    - `clock`: monotonic seconds, for the moments of this reader; no clock is compared with the service's.
    """

    def __init__(
        self,
        config: KinesisConfig,
        shard_id: str,
        retention_seconds: float,
        marks: ReadMarks,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._shard_id = shard_id
        self._retention_seconds = retention_seconds
        self._marks = marks
        self._clock = clock
        self._until: float | None = None
        self._marked_at: float | None = None

    def was_read(self, *, sent_at: float, millis_behind_latest: int | None) -> None:
        """Note a read: at `sent_at` it stood so far behind the tip."""
        if millis_behind_latest is not None:
            self._until = sent_at - millis_behind_latest / 1000

    def is_over(self, millis_behind_latest: int | None) -> bool:
        """Say whether a read without records has passed what it looked for: it stands at the tip, or at the oldest."""
        if millis_behind_latest is None:
            return False
        return millis_behind_latest == 0 or millis_behind_latest / 1000 >= 0.999 * self._retention_seconds

    async def check(self, last: str | None, following: str | None, *, shard_is_gone: bool = False) -> None:
        """Make sure that nothing can be missing between two records.

        - `shard_is_gone`: the stream has dropped the shard: nobody can read on in it.

        Raises:
            ShardGap: something is, or may be.
            CdcError: the marks cannot be read.
        """
        if self._until is None:
            mark = await self._marks.read(self._shard_id)
            self._until = None if mark is None else self._clock() - (time.time() - mark)
        if self._until is None or self._clock() - self._until >= self._retention_seconds:
            raise ShardGap(self._config, self._shard_id, last, following, shard_is_gone=shard_is_gone)

    async def mark(self, last_arrived_at: float | None) -> None:
        """Write down that all is read and done, where the last record is so old that it may be gone the next time.

        - `last_arrived_at`: of the last record that is done, in seconds since 1970; None where none was read yet.
        """
        now, until = self._clock(), self._until
        if until is None:
            return
        read_until = time.time() - (now - until)
        every = self._retention_seconds * _MARK_SHARE
        if last_arrived_at is not None and read_until - last_arrived_at < every:
            return
        if self._marked_at is None or now - self._marked_at >= every:
            await self._marks.write(self._shard_id, read_until)
            self._marked_at = now


@final
class ReadMarks:
    """Items of the group's meta table, one for a quiet shard: until when all of it is read and done."""

    def __init__(self, aws: Aws, table_name: str) -> None:
        self._aws = aws
        self._table_name = table_name

    async def read(self, shard_id: str) -> float | None:
        """Return the mark of a shard, in seconds since 1970; None where there is none."""
        answer = await self._aws.call(
            "dynamodb", "get_item", TableName=self._table_name, Key=_key(shard_id), ConsistentRead=True
        )
        item: dict[str, dict[str, str]] = answer.get("Item", {})
        return float(item["readUntil"]["N"]) if "readUntil" in item else None

    async def write(self, shard_id: str, read_until: float) -> None:
        """Write the mark of a shard."""
        await self._aws.call(
            "dynamodb",
            "put_item",
            TableName=self._table_name,
            Item={**_key(shard_id), "readUntil": {"N": f"{read_until:.3f}"}},
        )


def _key(shard_id: str) -> dict[str, dict[str, str]]:
    return {KEY: {"S": f"read/{shard_id}"}}
