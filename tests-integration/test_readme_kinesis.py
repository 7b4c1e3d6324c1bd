"""The programs that the README of cdc-kinesis prints are run as they are printed, on asyncio and on trio."""

from __future__ import annotations

import re
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from cdc_core import provision
from cdc_kinesis import KinesisConfig, KinesisTransport
from cdc_testing.checks import row_event
from cdc_testing.plugin import PostgresDatabase
from cdc_testing.servers.kinesis import EmbeddedAws

sys.path.insert(0, str(Path(__file__).parent))

from shop_programs import EXAMPLES, ROOT, Shop, eventually

pytestmark = [pytest.mark.parametrize("loop", ["asyncio", "trio"]), pytest.mark.timeout(300)]
ORDER = "INSERT INTO shop.orders (id, total) VALUES (1, 10.50)"
PRINTED = "c shop.orders {'id': 1, 'total': '10.50', 'note': None}\n"


@dataclass(frozen=True, slots=True)
class Stage:
    """A stream's name, its servers, and the shop's database."""

    aws: EmbeddedAws
    shop: Shop
    stream: str

    def program(self, name: str) -> Path:
        """Save a program with the test's event loop, stream and slot, and otherwise as it is printed."""
        readme = (ROOT / "packages" / "cdc-kinesis" / "README.md").read_text(encoding="utf-8")
        found = re.search(
            rf"^<!-- program: {name} -->\n```python\n(.*?)^```$", readme, re.DOTALL | re.MULTILINE
        )
        assert found is not None, f"no program called {name}"
        text = found.group(1)
        assert len([line for line in text.splitlines() if line.strip()]) <= 20, "a program is short"
        changed = text.replace('stream_name="shop"', f'stream_name="{self.stream}"')
        changed = changed.replace('slot_name="shop"', f'slot_name="{self.shop.slot_name}"')
        head, run, arguments = changed.rpartition("anyio.run(main")
        assert run
        path = self.shop.folder / f"{name}.py"
        loop = f', backend="{self.shop.loop}")'
        path.write_text(head + run + arguments.replace(")", loop, 1), encoding="utf-8")
        return path

    def transport(self) -> KinesisTransport:
        config = KinesisConfig(
            stream_name=self.stream,
            group_id="billing",
            shard_count=2,
            kinesis_endpoint_url=self.aws.kinesis_endpoint_url,
            dynamodb_endpoint_url=self.aws.dynamodb_endpoint_url,
        )
        return KinesisTransport(config, session=self.aws.boto3_session())

    def stored(self) -> int:
        records = self.aws.kinesis.records(self.stream)
        return sum(len(of_shard) for of_shard in records.values())


@pytest.fixture
def stage(loop: str, embedded_aws: EmbeddedAws, postgres_database: PostgresDatabase, tmp_path: Path) -> Stage:
    shop = Shop(postgres_database.dsn, postgres_database.name, loop, tmp_path)
    shop.sql((EXAMPLES / "shop.sql").read_text(encoding="utf-8"))
    return Stage(embedded_aws, shop, f"readme-{postgres_database.name.replace('_', '-')}")


def test_a_consumer_alone_prints_what_others_publish(stage: Stage) -> None:
    async def publish() -> None:
        transport = stage.transport()
        await provision(transport)
        async with transport.publisher(_Fence()) as publisher:
            assert not await (await publisher.publish([row_event("one", 1)]))

    anyio.run(publish)
    program, shop = stage.program("consumer"), stage.shop
    with shop.started(str(program), environment=stage.aws.environment()) as running:
        line = "c contract.published {'key': 'one', 'number': 1}\n"
        eventually(lambda: line in running.printed(), why="nothing is printed", program=running)
        assert running.stop(signal.SIGTERM) == 0
    assert running.printed() == line


def test_a_reader_alone_publishes_what_is_committed(stage: Stage) -> None:
    program, shop = stage.program("reader"), stage.shop
    with shop.started(str(program), shop.dsn, environment=stage.aws.environment()) as running:
        wait_until_read(shop)
        shop.sql(ORDER)
        eventually(stage.stored, why="nothing is stored", program=running)
        assert running.stop(signal.SIGTERM) == 0


def test_both_in_one_process_print_what_is_committed_and_go_on_where_they_stopped(stage: Stage) -> None:
    program, shop = stage.program("both"), stage.shop
    with shop.started(str(program), shop.dsn, environment=stage.aws.environment()) as running:
        wait_until_read(shop)
        shop.sql(ORDER)
        eventually(lambda: running.printed() == PRINTED, why="no order", program=running)
        assert running.stop(signal.SIGTERM) == 0
    shop.sql("DELETE FROM shop.orders")
    with shop.started(str(program), shop.dsn, environment=stage.aws.environment()) as running:
        eventually(
            lambda: running.printed() == "d shop.orders None\n", why="no delete, or more", program=running
        )
        assert running.stop(signal.SIGINT) == 0


def wait_until_read(shop: Shop) -> None:
    statement = f"SELECT FROM pg_replication_slots WHERE slot_name = '{shop.slot_name}' AND active"
    eventually(lambda: shop.sql(statement), why="it does not start")


class _Fence:
    def remaining_seconds(self) -> float:
        return 60.0
