from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from lease_tools import RawTable, Wire

from cdc_core import NotProvisioned
from cdc_kinesis._leases import Checkpoint, Lease
from cdc_kinesis._shards import MissingRow, Shard, children_of, deletable, list_shards, missing_rows, ready
from cdc_testing.servers.kinesis import EmbeddedAws

TRIM_HORIZON, AT_TIMESTAMP, SHARD_END = (
    Checkpoint(word) for word in ("TRIM_HORIZON", "AT_TIMESTAMP", "SHARD_END")
)
READ = Checkpoint("7")


def make_shard(number: int, *parents: int, is_open: bool = False) -> Shard:
    return Shard(
        shard_id=name_of(number),
        parents=frozenset(name_of(parent) for parent in parents),
        starting_hash_key="0",
        ending_hash_key="9",
        is_open=is_open,
    )


def name_of(number: int) -> str:
    return f"shardId-{number:012}"


def make_row(number: int, checkpoint: Checkpoint, *parents: int, children: Iterable[int] = ()) -> Lease:
    return Lease(
        shard_id=name_of(number),
        checkpoint=checkpoint,
        parents=frozenset(name_of(parent) for parent in parents),
        children=frozenset(name_of(child) for child in children),
    )


def numbers(found: Iterable[MissingRow]) -> dict[int, str]:
    return {int(row.lease.shard_id[-12:]): row.lease.checkpoint.sequence_number for row in found}


# 0 was split into 1 and 2, and these were merged into 3
GENERATIONS = (make_shard(0), make_shard(1, 0), make_shard(2, 0), make_shard(3, 1, 2, is_open=True))


@pytest.mark.parametrize("initial", [TRIM_HORIZON, AT_TIMESTAMP])
def test_a_first_start_over_a_resharded_stream_starts_every_shard_where_the_group_starts(
    initial: Checkpoint,
) -> None:
    found = missing_rows(GENERATIONS, [], initial=initial)
    assert [row.lease.shard_id for row in found] == [shard.shard_id for shard in GENERATIONS]
    assert {row.lease.checkpoint for row in found} == {initial}
    assert [row.lease.parents for row in found] == [shard.parents for shard in GENERATIONS]
    assert not any(row.unexpected for row in found)


def test_an_initialisation_that_was_cut_off_goes_on_where_the_group_starts() -> None:
    rows = [make_row(0, AT_TIMESTAMP)]
    assert numbers(missing_rows(GENERATIONS, rows, initial=AT_TIMESTAMP)) == dict.fromkeys(
        (1, 2, 3), "AT_TIMESTAMP"
    )


def test_a_child_found_later_starts_at_the_beginning() -> None:
    found = missing_rows(GENERATIONS, [make_row(0, READ)], initial=None)
    assert numbers(found) == dict.fromkeys((1, 2, 3), "TRIM_HORIZON")
    assert not any(row.unexpected for row in found)


def test_the_row_of_a_shard_whose_child_has_begun_is_not_made_again() -> None:
    assert missing_rows(GENERATIONS, [make_row(3, READ, 1, 2)], initial=None) == []
    rows = [make_row(1, READ, 0), make_row(2, TRIM_HORIZON, 0)]
    assert numbers(missing_rows(GENERATIONS, rows, initial=None)) == {3: "TRIM_HORIZON"}


def test_a_row_deleted_by_hand_is_made_again_with_a_warning() -> None:
    (found,) = missing_rows([make_shard(0, is_open=True)], [], initial=None)
    assert (found.lease.checkpoint, found.unexpected) == (TRIM_HORIZON, True)
    rows = [
        make_row(0, SHARD_END, children=(1, 2)),
        make_row(1, TRIM_HORIZON, 0),
        make_row(3, TRIM_HORIZON, 1, 2),
    ]
    (found,) = missing_rows(GENERATIONS, rows, initial=None)
    assert (found.lease.shard_id, found.lease.checkpoint, found.unexpected) == (
        name_of(2),
        TRIM_HORIZON,
        True,
    )


def test_forebears_of_what_a_kcl_started_at_latest_start_there_too() -> None:
    found = missing_rows(GENERATIONS, [make_row(3, Checkpoint("LATEST"), 1, 2)], initial=None)
    assert numbers(found) == dict.fromkeys((0, 1, 2), "LATEST")


def test_a_child_is_ready_once_both_its_parents_are_done() -> None:
    rows = {number: make_row(number, READ) for number in (1, 2)} | {3: make_row(3, TRIM_HORIZON, 1, 2)}
    shards = GENERATIONS[1:]
    assert ready(shards, rows.values()) == {name_of(1), name_of(2)}
    rows[1] = replace(rows[1], checkpoint=SHARD_END)
    assert ready(shards, rows.values()) == {name_of(2)}
    rows[2] = replace(rows[2], checkpoint=SHARD_END)
    assert ready(shards, rows.values()) == {name_of(3)}


def test_a_row_that_does_not_name_its_parents_waits_for_those_of_the_list() -> None:
    assert ready(GENERATIONS[1:], [make_row(1, SHARD_END), make_row(2, READ), make_row(3, TRIM_HORIZON)]) == {
        name_of(2)
    }


def test_a_parent_that_the_stream_dropped_holds_nobody_back() -> None:
    assert ready([GENERATIONS[3]], [make_row(3, TRIM_HORIZON, 1, 2)]) == {name_of(3)}


def test_a_parent_that_an_older_list_cannot_know_does() -> None:
    rows = [make_row(0, READ), make_row(5, TRIM_HORIZON, 3, 4)]
    assert ready([make_shard(0, is_open=True)], rows) == {name_of(0)}


def test_a_dropped_shard_that_nobody_finished_is_ready_so_that_its_loss_is_reported() -> None:
    rows = [make_row(1, TRIM_HORIZON, 0), make_row(3, TRIM_HORIZON, 1)]
    assert ready([make_shard(3, 1, is_open=True)], rows) == {name_of(1)}


def test_what_has_begun_needs_no_parent_any_more() -> None:
    assert ready(GENERATIONS, [make_row(3, READ, 1, 2)]) == {name_of(3)}


def test_the_row_of_a_finished_shard_goes_when_all_its_children_have_begun() -> None:
    done = make_row(0, SHARD_END, children=(1, 2))
    rows = [done, make_row(1, READ, 0), make_row(2, TRIM_HORIZON, 0)]
    assert deletable(GENERATIONS, rows) == []
    rows[2] = make_row(2, READ, 0)
    assert deletable(GENERATIONS, rows) == [done]
    assert deletable(GENERATIONS, [replace(done, children=frozenset()), *rows[1:]]) != []


def test_rows_go_parents_first() -> None:
    rows = [
        make_row(0, SHARD_END),
        make_row(1, SHARD_END, 0),
        make_row(2, SHARD_END, 0),
        make_row(3, READ, 1, 2),
    ]
    assert deletable(GENERATIONS, rows) == rows[:1]
    assert deletable(GENERATIONS, rows[1:]) == rows[1:3]


def test_a_finished_shard_goes_without_children_only_when_the_stream_has_dropped_it() -> None:
    done = make_row(0, SHARD_END)
    assert deletable([make_shard(0)], [done]) == []
    assert deletable([make_shard(9, is_open=True)], [done]) == [done]
    assert deletable([make_shard(9, is_open=True)], [make_row(0, READ)]) == []


def test_the_children_of_a_shard_are_found_in_a_list() -> None:
    assert [child.shard_id for child in children_of(name_of(0), GENERATIONS)] == [name_of(1), name_of(2)]
    (merged,) = children_of(name_of(1), GENERATIONS)
    assert merged.parents == (name_of(1), name_of(2))


def test_a_child_is_read_although_its_finished_parents_row_was_deleted_by_hand() -> None:
    shards = [make_shard(0, is_open=False), make_shard(1, 0, is_open=True), make_shard(2, 0, is_open=True)]
    rows = [
        Lease(shard_id=name_of(1), checkpoint=READ, parents=frozenset({name_of(0)})),
        Lease(shard_id=name_of(2), checkpoint=TRIM_HORIZON, parents=frozenset({name_of(0)})),
    ]
    assert missing_rows(shards, rows, initial=None) == [], "the parent is not read again"
    assert ready(shards, rows) == {name_of(1), name_of(2)}


class Resharding(RuleBasedStateMachine):
    """A stream that is split, merged and trimmed at will, and a group that works through it.

    Each shard has two records: a reader first takes one, then the other, and only of a closed shard sees the end.
    """

    @initialize(shards=st.integers(1, 4), initial=st.sampled_from([TRIM_HORIZON, AT_TIMESTAMP]))
    def begin(self, shards: int, initial: Checkpoint) -> None:
        self.stream = {number: make_shard(number, is_open=True) for number in range(shards)}
        self.trimmed: set[int] = set()
        self.rows: dict[str, Lease] = {}
        self.initial: Checkpoint | None = initial
        self.begun: list[int] = []
        self.done: set[int] = set()
        self.deleted: set[int] = set()
        self.parents: dict[int, tuple[int, ...]] = {}
        self.listed = list(self.stream.values())

    def _close(self, *parents: int) -> None:
        for parent in parents:
            self.stream[parent] = replace(self.stream[parent], is_open=False)

    def _open(self, *parents: int) -> None:
        number = max([*self.stream, *self.trimmed]) + 1
        self.parents[number] = parents
        self.stream[number] = make_shard(number, *parents, is_open=True)

    def _opened(self) -> list[int]:
        return [number for number, shard in self.stream.items() if shard.is_open]

    @rule(choice=st.integers(0, 99))
    def split(self, choice: int) -> None:
        parent = self._opened()[choice % len(self._opened())]
        self._close(parent)
        self._open(parent)
        self._open(parent)

    @precondition(lambda self: len(self._opened()) > 1)
    @rule(choice=st.integers(0, 99))
    def merge(self, choice: int) -> None:
        left = choice % (len(self._opened()) - 1)
        pair = self._opened()[left : left + 2]
        self._close(*pair)
        self._open(*pair)

    @precondition(lambda self: any(not shard.is_open for shard in self.stream.values()))
    @rule()
    def trim(self) -> None:
        number = min(number for number, shard in self.stream.items() if not shard.is_open)
        del self.stream[number]
        self.trimmed.add(number)

    @rule()
    def list_the_shards(self) -> None:
        self.listed = list(self.stream.values())

    @rule()
    def make_rows(self) -> None:
        self.listed = list(self.stream.values())
        for row in missing_rows(self.listed, self.rows.values(), initial=self.initial):
            number = int(row.lease.shard_id[-12:])
            assert not row.unexpected or self.trimmed or self.deleted
            if number in self.begun:
                assert number in self._excused(), "a shard would be read twice"
                self.begun.remove(number)
                self.done.discard(number)
            self.rows[row.lease.shard_id] = row.lease
        self.initial = None

    def _excused(self) -> set[int]:
        """Return what may be read again: whose row was deleted by hand, or the row that showed that it was done."""
        excused, waiting = set[int](), list(self.deleted)
        while waiting:
            number = waiting.pop()
            excused.add(number)
            waiting += self.parents.get(number, ())
        return excused

    @rule(choice=st.integers(0, 99))
    def read(self, choice: int) -> None:
        if self.initial is not None:
            return
        may = sorted(ready(self.listed, self.rows.values()))
        if may:
            self._read(int(may[choice % len(may)][-12:]))

    def _read(self, number: int) -> None:
        lease = self.rows[name_of(number)]
        if number not in self.begun:
            self.begun.append(number)
            parents = {int(parent[-12:]) for parent in lease.parents}
            assert parents <= self.done | self.trimmed, "a child was read before its parent was done"
        if lease.checkpoint.is_sequence or number in self.trimmed:
            if number not in self.trimmed and self.stream[number].is_open:
                return
            children = children_of(lease.shard_id, self.stream.values())
            for child in children:
                self.rows.setdefault(
                    child.shard_id,
                    Lease(shard_id=child.shard_id, checkpoint=TRIM_HORIZON, parents=frozenset(child.parents)),
                )
            ids = frozenset(child.shard_id for child in children)
            self.rows[lease.shard_id] = replace(lease, checkpoint=SHARD_END, children=ids)
            self.done.add(number)
        else:
            self.rows[lease.shard_id] = replace(lease, checkpoint=READ)

    @rule()
    def delete_rows(self) -> None:
        for lease in deletable(self.listed, self.rows.values()):
            assert int(lease.shard_id[-12:]) in self.done
            del self.rows[lease.shard_id]

    @precondition(lambda self: self.rows)
    @rule(choice=st.integers(0, 99))
    def delete_a_row_by_hand(self, choice: int) -> None:
        shard_id = sorted(self.rows)[choice % len(self.rows)]
        self.deleted.add(int(shard_id[-12:]))
        del self.rows[shard_id]

    def teardown(self) -> None:
        """Let the group work on until it rests: then every shard is done, or open and being read."""
        for _ in range(3 * len(self.stream) + 3 * len(self.rows) + 3):
            self.make_rows()
            for shard_id in sorted(ready(self.listed, self.rows.values())):
                self._read(int(shard_id[-12:]))
            self.delete_rows()
        for number, shard in self.stream.items():
            assert number in self.begun
            assert shard.is_open or number in self.done
        assert set(self.rows) == {name_of(number) for number in self._opened()}


TestResharding = Resharding.TestCase
TestResharding.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


@pytest.mark.anyio
async def test_a_stream_that_is_not_there_is_said_to_be_missing(embedded_aws: EmbeddedAws) -> None:
    with pytest.raises(NotProvisioned, match="no-such-stream"):
        await list_shards(Wire(embedded_aws).aws(), "no-such-stream")


@pytest.mark.anyio
async def test_the_shards_of_a_stream_are_listed_page_by_page_with_their_parents(
    embedded_aws: EmbeddedAws,
) -> None:
    raw, wire = RawTable(embedded_aws), Wire(embedded_aws)
    kinesis = raw.session.client("kinesis", endpoint_url=embedded_aws.kinesis_endpoint_url)
    kinesis.create_stream(StreamName=raw.name, ShardCount=2)
    kinesis.get_waiter("stream_exists").wait(StreamName=raw.name)
    middle = str(2**127)
    kinesis.merge_shards(StreamName=raw.name, ShardToMerge=name_of(0), AdjacentShardToMerge=name_of(1))
    kinesis.get_waiter("stream_exists").wait(StreamName=raw.name)
    kinesis.split_shard(StreamName=raw.name, ShardToSplit=name_of(2), NewStartingHashKey=middle)
    kinesis.get_waiter("stream_exists").wait(StreamName=raw.name)
    shards = await list_shards(wire.aws(), raw.name)
    assert [(shard.shard_id, shard.is_open, sorted(shard.parents)) for shard in shards] == [
        (name_of(0), False, []),
        (name_of(1), False, []),
        (name_of(2), False, [name_of(0), name_of(1)]),
        (name_of(3), True, [name_of(2)]),
        (name_of(4), True, [name_of(2)]),
    ]
    assert (shards[3].starting_hash_key, shards[4].starting_hash_key) == ("0", middle)
