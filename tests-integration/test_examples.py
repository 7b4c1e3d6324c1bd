"""Each program of `examples/` is run as its users run it, on asyncio and on trio."""

from __future__ import annotations

import json
import re
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cdc_testing.plugin import PostgresDatabase
from cdc_testing.servers.postgres import start_postgres

sys.path.insert(0, str(Path(__file__).parent))

from shop_programs import EXAMPLES, ROOT, Shop, eventually, free_port, get

# Each starts several processes, and the machine may be busy.
pytestmark = pytest.mark.timeout(300)

CAPTURE = ROOT / "packages" / "cdc-pgoutput" / "tests" / "captures" / "changes-1-15.capture.gz"
SERVERS = {
    "asyncio": ["uvicorn", "--port", "{port}"],
    "trio": ["hypercorn", "-k", "trio", "-b", "127.0.0.1:{port}"],
}


@pytest.fixture(params=["asyncio", "trio"])
def shop(request: pytest.FixtureRequest, postgres_database: PostgresDatabase, tmp_path: Path) -> Shop:
    """The examples' tables in a fresh database."""
    found = Shop(postgres_database.dsn, postgres_database.name, str(request.param), tmp_path)
    found.sql((EXAMPLES / "shop.sql").read_text(encoding="utf-8"))
    return found


def test_the_doctor_plans_applies_and_then_finds_nothing_to_do(shop: Shop) -> None:
    planned = shop.run("doctor.py")
    assert "create   publication shop" in planned
    assert f"create   replication slot {shop.slot_name}" in planned
    assert shop.sql("SELECT FROM pg_publication") == []
    shop.run("doctor.py", "apply")
    lines = shop.run("doctor.py").splitlines()
    assert not [line for line in lines if line.startswith("create")]
    assert len([line for line in lines if line.startswith("keep")]) == 5


def test_the_doctor_refuses_what_would_break_the_users_statements_and_says_what_mends_it(shop: Shop) -> None:
    shop.sql("ALTER TABLE shop.orders DROP CONSTRAINT orders_pkey")
    refused = shop.run("doctor.py", "apply", status=1)
    assert "refuse" in refused
    assert "REPLICA IDENTITY" in refused
    assert shop.sql("SELECT FROM pg_publication") == []


def test_a_worker_that_is_killed_and_stopped_writes_each_order_once(shop: Shop) -> None:
    shop.run("doctor.py", "apply")
    with shop.started("worker.py") as worker:
        shop.insert((1, "10"), (2, "20.50"))
        eventually(lambda: len(totals(shop)) == 2, why="the orders are not written", program=worker)
        worker.process.kill()
        worker.process.wait()
    shop.insert((3, "30"))
    shop.sql("UPDATE shop.orders SET total = 11 WHERE id = 1")
    shop.sql("DELETE FROM shop.orders WHERE id = 2")
    shop.wait_until_free()
    with shop.started("worker.py") as worker:
        eventually(lambda: totals(shop) == {1: "11", 3: "30"}, why="what happened meanwhile", program=worker)
        assert worker.stop(signal.SIGTERM) == 0
    shop.wait_until_free()
    with shop.started("worker.py") as worker:  # what was handled before SIGTERM was acknowledged
        shop.insert((4, "40"))
        eventually(lambda: 4 in totals(shop), why="the next order", program=worker)
        assert worker.stop(signal.SIGTERM) == 0
    assert len(shop.sql("SELECT FROM shop.handled")) == 6
    assert shop.sql("SELECT FROM cdc.dead_letters") == []


def test_an_application_serves_beside_its_pipeline_and_drains_when_it_stops(shop: Shop) -> None:
    port = free_port()
    server = [part.format(port=port) for part in SERVERS[shop.loop]]
    url = f"http://127.0.0.1:{port}"
    with shop.started("-m", *server, "app:app", environment={"PYTHONWARNINGS": ""}) as app:
        eventually(lambda: get(f"{url}/healthz")[0] == 200, why="it is not ready", program=app)
        shop.insert((1, "10"))
        eventually(lambda: get(f"{url}/totals") == (200, '{"1":"10"}'), why="no order", program=app)
        health = json.loads(get(f"{url}/healthz")[1])
        assert health["health"]["ready"]
        assert {"pipeline", "slot"} <= {check["name"] for check in health["health"]["checks"]}
        assert app.stop(signal.SIGTERM) in (0, -signal.SIGTERM)
    shop.wait_until_free()
    where = f"WHERE slot_name = '{shop.slot_name}'"
    changes = "SELECT FROM pg_logical_slot_peek_binary_changes"
    options = "'proto_version', '1', 'publication_names', 'shop'"
    assert shop.sql(f"SELECT FROM pg_replication_slots {where}") != []
    left = shop.sql(f"{changes}('{shop.slot_name}', NULL, NULL, {options})")
    assert left == [], "what was handled is acknowledged"


def test_an_application_whose_pipeline_ended_is_not_ready_any_more(shop: Shop) -> None:
    port = free_port()
    server = [part.format(port=port) for part in SERVERS[shop.loop]]
    url = f"http://127.0.0.1:{port}/healthz"
    with shop.started("-m", *server, "app:app", environment={"PYTHONWARNINGS": ""}) as app:
        eventually(lambda: get(url)[0] == 200, why="it is not ready", program=app)
        shop.sql("ALTER TABLE shop.orders RENAME total TO amount")
        shop.sql("INSERT INTO shop.orders (id, amount) VALUES (1, 1), (2, 2), (3, 3)")
        # uvicorn goes on after its lifespan failed and answers 503, hypercorn ends the process
        eventually(lambda: app.process.poll() is not None or get(url)[0] == 503, why="it stays ready")
        assert "HandlerFailing" in app.printed()


def test_a_dead_letter_is_listed_replayed_and_discarded(shop: Shop) -> None:
    shop.run("doctor.py", "apply")
    with shop.started("worker.py") as worker:  # whose table refuses what is below zero
        shop.insert((1, "1"), (2, "-2"), (3, "3"), (4, "4"), (5, "-5"), (6, "6"))
        eventually(lambda: len(totals(shop)) == 4, why="the others are not written", program=worker)
        letters = "SELECT id FROM cdc.dead_letters ORDER BY id"
        eventually(lambda: len(shop.sql(letters)) == 2, why="no dead letters", program=worker)
        assert worker.stop(signal.SIGTERM) == 0
    first, second = shop.run("dead_letters.py", "list").splitlines()
    assert first.endswith('CheckViolation {"id":2}')
    assert second.endswith('CheckViolation {"id":5}')
    replayed = shop.run("dead_letters.py", "replay", first.split()[0])
    assert replayed == "replayed 1, older than their row 0: {2: Decimal('-2')}\n"
    shop.run("dead_letters.py", "discard", second.split()[0], "test data")
    assert shop.run("dead_letters.py", "list") == ""


def test_a_message_comes_with_the_transaction_that_wrote_it(shop: Shop) -> None:
    with shop.started("outbox.py", "serve") as outbox:
        eventually(lambda: shop.sql("SELECT FROM pg_replication_slots WHERE active"), why="it does not start")
        shop.run("outbox.py", "place", "7", "anna@example.org")
        line = "order 7: mail to anna@example.org\n"
        eventually(lambda: line in outbox.printed(), why="no message", program=outbox)
        assert outbox.stop(signal.SIGINT) == 0
    assert outbox.printed() == line


def test_a_program_is_told_what_is_missing_and_how_to_mend_it(shop: Shop) -> None:
    assert "not provisioned: there is no replication slot" in shop.run("what_to_catch.py", status=2)


def test_a_lost_slot_is_reported_with_its_gap(shop: Shop) -> None:
    settings = {"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB"}
    with start_postgres(settings=settings, use_existing=False) as server:
        lost = Shop(server.dsn(), "shop", shop.loop, shop.folder)
        lost.sql((EXAMPLES / "shop.sql").read_text(encoding="utf-8"))
        lost.run("doctor.py", "apply")
        for _ in range(4):
            lost.sql("SELECT pg_logical_emit_message(true, 'filler', 'x')")
            lost.sql("SELECT pg_switch_wal()")
        lost.sql("CHECKPOINT")
        printed = lost.run("what_to_catch.py", status=3)
    assert printed.startswith("lost: from ")
    assert "shop" in printed
    assert "pg_drop_replication_slot" in printed


def test_the_statements_for_a_dba_suffice_to_provision_and_to_run(shop: Shop) -> None:
    page = (ROOT / "docs" / "provisioning.md").read_text(encoding="utf-8")
    _, provisioning, running = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    name = shop.slot_name

    def granted(statements: str) -> None:
        for role in ("cdc_admin", "cdc_worker"):
            statements = statements.replace(role, f"{name}_{role}")
        shop.sql(statements.replace("DATABASE shop", f"DATABASE {name}"))

    def as_role(role: str) -> Shop:
        return replace(shop, dsn=shop.dsn.replace("//postgres@", f"//{name}_{role}@"))

    try:
        granted(provisioning)
        for table in ("orders", "customers"):
            shop.sql(f"ALTER TABLE shop.{table} OWNER TO {name}_cdc_admin")
        as_role("cdc_admin").run("doctor.py", "apply")
        granted(running)
        with as_role("cdc_worker").started("what_to_catch.py") as running_program:
            shop.sql("INSERT INTO shop.customers VALUES (1, 'anna@example.org')")
            line = "mailing list: 1 customers\n"
            eventually(lambda: line in running_program.printed(), why="no row", program=running_program)
    finally:
        roles = shop.sql(f"SELECT rolname FROM pg_roles WHERE starts_with(rolname, '{name}_')")
        for (role,) in roles:
            shop.sql(f"REASSIGN OWNED BY {role} TO postgres; DROP OWNED BY {role}; DROP ROLE {role}")


def test_the_users_own_test_passes() -> None:
    shop = Shop("", "", "asyncio", ROOT)
    assert "6 passed" in shop.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_shop.py")


def test_the_users_own_transport_keeps_the_promises_of_its_traits() -> None:
    shop = Shop("", "", "asyncio", ROOT)
    printed = shop.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_journal.py", timeout_seconds=240)
    assert re.search(r"\d\d passed, \d+ skipped", printed)


def test_a_recorded_stream_is_decoded_without_a_server() -> None:
    shop = Shop("", "", "asyncio", ROOT)
    lines = shop.run("decode_capture.py", str(CAPTURE)).splitlines()
    assert len([line for line in lines if " plain {" in line]) > 5


def totals(shop: Shop) -> dict[int, str]:
    return {
        int(str(number)): str(total) for number, total in shop.sql("SELECT id, total FROM shop.order_totals")
    }
