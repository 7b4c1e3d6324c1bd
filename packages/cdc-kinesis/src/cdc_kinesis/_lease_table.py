"""The lease table: each change is one conditional write of one row.

The rows are those of the KCL 2 (Java), so that a group can go over from it, and back. Only UpdateItem changes a row:
what other programs keep in it survives. Rows of a KCL 3 that are no leases are skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, final

from cdc_core import ContractError, NotProvisioned, PartitionLost

from ._aws import Aws
from ._errors import AnswerLost, AwsError
from ._lease_rows import (
    CHECKPOINT,
    CHECKPOINT_OWNER,
    CHILDREN,
    COUNTER,
    KEY,
    OWNER,
    PENDING,
    PENDING_STATE,
    PENDING_SUB_SEQUENCE,
    SWITCHES,
    Item,
    RowUpdate,
    checkpoint_item,
    is_lease,
    item_of,
    lease_of,
    unchanged,
    update_request,
)
from ._leases import SHARD_END, TRIM_HORIZON, Checkpoint, Lease
from ._records import ChildShard

# After one of these a write may have been carried out (DynamoDB's developer guide, "Error handling": HTTP 500).
_AMBIGUOUS_CODES: Final = frozenset(
    {
        "InternalFailure",
        "InternalServerError",
        "RequestTimeout",
        "ServiceUnavailable",
        "ServiceUnavailableException",
    }
)


class LeaseLost(PartitionLost):
    """The row is not as its holder left it: another worker has the lease, or somebody deleted the row.

    - `lease`: the row as it is now; None where there is none.
    """

    def __init__(self, lease: Lease | None, *, where: Mapping[str, object]) -> None:
        now = "it has no row" if lease is None else f"owner {lease.owner}, counter {lease.counter}"
        super().__init__(f"the lease was lost: {now}", where=where)
        self.lease = lease


@final
class LeaseTable:
    """The rows of one group. One task at a time may call it for one lease: each write needs the counter of the last.

    Every method raises, besides what it names:

    - `AwsError`, `AwsAccessError`: the service refused, and nothing was written.
    - `AnswerLost`: no answer, or that of an internal failure, and the row, read afterwards, is as it was. The write
      may still come. The same call again is safe: of the two one goes through. But count a lease's time from the first.
    - `NotProvisioned`: the table does not exist.
    - `SourceError`: a row lacks what every lease has.
    """

    def __init__(self, aws: Aws, table_name: str) -> None:
        self._aws = aws
        self._table_name = table_name

    async def scan(self) -> list[Lease]:
        """Return all leases by shard id, read consistently; rows that are no leases are left out."""
        leases: list[Lease] = []
        start: dict[str, Any] = {}
        while True:
            answer = await self._call("scan", ConsistentRead=True, **start)
            leases += [self._lease_of(item) for item in answer.get("Items", ()) if is_lease(item)]
            if not answer.get("LastEvaluatedKey"):
                return sorted(leases, key=lambda lease: lease.shard_id)
            start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}

    async def read(self, shard_id: str) -> Lease | None:
        """Return one lease as it is now; None where it has no row."""
        answer = await self._call("get_item", Key={KEY: {"S": shard_id}}, ConsistentRead=True)
        return self._lease_of(answer["Item"]) if answer.get("Item") else None

    async def create(self, lease: Lease) -> bool:
        """Put a row where there is none; return False where there was one, which stays as it is."""
        try:
            await self._call(
                "put_item", Item=item_of(lease), ConditionExpression=f"attribute_not_exists({KEY})"
            )
        except (AnswerLost, AwsError) as error:
            if _is_condition(error):
                return False
            # whoever made the row, it is there
            if not isinstance(error, AnswerLost) or await self.read(lease.shard_id) is None:
                raise
        return True

    async def take(self, lease: Lease, me: str, *, above: int = 0) -> Lease | None:
        """Make `me` the owner and the only holder; None where the row has changed since it was read.

        - `above`: the counter becomes greater than this as well: than the parents', so that it grows along with a key
          that goes over from shard to shard.

        A hand-over that is under way ends with it, and its former owner can write nothing any more.
        """
        switches = lease.holder not in (None, me)
        after = replace(
            lease,
            owner=me,
            checkpoint_owner=None,
            counter=max(lease.counter, above) + 1,
            owner_switches=lease.owner_switches + switches,
        )
        update = RowUpdate(
            sets={OWNER: {"S": me}, COUNTER: {"N": str(after.counter)}},
            removes=(CHECKPOINT_OWNER,),
            adds={SWITCHES: {"N": "1"}} if switches else {},
        )
        return await self._won(lease, update, lambda now: _is_same_write(now, after))

    async def steal(self, lease: Lease, me: str) -> Lease | None:
        """Ask the owner to drain and hand over to `me`; None where the row has changed since it was read.

        The counter stays (as with a KCL 3, whose workers understand the request): the owner's next renewal finds it
        and goes on. `take` the lease once it is handed over, or expired.
        """
        if lease.owner is None or lease.owner == me or lease.checkpoint_owner is not None or lease.is_done:
            raise ContractError("this lease cannot be stolen", where=self._where(lease))
        update = RowUpdate(sets={OWNER: {"S": me}, CHECKPOINT_OWNER: {"S": lease.owner}})
        return await self._won(
            lease, update, lambda now: (now.owner, now.checkpoint_owner) == (me, lease.owner)
        )

    async def renew(self, lease: Lease, checkpoint: Checkpoint | None = None) -> Lease:
        """Show that the holder is alive, and write down a checkpoint with it where there is a new one.

        Returns the lease as it is now. Where `is_handing_over` has become true, a new owner asks for it: drain, renew
        meanwhile with this, and `release` it within 30 seconds.

        Raises:
            LeaseLost: nothing of this was written, nor will be.
            ContractError: the checkpoint would move back, or is SHARD_END: see `finish`.
        """
        if checkpoint is not None and checkpoint.is_shard_end:
            raise ContractError(
                "SHARD_END is written by finish, after the children", where=self._where(lease)
            )

        def renewed(now: Lease) -> tuple[Lease, RowUpdate]:
            return now, RowUpdate()

        return await self._write(lease, checkpoint, renewed)

    async def release(self, lease: Lease, checkpoint: Checkpoint | None = None) -> Lease:
        """Write the last checkpoint and leave the lease: to its new owner where one asked, else to whoever wants it.

        Nobody has to wait until it expires. Raises as `renew` does.
        """

        def released(now: Lease) -> tuple[Lease, RowUpdate]:
            if now.is_handing_over:
                return replace(now, checkpoint_owner=None), RowUpdate(removes=(CHECKPOINT_OWNER,))
            return replace(now, owner=None, checkpoint_owner=None), RowUpdate(
                removes=(OWNER, CHECKPOINT_OWNER)
            )

        return await self._write(lease, checkpoint, released)

    async def finish(self, lease: Lease, children: Sequence[ChildShard]) -> Lease:
        """Write down that every record of the shard is done; its rows's children are there before.

        A KCL never creates a child under a parent that has ended: whatever stops us between the two, nothing is lost.

        - `children`: empty only where the shard and what followed it are gone from the stream.

        Raises as `renew` does.
        """
        for child in children:
            await self.create(
                Lease(
                    shard_id=child.shard_id,
                    checkpoint=Checkpoint(TRIM_HORIZON),
                    parents=frozenset(child.parents),
                    starting_hash_key=child.starting_hash_key,
                    ending_hash_key=child.ending_hash_key,
                )
            )
        ids = frozenset(child.shard_id for child in children)

        def finished(now: Lease) -> tuple[Lease, RowUpdate]:
            after = replace(now, checkpoint_owner=None, children=ids or now.children)
            sets = {CHILDREN: {"SS": sorted(ids)}} if ids else {}
            return after, RowUpdate(sets=sets, removes=(CHECKPOINT_OWNER,))

        return await self._write(lease, Checkpoint(SHARD_END), finished)

    async def delete(self, lease: Lease) -> bool:
        """Delete the row of a shard that is done; return False where it has changed since it was read."""
        condition, values = unchanged(lease)
        try:
            await self._call(
                "delete_item",
                Key={KEY: {"S": lease.shard_id}},
                ConditionExpression=f"{condition} AND {CHECKPOINT} = :end",
                ExpressionAttributeValues={**values, ":end": {"S": SHARD_END}},
            )
        except (AnswerLost, AwsError) as error:
            if _is_condition(error):
                return False
            if not isinstance(error, AnswerLost) or await self.read(lease.shard_id) is not None:
                raise
        return True

    async def _won(self, lease: Lease, update: RowUpdate, is_mine: Callable[[Lease], bool]) -> Lease | None:
        """Write once; None where another write came first.

        That may be an earlier one of ours, come late. It is no win: others have seen it for longer than we know.
        """
        try:
            return await self._update(lease, update)
        except AnswerLost:
            now = await self.read(lease.shard_id)
            if now is not None and _is_untouched(now, lease):
                raise
            return now if now is not None and is_mine(now) else None
        except AwsError as error:
            if not _is_condition(error):
                raise
            return None

    async def _write(
        self,
        lease: Lease,
        checkpoint: Checkpoint | None,
        change: Callable[[Lease], tuple[Lease, RowUpdate]],
    ) -> Lease:
        """Write as the holder: the counter, the checkpoint, and what `change` adds.

        Where the condition fails on a row that only this holder, or a request to hand over, can have made of ours, it
        is written again on top of that.
        """
        current = lease
        while True:
            self._refuse_nonsense(current, checkpoint)
            after, update = change(current)
            after = replace(after, counter=current.counter + 1, checkpoint=checkpoint or current.checkpoint)
            try:
                return await self._update(current, _with_checkpoint(update, after.counter, checkpoint))
            except (AnswerLost, AwsError) as error:
                now = await self._now(lease, error)
                if now is not None and _is_untouched(now, current):
                    raise
                if now is not None and _is_same_write(now, after):
                    return now
                if now is None or not _is_next_of_ours(now, current):
                    raise LeaseLost(now, where=self._where(lease)) from error
                current = now

    async def _now(self, lease: Lease, error: AnswerLost | AwsError) -> Lease | None:
        """Return the row as it is after a write that failed, or may have; raises `error` where nothing was done."""
        if isinstance(error, AwsError):
            if not _is_condition(error):
                raise error
            if error.response.get("Item"):
                return self._lease_of(error.response["Item"])
        return await self.read(lease.shard_id)  # not every server gives the row with its refusal

    async def _update(self, lease: Lease, update: RowUpdate) -> Lease:
        answer = await self._call("update_item", **update_request(lease, update))
        return self._lease_of(answer["Attributes"])

    async def _call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        try:
            return await self._aws.call("dynamodb", operation, TableName=self._table_name, **parameters)
        except AwsError as error:
            where = {"table": self._table_name}
            if error.code == "ResourceNotFoundException":
                raise NotProvisioned("the lease table does not exist", where=where) from error
            if error.code in _AMBIGUOUS_CODES or error.status >= 500:
                raise AnswerLost(error.message, where=where) from error
            raise

    def _lease_of(self, item: Item) -> Lease:
        return lease_of(item, table_name=self._table_name)

    def _where(self, lease: Lease) -> dict[str, object]:
        return {"table": self._table_name, "shard": lease.shard_id}

    def _refuse_nonsense(self, lease: Lease, checkpoint: Checkpoint | None) -> None:
        if lease.holder is None:
            raise ContractError("nobody holds this lease: take it first", where=self._where(lease))
        if checkpoint is not None and (checkpoint.precedes(lease.checkpoint) or lease.is_done):
            raise ContractError(
                f"a checkpoint would move back from {lease.checkpoint} to {checkpoint}",
                where=self._where(lease),
            )


def _with_checkpoint(update: RowUpdate, counter: int, checkpoint: Checkpoint | None) -> RowUpdate:
    sets = {**update.sets, COUNTER: {"N": str(counter)}}
    if checkpoint is None:
        return replace(update, sets=sets)
    return replace(
        update,
        sets={**sets, **checkpoint_item(checkpoint), SWITCHES: {"N": "0"}},
        removes=(*update.removes, PENDING, PENDING_SUB_SEQUENCE, PENDING_STATE),
    )


def _marks(lease: Lease) -> Iterable[object]:
    return lease.counter, lease.owner, lease.checkpoint_owner


def _is_untouched(now: Lease, before: Lease) -> bool:
    return _marks(now) == _marks(before)


def _is_same_write(now: Lease, after: Lease) -> bool:
    return _marks(now) == _marks(after) and now.checkpoint == after.checkpoint


def _is_next_of_ours(now: Lease, before: Lease) -> bool:
    """Return whether a row is `before` plus one late write of its holder, a request to hand over, or both.

    Two steps further may be another's who took it, and then ours again, with a newer checkpoint.
    """
    return now.holder == before.holder and now.counter - before.counter in (0, 1)


def _is_condition(error: AnswerLost | AwsError) -> bool:
    return isinstance(error, AwsError) and error.code == "ConditionalCheckFailedException"
