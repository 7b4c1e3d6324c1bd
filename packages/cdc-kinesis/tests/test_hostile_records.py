"""Records that look like ours and are not: whoever may write to the stream may write them."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest
from source_kit import Kit

from cdc_core import Event, Lane, Pipeline, Poison, provision
from cdc_kinesis import KinesisTransport
from cdc_kinesis._position import KinesisPosition
from cdc_kinesis._record_data import decode_record
from cdc_testing.servers.kinesis import EmbeddedAws

EPOCH = "7000000000000000001:1:shop:fp"


def forged(
    *, lsn: str = "1", ordinal: str = "2", key: bytes = b'{"id":1}', epoch: str = EPOCH, bucket: int = 0
) -> bytes:
    row = (
        f"{lsn},{ordinal},0,{bucket},null,".encode() + key + f',null,"c/public/orders/{epoch}",null'.encode()
    )
    body = b'{"cdc":[' + row
    return body + b',"%08d"]}' % (len(body) + 13)


DEEP = forged(key=b"[" * 50_000 + b"]" * 50_000)
FORGERIES = {
    "brackets by the thousand": DEEP,
    "brackets that nobody closes": forged(key=b"[" * 50_000),
    "a negative LSN": forged(lsn="-1"),
    "an LSN of 31 digits": forged(lsn="1" + "0" * 30),
    "a negative ordinal": forged(ordinal="-1"),
    "a slot that none is called": forged(epoch="7000000000000000001:1:Shop:fp"),
    "an epoch without a timeline": forged(epoch="7000000000000000001:x:shop:fp"),
}


def decoded(data: bytes) -> Event:
    position = KinesisPosition("shardId-000000000000", "1")
    return decode_record(data, partition_key="key", position=position, lanes=[Lane("0")])


def test_what_has_all_that_ours_have_is_taken_for_ours() -> None:
    assert decoded(forged()).identity is not None


@pytest.mark.parametrize("data", FORGERIES.values(), ids=FORGERIES.keys())
def test_a_record_whose_meta_data_cannot_be_is_foreign(data: bytes) -> None:
    event = decoded(data)
    assert (event.value, event.identity, event.table, event.lane) == (data, None, None, None)


@pytest.mark.anyio
async def test_a_forged_record_stops_no_consumer_and_its_letter_can_be_read(
    embedded_aws: EmbeddedAws,
) -> None:
    kit = Kit(embedded_aws, shard_count=1)
    transport = KinesisTransport(kit.config, session=embedded_aws.boto3_session())
    await provision(transport)
    for data in FORGERIES.values():
        await kit.put_data(data)
        await kit.put_data(b"0")
    await kit.put_data(b"last")
    arrived = anyio.Event()

    async def handle(events: Sequence[Event]) -> None:
        for event in events:
            if event.value == b"last":
                arrived.set()
            elif event.value != b"0":
                raise Poison("forged", event=event)

    with anyio.fail_after(60):
        async with Pipeline(name="shop", transport=transport, handler=handle).running():
            await arrived.wait()
    async with transport.dead_letters() as letters:
        found = [letter async for letter in letters.list()]
        assert {letter.event.value for letter in found} == set(FORGERIES.values())

        async def take(events: object) -> None: ...

        report = await letters.replay([letter.id for letter in found], to=take)
        assert len(report.replayed) == len(FORGERIES)
