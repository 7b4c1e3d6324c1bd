"""The lease table: each change is one conditional write of one row.

The rows are those of the KCL 2 (Java), attribute for attribute, as its versions 2.7.2 and 3.5.1 wrote and accepted
them. Only UpdateItem changes a row, so what other programs keep in it survives; rows of a KCL 3 that are no leases
are skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, final

from cdc_core import ContractError, NotProvisioned, PartitionLost, SourceError

from ._aws import Aws
from ._errors import AnswerLost, AwsError
from ._leases import SHARD_END, TRIM_HORIZON, Checkpoint, Lease
from ._records import ChildShard

KEY: Final = "leaseKey"


class LeaseLost(PartitionLost):
    """The row is not what its holder left: another worker has the lease, or somebody deleted the row.

    - `lease`: the row as it is now; None where there is none.
    """

    def __init__(self, lease: Lease | None, *, where: Mapping[str, object]) -> None:
        owner = "no row" if lease is None else f"owner {lease.owner}, counter {lease.counter}"
        super().__init__(f"the lease was lost: {owner}", where=where)
        self.lease = lease


@final
class LeaseTable:
    """The rows of one group. One task at a time may call it for one lease: each write needs the counter of the last.

    Every method raises, besides what it names:

    - `AwsError`, `AwsAccessError`: the service refused; a throttled request is retryable, and has changed nothing.
    - `AnswerLost`: no answer, and by a later read the write is not there (yet). The same call again is safe: whichever
      of the two comes first wins, and the other is recognised as our own.
    - `NotProvisioned`: the table does not exist.
    """

    def __init__(self, aws: Aws, table_name: str) -> None:
        self._aws = aws
        self._table_name = table_name

    async def scan(self) -> list[Lease]:
        """Return all leases by shard id, read consistently; rows that are no leases are left out.

        Raises:
            SourceError: a row lacks what every lease has.
        """
        raise NotImplementedError

    async def read(self, shard_id: str) -> Lease | None:
        """Return one lease as it is now; None where it has no row."""
        raise NotImplementedError

    async def create(self, lease: Lease) -> bool:
        """Put a row where there is none; return whether it was not there."""
        raise NotImplementedError

    async def take(self, lease: Lease, me: str) -> Lease | None:
        """Make `me` the owner, and the only holder; None where the row has changed since it was read.

        Ends a hand-over that was under way.
        """
        raise NotImplementedError

    async def steal(self, lease: Lease, me: str) -> Lease | None:
        """Ask the owner to drain and hand over to `me`; None where the row has changed since it was read.

        The counter stays: the owner's next renewal finds the request and goes on. (The KCL 3 does the same.) `take` it
        once the owner has handed over.
        """
        raise NotImplementedError

    async def renew(self, lease: Lease, checkpoint: Checkpoint | None = None) -> Lease:
        """Show that the holder is alive, and write down a checkpoint with it where there is a new one.

        Returns the lease as it is now. Where `is_handing_over` has become true, its new owner asks for it: drain,
        renew meanwhile with this, and `hand_over` within 30 seconds.

        Raises:
            LeaseLost: nothing was written.
            ContractError: the checkpoint would move back.
        """
        raise NotImplementedError

    async def hand_over(self, lease: Lease, checkpoint: Checkpoint | None = None) -> Lease:
        """Write the last checkpoint and leave the lease to its new owner. Raises as `renew` does."""
        raise NotImplementedError

    async def release(self, lease: Lease, checkpoint: Checkpoint | None = None) -> Lease:
        """Write the last checkpoint and leave the lease to whoever wants it; to its new owner if one asked.

        Nobody has to wait until it expires. Raises as `renew` does.
        """
        raise NotImplementedError

    async def finish(self, lease: Lease, children: Sequence[ChildShard]) -> Lease:
        """Write down that every record of the shard is done.

        Each child's row is there before: a KCL never creates a child under a parent that has ended. `children` is
        empty only where the shard is gone from the stream. Raises as `renew` does.
        """
        raise NotImplementedError

    async def delete(self, lease: Lease) -> bool:
        """Delete the row of a shard that is done; return False where it has changed since it was read."""
        raise NotImplementedError
