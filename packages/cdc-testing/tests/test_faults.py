"""Faults happen once, where they say, and a publisher's faults look as a real transport's do."""

from __future__ import annotations

import json
from collections.abc import Sequence

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_core import (
    EnvelopeError,
    Event,
    Operation,
    Pipeline,
    PublishError,
    WalPublisher,
)
from cdc_testing import (
    Crash,
    Delay,
    Duplicate,
    FailAfterStore,
    Fault,
    Hold,
    Limits,
    MemoryTransport,
    Reject,
    run_until_idle,
)
from cdc_testing.checks import row_event
from cdc_testing.faults import poisoned

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class OpenFence:
    def remaining_seconds(self) -> float:
        return 60.0


async def publish(publisher: WalPublisher, *numbers: int) -> list[int]:
    """Publish rows as one batch; return the indexes of the rejected ones."""
    receipt = await publisher.publish([row_event("key", number) for number in numbers])
    return [rejected.index for rejected in await receipt]


def stored(transport: MemoryTransport) -> list[int]:
    """Return the numbers of the rows that the transport holds."""
    values = [record.event.value or b"" for log in transport.logs for record in log.records]
    return [json.loads(value)["after"]["number"] for value in values]


async def test_a_rejected_entry_is_returned_and_its_neighbours_are_stored() -> None:
    transport = MemoryTransport(faults=[Reject(at=5)])
    async with transport.publisher(OpenFence()) as publisher:
        assert await publish(publisher, 1, 2, 3) == []
        assert await publish(publisher, 4, 5, 6) == [1]
    assert stored(transport) == [1, 2, 3, 4, 6]


async def test_a_batch_can_be_stored_and_its_answer_lost_and_then_the_publisher_is_done() -> None:
    transport = MemoryTransport(faults=[FailAfterStore(at=2)])
    async with transport.publisher(OpenFence()) as publisher:
        with pytest.raises(PublishError, match="answer was lost"):
            await publish(publisher, 1, 2)
        with pytest.raises(PublishError):
            await publish(publisher, 3)
    assert stored(transport) == [1, 2]


async def test_a_held_batch_is_stored_only_when_it_is_released() -> None:
    transport = MemoryTransport(faults=[Hold(at=2)])
    async with transport.publisher(OpenFence()) as publisher:
        assert await publish(publisher, 1) == []
        receipt = await publisher.publish([row_event("key", 2)])
        with anyio.move_on_after(0.02) as waited:
            await receipt
        assert waited.cancelled_caught
        assert stored(transport) == [1]
        transport.release()
        assert await receipt == []
    assert stored(transport) == [1, 2]


async def test_a_publisher_that_is_held_bounds_what_it_accepts() -> None:
    transport = MemoryTransport(faults=[Hold(at=1)])
    accepted = 0
    async with transport.publisher(OpenFence()) as publisher:
        with anyio.move_on_after(0.05):
            for number in range(100):
                await publisher.publish([row_event("key", number)])
                accepted += 1
    assert 1 <= accepted < 100


async def test_a_delayed_batch_is_stored_later() -> None:
    transport = MemoryTransport(faults=[Delay(at=1, seconds=0.05)])
    async with transport.publisher(OpenFence()) as publisher:
        before = anyio.current_time()
        assert await publish(publisher, 1) == []
    assert anyio.current_time() - before >= 0.05


async def test_what_was_accepted_and_not_stored_when_the_publisher_closes_has_failed() -> None:
    transport = MemoryTransport(faults=[Hold(at=1)])
    async with transport.publisher(OpenFence()) as publisher:
        receipt = await publisher.publish([row_event("key", 1)])
    with pytest.raises(PublishError):
        await receipt
    assert stored(transport) == []


def test_a_poisoned_row_keeps_its_envelope_and_does_not_fit_its_type() -> None:
    value = json.loads(poisoned(row_event("a", 1).value))
    assert value["after"] == {"key": {"poison": True}, "number": {"poison": True}}
    assert value["op"] == "c"


@pytest.mark.parametrize("value", [b"", b"\xff\xfe", b"[1, 2]", b'"text"', None])
def test_poisoned_bytes_that_were_no_envelope_are_none_afterwards(value: bytes | None) -> None:
    event = Event(key=None, value=poisoned(value), op=Operation.CREATE, table=None, position=0)
    with pytest.raises(EnvelopeError):
        event.change()


def test_a_fault_at_no_event_is_refused() -> None:
    for make in (Duplicate, Reject, FailAfterStore, Hold):
        with pytest.raises(ValueError, match="numbered from 1"):
            make(0)
    with pytest.raises(ValueError, match="after"):
        Crash(before="after", at=1)


@settings(max_examples=60, deadline=None)
@given(
    faults=st.lists(
        st.one_of(
            st.builds(Crash, before=st.sampled_from(["handler", "ack", "commit"]), at=st.integers(1, 9)),
            st.builds(Duplicate, at=st.integers(1, 9)),
        ),
        max_size=4,
        unique=True,
    ),
    partitions=st.integers(1, 3),
    batch=st.integers(1, 4),
    concurrency=st.integers(1, 3),
)
def test_whatever_faults_come_together_every_event_is_handled_in_order_per_key(
    faults: list[Fault], partitions: int, batch: int, concurrency: int
) -> None:
    handled: list[tuple[bytes | None, bytes | None]] = []

    async def handler(events: Sequence[Event]) -> None:
        handled.extend((event.key, event.value) for event in events)

    async def run() -> None:
        transport = MemoryTransport(
            faults=faults, partitions=partitions, limits=Limits(max_batch_events=batch)
        )
        for number in range(9):
            transport.put(f"key-{number % 3}".encode(), str(number).encode())
        await run_until_idle(
            Pipeline(name="t", transport=transport, handler=handler, concurrency_per_partition=concurrency)
        )

    anyio.run(run)
    first = list(dict.fromkeys(handled))
    assert len(first) == 9
    for key in {key for key, _ in first}:
        values = [int(value or b"") for one, value in first if one == key]
        assert values == sorted(values)
