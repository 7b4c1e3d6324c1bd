"""The key of a logical message, whatever an application wrote into it: no content stops the reader."""

from __future__ import annotations

from dataclasses import replace

import pytest
from wal_reading import keys, provisioned, reading

from cdc_wal import WalConfig
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
