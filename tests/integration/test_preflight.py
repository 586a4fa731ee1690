"""The checks as a whole: what passes, what is left out, and that nothing stays behind."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from replicator.errors import ReplicatorError
from replicator.postgres.control.control import install, write_phase
from replicator.postgres.ddl.ddl import part_statements
from replicator.postgres.session.connect import Connection, connection
from replicator.postgres.trying.rehearsal import try_statement
from replicator.preflight import preflight, server_checks
from replicator.settings import load_migration
from tests.checking import OLD, check, check_with, follow_remedy, one_database, outcomes, tiny
from tests.engine import create_old_tables, execute, make_settings, reference
from tests.fix_postgres import Database, Running
from tests.waiting import until

NO_FSYNC = {"source.durability"}
"""The servers of the tests do not flush."""


@pytest.fixture
def old(database: Database) -> Database:
    with database.connect() as connected:
        connected.execute(OLD)
    return database


@pytest.fixture
def one(request: pytest.FixtureRequest, _running: Running) -> Iterator[Database]:
    with one_database(request.config, _running) as made:
        yield made


async def test_a_good_database_passes_every_check(old: Database, tmp_path: Path) -> None:
    found = await check(old, tiny(tmp_path))
    assert outcomes(found, "fail") == set()
    assert outcomes(found, "warn") <= NO_FSYNC
    assert found["source.plugin"].detail == old.plugin
    assert found["forward.sample"].detail == "9 rows tried, 9 written and rolled back"
    assert found["reverse.sample"].detail == "6 rows tried"
    checks = {"source.connection", "old_tables.keys", "new_tables.keys", "forward.transforms", "reverse.transforms"}
    assert checks <= set(found)


async def test_nothing_is_left_behind(old: Database, tmp_path: Path) -> None:
    count = """SELECT (SELECT count(*) FROM pg_class), (SELECT count(*) FROM pg_namespace WHERE nspname !~ '^pg_'),
                      (SELECT count(*) FROM pg_replication_slots WHERE database = current_database())"""
    with old.connect() as connected:
        before = connected.execute(count).fetchone()
        await check(old, tiny(tmp_path))
        assert connected.execute(count).fetchone() == before


async def test_the_reference_migration_passes(database: Database) -> None:
    root = Path(__file__).parents[2]
    with database.connect() as connected:
        connected.execute((root / "sql" / "old" / "10_tables.sql").read_bytes())
        connected.execute(
            "INSERT INTO requests (id, track_uri, track_name, artist_name, duration_ms, requester_ip_hash) "
            "SELECT n::text, 'spotify:track:1', 'Song', 'Singer', 1000, 'hash' FROM generate_series(1, 50) n"
        )
        connected.execute("INSERT INTO event_settings (id) VALUES (1)")
        connected.execute("INSERT INTO admins (id, username, password_hash) VALUES ('a', 'Ada', 'hash')")
    found = await check(database, load_migration("transforms:migration"))
    assert outcomes(found, "fail") == set()
    assert "52 rows tried, 52 written" in found["forward.sample"].detail


async def test_a_daemon_that_starts_meanwhile_makes_the_same_tables(
    one: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``IF NOT EXISTS`` does not see what is not committed yet, and then finds the name taken."""
    create_old_tables(one.dsn)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'CREATE TABLE%'"
    with psycopg.connect(one.dsn) as daemon, one.connect() as asking:

        async def with_a_daemon(checking: Connection, statement: str) -> ReplicatorError | None:
            monkeypatch.undo()
            for each in part_statements(reference(), "tables"):
                daemon.execute(each.encode())
            checked = asyncio.create_task(try_statement(checking, "CREATE TABLE IF NOT EXISTS party.admins (id uuid)"))
            await until(lambda: asking.execute(waiting).fetchone() != (0,))
            daemon.commit()
            return await checked

        execute(one.dsn, ["CREATE SCHEMA party"])
        monkeypatch.setattr("replicator.preflight.schemas.try_as_run", with_a_daemon)
        found = {each.check: each for each in await preflight(make_settings(one), reference())}
    assert found["new_tables.definition"].outcome == "pass", found["new_tables.definition"]


async def test_two_databases_of_one_server(old: Database, other_database: Database, tmp_path: Path) -> None:
    found = await check(old, tiny(tmp_path), target_dsn=other_database.dsn)
    assert outcomes(found, "fail") == set()
    assert found["migration.databases"].detail == "old and new in two databases of one server"
    assert {"source.encoding", "target.encoding"} <= set(found)
    assert "target.wal_level" not in found


async def test_one_schema_cannot_be_both(one: Database, tmp_path: Path) -> None:
    migration = tiny(tmp_path)
    migration.new = "old"
    found = await check(one, migration)
    assert outcomes(found, "fail") == {"migration.databases"}


async def test_a_server_that_does_not_answer_is_a_finding(one: Database, tmp_path: Path) -> None:
    silent = "postgresql://me:secret@127.0.0.1:1/db"
    found = await check(one, tiny(tmp_path), target_dsn=silent)
    assert outcomes(found, "fail") == {"target.connection"}
    assert "source.wal_level" in found
    assert not any(name.startswith(("old_tables", "new_tables", "forward")) for name in found)

    found = await check_with(tiny(tmp_path), source_dsn=silent)
    assert set(found) == {"source.connection", "target.connection"}
    assert all("secret" not in str(finding) for finding in found.values())
    assert found["source.connection"].detail.startswith("No connection to 127.0.0.1:1/db.")


async def test_a_connection_string_that_cannot_be_read_is_a_finding(tmp_path: Path) -> None:
    found = await check_with(tiny(tmp_path), source_dsn="postgresql://me:p@ss/word@host/db")
    assert outcomes(found, "fail") == {"source.connection", "target.connection"}
    assert all("word" not in finding.detail.replace("password", "") for finding in found.values())


async def test_a_schema_that_is_not_there(one: Database, tmp_path: Path) -> None:
    migration = tiny(tmp_path)
    migration.old = "older"
    found = await check(one, migration)
    assert outcomes(found, "fail") == {"source.schema"}


async def test_too_old_a_server(one: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_checks, "OLDEST", 990000)
    found = await check(one, tiny(tmp_path))
    assert set(found) == {"source.version", "target.version"}
    assert outcomes(found, "fail") == {"source.version", "target.version"}


async def test_a_pooler_that_carries_no_replication(old: Database, tmp_path: Path) -> None:
    async with pooler(old.dsn) as dsn:
        found = await check(old, tiny(tmp_path), source_dsn=dsn)
    assert outcomes(found, "fail") == {"source.replication_connection"}
    assert "PgBouncer" in found["source.replication_connection"].remedy


async def test_another_encoding(one: Database, tmp_path: Path) -> None:
    name = f"{one.name}_latin1"
    with one.connect() as connected:
        connected.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'".encode())
        try:
            found = await check_with(tiny(tmp_path), source_dsn=one.server.dsn(name), slot=one.name)
        finally:
            connected.execute(f"DROP DATABASE {name}".encode())
    assert {"source.encoding", "source.schema"} == outcomes(found, "fail")


# ---- once the daemon has run


async def test_another_migration_under_way(one: Database, tmp_path: Path) -> None:
    migration = tiny(tmp_path)
    migration.name = "another"
    async with connection(one.dsn, "test") as connected:
        await install(connected, migration)
    found = await check(one, tiny(tmp_path))
    assert outcomes(found, "fail") == {"source.control_tables"}
    assert "another" in found["source.control_tables"].detail


async def test_new_tables_with_rows(one: Database, tmp_path: Path) -> None:
    migration = tiny(tmp_path)
    with one.connect() as connected:
        connected.execute((tmp_path / "new" / "10_tables.sql").read_bytes())
        assert outcomes(await check(one, migration), "fail") == set()
        connected.execute("INSERT INTO new.persons VALUES (9, 'Nobody')")
    found = await check(one, migration)
    assert outcomes(found, "fail") == {"new_tables.empty"}

    async with connection(one.dsn, "test") as control:  # rows are as they should be, once the backfill has begun
        await install(control, migration)
        await write_phase(control, "backfill")
    later = await check(one, migration)
    assert outcomes(later, "fail") == set()
    assert "written" not in later["forward.sample"].detail

    follow_remedy(one.dsn, found["new_tables.empty"])
    with one.connect() as connected:
        connected.execute("DROP SCHEMA replicator, _replicator CASCADE")
    assert (await check(one, migration))["new_tables.empty"].outcome == "pass"


# ---- a pooler


@contextlib.asynccontextmanager
async def pooler(dsn: str) -> AsyncIterator[str]:
    """Passes connections on, but refuses those for replication as PgBouncer did before 1.23."""
    given = conninfo_to_dict(dsn)
    served: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        served.add(task)
        startup = await read_startup(reader, writer)
        if b"\0replication\0" in startup:
            message = b"SFATAL\0C08P01\0Munsupported startup parameter: replication\0\0"
            writer.write(b"E" + (len(message) + 4).to_bytes(4, "big") + message)
            await close(writer)
        else:
            server_reader, server_writer = await asyncio.open_connection(str(given["host"]), int(str(given["port"])))
            server_writer.write(startup)
            await asyncio.gather(pump(reader, server_writer), pump(server_reader, writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield make_conninfo(dsn, host="127.0.0.1", port=server.sockets[0].getsockname()[1])
        await asyncio.gather(*served)


async def read_startup(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    while True:
        length = await reader.readexactly(4)
        body = await reader.readexactly(int.from_bytes(length, "big") - 4)
        if int.from_bytes(body[:4], "big") == 196608:
            return length + body
        writer.write(b"N")  # neither TLS nor GSS


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    await close(writer)


async def close(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        await writer.drain()
        writer.close()
        await writer.wait_closed()
