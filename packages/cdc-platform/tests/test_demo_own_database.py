"""The demo with a user's own database: what it leaves there, and what its next run does with it."""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg
import pytest
from demo_command import end_of, run_demo_command, start_demo_command

from cdc_testing.plugin import PostgresDatabase

pytestmark = pytest.mark.slow


def ask(database: PostgresDatabase, statement: str) -> int:
    with psycopg.connect(database.dsn) as connection:
        row = connection.execute(statement.encode()).fetchone()
    assert row is not None
    return int(row[0])


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_second_run_finds_the_slot_and_proves_what_the_first_left(
    postgres_database: PostgresDatabase,
) -> None:
    first = run_demo_command("--dsn", postgres_database.dsn, "--seconds", "2")
    assert first.status == 0, first.text
    # before anything is made, it is said how to take it away
    assert first.text.index("pg_drop_replication_slot('cdc_demo')") < first.text.index("The plan")
    assert "create  replication slot cdc_demo" in first.text

    second = run_demo_command("--dsn", postgres_database.dsn, "--seconds", "2", "--fault", "terminate")
    assert second.status == 0, second.text
    assert "keep    replication slot cdc_demo" in second.text
    assert second.figures["written_before"] == first.figures["written"] > 0
    assert second.figures["written"] > first.figures["written"]
    assert second.figures["lost"] == 0


def test_what_a_killed_run_left_is_delivered_and_proved_by_the_next(
    postgres_database: PostgresDatabase,
) -> None:
    process = start_demo_command("--dsn", postgres_database.dsn, "--seconds", "0")
    wait_until(lambda: ask(postgres_database, "SELECT count(*) FROM pg_replication_slots WHERE active") == 1)
    wait_until(lambda: ask(postgres_database, "SELECT count(*) FROM cdc_demo.outcomes") > 200)
    process.kill()
    process.communicate()
    with psycopg.connect(postgres_database.dsn) as connection:  # a change that nobody was there to see
        connection.execute(
            "INSERT INTO cdc_demo.orders (id, customer_id, total) VALUES (1000000000, 1, 9.90)"
        )
        connection.execute("UPDATE cdc_demo.orders SET id = id + 1 WHERE id = 1000000000")
        connection.execute("DELETE FROM cdc_demo.orders WHERE id = 1000000001")
    ended = run_demo_command("--dsn", postgres_database.dsn, "--seconds", "1")
    assert ended.status == 0, ended.text
    assert ended.figures["written_before"] > 200
    assert ended.figures["lost"] == 0


def test_an_outcome_that_is_missing_is_one_lost_and_the_status_says_so(
    postgres_database: PostgresDatabase,
) -> None:
    assert run_demo_command("--dsn", postgres_database.dsn, "--seconds", "1").status == 0
    ask(
        postgres_database,
        "WITH gone AS (DELETE FROM cdc_demo.outcomes WHERE seq = 5 RETURNING *) SELECT count(*) FROM gone",
    )
    ended = run_demo_command("--dsn", postgres_database.dsn, "--seconds", "1")
    assert (ended.status, ended.figures["lost"]) == (1, 1), ended.text


def test_a_second_run_beside_the_first_is_refused(postgres_database: PostgresDatabase) -> None:
    process = start_demo_command("--dsn", postgres_database.dsn, "--seconds", "0")
    wait_until(lambda: ask(postgres_database, "SELECT count(*) FROM pg_replication_slots WHERE active") == 1)
    ended = run_demo_command("--dsn", postgres_database.dsn, "--seconds", "1")
    process.terminate()
    assert (ended.status, ended.figures["lost"]) == (2, None)
    assert "another session reads the slot" in ended.figures["error"]
    assert end_of(process).status == 0


def test_drop_leaves_nothing_behind(postgres_database: PostgresDatabase) -> None:
    assert run_demo_command("--dsn", postgres_database.dsn, "--seconds", "1").status == 0
    dropped = run_demo_command("--dsn", postgres_database.dsn, "--drop", as_json=False)
    assert dropped.status == 0, dropped.text
    assert "drop    replication slot cdc_demo" in dropped.text
    left = (
        "SELECT (SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'cdc_demo')"
        " + (SELECT count(*) FROM pg_publication) + (SELECT count(*) FROM pg_namespace WHERE nspname ~ '^cdc')"
    )
    assert ask(postgres_database, left) == 0
    again = run_demo_command("--dsn", postgres_database.dsn, "--drop", as_json=False)
    assert again.status == 0, again.text


def test_a_server_that_is_not_ours_is_not_restarted(postgres_database: PostgresDatabase) -> None:
    ended = run_demo_command("--dsn", postgres_database.dsn, "--fault", "restart")
    assert (ended.status, ended.figures["written"]) == (2, None)
    assert "use --fault terminate" in ended.figures["error"]


def test_a_schema_of_somebody_else_is_left_alone(postgres_database: PostgresDatabase) -> None:
    with psycopg.connect(postgres_database.dsn) as connection:
        connection.execute("CREATE SCHEMA cdc_demo; CREATE TABLE cdc_demo.orders (mine text)")
    ended = run_demo_command("--dsn", postgres_database.dsn, "--seconds", "1")
    assert (ended.status, ended.figures["lost"]) == (2, None)
    run_demo_command("--dsn", postgres_database.dsn, "--drop", as_json=False)
    assert ask(postgres_database, "SELECT count(*) FROM cdc_demo.orders") == 0


def test_the_password_of_a_refused_connection_is_shown_nowhere(postgres_database: PostgresDatabase) -> None:
    dsn = f"postgresql://nobody:s3cr3t-w0rd@127.0.0.1:1/{postgres_database.name}"
    ended = run_demo_command("--dsn", dsn, "--seconds", "1")
    assert ended.status == 2
    assert "s3cr3t-w0rd" not in ended.text + str(ended.figures)
