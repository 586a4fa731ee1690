"""Bounded in bytes and in time: what is in memory at once, and what keeps the stream from being served."""

import asyncio
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replicator import ALL, Lookup, Migration, Query, Row
from replicator.apply import reading
from replicator.apply.deriving import Deriver
from replicator.apply.effects import Effects
from replicator.apply.net_changes import NetChanges
from replicator.apply.work import Work
from replicator.backfill.copier import Copier
from replicator.core.changes import Change
from replicator.core.dirty_keys import DirtyKeys, WindowSpoiled
from replicator.follow.decoder import MESSAGE_PREFIX
from replicator.postgres.control.progress import Chunk
from replicator.postgres.rows.looking_up import look_up
from replicator.runtime.failpoints import Failpoint, handled
from replicator.switchover import gates
from tests.checking import check
from tests.engine import SECONDS, Engine, create_old_tables, differences, engine, execute, make_settings, reference
from tests.fix_postgres import Database
from tests.small import TABLES, create_small, small_migration
from tests.waiting import until

MEGABYTE = 1 << 20
BEHIND = "SELECT set_config('replicator.pass', pass, false) FROM _replicator.secrets"
"""Lets a test pass the guard."""


@contextmanager
def allocated(limit: int) -> Iterator[None]:
    """Never more than so many bytes of Python's objects at a time, beyond what there was."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < limit, f"{peak / MEGABYTE:.0f} MB"


def documents(folder: Path, function: Any) -> Migration:
    """One table to one, through a function."""
    (folder / "new").mkdir()
    (folder / "new" / "10_tables.sql").write_text(
        "CREATE SCHEMA IF NOT EXISTS store; CREATE TABLE IF NOT EXISTS store.docs (id integer PRIMARY KEY, body text);"
    )
    migration = Migration("docs", old="public", new="store", sql=folder)
    migration.transform(source="docs", into="docs", key=lambda row: row["id"])(function)
    return migration


def copied(old: Row) -> dict[str, Any]:
    return dict(old)


def one(dsn: str, query: str) -> Any:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return (connection.execute(query.encode()).fetchone() or (None,))[0]


# ---- messages that anyone may emit


@pytest.mark.parametrize("prefix", [MESSAGE_PREFIX, "other"])
async def test_large_messages_cost_nothing(database: Database, prefix: str) -> None:
    create_old_tables(database.dsn)
    async with engine(database, reference()) as made:
        await made.backfill()
        with allocated(40 * MEGABYTE):
            execute(
                database.dsn,
                [f"SELECT pg_logical_emit_message(true, '{prefix}', repeat('x', 4000000)) FROM generate_series(1, 25)"],
            )
            await made.drain()


# ---- the stream is served whatever the rest does


@pytest.mark.one_server
@pytest.mark.parametrize(("rows", "seconds"), [(1, 5.0), (100, 0.05)], ids=["one long call", "many short ones"])
async def test_a_transform_slower_than_the_servers_patience(
    database: Database, tmp_path: Path, rows: int, seconds: float
) -> None:
    """Nothing reads the stream meanwhile, and the server ends it if it hears nothing: the pipeline would fail."""
    execute(
        database.dsn,
        [
            "CREATE TABLE docs (id integer PRIMARY KEY, body text)",
            f"ALTER DATABASE {database.name} SET wal_sender_timeout = '2s'",
        ],
    )
    going_on: list[bool] = []

    def slow(old: Row) -> dict[str, Any]:
        going_on.append(others.is_set())
        time.sleep(seconds)
        loop.call_soon(others.set)
        return dict(old)

    loop, others = asyncio.get_running_loop(), asyncio.Event()
    async with engine(database, documents(tmp_path, slow)) as made:
        await made.backfill()
        execute(database.dsn, [f"INSERT INTO docs SELECT i, 'x' FROM generate_series(1, {rows}) i"])
        await made.drain()
        assert await differences(made) == []
        assert one(database.dsn, "SELECT count(*) FROM store.docs") == rows
    assert rows == 1 or going_on[:rows] == [False, *[True] * (rows - 1)], "other tasks waited for the last row"


@pytest.mark.one_server
async def test_a_slow_transform_lets_other_tasks_go_on_while_rows_are_copied(
    database: Database, tmp_path: Path
) -> None:
    execute(
        database.dsn,
        [
            "CREATE TABLE docs (id integer PRIMARY KEY, body text)",
            "INSERT INTO docs VALUES (1, 'a'), (2, 'b'), (3, 'c')",
        ],
    )
    going_on: list[bool] = []

    def slow(old: Row) -> dict[str, Any]:
        going_on.append(others.is_set())
        time.sleep(0.03)
        loop.call_soon(others.set)
        return dict(old)

    loop, others = asyncio.get_running_loop(), asyncio.Event()
    async with engine(database, documents(tmp_path, slow)) as made:
        await made.backfill()
    assert going_on == [False, True, True]


# ---- wide rows make small parts

WIDE = "SELECT i, i::text || repeat(md5(i::text), 16384) FROM generate_series(1, {}) i"
"""Half a megabyte each."""


def create_wide(dsn: str, rows: int = 160) -> None:
    execute(
        dsn,
        [
            "CREATE TABLE docs (id integer PRIMARY KEY, n integer NOT NULL DEFAULT 0, body text)",
            "ALTER TABLE docs ALTER body SET STORAGE EXTERNAL",
            f"INSERT INTO docs (id, body) {WIDE.format(rows)}",
        ],
    )


def wide(folder: Path) -> Migration:
    (folder / "new").mkdir()
    (folder / "new" / "10_tables.sql").write_text(
        "CREATE SCHEMA IF NOT EXISTS store; "
        "CREATE TABLE IF NOT EXISTS store.docs (id integer PRIMARY KEY, n integer, body text); "
        "CREATE TABLE IF NOT EXISTS store.lengths (id integer PRIMARY KEY, length integer)"
    )
    migration = Migration("docs", old="public", new="store", sql=folder)
    migration.transform(source="docs", into="docs", key=lambda row: row["id"])(copied)
    query = Query("SELECT id, body FROM public.docs", key=["id"], depends_on={"docs": ALL})

    @migration.transform(source=query, into="lengths")
    def length(old: Row) -> dict[str, Any]:
        return {"id": old["id"], "length": len(old["body"])}

    return migration


@pytest.mark.two_servers
async def test_wide_rows_are_never_in_memory_together(database: Database, tmp_path: Path) -> None:
    """Copied; read again because the log leaves out what an update does not touch, or a query hangs on it; compared.

    All rows are 80 MB. What is in memory at once was 42 MB at the most, for 96 rows and for 288.
    """
    create_wide(database.dsn)
    async with engine(database, wide(tmp_path), chunk_rows=1_000, batch_rows=1_000) as made:
        with allocated(60 * MEGABYTE):
            await made.backfill()
            execute(database.dsn, ["UPDATE docs SET n = 1"])
            await made.drain()
        assert one(database.dsn, "SELECT count(*) FROM store.docs NATURAL JOIN public.docs") == 160
        assert one(database.dsn, "SELECT min(length) FROM store.lengths") > 500_000
        with allocated(60 * MEGABYTE):
            execute(database.dsn, ["UPDATE docs SET body = 'x' || body"])
            await made.drain()
        assert one(database.dsn, "SELECT count(*) FROM store.docs NATURAL JOIN public.docs") == 160
        await made.running.verifier.open()
        execute(
            database.dsn,
            [BEHIND, "UPDATE store.docs SET body = 'x' WHERE id < 40", "UPDATE docs SET n = 2 WHERE id > 80"],
        )
        with allocated(60 * MEGABYTE):
            result = await made.within(made.running.verifier.full_pass())
        assert {each.key for each in result.divergences} == {(str(number),) for number in range(1, 40)}


@pytest.mark.one_server
async def test_a_chunk_in_parts_goes_on_where_it_was_broken_off(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch)
    execute(
        database.dsn,
        [
            "CREATE TABLE docs (id integer PRIMARY KEY, body text)",
            "INSERT INTO docs SELECT i, 'x' FROM generate_series(1, 10) i",
        ],
    )
    made = Engine(make_settings(database, chunk_rows=1_000), documents(tmp_path, copied))
    await made.set_up()
    await made.start()
    parts = 0

    async def break_off() -> None:
        nonlocal parts
        parts += 1
        if parts == 4:
            raise ConnectionError

    with handled(Failpoint.CHUNK_WRITTEN, break_off), pytest.raises(ConnectionError):
        await made.backfill()
    await made.stop()
    execute(database.dsn, ["DELETE FROM docs WHERE id IN (2, 5)", "UPDATE docs SET body = 'y' WHERE id IN (1, 6)"])
    await made.start()
    try:
        await made.backfill()
        await made.drain()
        assert await differences(made) == []
        assert one(database.dsn, "SELECT sum(row_count) FROM _replicator.chunks") == 9  # three before, six after
        assert one(database.dsn, "SELECT bool_and(done_at IS NOT NULL) FROM _replicator.chunks")
    finally:
        await made.stop()


def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row that is read is a part of its own."""
    monkeypatch.setattr("replicator.postgres.rows.streaming.GROUP_BYTES", 1)
    monkeypatch.setattr("replicator.apply.reading.GROUP_BYTES", 1)
    monkeypatch.setattr("replicator.apply.reading.KEYS_HELD", 2)


STORY = (
    "INSERT INTO people SELECT i, 'p' || i, '7', '#a' || i || ' #b' || i FROM generate_series(1, 6) i",
    "INSERT INTO pets SELECT i, i %% 3 + 1, 'pet' FROM generate_series(1, 9) i",
    "UPDATE people SET note = '#c' || id WHERE id > 4",
    "UPDATE pets SET owner = owner + 1",
    "DELETE FROM people WHERE id = 2",
    "UPDATE people SET id = 20 WHERE id = 3",
    "INSERT INTO people VALUES (2, 'back', '8', NULL)",
    "TRUNCATE pets",
    "INSERT INTO pets VALUES (1, 20, 'rex'), (2, 1, 'max')",
    "DELETE FROM people WHERE id < 5",
)


@pytest.mark.two_servers
@pytest.mark.parametrize("together", [False, True], ids=["one by one", "in one batch"])
async def test_what_is_read_in_parts_comes_to_the_same(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    """Parts check the foreign keys too early: what they refuse fits at the end, and none of it stays in quarantine."""
    small_parts(monkeypatch)
    create_small(database.dsn, "ALTER TABLE people ALTER note SET STORAGE EXTERNAL")
    async with engine(database, small_migration(tmp_path), on_error="halt") as made:
        await made.backfill()
        await made.build()
        for some in [STORY] if together else [[each] for each in STORY]:
            execute(database.dsn, [each.replace("%%", "%") for each in some])
            await made.drain()
            assert await differences(made) == [], some
        assert one(database.dsn, "SELECT count(*) FROM _replicator.quarantine") == 0


# ---- one source keeps no other waiting


def test_touches_that_fill_the_log_spoil_the_windows_of_their_source_only() -> None:
    log = DirtyKeys(capacity=10)
    with log.window() as window:
        log.touch("narrow", [("a",)])
        log.touch("wide", [(str(number),) for number in range(100)])
        assert ("a",) in log.touched("narrow", window)
        assert ("b",) not in log.touched("narrow", window)
        with pytest.raises(WindowSpoiled):
            log.touched("wide", window)


@pytest.mark.one_server
async def test_a_small_source_is_not_copied_last(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_small(
        database.dsn,
        "INSERT INTO people SELECT i, 'p' FROM generate_series(1, 500) i",
        "INSERT INTO pets SELECT i, i, 'a' FROM generate_series(1, 3) i",
    )
    copied_sources: list[str] = []
    copy = Copier.copy

    async def noting(self: Copier, chunk: Chunk) -> int:
        copied_sources.append(chunk.source)
        return await copy(self, chunk)

    monkeypatch.setattr(Copier, "copy", noting)
    async with engine(database, small_migration(tmp_path), workers=1) as made:
        await made.backfill()
        assert await differences(made) == []
    assert copied_sources[1] != "people"
    assert copied_sources.count("people") == 11


@pytest.mark.one_server
async def test_chunks_of_other_sources_are_written_while_a_batch_is_applied(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_small(
        database.dsn,
        "INSERT INTO people SELECT i, 'p' FROM generate_series(1, 60) i",
        "INSERT INTO pets SELECT i, i, 'a' FROM generate_series(1, 3) i",
    )
    under_way, go_on = asyncio.Event(), asyncio.Event()
    effects = Deriver.effects

    async def slow(self: Deriver, batch: NetChanges, *arguments: Any) -> Effects:
        if batch.rows:
            under_way.set()
            await go_on.wait()
        return await effects(self, batch, *arguments)

    monkeypatch.setattr(Deriver, "effects", slow)
    people = "SELECT bool_and(done_at IS NOT NULL) FROM _replicator.chunks WHERE source = 'people'"
    async with engine(database, small_migration(tmp_path)) as made, asyncio.timeout(SECONDS):
        execute(database.dsn, ["UPDATE pets SET name = 'b'"])
        await under_way.wait()
        copying = asyncio.create_task(made.running.backfill())
        await until(lambda: one(database.dsn, people))
        assert not copying.done()
        go_on.set()
        await made.within(copying)
        assert await differences(made) == []


# ---- lookups that lead to many keys


def looked_up(folder: Path) -> Migration:
    (folder / "new").mkdir()
    (folder / "new" / "10_tables.sql").write_text(TABLES)
    migration = Migration("small", old="public", new="store", sql=folder)
    rule = Lookup("SELECT id FROM public.pets WHERE owner = %(id)s::integer")
    query = Query(
        "SELECT pets.id, people.name FROM public.pets JOIN public.people ON people.id = owner",
        key=["id"], depends_on={"pets": ["id"], "people": rule},
    )  # fmt: skip

    @migration.transform(source=query, into="people")
    def person(old: Row) -> dict[str, Any]:
        return {"id": old["id"], "name": old["name"]}

    return migration


@pytest.mark.two_servers
@pytest.mark.parametrize("full", [False, True], ids=["key only", "whole old row"])
async def test_a_lookup_runs_once_for_all_changes_that_ask_for_it(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    runs: list[Any] = []

    def counting(*arguments: Any) -> Any:
        runs.append(arguments[3])
        return look_up(*arguments)

    monkeypatch.setattr(reading, "look_up", counting)
    monkeypatch.setattr(reading, "KEYS_HELD", 10)
    create_small(
        database.dsn,
        "INSERT INTO people SELECT i, 'p' FROM generate_series(1, 2) i",
        "INSERT INTO pets SELECT i, i % 2 + 1, 'a' FROM generate_series(1, 100) i",
        *(["ALTER TABLE people REPLICA IDENTITY FULL"] if full else []),
    )
    async with engine(database, looked_up(tmp_path), batch_rows=1_000) as made:
        await made.backfill()
        execute(database.dsn, [f"UPDATE people SET name = 'q{i}'" for i in range(50)])
        await made.drain()
        assert await differences(made) == []
    assert len(runs) == 2


@pytest.mark.one_server
async def test_a_wide_lookup_is_told_before_and_the_source_that_is_slow_meanwhile(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.preflight.migration_checks.MANY_KEYS", 40)
    monkeypatch.setattr("replicator.pipeline.pipeline.SLOW_BATCH", 0.0)
    create_small(
        database.dsn,
        "INSERT INTO people SELECT i, 'p' FROM generate_series(1, 2) i",
        "INSERT INTO pets SELECT i, i % 2 + 1, 'a' FROM generate_series(1, 100) i",
    )
    migration = looked_up(tmp_path)
    for table in ("people", "pets"):
        migration.retire(table, because="read by a query")
    async with engine(database, migration) as made:
        await made.backfill()
        execute(database.dsn, ["UPDATE people SET name = 'q'"])
        await made.drain()
        assert "of which 100 rows were read again" in made.running.slow
        await made.running.monitor.measure()
        assert "of which 100 rows were read again" in gates._lag(made.running, made.settings).detail
    finding = (await check(database, migration))["forward.lookups"]
    assert finding.outcome == "warn"
    assert "makes 50 rows of" in finding.detail


# ---- batches that are extended


@pytest.mark.one_server
@pytest.mark.parametrize("room", [1 << 20, 0], ids=["as far as was read", "no further"])
async def test_a_batch_is_not_extended_without_end(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """What clashes with a row that is about to change is refused then, and is good once the stream has come there."""
    monkeypatch.setattr("replicator.pipeline.batches.EXTENDED_BYTES", room)
    sizes: list[int] = []
    apply = Work.apply

    async def noting(self: Work, changes: list[Change], **named: Any) -> None:
        sizes.append(len(changes))
        await apply(self, changes, **named)

    monkeypatch.setattr(Work, "apply", noting)
    create_wide(database.dsn, rows=2)
    execute(database.dsn, ["ALTER TABLE docs ADD u text", "UPDATE docs SET u = 'u' || id"])
    migration = documents(tmp_path, copied)
    unique = "CREATE TABLE IF NOT EXISTS store.docs (id integer PRIMARY KEY, n integer, body text, u text UNIQUE)"
    (tmp_path / "new" / "10_tables.sql").write_text(f"CREATE SCHEMA IF NOT EXISTS store; {unique};")
    async with engine(database, migration, batch_rows=1) as made:
        await made.backfill()
        async with made.running.context.rw_lock.write():
            execute(database.dsn, ["UPDATE docs SET n = 1 WHERE id = 1"])
            execute(database.dsn, ["UPDATE docs SET u = 'u3' WHERE id = 2"])
            execute(database.dsn, ["UPDATE docs SET u = 'u2' WHERE id = 1"])
        await made.drain()
        assert await differences(made) == []
        assert one(database.dsn, "SELECT count(*) FROM _replicator.quarantine") == 0
    assert (3 in sizes) is (room > 0)
