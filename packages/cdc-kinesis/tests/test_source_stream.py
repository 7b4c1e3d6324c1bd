"""What the worker of a shard is given, what of it is done, and what is left when the lease is gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_core import Event, Partition, PartitionLost
from cdc_kinesis._aggregation import Aggregate
from cdc_kinesis._config import KinesisConfig
from cdc_kinesis._leases import Checkpoint
from cdc_kinesis._position import KinesisPosition
from cdc_kinesis._records import GotRecord
from cdc_kinesis._rows import RowBuffer
from cdc_kinesis._shard_stream import ShardStream

pytestmark = pytest.mark.anyio


class NoWriter:
    """Nobody: what is done is looked at where it stands."""

    def __init__(self) -> None:
        self.writes = 0

    async def write_now(self) -> None:
        self.writes += 1


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def record(number: int, *, size: int = 10) -> GotRecord:
    return GotRecord(str(number), "k", b"x" * (size - 1), 0.0)


def aggregate(number: int, rows: int) -> GotRecord:
    """Return a record of so many rows, as the publisher writes it."""
    parts = Aggregate("1")
    for row in range(rows):
        parts.add(b"k", b"row-%d" % row)
    return GotRecord(str(number), "k", parts.finish(), 0.0)


def make_stream(
    *,
    done: Checkpoint | None = None,
    max_batch_events: int = 3,
    max_batch_bytes: int = 1 << 20,
    max_buffered_bytes: int = 1 << 20,
    clock: Callable[[], float] = lambda: 0.0,
) -> ShardStream:
    config = KinesisConfig(
        stream_name="s",
        max_batch_events=max_batch_events,
        max_batch_bytes=max_batch_bytes,
        max_buffered_bytes=max_buffered_bytes,
    )
    return ShardStream(
        Partition("s", "shard-0"),
        config,
        RowBuffer(done=done),
        NoWriter(),
        lanes=(),
        fence=7,
        valid_until=110.0,
        clock=clock,
    )


def places(events: Sequence[Event]) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for event in events:
        assert isinstance(event.position, KinesisPosition)
        found.append((event.position.sequence_number, event.position.sub_sequence))
    return found


async def read_all(stream: ShardStream) -> list[tuple[str, int]]:
    stream.end()
    return [place for batch in [batch async for batch in stream] for place in places(batch)]


async def test_rows_come_in_order_numbered_and_with_the_fence_of_the_lease() -> None:
    stream = make_stream()
    await stream.put([record(1), aggregate(2, 3), record(3)])
    stream.end()
    batches = [batch async for batch in stream]
    events = [event for batch in batches for event in batch]
    assert [len(batch) for batch in batches] == [3, 2]
    assert places(events) == [("1", 0), ("2", 0), ("2", 1), ("2", 2), ("3", 0)]
    assert [event.delivery for event in events] == [0, 1, 2, 3, 4]
    assert {event.fence for event in events} == {7}
    assert batches[0][0] is batches[0][0], "an event is made once"


async def test_a_batch_stays_below_its_bytes_and_a_larger_row_comes_alone() -> None:
    stream = make_stream(max_batch_events=10, max_batch_bytes=25)
    await stream.put([record(1), record(2), record(3), record(4, size=40), record(5)])
    stream.end()
    assert [places(batch) async for batch in stream] == [
        [("1", 0), ("2", 0)],
        [("3", 0)],
        [("4", 0)],
        [("5", 0)],
    ]


async def test_a_checkpoint_inside_an_aggregate_resumes_behind_its_row_and_one_at_its_end_behind_the_record() -> (
    None
):
    inside = make_stream(done=Checkpoint("2", 1))
    await inside.put([aggregate(2, 4), record(3)])
    assert await read_all(inside) == [("2", 2), ("2", 3), ("3", 0)]
    at_the_end = make_stream(done=Checkpoint("2", 3))
    await at_the_end.put([aggregate(2, 4), record(3)])
    assert await read_all(at_the_end) == [("3", 0)]
    plain = make_stream(done=Checkpoint("2", 0))
    await plain.put([record(2), record(3)])
    assert await read_all(plain) == [("3", 0)]


async def test_only_the_contiguous_done_prefix_is_the_checkpoint() -> None:
    stream = make_stream(max_batch_events=2)
    await stream.put([record(1), aggregate(2, 3), record(3)])
    stream.end()
    batches = [batch async for batch in stream]
    assert stream.checkpoint is None
    await stream.ack([batches[1][0], batches[1][1]])
    assert stream.checkpoint is None
    await stream.ack([batches[0][0]])
    assert stream.checkpoint == Checkpoint("1", 0)
    await stream.ack(batches[0])
    assert stream.checkpoint == Checkpoint("2", 2)
    assert not stream.is_done
    await stream.ack(batches[2])
    assert stream.checkpoint == Checkpoint("3", 0)
    assert stream.is_done


async def test_a_shard_whose_rest_was_dropped_by_a_revoke_is_not_done() -> None:
    stream = make_stream(max_batch_events=1)
    await stream.put([record(1), record(2)])
    stream.end()
    first = await anext(stream)
    stream.revoke(anyio.current_time() + 10)
    await stream.ack(first)
    assert [batch async for batch in stream] == []
    assert stream.checkpoint == Checkpoint("1", 0)
    assert stream.is_idle
    assert not stream.is_done


async def test_what_comes_after_a_revoke_is_not_done_either() -> None:
    stream = make_stream()
    stream.revoke(anyio.current_time() + 10)
    await stream.put([record(1)])
    stream.end()
    assert not stream.is_done


async def test_a_frozen_owner_hands_out_nothing_once_the_deadline_has_passed() -> None:
    clock = Clock()
    stream = make_stream(max_batch_events=1, clock=clock)
    await stream.put([record(1), record(2)])
    batch = await anext(stream)
    assert stream.current(batch[0])
    clock.now = 110.0
    assert not stream.current(batch[0])
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    with pytest.raises(PartitionLost):
        await stream.ack(batch)
    assert stream.checkpoint is None
    assert stream.scope.cancelled


async def test_an_event_of_another_owner_is_a_counted_no_op() -> None:
    stream, other = make_stream(), make_stream()
    await stream.put([record(1)])
    batch = await anext(stream)
    await other.put([record(1)])
    with pytest.raises(PartitionLost):
        await other.ack(batch)  # never delivered there
    assert other.stale_acks == 1
    others = await anext(other)
    await other.ack(list(others))
    assert other.checkpoint == Checkpoint("1", 0)


async def test_reading_waits_while_what_is_buffered_fills_its_bytes() -> None:
    stream = make_stream(max_batch_events=1, max_buffered_bytes=20)
    events: list[str] = []

    async def put() -> None:
        for number in (1, 2, 3):
            await stream.put([record(number)])
            events.append(f"put {number}")
        stream.end()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(put)
        await anyio.wait_all_tasks_blocked()
        assert events == ["put 1"]
        await anext(stream)
        await anyio.wait_all_tasks_blocked()
        assert events == ["put 1", "put 2"]
        assert [places(batch) async for batch in stream] == [[("2", 0)], [("3", 0)]]


async def test_a_cancelled_worker_goes_on_behind_its_stream_and_takes_no_batch_with_it() -> None:
    stream = make_stream()
    async with anyio.create_task_group() as tasks:

        async def work() -> None:
            async with stream:
                async for _ in stream:
                    pass
            left.set()

        left = anyio.Event()
        tasks.start_soon(work)
        await anyio.wait_all_tasks_blocked()
        stream.lose()
        await left.wait()
    assert stream.scope.finished.is_set()


@given(
    sizes=st.lists(st.integers(0, 4), max_size=12),
    max_rows=st.integers(1, 5),
    resume=st.integers(0, 20),
)
def test_wherever_reading_resumes_the_rows_are_those_behind_the_checkpoint(
    sizes: list[int], max_rows: int, resume: int
) -> None:
    """0 stands for a record that is not aggregated."""
    records = [record(n) if size == 0 else aggregate(n, size) for n, size in enumerate(sizes)]
    all_rows = [(str(n), sub) for n, size in enumerate(sizes) for sub in range(max(1, size))]
    done = Checkpoint(*all_rows[resume]) if resume < len(all_rows) else None
    from_record = 0 if done is None else int(done.sequence_number)
    buffer = RowBuffer(done=done)
    buffer.add(records[from_record:])
    taken: list[tuple[str, int]] = []
    while rows := buffer.take(max_rows=max_rows, max_bytes=1 << 20):
        assert len(rows) <= max_rows
        taken += [(row.sequence_number, getattr(row, "sub_sequence", 0)) for row in rows]
    assert taken == all_rows[0 if done is None else resume + 1 :]
    assert buffer.size == 0
    assert buffer.is_empty
