"""The programs that the READMEs print are run as they are printed, on asyncio and on trio."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cdc_testing.plugin import PostgresDatabase

sys.path.insert(0, str(Path(__file__).parent))

from shop_programs import EXAMPLES, ROOT, Shop, eventually

pytestmark = [pytest.mark.parametrize("loop", ["asyncio", "trio"]), pytest.mark.timeout(300)]
RUN = "anyio.run(main, sys.argv[1])"
ORDER = "INSERT INTO shop.orders (id, total) VALUES (1, 10.50)"


@pytest.fixture
def shop(loop: str, postgres_database: PostgresDatabase, tmp_path: Path) -> Shop:
    found = Shop(postgres_database.dsn, postgres_database.name, loop, tmp_path)
    found.sql((EXAMPLES / "shop.sql").read_text(encoding="utf-8"))
    return found


def test_the_embedding_example_prints_changes_and_goes_on_where_it_stopped(
    shop: Shop, readme_program: Callable[[str], str]
) -> None:
    program = saved(shop, readme_program("embed"))
    with shop.started(str(program), shop.dsn) as running:
        wait_until_read(shop)
        shop.sql(ORDER)
        line = "c shop.orders {'id': 1, 'total': '10.50', 'note': None}\n"
        eventually(lambda: line in running.printed(), why="no order", program=running)
        assert running.stop(signal.SIGTERM) == 0
    shop.wait_until_free()
    shop.sql("DELETE FROM shop.orders")
    with shop.started(str(program), shop.dsn) as running:
        line = "d shop.orders {'id': 1}\n"
        eventually(lambda: running.printed() == line, why="no delete, or more", program=running)
        assert running.stop(signal.SIGINT) == 0


def test_the_core_example_finds_its_transport_by_name(shop: Shop) -> None:
    program = saved(shop, packaged("cdc-core", "core"))
    with shop.started(str(program), shop.dsn) as running:
        wait_until_read(shop)
        shop.sql(ORDER)
        line = "c Order(id=1, total=Decimal('10.50')) "
        eventually(lambda: line in running.printed(), why="no order", program=running)
        assert running.stop(signal.SIGTERM) == 0


def test_the_wal_example_plans_applies_and_runs(shop: Shop) -> None:
    program = saved(shop, packaged("cdc-wal", "wal"))
    with shop.started(str(program), shop.dsn) as running:
        wait_until_read(shop)
        shop.sql(ORDER)
        eventually(lambda: "b'{\"id\":1}'" in running.printed(), why="no order", program=running)
        running.stop(signal.SIGKILL)
    assert f"create replication slot {shop.slot_name}\n" in running.printed()


def saved(shop: Shop, program: str) -> Path:
    """Save a program with the test's event loop and slot, and otherwise as it is printed."""
    assert len([line for line in program.splitlines() if line.strip()]) <= 20, "a program is short"
    assert program.count(RUN) == 1
    program = program.replace(RUN, f'{RUN[:-1]}, backend="{shop.loop}")')
    changed = re.sub(r'(slot_name"?[=:] ?)"shop"', rf'\1"{shop.slot_name}"', program)
    assert changed != program
    path = shop.folder / "program.py"
    path.write_text(changed, encoding="utf-8")
    return path


def packaged(package: str, name: str) -> str:
    """Return a program of a package's README."""
    text = (ROOT / "packages" / package / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"^<!-- program: {name} -->\n```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert found is not None, f"no program called {name}"
    return found.group(1)


def wait_until_read(shop: Shop) -> None:
    statement = f"SELECT FROM pg_replication_slots WHERE slot_name = '{shop.slot_name}' AND active"
    eventually(lambda: shop.sql(statement), why="it does not start")


def test_each_test_that_the_design_names_exists(loop: str) -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "DESIGN.md").read_text(encoding="utf-8")))
    folders = [ROOT / "packages", ROOT / "tests-integration"]
    files = [path for folder in folders for path in folder.rglob("*.py")]
    existing = {name for path in files for name in re.findall(r"def (test_\w+)", path.read_text("utf-8"))}
    assert named, "the design names its tests"
    assert named <= existing, named - existing
