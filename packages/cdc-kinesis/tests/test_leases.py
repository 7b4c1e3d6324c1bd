from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_kinesis._leases import Checkpoint, Lease, LeaseClock, Plan, plan

FAILOVER = 10.0


def make_lease(
    shard_id: str,
    *,
    owner: str | None = None,
    checkpoint_owner: str | None = None,
    counter: int = 1,
    checkpoint: str = "TRIM_HORIZON",
) -> Lease:
    return Lease(
        shard_id=shard_id,
        owner=owner,
        checkpoint_owner=checkpoint_owner,
        counter=counter,
        checkpoint=Checkpoint(checkpoint),
    )


def stopped(*leases: Lease, seconds: float = FAILOVER) -> LeaseClock:
    """Return a clock that saw these rows stand still for so long."""
    clock = LeaseClock(failover_seconds=FAILOVER)
    clock.observe(leases, asked_at=0, answered_at=0)
    clock.observe(leases, asked_at=seconds, answered_at=seconds)
    return clock


def planned(
    *leases: Lease,
    held: Collection[str] = (),
    ready: Collection[str] | None = None,
    clock: LeaseClock | None = None,
) -> Plan:
    return plan(
        leases,
        me="me",
        held=held,
        ready={lease.shard_id for lease in leases} if ready is None else ready,
        clock=clock or LeaseClock(failover_seconds=FAILOVER),
        random=Random(1),
    )


@given(st.lists(st.tuples(st.integers(0, 10**57), st.integers(0, 300)), min_size=2))
def test_checkpoints_stand_in_the_order_of_their_numbers(places: list[tuple[int, int]]) -> None:
    for left in places:
        for right in places:
            checkpoints = Checkpoint(str(left[0]), left[1]), Checkpoint(str(right[0]), right[1])
            assert checkpoints[0].precedes(checkpoints[1]) == (left < right)


@pytest.mark.parametrize("word", ["TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"])
def test_the_beginning_stands_before_every_record_and_the_end_behind(word: str) -> None:
    begin, record, end = Checkpoint(word), Checkpoint("0"), Checkpoint("SHARD_END")
    assert begin.precedes(record)
    assert record.precedes(end)
    assert not begin.precedes(Checkpoint("TRIM_HORIZON"))
    assert not end.precedes(end)
    assert (begin.has_begun, record.has_begun, end.has_begun) == (False, True, True)


@pytest.mark.parametrize("number", ["", "-1", "1.5", "shard_end", "٣"])
def test_what_is_no_sequence_number_is_no_checkpoint(number: str) -> None:
    with pytest.raises(ValueError, match="no sequence number"):
        Checkpoint(number)


def test_a_lease_expires_when_its_counter_has_stood_still_between_two_scans() -> None:
    lease, clock = make_lease("a", owner="other"), LeaseClock(failover_seconds=FAILOVER)
    clock.observe([lease], asked_at=0, answered_at=3)
    clock.observe([lease], asked_at=12.9, answered_at=20)
    assert not clock.is_expired(lease)  # the first answer may be as young as 3, the last as old as 12.9
    clock.observe([lease], asked_at=13, answered_at=20)
    assert clock.is_expired(lease)
    assert not clock.is_expired(replace(lease, counter=2))


def test_a_renewed_or_new_row_starts_its_time_anew() -> None:
    lease, clock = make_lease("a", owner="other"), LeaseClock(failover_seconds=FAILOVER)
    clock.observe([lease], asked_at=0, answered_at=0)
    renewed = replace(lease, counter=2)
    clock.observe([renewed], asked_at=9, answered_at=9)
    clock.observe([renewed], asked_at=18, answered_at=18)
    assert not clock.is_expired(renewed)
    clock.observe([], asked_at=19, answered_at=19)
    clock.observe([renewed], asked_at=20, answered_at=20)
    assert not clock.is_expired(renewed)


def test_a_request_to_hand_over_is_no_sign_of_life_of_the_former_owner() -> None:
    lease, clock = make_lease("a", owner="dead"), LeaseClock(failover_seconds=FAILOVER)
    clock.observe([lease], asked_at=0, answered_at=0)
    asked = replace(lease, owner="thief", checkpoint_owner="dead")
    clock.observe([asked], asked_at=10, answered_at=10)
    assert clock.is_expired(asked)


def test_a_worker_alone_takes_all_that_is_free_and_ready() -> None:
    leases = [make_lease(name) for name in "abc"] + [make_lease("done", checkpoint="SHARD_END")]
    result = planned(*leases, ready={"a", "b"})
    assert {lease.shard_id for lease in result.take} == {"a", "b"}
    assert result.steal is None


def test_leases_of_the_living_are_left_alone_and_those_of_the_dead_taken() -> None:
    living, dead = make_lease("a", owner="x"), make_lease("b", owner="y")
    clock = LeaseClock(failover_seconds=FAILOVER)
    clock.observe([living, dead], asked_at=0, answered_at=0)
    living = replace(living, counter=2)
    clock.observe([living, dead], asked_at=10, answered_at=10)
    assert planned(living, dead, clock=clock).take == (dead,)


def test_free_leases_are_taken_up_to_the_fair_share_only() -> None:
    leases = [make_lease(name, owner="x") for name in "ab"] + [make_lease(name) for name in "cdefg"]
    assert len(planned(*leases).take) == 4  # ceil(7 / 2)


def test_nothing_is_stolen_while_something_is_free() -> None:
    leases = [make_lease(name, owner="x") for name in "abcdef"] + [make_lease("g")]
    result = planned(*leases)
    assert [lease.shard_id for lease in result.take] == ["g"]
    assert result.steal is None


def test_one_lease_is_stolen_from_the_most_loaded() -> None:
    leases = [make_lease(name, owner="x") for name in "abcd"] + [make_lease(name, owner="y") for name in "ef"]
    result = planned(*leases)
    assert result.steal is not None
    assert result.steal.owner == "x"
    assert not result.take


@pytest.mark.parametrize("mine", [1, 2])
def test_a_difference_of_one_is_fair(mine: int) -> None:
    leases = [make_lease(f"x{number}", owner="x") for number in range(2)]
    leases += [make_lease(f"me{number}", owner="me") for number in range(mine)]
    assert planned(*leases, held={f"me{number}" for number in range(mine)}) == Plan()


def test_a_lease_that_is_being_handed_over_is_not_stolen_again() -> None:
    asked = [make_lease(name, owner="x", checkpoint_owner="y") for name in "abcd"]
    assert planned(*asked).steal is None


def test_a_stolen_lease_is_awaited_then_taken_when_it_is_handed_over() -> None:
    asked = make_lease("a", owner="me", checkpoint_owner="victim")
    assert planned(asked) == Plan(awaited=(asked,))
    given_up = replace(asked, checkpoint_owner=None, counter=2)
    assert planned(given_up).take == (given_up,)


def test_a_stolen_lease_of_a_dead_or_stubborn_victim_is_taken() -> None:
    asked = make_lease("a", owner="me", checkpoint_owner="victim")
    assert planned(asked, clock=stopped(asked)).take == (asked,)
    clock = LeaseClock(failover_seconds=FAILOVER, hand_over_seconds=30)
    for second in range(41):  # 30 to drain, and 10 to hear of it
        assert planned(asked, clock=clock).take == ()
        clock.observe([asked := replace(asked, counter=second)], asked_at=second, answered_at=second)
    assert planned(asked, clock=clock).take == (asked,)


def test_the_victim_is_told_what_to_hand_over() -> None:
    asked = make_lease("a", owner="thief", checkpoint_owner="me")
    assert planned(asked, held={"a"}).hand_over == (asked,)


def test_a_row_in_our_name_that_nobody_reads_is_taken_again() -> None:
    forgotten = make_lease("a", owner="me")
    assert planned(forgotten).take == (forgotten,)
    assert planned(forgotten, held={"a"}).take == ()


def test_a_free_lease_whose_last_worker_here_has_not_left_is_for_others() -> None:
    leases = [make_lease("a"), *(make_lease(name, owner="x") for name in "bcd")]
    assert not planned(*leases, held={"a"}).take
    assert planned(*leases).take


def test_a_lease_whose_parents_are_not_done_is_neither_taken_nor_counted() -> None:
    leases = [make_lease(name, owner="x") for name in "ab"] + [make_lease(f"child{n}") for n in range(4)]
    result = planned(*leases, ready={"a", "b"})
    assert not result.take
    assert result.steal is not None
    assert planned(*leases, make_lease("c", owner="me"), held={"c"}, ready={"a", "b", "c"}) == Plan()


@dataclass
class World:
    """A table and its workers, whose clocks started at other times; a conditional write is a comparison."""

    rows: dict[str, Lease]
    random: Random
    now: float = 0.0
    workers: dict[str, World.Worker] = field(default_factory=dict[str, "World.Worker"])

    @dataclass
    class Worker:
        clock: LeaseClock
        skew: float
        held: dict[str, Lease] = field(default_factory=dict[str, Lease])
        frozen: bool = False

    def join(self, name: str) -> None:
        clock = LeaseClock(failover_seconds=FAILOVER)
        self.workers[name] = World.Worker(clock, self.random.uniform(0, 1e6))

    def write(self, before: Lease, after: Lease) -> bool:
        if self.rows[before.shard_id] != before:
            return False
        self.rows[before.shard_id] = after
        return True

    def round(self) -> None:
        """Let every worker that is not frozen renew, look and act once, in any order."""
        self.now += FAILOVER / 3
        names = sorted(self.workers)
        self.random.shuffle(names)
        for name in names:
            if not self.workers[name].frozen:
                self._renew(name)
                self._act(name)

    def _renew(self, name: str) -> None:
        worker = self.workers[name]
        for shard_id, lease in list(worker.held.items()):
            row = self.rows[shard_id]
            if row.holder != name or row.counter != lease.counter:
                del worker.held[shard_id]
                continue
            if row.is_handing_over and self.random.random() < 0.5:  # drained
                self.rows[shard_id] = replace(row, counter=row.counter + 1, checkpoint_owner=None)
                del worker.held[shard_id]
                continue
            self.rows[shard_id] = worker.held[shard_id] = replace(row, counter=row.counter + 1)

    def _act(self, name: str) -> None:
        worker = self.workers[name]
        rows, at = list(self.rows.values()), self.now + worker.skew
        worker.clock.observe(rows, asked_at=at, answered_at=at)
        result = plan(
            rows, me=name, held=worker.held, ready=self.rows, clock=worker.clock, random=self.random
        )
        for lease in result.take:
            taken = replace(lease, owner=name, checkpoint_owner=None, counter=lease.counter + 1)
            if self.write(lease, taken):
                worker.held[lease.shard_id] = taken
        if result.steal is not None:
            self.write(result.steal, replace(result.steal, owner=name, checkpoint_owner=result.steal.owner))

    def settle(self) -> None:
        for _ in range(20 + 3 * len(self.rows)):
            self.round()


@given(
    seed=st.integers(0, 2**32),
    shards=st.integers(1, 12),
    steps=st.lists(st.sampled_from(["join", "freeze", "thaw", "crash", "round"]), max_size=25),
)
def test_whatever_workers_do_in_the_end_every_lease_has_one_reader_and_the_shares_are_fair(
    seed: int, shards: int, steps: list[str]
) -> None:
    random = Random(seed)
    world = World({f"s{number}": make_lease(f"s{number}", counter=0) for number in range(shards)}, random)
    for number, step in enumerate(steps):
        names = sorted(world.workers)
        match step:
            case "join":
                world.join(f"w{number}")
            case "crash" if names:
                del world.workers[random.choice(names)]
            case "freeze" | "thaw" if names:
                world.workers[random.choice(names)].frozen = step == "freeze"
            case _:
                world.round()
    world.join("last")
    for worker in world.workers.values():
        worker.frozen = False
    world.settle()
    held = Counter(shard_id for worker in world.workers.values() for shard_id in worker.held)
    assert held == Counter(world.rows.keys())
    for name, worker in world.workers.items():
        assert all(world.rows[shard_id].owner == name for shard_id in worker.held)
    loads = [len(worker.held) for worker in world.workers.values()]
    assert max(loads) - min(loads) <= 1
    before = {shard_id: lease.owner for shard_id, lease in world.rows.items()}
    world.settle()
    assert {shard_id: lease.owner for shard_id, lease in world.rows.items()} == before  # it came to rest
