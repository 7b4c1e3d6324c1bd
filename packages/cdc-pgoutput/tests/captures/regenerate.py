"""Record the captures beside this file from a running PostgreSQL.

    python regenerate.py "host=/tmp port=5432 user=postgres"

The server needs wal_level = logical, max_prepared_transactions > 0, logical_decoding_work_mem = 64kB and a
superuser; a database and slots are made and dropped again. Needs psycopg. One set of files per major version.

A capture is a sequence of CopyData payloads, each behind its length in 4 bytes. `values-N.json` holds, in the
order of the rows of `values-N.capture`, what SELECT printed for each, with the catalog's rows of the
database's own types. All are gzip files.
"""

from __future__ import annotations

import gzip
import json
import sys
import time
from pathlib import Path
from struct import Struct

import psycopg
from psycopg import pq

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import pgoutput_cases  # noqa: E402

_STATUS = Struct("!BQQQqB")
_DATABASE = "pgoutput_captures"
_SETTINGS = (
    "-c datestyle=ISO -c intervalstyle=postgres -c timezone=UTC -c bytea_output=hex -c extra_float_digits=1"
    " -c lc_monetary=C -c client_encoding=UTF8"
)

CHANGES = """
CREATE TABLE plain (id int PRIMARY KEY, body text, made timestamptz);
CREATE TABLE whole (id int, body text, amount numeric);
ALTER TABLE whole REPLICA IDENTITY FULL;
CREATE TABLE coded (id int PRIMARY KEY, code text NOT NULL UNIQUE, n int);
ALTER TABLE coded REPLICA IDENTITY USING INDEX coded_code_key;
CREATE TABLE "Odd ""{n}\\ame" ("a {x} ""q""\\n" int PRIMARY KEY, "é" mood);
ALTER TABLE plain ALTER body SET STORAGE EXTERNAL;
ALTER TABLE whole ALTER body SET STORAGE EXTERNAL;
"""

STEPS = [
    [
        "INSERT INTO plain VALUES (1, 'a', '2024-02-29 12:34:56.5+00'), (2, NULL, NULL)",
        "INSERT INTO plain VALUES (3, repeat('x', 9000), now())",
    ],
    ["UPDATE plain SET body = 'b' WHERE id = 1", "UPDATE plain SET id = 10 WHERE id = 1"],
    ["UPDATE plain SET made = '2024-01-01 00:00+00' WHERE id = 3"],
    ["DELETE FROM plain WHERE id = 2"],
    ["INSERT INTO whole VALUES (1, repeat('y', 9000), 1.50), (2, NULL, 'NaN')"],
    ["UPDATE whole SET amount = 2 WHERE id = 1", "DELETE FROM whole"],
    ["INSERT INTO coded VALUES (1, 'c1', 1)", "UPDATE coded SET n = 2", "UPDATE coded SET code = 'c2'"],
    ["DELETE FROM coded"],
    ['INSERT INTO "Odd ""{n}\\ame" VALUES (1, \'a\')'],
    ["SELECT pg_logical_emit_message(true, 'prefix', 'content')"],
    ["ALTER TABLE plain ADD extra numeric(6, 2)", "INSERT INTO plain VALUES (4, 'z', NULL, 1)"],
    ["TRUNCATE plain, whole RESTART IDENTITY CASCADE"],
]

BIG = "INSERT INTO plain SELECT i, repeat('s', 200) FROM generate_series({0}, {0} + 600) i"

STREAM_STEPS = [
    [BIG.format(1000), "SAVEPOINT one", BIG.format(2000), "ROLLBACK TO one", BIG.format(3000)],
    [BIG.format(4000), "SELECT pg_logical_emit_message(true, 'p', 'c')", "TRUNCATE whole", "ROLLBACK"],
    ["INSERT INTO plain VALUES (5, 'small')"],
]

PREPARED_STEPS = [
    ["INSERT INTO plain VALUES (6, 'p')", "PREPARE TRANSACTION 'gid one'"],
    ["COMMIT PREPARED 'gid one'"],
    ["INSERT INTO plain VALUES (7, 'p')", "PREPARE TRANSACTION 'gid two'"],
    ["ROLLBACK PREPARED 'gid two'"],
    [BIG.format(6000), "PREPARE TRANSACTION 'gid three'"],
    ["COMMIT PREPARED 'gid three'"],
]


def main(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {_DATABASE} WITH (FORCE)")
        admin.execute(f"CREATE DATABASE {_DATABASE} ENCODING 'UTF8' TEMPLATE template0")
    database = f"{dsn} dbname={_DATABASE}"
    with psycopg.connect(database, autocommit=True, options=_SETTINGS) as connection:
        major = connection.info.server_version // 10000
        record_values(connection, database, major)
        record_changes(connection, database, major)
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {_DATABASE} WITH (FORCE)")


def record_values(connection: psycopg.Connection, database: str, major: int) -> None:
    connection.execute(pgoutput_cases.SETUP)
    available = {"", *("xml" for _ in range(has_xml(connection)))}
    for extension in pgoutput_cases.EXTENSIONS:
        row = connection.execute(
            "SELECT 1 FROM pg_available_extensions WHERE name = %s", [extension]
        ).fetchone()
        if row:
            connection.execute(f"CREATE EXTENSION {extension}".encode())
            available.add(extension)
    chosen = [
        (index, case)
        for index, case in enumerate(pgoutput_cases.ALL)
        if case.since <= major and case.needs in available
    ]
    for index, case in chosen:
        connection.execute(f"CREATE TABLE v{index} (v {case.type})".encode())
    connection.execute("CREATE PUBLICATION p FOR ALL TABLES")
    make_slots(connection, "t", "b", two_phase=False)
    printed: list[dict[str, object]] = []
    for index, case in chosen:
        connection.execute(f"INSERT INTO v{index} SELECT ({case.sql})::{case.type}".encode())
        result = connection.pgconn.exec_(f"SELECT v FROM v{index}".encode())
        value = result.get_value(0, 0)
        printed.append({"case": index, "text": None if value is None else value.decode()})
    record(connection, database, "t", f"values-{major}", {"proto_version": "1"})
    record(connection, database, "b", f"values-binary-{major}", {"proto_version": "1", "binary": "true"})
    document = {"values": printed, "types": own_types(connection)}
    write(f"values-{major}.json.gz", json.dumps(document, ensure_ascii=False).encode())


def write(name: str, content: bytes) -> None:
    (HERE / name).write_bytes(gzip.compress(content, mtime=0))


def record_changes(connection: psycopg.Connection, database: str, major: int) -> None:
    connection.execute(CHANGES)
    make_slots(connection, "one", "two", two_phase=False)
    make_slots(connection, "three", two_phase=True)
    slots: dict[str, tuple[str, dict[str, str]]] = {
        "one": ("1", {}),
        "two": ("2", {"streaming": "on"}),
        "three": ("3", {"streaming": "on"}),
    }
    if major >= 16:
        make_slots(connection, "four", two_phase=True)
        slots["four"] = ("4", {"streaming": "parallel"})
    for statements in STEPS:
        run(connection, statements)
    connection.execute("SELECT pg_logical_emit_message(false, 'alone', 'not transactional')")
    connection.execute("SELECT pg_replication_origin_create('elsewhere')")
    connection.execute("SELECT pg_replication_origin_session_setup('elsewhere')")
    run(
        connection,
        [
            "SELECT pg_replication_origin_xact_setup('0/AB', now())",
            "INSERT INTO plain VALUES (77, 'from afar', NULL)",
        ],
    )
    connection.execute("SELECT pg_replication_origin_session_reset()")
    connection.execute("SELECT pg_replication_origin_drop('elsewhere')")
    for statements in STREAM_STEPS:
        run(connection, statements)
    for statements in PREPARED_STEPS:
        if statements[0].startswith(("COMMIT", "ROLLBACK")):
            connection.execute(statements[0].encode())
        else:
            run(connection, statements)
    for name, (version, options) in slots.items():
        record(
            connection,
            database,
            name,
            f"changes-{version}-{major}",
            {"proto_version": version, "messages": "true", **options},
        )


def run(connection: psycopg.Connection, statements: list[str]) -> None:
    ends = ("ROLLBACK", "PREPARE")
    connection.execute("BEGIN")
    for statement in statements:
        connection.execute(statement.encode())
    if not statements[-1].startswith(ends):
        connection.execute("COMMIT")


def has_xml(connection: psycopg.Connection) -> bool:
    try:
        connection.execute("SELECT '<a/>'::xml")
    except psycopg.errors.FeatureNotSupported:
        return False
    return True


def own_types(connection: psycopg.Connection) -> list[dict[str, object]]:
    cursor = connection.execute(
        """
        SELECT t.oid::int8, t.typname, CASE WHEN t.typlen = -1 AND t.typelem <> 0 THEN 'a' ELSE t.typtype END,
               coalesce(r.rngsubtype, t.typelem)::int8, t.typbasetype::int8, t.typtypmod, t.typdelim
        FROM pg_type t LEFT JOIN pg_range r ON r.rngtypid = t.oid
        WHERE t.oid >= 16384 AND t.typrelid NOT IN (SELECT oid FROM pg_class WHERE relkind = 'r')
          AND t.typelem NOT IN (SELECT reltype FROM pg_class WHERE relkind = 'r')
        ORDER BY t.oid
        """
    )
    keys = ("oid", "name", "kind", "element_oid", "base_oid", "base_type_modifier", "delimiter")
    return [dict(zip(keys, row, strict=True)) for row in cursor]


def make_slots(connection: psycopg.Connection, *names: str, two_phase: bool) -> None:
    for name in names:
        connection.execute(
            "SELECT pg_create_logical_replication_slot(%s, 'pgoutput', twophase => %s)",
            [f"cap_{name}", two_phase],
        )


def record(
    connection: psycopg.Connection, database: str, name: str, file: str, options: dict[str, str]
) -> None:
    row = connection.execute(
        "SELECT pg_current_wal_flush_lsn()::text, pg_current_wal_insert_lsn() - '0/0'"
    ).fetchone()
    assert row is not None
    target = int(row[1])
    frames = list(read(database, f"cap_{name}", options, target))
    write(f"{file}.capture.gz", b"".join(len(frame).to_bytes(4) + frame for frame in frames))
    drop_slot(connection, f"cap_{name}")
    print(file, len(frames), "frames")


def read(database: str, slot: str, options: dict[str, str], target: int) -> list[bytes]:
    """Everything up to `target`, and the keepalive that says it was reached."""
    raw = pq.PGconn.connect(f"{database} replication=database options='{_SETTINGS}'".encode())
    assert raw.status == pq.ConnStatus.OK, raw.error_message
    arguments = ", ".join(f"{key} '{value}'" for key, value in {**options, "publication_names": "p"}.items())
    result = raw.exec_(f"START_REPLICATION SLOT {slot} LOGICAL 0/0 ({arguments})".encode())
    assert result.status == pq.ExecStatus.COPY_BOTH, result.error_message
    frames: list[bytes] = []
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        size, data = raw.get_copy_data(1)
        if size == 0:
            raw.put_copy_data(_STATUS.pack(0x72, 0, 0, 0, 0, 1))
            raw.flush()
            time.sleep(0.02)
            raw.consume_input()
            continue
        assert size > 0, raw.error_message
        frame = bytes(data)
        if frame[0] == ord("k") and int.from_bytes(frame[1:9]) < target:
            continue
        frames.append(frame)
        if frame[0] == ord("k"):
            raw.finish()
            return thinned(frames)
    raise TimeoutError(slot)


def thinned(frames: list[bytes]) -> list[bytes]:
    """Leave out what repeats: of a long run of inserts only the first three and the last."""
    kept: list[bytes] = []
    run_length = 0
    for frame, following in zip(frames, [*frames[1:], b""], strict=True):
        is_insert = frame[25:26] == b"I"
        run_length = run_length + 1 if is_insert else 0
        if run_length <= 3 or following[25:26] != b"I":
            kept.append(frame)
    return kept


def drop_slot(connection: psycopg.Connection, slot: str) -> None:
    """A walsender whose client has gone needs a moment to notice."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            connection.execute("SELECT pg_drop_replication_slot(%s)", [slot])
        except psycopg.errors.ObjectInUse:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError(slot)


if __name__ == "__main__":
    main(sys.argv[1])
