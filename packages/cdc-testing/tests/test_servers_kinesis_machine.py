"""The service keeps every record, whatever is put, split, merged and resized in between."""

from collections import defaultdict
from itertools import pairwise
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from kinesis_caller import HASHES, Caller

from cdc_testing.servers.kinesis._service import Service


class StreamMachine(RuleBasedStateMachine):
    @initialize(shards=st.integers(1, 4))
    def create(self, shards: int) -> None:
        self.call = Caller(Service())
        self.call("CreateStream", StreamName="s", ShardCount=shards)
        self.acked: dict[str, list[int]] = defaultdict(list)

    @rule(keys=st.lists(st.integers(0, HASHES - 1), min_size=1, max_size=8))
    def put(self, keys: list[int]) -> None:
        answer = self.call.put(*keys)
        assert answer["FailedRecordCount"] == 0
        for result in answer["Records"]:
            self.acked[result["ShardId"]].append(int(result["SequenceNumber"]))

    @rule(which=st.integers(0, 99), where=st.floats(0.001, 0.999))
    def split(self, which: int, where: float) -> None:
        shards = self.call.open_shards()
        shard = shards[which % len(shards)]
        first, last = _range(shard)
        middle = first + int((last - first) * where)
        if first + 1 < middle < last:
            self.call(
                "SplitShard", StreamName="s", ShardToSplit=shard["ShardId"], NewStartingHashKey=str(middle)
            )

    @rule(which=st.integers(0, 99))
    def merge(self, which: int) -> None:
        shards = sorted(self.call.open_shards(), key=_range)
        if len(shards) > 1:
            at = which % (len(shards) - 1)
            first, second = shards[at]["ShardId"], shards[at + 1]["ShardId"]
            self.call("MergeShards", StreamName="s", ShardToMerge=first, AdjacentShardToMerge=second)

    @rule(count=st.integers(1, 8))
    def resize(self, count: int) -> None:
        now = len(self.call.open_shards())
        if now <= 2 * count and count <= 2 * now:
            self.call(
                "UpdateShardCount", StreamName="s", TargetShardCount=count, ScalingType="UNIFORM_SCALING"
            )
            widths = {last - first for first, last in map(_range, self.call.open_shards())}
            assert len(self.call.open_shards()) == count
            assert max(widths) - min(widths) < count

    @rule(seconds=st.floats(0, 3600))
    def wait(self, seconds: float) -> None:
        self.call.now = round(self.call.now + seconds, 3)

    @precondition(lambda self: hasattr(self, "call"))
    @invariant()
    def the_open_shards_cover_the_hash_space_once(self) -> None:
        ranges = sorted(map(_range, self.call.open_shards()))
        assert ranges[0][0] == 0
        assert ranges[-1][1] == HASHES - 1
        assert all(before[1] + 1 == after[0] for before, after in pairwise(ranges))

    @precondition(lambda self: hasattr(self, "call"))
    @invariant()
    def every_shard_reads_what_it_acknowledged_in_order_and_closed_ones_end(self) -> None:
        for shard in self.call.shards():
            name = shard["ShardId"]
            reading = self.call.read(name, limit=3)
            assert reading.numbers == self.acked[name]
            assert reading.numbers == sorted(set(reading.numbers))
            closed = "EndingSequenceNumber" in shard["SequenceNumberRange"]
            assert reading.ended == closed
            assert bool(reading.children) == closed
            first = int(shard["SequenceNumberRange"]["StartingSequenceNumber"])
            assert all(first < number for number in reading.numbers)
            if closed:
                last = int(shard["SequenceNumberRange"]["EndingSequenceNumber"])
                assert all(number < last for number in reading.numbers)

    @precondition(lambda self: hasattr(self, "call"))
    @invariant()
    def a_childs_sequence_numbers_follow_its_parents(self) -> None:
        numbers = {shard["ShardId"]: shard["SequenceNumberRange"] for shard in self.call.shards()}
        for shard in self.call.shards():
            for parent in (shard.get("ParentShardId"), shard.get("AdjacentParentShardId")):
                if parent is not None:
                    child = int(numbers[shard["ShardId"]]["StartingSequenceNumber"])
                    assert child > int(numbers[parent]["EndingSequenceNumber"])


def _range(shard: dict[str, Any]) -> tuple[int, int]:
    range_ = shard["HashKeyRange"]
    return int(range_["StartingHashKey"]), int(range_["EndingHashKey"])


TestStream = StreamMachine.TestCase
TestStream.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)
