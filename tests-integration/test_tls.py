"""The whole pipeline over TLS: the server verified, the password from a provider that changes, several hosts."""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from pathlib import Path

import anyio
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from cdc_core import AccessError, CdcError, Event, Pipeline, provision
from cdc_testing.servers import ServerUnavailableError
from cdc_testing.servers.postgres import EmbeddedPostgres, start_postgres
from cdc_wal import PostgresTransport, WalConfig

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from emulators.postgres import choose_build

pytestmark = pytest.mark.anyio

TIMEOUT_SECONDS = 30.0


@pytest.fixture(scope="module", params=[15, 18])
def server(request: pytest.FixtureRequest) -> Generator[EmbeddedPostgres]:
    """A server that takes TLS with SCRAM only; its certificate is of an authority of its own."""
    with ExitStack() as stack:
        try:
            build = choose_build(request.param)
            started = stack.enter_context(
                start_postgres(build=build, tls=True, auth="scram-sha-256", use_existing=False)
            )
        except ServerUnavailableError as error:
            if os.environ.get("CI", "").lower() == "true":
                pytest.fail(f"CI=true and no server to test with: {error}", pytrace=False)
            pytest.skip(str(error))
        yield started


@pytest.fixture(scope="module")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate of an authority that signed another server's."""
    kept = tmp_path_factory.mktemp("authority") / "other.crt"
    with start_postgres(build=choose_build(15), tls=True, use_existing=False) as other:
        kept.write_bytes(Path(str(conninfo_to_dict(other.dsn())["sslrootcert"])).read_bytes())
    return kept


class Passwords:
    """A role whose password is another one after each `change`; counts how often it was asked for."""

    def __init__(self, server: EmbeddedPostgres, role: str) -> None:
        self.role = role
        self.asked = 0
        self._server = server
        self._current = ""
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute(f"CREATE ROLE {role} LOGIN SUPERUSER".encode())
        self.change()

    def change(self) -> None:
        self._current = f"pass word'\\{secrets.token_hex(8)}"
        quoted = self._current.replace("'", "''")
        with psycopg.connect(self._server.dsn(), autocommit=True) as admin:
            admin.execute(f"ALTER ROLE {self.role} PASSWORD '{quoted}'".encode())

    async def __call__(self) -> str:
        await anyio.lowlevel.checkpoint()
        self.asked += 1
        return self._current


@pytest.fixture
def name() -> str:
    return f"cdc_test_{secrets.token_hex(6)}"


@pytest.fixture
def config(server: EmbeddedPostgres, name: str) -> Generator[WalConfig]:
    """A database with a table, and a first host in its connection string that refuses."""
    server.create_database(name)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        refusing = closed.getsockname()[1]
        # bound and not listening: nobody else gets the port, and connecting to it is refused
        dsn = make_conninfo(
            server.dsn(name, user=name), host="127.0.0.1,localhost", port=f"{refusing},{server.port}"
        )
        with psycopg.connect(server.dsn(name), autocommit=True) as admin:
            admin.execute("CREATE TABLE t (id int PRIMARY KEY, note text)")
        yield WalConfig(
            dsn=dsn,
            slot_name=name,
            publication_name="p",
            tables=("public.t",),
            wal_sender_timeout_seconds=2.0,
        )
        server.drop_database(name)


async def test_rows_come_over_verified_tls_from_the_host_that_answers_with_a_password_that_changes(
    server: EmbeddedPostgres, config: WalConfig, name: str
) -> None:
    assert conninfo_to_dict(config.dsn)["sslmode"] == "verify-full"
    passwords = Passwords(server, name)
    transport = PostgresTransport(config, password=passwords)
    await provision(transport)
    seen: list[int] = []
    arrived = anyio.Event()

    async def handle(events: Sequence[Event]) -> None:
        nonlocal arrived
        seen.extend(json.loads(event.key or b"")["id"] for event in events)
        arrived.set()

    with psycopg.connect(server.dsn(name), autocommit=True) as admin:
        async with Pipeline(name="tls", transport=transport, handler=handle).running():
            for number in range(3):
                admin.execute("INSERT INTO t VALUES (%s, 'é')", [number])
                with anyio.fail_after(TIMEOUT_SECONDS):
                    await arrived.wait()
                    arrived = anyio.Event()
                    await until_confirmed(admin, name)
                sessions = admin.execute(
                    "SELECT bool_and(s.ssl), count(*) FROM pg_stat_activity a JOIN pg_stat_ssl s USING (pid)"
                    " WHERE a.usename = %s",
                    [name],
                ).fetchone()
                assert sessions is not None
                assert sessions[0] is True
                assert sessions[1] >= 2, "the walsender and the session that reads the catalog"
                # Whoever comes with the old password is refused from now on; the connection that is there is cut.
                asked = passwords.asked
                passwords.change()
                admin.execute(
                    "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s",
                    [name],
                )
                with anyio.fail_after(TIMEOUT_SECONDS):
                    while not await is_read_again(admin, name, passwords, asked):  # noqa: ASYNC110 - in another process
                        await anyio.sleep(0.01)
    assert seen == [0, 1, 2], "what was confirmed does not come again"


async def until_confirmed(admin: psycopg.Connection, slot_name: str) -> None:
    """Wait until the server has our confirmation of all that is written."""
    row = admin.execute("SELECT pg_current_wal_flush_lsn()").fetchone()
    assert row is not None
    sql = "SELECT confirmed_flush_lsn >= %s::pg_lsn FROM pg_replication_slots WHERE slot_name = %s"
    while admin.execute(sql, [row[0], slot_name]).fetchone() != (True,):  # noqa: ASYNC110 - in another process
        await anyio.sleep(0.01)


async def is_read_again(admin: psycopg.Connection, slot_name: str, passwords: Passwords, asked: int) -> bool:
    sql = "SELECT active FROM pg_replication_slots WHERE slot_name = %s"
    return passwords.asked > asked and admin.execute(sql, [slot_name]).fetchone() == (True,)


@pytest.mark.parametrize("server", [15], indirect=True)
@pytest.mark.parametrize("fault", ["another authority", "another name", "a stale password"])
async def test_a_server_that_is_not_the_one_named_or_a_stale_password_ends_the_pipeline(
    server: EmbeddedPostgres, config: WalConfig, name: str, fault: str, other_authority: Path
) -> None:
    passwords = Passwords(server, name)
    await provision(PostgresTransport(config, password=passwords))
    parts = {"host": "localhost", "port": str(server.port)}
    if fault == "another authority":
        parts["sslrootcert"] = str(other_authority)
    elif fault == "another name":
        parts = {"host": "db.invalid", "hostaddr": "127.0.0.1", "port": str(server.port)}
    wrong = WalConfig(
        dsn=make_conninfo(config.dsn, **parts), slot_name=name, publication_name="p", tables=("public.t",)
    )
    secret = "stale secret"

    async def handle(events: Sequence[Event]) -> None:
        raise AssertionError("nothing may come")

    transport = PostgresTransport(
        wrong, password=(lambda: secret) if fault == "a stale password" else passwords
    )
    with pytest.raises(CdcError) as caught, anyio.fail_after(TIMEOUT_SECONDS):
        await Pipeline(name="tls", transport=transport, handler=handle).run()
    assert isinstance(caught.value, AccessError)
    assert not caught.value.retryable
    assert secret not in f"{caught.value!r} {caught.value}"
