"""The key of a logical message, whatever an application wrote into it: no content stops the reader.

A publisher orders a message with the rows and messages of that key.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from wal_reading import eventually, keys, provisioned, reading

from cdc_core import Operation
from cdc_testing import MemoryTransport
from cdc_wal import WalConfig, WalReader
from cdc_wal._connection import Connection

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (r"""'{"id": 9007199254740993, "x": 1}'""", b'{"id":9007199254740993}'),
        ("""'{"id": "\u00e9"}'""", '{"id":"\u00e9"}'.encode()),
        ("""'{"other": 1}'""", b'{"prefix":"order"}'),
        ("""'no JSON'""", b'{"prefix":"order"}'),
        (r"""'{"id": "\ud800"}'""", b'{"prefix":"order"}'),
        ("""'{"id": NaN}'""", b'{"prefix":"order"}'),
        ("""'{"id": ' || repeat('[', 100000) || repeat(']', 100000) || '}'""", b'{"prefix":"order"}'),
        (r"""'\xff00'::bytea""", b'{"prefix":"order"}'),
    ],
)
async def test_a_message_without_the_member_that_is_its_key_goes_by_its_prefix(
    sql: Connection, config: WalConfig, content: str, key: bytes
) -> None:
    chosen = replace(config, message_keys={"order": "id"})
    await provisioned(chosen)
    await sql.simple(f"SELECT pg_logical_emit_message(true, 'order', {content})")
    async with reading(chosen) as reader:
        assert keys(await reader.take(1)) == [key]


async def test_a_reader_publishes_a_message_with_the_key_that_its_config_names(
    sql: Connection, config: WalConfig
) -> None:
    await sql.simple("CREATE TABLE orders (id bigint PRIMARY KEY)")
    chosen = replace(config, message_keys={"order": "id"})
    await provisioned(chosen)
    await sql.simple(
        "BEGIN; INSERT INTO orders VALUES (7); SELECT pg_logical_emit_message(true, 'order', '{\"id\": 7}');"
        " SELECT pg_logical_emit_message(true, 'note', '{\"id\": 7}'); COMMIT;"
        " SELECT pg_logical_emit_message(false, 'order', '{\"id\": 8}')"
    )
    memory = MemoryTransport(partitions=8)

    async def are_stored() -> bool:
        return sum(len(log.records) for log in memory.logs) == 4

    async with WalReader(chosen, to=memory).running():
        await eventually(are_stored, why="the row and the messages are published")
    stored = [[(record.event.op, record.event.key) for record in log.records] for log in memory.logs]
    row, message = (Operation.CREATE, b'{"id":7}'), (Operation.MESSAGE, b'{"id":7}')
    assert [row, message] in [[one for one in log if one[1] == b'{"id":7}'] for log in stored], (
        "in one partition, in the order of the transaction"
    )
    assert sorted(key or b"" for log in stored for op, key in log if op is Operation.MESSAGE) == [
        b'{"id":7}',
        b'{"id":8}',
        b'{"prefix":"note"}',
    ]
