from __future__ import annotations

from typing import Literal

import anyio
import pytest
from lease_tools import RawTable, Wire, kcl_row, lease_table

from cdc_core import ContractError, NotProvisioned, PartitionLost, SourceError
from cdc_kinesis import AnswerLost, AwsError
from cdc_kinesis._lease_table import LeaseLost, LeaseTable
from cdc_kinesis._leases import Checkpoint, Lease, LeaseClock
from cdc_kinesis._records import ChildShard
from cdc_testing.servers.kinesis import EmbeddedAws

pytestmark = pytest.mark.anyio

SHARD = "shardId-000000000000"
FIRST, SECOND = (
    Checkpoint("49650000000000000000000000000000000000000000000000000009"),
    Checkpoint("7" * 56, 3),
)
CHILDREN = (
    ChildShard(f"{SHARD[:-1]}1", (SHARD,), "0", "170141183460469231731687303715884105727"),
    ChildShard(
        f"{SHARD[:-1]}2",
        (SHARD,),
        "170141183460469231731687303715884105728",
        "340282366920938463463374607431768211455",
    ),
)


@pytest.fixture
def raw(embedded_aws: EmbeddedAws) -> RawTable:
    return RawTable(embedded_aws)


@pytest.fixture
def wire(embedded_aws: EmbeddedAws) -> Wire:
    return Wire(embedded_aws)


async def fresh(table: LeaseTable) -> Lease:
    """Return a lease that nobody has, one generation down."""
    lease = Lease(shard_id=SHARD, checkpoint=Checkpoint("TRIM_HORIZON"), parents=frozenset({"b", "a"}))
    assert await table.create(lease)
    return lease


async def owned(table: LeaseTable, me: str = "me") -> Lease:
    taken = await table.take(await fresh(table), me)
    assert taken is not None
    return taken


async def seen(table: LeaseTable) -> Lease:
    (lease,) = await table.scan()
    return lease


async def test_a_new_row_is_the_kcls_attribute_for_attribute(raw: RawTable) -> None:
    table = lease_table(raw)
    lease = Lease(
        shard_id=SHARD,
        checkpoint=Checkpoint("TRIM_HORIZON"),
        parents=frozenset({"shardId-b", "shardId-a"}),
        starting_hash_key="0",
        ending_hash_key="99",
    )
    assert await table.create(lease)
    assert raw.item(SHARD) == {
        "leaseKey": {"S": SHARD},
        "leaseCounter": {"N": "0"},
        "checkpoint": {"S": "TRIM_HORIZON"},
        "checkpointSubSequenceNumber": {"N": "0"},
        "ownerSwitchesSinceCheckpoint": {"N": "0"},
        "parentShardId": {"SS": ["shardId-a", "shardId-b"]},
        "startingHashKey": {"S": "0"},
        "endingHashKey": {"S": "99"},
    }
    assert await seen(table) == lease


async def test_a_row_that_is_there_is_not_made_again(raw: RawTable) -> None:
    raw.put(kcl_row(SHARD))
    assert not await lease_table(raw).create(Lease(shard_id=SHARD, checkpoint=Checkpoint("TRIM_HORIZON")))
    assert raw.item(SHARD) == kcl_row(SHARD)


async def test_of_eight_that_take_one_lease_at_once_one_wins(raw: RawTable) -> None:
    lease = await fresh(lease_table(raw))
    winners: list[Lease] = []

    async def take(name: str) -> None:
        if (taken := await lease_table(raw).take(lease, name)) is not None:
            winners.append(taken)

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(take, f"worker-{number}")
    (winner,) = winners
    assert await seen(lease_table(raw)) == winner
    assert winner.counter == 1


async def test_a_take_counts_the_change_of_owner_and_leaves_the_rest_of_the_row(raw: RawTable) -> None:
    extra: dict[str, dict[str, object]] = {
        "throughputKBps": {"N": "0.000501"},
        "entityType": {"S": "LEASE"},
        "parentShardIds": {"SS": ["x"]},
    }
    raw.put(kcl_row(SHARD, **extra))
    table = lease_table(raw)
    assert await table.take(await seen(table), "me") == await seen(table)
    assert raw.item(SHARD) == kcl_row(
        SHARD,
        leaseOwner={"S": "me"},
        leaseCounter={"N": "42"},
        ownerSwitchesSinceCheckpoint={"N": "3"},
        **extra,
    )


async def test_a_take_may_lift_the_counter_above_that_of_the_parents(raw: RawTable) -> None:
    table = lease_table(raw)
    taken = await table.take(await fresh(table), "me", above=77)
    assert taken is not None
    assert taken.counter == 78
    assert await table.renew(taken) == await seen(table)
    lower = await table.take(await seen(table), "other", above=5)
    assert lower is not None
    assert lower.counter == 80


async def test_a_checkpoint_rides_on_a_renewal_and_clears_what_was_pending(raw: RawTable) -> None:
    raw.put(
        kcl_row(
            SHARD,
            pendingCheckpoint={"S": "49650000000000000000000000000000000000000000000000000003"},
            pendingCheckpointSubSequenceNumber={"N": "0"},
            pendingCheckpointState={"B": b"state"},
        )
    )
    wire = Wire(raw.server)
    table = lease_table(raw, wire)
    lease = await seen(table)
    assert lease.pending_checkpoint == Checkpoint("49650000000000000000000000000000000000000000000000000003")
    taken = await table.take(lease, "me")
    assert taken is not None
    wire.requests.clear()
    renewed = await table.renew(taken, SECOND)
    assert wire.requests == ["UpdateItem"]
    assert raw.item(SHARD) == kcl_row(
        SHARD,
        leaseOwner={"S": "me"},
        leaseCounter={"N": "43"},
        checkpoint={"S": "7" * 56},
        checkpointSubSequenceNumber={"N": "3"},
        ownerSwitchesSinceCheckpoint={"N": "0"},
    )
    assert renewed == await seen(table)


async def test_a_renewal_without_a_checkpoint_adds_one_to_the_counter_alone(raw: RawTable) -> None:
    raw.put(kcl_row(SHARD))
    table = lease_table(raw)
    await table.renew(await seen(table))
    assert raw.item(SHARD) == kcl_row(SHARD, leaseCounter={"N": "42"})


async def test_the_lease_of_a_dead_kcl_worker_goes_on_at_its_checkpoint(raw: RawTable) -> None:
    raw.put(kcl_row(SHARD))
    table, clock = lease_table(raw), LeaseClock(failover_seconds=10)
    clock.observe(await table.scan(), asked_at=0, answered_at=1)
    clock.observe(await table.scan(), asked_at=10.9, answered_at=11)
    assert not clock.is_expired(await seen(table))
    clock.observe(await table.scan(), asked_at=11, answered_at=12)
    assert clock.is_expired(await seen(table))
    taken = await table.take(await seen(table), "me")
    assert taken is not None
    assert taken.checkpoint == Checkpoint("49650000000000000000000000000000000000000000000000000002", 1)


async def test_rows_that_are_no_leases_are_skipped(raw: RawTable) -> None:
    raw.put(
        {
            "leaseKey": {"S": "Migration3.0"},
            "entityType": {"S": "CLIENT_VERSION_MIGRATION"},
            "cv": {"S": "CLIENT_VERSION_3X"},
        }
    )
    raw.put({"leaseKey": {"S": "Leader"}, "entityType": {"S": "LEADER"}, "leaseDuration": {"S": "120000"}})
    raw.put({"leaseKey": {"S": "w1"}, "entityType": {"S": "WORKER_METRIC_STATS"}, "opr": {"M": {}}})
    raw.put(kcl_row("shardId-b", entityType={"S": "LEASE"}))
    raw.put(kcl_row("shardId-a"))
    assert [lease.shard_id for lease in await lease_table(raw).scan()] == ["shardId-a", "shardId-b"]


@pytest.mark.parametrize("name", ["leaseCounter", "checkpoint", "ownerSwitchesSinceCheckpoint"])
async def test_a_row_without_what_every_lease_has_is_named(raw: RawTable, name: str) -> None:
    row = kcl_row(SHARD)
    del row[name]
    raw.put(row)
    with pytest.raises(SourceError, match=f"{name}.*{SHARD}"):
        await lease_table(raw).scan()


async def test_a_row_with_a_checkpoint_that_is_none_is_named(raw: RawTable) -> None:
    raw.put(kcl_row(SHARD, checkpoint={"S": "soon"}))
    with pytest.raises(SourceError, match="'soon' is no sequence number"):
        await lease_table(raw).scan()


async def test_a_missing_sub_sequence_number_counts_as_0(raw: RawTable) -> None:
    row = kcl_row(SHARD)
    del row["checkpointSubSequenceNumber"]
    raw.put(row)
    assert (await seen(lease_table(raw))).checkpoint.sub_sequence == 0


async def test_a_table_of_several_pages_is_read_whole(raw: RawTable) -> None:
    for number in range(4):
        raw.put(kcl_row(f"shardId-{number}", filler={"S": "x" * 350_000}))
    wire = Wire(raw.server)
    assert len(await lease_table(raw, wire).scan()) == 4
    assert len(wire.requests) > 1


async def test_a_missing_table_is_said_to_be_missing(wire: Wire) -> None:
    with pytest.raises(NotProvisioned, match="no-such-table"):
        await LeaseTable(wire.aws(), "no-such-table").scan()


async def test_a_former_owners_late_checkpoint_is_refused(raw: RawTable) -> None:
    table = lease_table(raw)
    former = await owned(table, "former")
    assert await table.take(await seen(table), "next") is not None
    before = raw.item(SHARD)
    with pytest.raises(LeaseLost) as caught:
        await table.renew(former, FIRST)
    assert isinstance(caught.value, PartitionLost)
    assert caught.value.lease is not None
    assert caught.value.lease.owner == "next"
    for late in (table.release(former, FIRST), table.finish(former, ())):
        with pytest.raises(LeaseLost):
            await late
    assert raw.item(SHARD) == before


async def test_an_owner_that_came_back_refuses_what_it_was_before(raw: RawTable) -> None:
    table = lease_table(raw)
    before = await owned(table)
    await table.take(await seen(table), "other")
    again = await table.take(await seen(table), "me")
    assert again is not None
    await table.renew(again, SECOND)
    assert await table.steal(await seen(table), "thief") is not None
    with pytest.raises(LeaseLost):
        await table.renew(before, FIRST)


async def test_a_lease_whose_row_was_deleted_is_lost(raw: RawTable) -> None:
    table = lease_table(raw)
    lease = await owned(table)
    raw.delete(SHARD)
    with pytest.raises(LeaseLost, match="no row") as caught:
        await table.renew(lease)
    assert caught.value.lease is None
    assert raw.item(SHARD) == {}


async def test_a_checkpoint_never_moves_back(raw: RawTable) -> None:
    table = lease_table(raw)
    lease = await table.renew(await owned(table), Checkpoint("100", 5))
    for back in (Checkpoint("99", 7), Checkpoint("100", 4), Checkpoint("TRIM_HORIZON")):
        with pytest.raises(ContractError, match="move back"):
            await table.renew(lease, back)
    assert (await table.renew(lease, Checkpoint("100", 5))).checkpoint == Checkpoint("100", 5)


async def test_a_released_lease_is_free_at_once_and_keeps_its_place(raw: RawTable) -> None:
    table = lease_table(raw)
    await table.release(await owned(table), FIRST)
    lease = await seen(table)
    assert (lease.owner, lease.checkpoint) == (None, FIRST)
    assert "leaseOwner" not in raw.item(SHARD)


async def test_a_stolen_lease_is_drained_and_handed_over(raw: RawTable) -> None:
    table = lease_table(raw)
    victim = await owned(table, "victim")
    assert await table.steal(await seen(table), "thief") is not None
    stolen = raw.item(SHARD)
    assert (stolen["leaseOwner"], stolen["checkpointOwner"]) == ({"S": "thief"}, {"S": "victim"})
    victim = await table.renew(victim, FIRST)
    assert victim.is_handing_over
    victim = await table.renew(victim)
    await table.release(victim, SECOND)
    lease = await seen(table)
    assert (lease.owner, lease.checkpoint_owner, lease.checkpoint) == ("thief", None, SECOND)
    taken = await table.take(lease, "thief")
    assert taken is not None
    assert (taken.counter, taken.owner_switches) == (lease.counter + 1, 0)
    with pytest.raises(LeaseLost):
        await table.renew(victim)


async def test_of_two_thieves_one_wins_and_a_third_may_not_interfere(raw: RawTable) -> None:
    table = lease_table(raw)
    await owned(table, "victim")
    lease = await seen(table)
    assert await table.steal(lease, "thief") is not None
    assert await table.steal(lease, "other") is None
    with pytest.raises(ContractError):
        await table.steal(await seen(table), "other")


async def test_a_victim_that_does_not_answer_loses_the_lease_to_an_ordinary_take(raw: RawTable) -> None:
    table = lease_table(raw)
    victim = await owned(table, "victim")
    await table.steal(await seen(table), "thief")
    taken = await table.take(await seen(table), "thief")
    assert taken is not None
    assert (taken.checkpoint_owner, taken.owner_switches) == (None, 1)
    with pytest.raises(LeaseLost):
        await table.renew(victim, FIRST)


async def test_the_request_of_a_kcl_3_leader_to_hand_over_is_followed(raw: RawTable) -> None:
    raw.put(kcl_row(SHARD, leaseOwner={"S": "me"}))
    table = lease_table(raw)
    mine = await seen(table)
    raw.put(kcl_row(SHARD, leaseOwner={"S": "w2"}, checkpointOwner={"S": "me"}))  # the counter as it was
    mine = await table.renew(mine, FIRST)
    assert mine.is_handing_over
    await table.release(mine, SECOND)
    assert raw.item(SHARD) == kcl_row(
        SHARD,
        leaseOwner={"S": "w2"},
        leaseCounter={"N": "43"},
        checkpoint={"S": "7" * 56},
        checkpointSubSequenceNumber={"N": "3"},
        ownerSwitchesSinceCheckpoint={"N": "0"},
    )


async def test_the_end_of_a_shard_is_written_after_its_childrens_rows(raw: RawTable, wire: Wire) -> None:
    table = lease_table(raw, wire)
    lease = await owned(table)
    wire.fail("UpdateItem", "request")
    with pytest.raises(AnswerLost):
        await table.finish(lease, CHILDREN)
    assert raw.item(SHARD)["checkpoint"] == {"S": "TRIM_HORIZON"}
    for child in CHILDREN:
        assert raw.item(child.shard_id) == {
            "leaseKey": {"S": child.shard_id},
            "leaseCounter": {"N": "0"},
            "checkpoint": {"S": "TRIM_HORIZON"},
            "checkpointSubSequenceNumber": {"N": "0"},
            "ownerSwitchesSinceCheckpoint": {"N": "0"},
            "parentShardId": {"SS": [SHARD]},
            "startingHashKey": {"S": child.starting_hash_key},
            "endingHashKey": {"S": child.ending_hash_key},
        }
    finished = await table.finish(lease, CHILDREN)
    assert finished.children == {child.shard_id for child in CHILDREN}
    assert raw.item(SHARD) == {
        "leaseKey": {"S": SHARD},
        "leaseOwner": {"S": "me"},
        "leaseCounter": {"N": "2"},
        "checkpoint": {"S": "SHARD_END"},
        "checkpointSubSequenceNumber": {"N": "0"},
        "ownerSwitchesSinceCheckpoint": {"N": "0"},
        "parentShardId": {"SS": ["a", "b"]},
        "childShardIds": {"SS": [child.shard_id for child in CHILDREN]},
    }


async def test_a_shard_that_ends_during_its_hand_over_is_done(raw: RawTable) -> None:
    table = lease_table(raw)
    victim = await owned(table, "victim")
    await table.steal(await seen(table), "thief")
    finished = await table.finish(victim, ())
    assert (finished.is_done, finished.checkpoint_owner) == (True, None)
    with pytest.raises(ContractError, match="finish"):
        await table.renew(finished, Checkpoint("SHARD_END"))


async def test_only_the_row_of_a_finished_shard_that_nobody_touched_is_deleted(raw: RawTable) -> None:
    table = lease_table(raw)
    lease = await owned(table)
    assert not await table.delete(lease)
    finished = await table.finish(lease, ())
    await table.renew(finished)
    assert not await table.delete(finished)
    assert await table.delete(await seen(table))
    assert raw.item(SHARD) == {}


async def test_a_lost_request_can_be_made_again(raw: RawTable, wire: Wire) -> None:
    table = lease_table(raw, wire)
    lease = await owned(table)
    wire.fail("UpdateItem", "request")
    with pytest.raises(AnswerLost):
        await table.renew(lease, FIRST)
    assert (await table.renew(lease, FIRST)).checkpoint == FIRST


@pytest.mark.parametrize("fault", ["answer", "500 after"])
@pytest.mark.parametrize("verb", ["take", "steal", "renew", "release", "finish"])
async def test_a_write_whose_answer_was_lost_is_found_in_the_row(
    raw: RawTable, wire: Wire, verb: str, fault: Literal["answer", "500 after"]
) -> None:
    table = lease_table(raw, wire)
    lease = await owned(table, "victim" if verb == "steal" else "me")
    wire.fail("UpdateItem", fault)
    written: Lease | None
    match verb:
        case "take":
            written = await table.take(lease, "other")
        case "steal":
            written = await table.steal(lease, "thief")
        case "renew":
            written = await table.renew(lease, FIRST)
        case "release":
            written = await table.release(lease, FIRST)
        case _:
            written = await table.finish(lease, CHILDREN)
    assert written is not None
    assert written == await lease_table(raw).read(SHARD)
    assert written != lease


async def test_a_write_that_comes_late_is_known_as_our_own(raw: RawTable, wire: Wire) -> None:
    table = lease_table(raw, wire)
    lease = await owned(table)
    wire.fail("UpdateItem", "delay")
    with pytest.raises(AnswerLost):
        await table.renew(lease, FIRST)
    wire.deliver()
    renewed = await table.renew(lease, SECOND)
    assert (renewed.counter, renewed.checkpoint) == (lease.counter + 2, SECOND)


async def test_a_write_that_comes_after_its_repetition_changes_nothing(raw: RawTable, wire: Wire) -> None:
    table = lease_table(raw, wire)
    lease = await owned(table)
    wire.fail("UpdateItem", "delay")
    with pytest.raises(AnswerLost):
        await table.renew(lease, FIRST)
    renewed = await table.renew(lease, SECOND)
    wire.deliver()
    assert await seen(table) == renewed


async def test_a_take_that_comes_late_is_no_win_but_ours_to_take_again(raw: RawTable, wire: Wire) -> None:
    table = lease_table(raw, wire)
    lease = await fresh(table)
    wire.fail("UpdateItem", "delay")
    with pytest.raises(AnswerLost):
        await table.take(lease, "me")
    wire.deliver()
    assert await table.take(lease, "me") is None  # nobody knows when it came: its time may be up
    late = await seen(table)
    assert late.owner == "me"
    again = await table.take(late, "me")
    assert again is not None
    assert (again.counter, again.owner_switches) == (late.counter + 1, 0)


@pytest.mark.parametrize("operation", ["PutItem", "DeleteItem"])
async def test_rows_made_or_deleted_with_a_lost_answer_are_looked_for(
    raw: RawTable, wire: Wire, operation: str
) -> None:
    table = lease_table(raw, wire)
    if operation == "PutItem":
        wire.fail(operation, "answer")
        await fresh(table)
        wire.fail(operation, "request")
        with pytest.raises(AnswerLost):
            await table.create(Lease(shard_id="other", checkpoint=Checkpoint("TRIM_HORIZON")))
        return
    finished = await table.finish(await owned(table), ())
    wire.fail(operation, "request")
    with pytest.raises(AnswerLost):
        await table.delete(finished)
    wire.fail(operation, "answer")
    assert await table.delete(finished)


async def test_a_throttled_write_is_told_as_one_to_try_again_and_has_changed_nothing(
    raw: RawTable, wire: Wire
) -> None:
    table = lease_table(raw, wire)
    lease = await owned(table)
    wire.fail("UpdateItem", "throttle")
    with pytest.raises(AwsError) as caught:
        await table.renew(lease, FIRST)
    assert caught.value.retryable
    assert await seen(table) == lease
    assert (await table.renew(lease, FIRST)).checkpoint == FIRST


async def test_a_lease_that_nobody_holds_cannot_be_renewed(raw: RawTable) -> None:
    table = lease_table(raw)
    with pytest.raises(ContractError, match="take it first"):
        await table.renew(await fresh(table))


async def test_renewals_of_many_leases_at_once_do_not_disturb_each_other(raw: RawTable) -> None:
    table = lease_table(raw)
    done: list[Lease] = []

    async def keep(shard_id: str) -> None:
        lease = Lease(shard_id=shard_id, checkpoint=Checkpoint("TRIM_HORIZON"))
        await table.create(lease)
        current = await table.take(lease, "me")
        assert current is not None
        for number in range(5):
            current = await table.renew(current, Checkpoint(str(number)))
        done.append(current)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(keep, f"shardId-{number}")
    assert sorted(done, key=lambda lease: lease.shard_id) == await table.scan()
