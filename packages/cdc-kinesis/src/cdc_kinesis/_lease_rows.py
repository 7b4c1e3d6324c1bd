"""A lease as a row of DynamoDB, and one conditional write of it as a request. No I/O.

Names and types of the attributes are those of the rows that the KCL 2.7.2 and 3.5.1 (Java) wrote and accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cdc_core import SourceError

from ._leases import Checkpoint, Lease

KEY: Final = "leaseKey"
COUNTER: Final = "leaseCounter"
OWNER: Final = "leaseOwner"
CHECKPOINT_OWNER: Final = "checkpointOwner"
CHECKPOINT: Final = "checkpoint"
SUB_SEQUENCE: Final = "checkpointSubSequenceNumber"
SWITCHES: Final = "ownerSwitchesSinceCheckpoint"
PARENTS: Final = "parentShardId"  # singular, and a set of strings
CHILDREN: Final = "childShardIds"
STARTING_HASH_KEY: Final = "startingHashKey"
ENDING_HASH_KEY: Final = "endingHashKey"
PENDING: Final = "pendingCheckpoint"
PENDING_SUB_SEQUENCE: Final = "pendingCheckpointSubSequenceNumber"
PENDING_STATE: Final = "pendingCheckpointState"
_ENTITY_TYPE: Final = "entityType"

Item = Mapping[str, Mapping[str, Any]]


def is_lease(item: Item) -> bool:
    """Return whether a row is a lease: a KCL 3.5 keeps its leader and its workers' figures in the same table."""
    return _ENTITY_TYPE not in item or item[_ENTITY_TYPE] == {"S": "LEASE"}


def lease_of(item: Item, *, table_name: str) -> Lease:
    """Return the lease in a row.

    Raises:
        SourceError: it lacks an attribute that the KCL demands too, or one of them is none that can be.
    """
    try:
        return Lease(
            shard_id=item[KEY]["S"],
            checkpoint=_checkpoint_of(item, CHECKPOINT, SUB_SEQUENCE),
            counter=int(item[COUNTER]["N"]),
            owner=item.get(OWNER, {}).get("S"),
            checkpoint_owner=item.get(CHECKPOINT_OWNER, {}).get("S"),
            owner_switches=int(item[SWITCHES]["N"]),
            parents=frozenset(item.get(PARENTS, {}).get("SS", ())),
            children=frozenset(item.get(CHILDREN, {}).get("SS", ())),
            starting_hash_key=item.get(STARTING_HASH_KEY, {}).get("S"),
            ending_hash_key=item.get(ENDING_HASH_KEY, {}).get("S"),
            pending_checkpoint=_checkpoint_of(item, PENDING, PENDING_SUB_SEQUENCE)
            if PENDING in item
            else None,
        )
    except (KeyError, ValueError) as error:
        raise SourceError(
            f"a row of the lease table is no lease: {error}",
            where={"table": table_name, "row": item.get(KEY, {}).get("S")},
            remedy=f"a lease has {KEY}, {COUNTER}, {CHECKPOINT} and {SWITCHES}: complete the row, or move what is "
            "no lease to another table",
        ) from error


def item_of(lease: Lease) -> dict[str, dict[str, Any]]:
    """Return the row that creates a lease: free, and without what a KCL leaves out at first."""
    item: dict[str, dict[str, Any]] = {
        KEY: {"S": lease.shard_id},
        COUNTER: {"N": str(lease.counter)},
        SWITCHES: {"N": str(lease.owner_switches)},
        **checkpoint_item(lease.checkpoint),
    }
    if lease.parents:
        item[PARENTS] = {"SS": sorted(lease.parents)}
    if lease.starting_hash_key is not None and lease.ending_hash_key is not None:
        item[STARTING_HASH_KEY] = {"S": lease.starting_hash_key}
        item[ENDING_HASH_KEY] = {"S": lease.ending_hash_key}
    return item


def checkpoint_item(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    """Return both attributes of a checkpoint: without the second a KCL repeats the rest of an aggregated record."""
    return {
        CHECKPOINT: {"S": checkpoint.sequence_number},
        SUB_SEQUENCE: {"N": str(checkpoint.sub_sequence)},
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class RowUpdate:
    """What one write changes."""

    sets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    removes: tuple[str, ...] = ()
    adds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])


def update_request(lease: Lease, update: RowUpdate) -> dict[str, Any]:
    """Return the parameters of an UpdateItem that goes through only where the row still is what `lease` says.

    Counter and both owners are compared: a KCL 3 that asks for a hand-over leaves the counter as it is.
    """
    condition, values = unchanged(lease)
    clauses: list[str] = []
    for verb, sign, attributes in (("SET", " =", update.sets), ("ADD", "", update.adds)):
        if attributes:
            clauses.append(f"{verb} " + ", ".join(f"{name}{sign} :new_{name}" for name in attributes))
            values |= {f":new_{name}": value for name, value in attributes.items()}
    if update.removes:
        clauses.append("REMOVE " + ", ".join(update.removes))
    return {
        "Key": {KEY: {"S": lease.shard_id}},
        "UpdateExpression": " ".join(clauses),
        "ConditionExpression": condition,
        "ExpressionAttributeValues": values,
        "ReturnValues": "ALL_NEW",
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }


def unchanged(lease: Lease) -> tuple[str, dict[str, Mapping[str, Any]]]:
    """Return the condition that a row has the counter and the owners of `lease`, and the values it names."""
    conditions = [f"{COUNTER} = :old_{COUNTER}"]
    values: dict[str, Mapping[str, Any]] = {f":old_{COUNTER}": {"N": str(lease.counter)}}
    for name, owner in ((OWNER, lease.owner), (CHECKPOINT_OWNER, lease.checkpoint_owner)):
        if owner is None:
            conditions.append(f"attribute_not_exists({name})")
        else:
            conditions.append(f"{name} = :old_{name}")
            values[f":old_{name}"] = {"S": owner}
    return " AND ".join(conditions), values


def _checkpoint_of(item: Item, name: str, sub_name: str) -> Checkpoint:
    return Checkpoint(item[name]["S"], int(item.get(sub_name, {}).get("N", 0)))
