"""What others do to target tables, which no stream tells of: rows are compared again, or the daemon says what to do."""

import asyncio
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replicator import Migration, Row
from replicator.errors import NotReadyError, ReplicatorError
from replicator.runtime.failpoints import Failpoint, handled
from tests.engine import execute, make_settings
from tests.fix_postgres import Database
from tests.sessions import Running, daemon
from tests.statements import one

pytestmark = pytest.mark.one_server

OLD = """
CREATE TABLE t (id integer PRIMARY KEY, v text, w text);
INSERT INTO t SELECT i, 'v' || i, 'w' || i FROM generate_series(1, 20) i;
"""
NEW = """
CREATE SCHEMA IF NOT EXISTS shop;
CREATE TABLE IF NOT EXISTS shop.t (id integer PRIMARY KEY, v text, w text) PARTITION BY RANGE (id);
CREATE TABLE IF NOT EXISTS shop.t_1 PARTITION OF shop.t FOR VALUES FROM (0) TO (10);
CREATE TABLE IF NOT EXISTS shop.t_2 PARTITION OF shop.t FOR VALUES FROM (10) TO (1000);
"""
SWITCHED = [
    "ALTER TABLE shop.t DISABLE TRIGGER ALL",
    "DELETE FROM shop.t WHERE id = 3",
    "ALTER TABLE shop.t ENABLE ALWAYS TRIGGER replicator_guard, ENABLE ALWAYS TRIGGER replicator_guard_rows",
]
MENDED = {
    "swapped columns": [
        "ALTER TABLE shop.t RENAME v TO x",
        "ALTER TABLE shop.t RENAME w TO v",
        "ALTER TABLE shop.t RENAME x TO w",
    ],
    "a column made anew": ["ALTER TABLE shop.t DROP w", "ALTER TABLE shop.t ADD w text"],
    "rewritten": ["ALTER TABLE shop.t ALTER v TYPE text USING upper(v)"],
    "a partition dropped and made anew": [
        "ALTER TABLE shop.t DETACH PARTITION shop.t_1",
        "DROP TABLE shop.t_1",
        "CREATE TABLE shop.t_1 PARTITION OF shop.t FOR VALUES FROM (0) TO (10)",
    ],
    "a guard switched off and on": SWITCHED,
    "a guard made anew": [
        "CREATE TEMP TABLE made AS SELECT pg_get_triggerdef(oid) AS text FROM pg_trigger "
        "WHERE tgrelid = 'shop.t_1'::regclass AND tgname = 'replicator_guard'",
        "ALTER TABLE shop.t_1 DISABLE TRIGGER replicator_guard_rows",
        "DROP TRIGGER replicator_guard ON shop.t_1",
        "DELETE FROM shop.t_1",
        "DO $$ BEGIN EXECUTE (SELECT text FROM made); END $$",
        "ALTER TABLE shop.t_1 ENABLE ALWAYS TRIGGER replicator_guard, ENABLE ALWAYS TRIGGER replicator_guard_rows",
    ],
}
GONE = {
    "dropped": ["DROP TABLE shop.t_1"],
    "detached": ["ALTER TABLE shop.t DETACH PARTITION shop.t_1"],
}
STOPS = {
    "another table": (
        ["ALTER TABLE shop.t RENAME TO was", "CREATE TABLE shop.t (LIKE shop.was INCLUDING ALL)"],
        "The target table shop.t is not the one of before",
    ),
    "another type": (
        ["ALTER TABLE shop.t ALTER w TYPE varchar(2) USING left(w, 2)"],
        "The type of shop.t.w has changed",
    ),
    "no table": (["DROP TABLE shop.t"], "The target table shop.t is gone"),
}


def same(row: Row) -> dict[str, Any]:
    return {"id": row["id"], "v": row["v"], "w": row["w"]}


def migration(folder: Path) -> Migration:
    (folder / "new").mkdir(exist_ok=True)
    (folder / "new" / "10_tables.sql").write_text(NEW)
    found = Migration("altered", old="public", new="shop", sql=folder)
    for way in (found.transform, found.reverse):
        way(source="t", into="t", key=lambda row: row["id"])(same)
    return found


def rows(database: Database, schema: str) -> Any:
    return one(database.dsn, f"SELECT array_agg((id, v, w)::text ORDER BY id) FROM {schema}.t")


def of(running: Running) -> Any:
    assert running.active is not None
    return running.active


@pytest.fixture
def seeded(database: Database) -> Database:
    execute(database.dsn, [OLD])
    return database


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pass comes by itself: what is not noticed stays."""
    monkeypatch.setattr("replicator.pipeline.pipeline.LOOK_SECONDS", 0.1)
    monkeypatch.setattr("replicator.pipeline.pipeline.BETWEEN_PASSES", 3_600.0)
    monkeypatch.setattr("replicator.pipeline.pipeline.BETWEEN_LOOKS", 0.05)


@pytest.mark.parametrize("name", MENDED)
async def test_what_was_altered_is_compared_again_and_mended(seeded: Database, tmp_path: Path, name: str) -> None:
    async with daemon(make_settings(seeded, ready_for=0.0), migration(tmp_path)) as running:
        await running.ready()
        before = of(running).context.breaches
        await asyncio.to_thread(execute, seeded.dsn, MENDED[name])
        assert rows(seeded, "shop") != rows(seeded, "public")
        await running.until(lambda: of(running).context.breaches > before)
        await running.until(lambda: not of(running).context.unseen and of(running).verifier.clean)
        assert rows(seeded, "shop") == rows(seeded, "public")
        await running.in_the_end(running.cut_over)
        assert rows(seeded, "shop") == rows(seeded, "public")


@pytest.mark.parametrize("name", GONE)
async def test_rows_that_have_no_place_any_more_keep_the_gates_shut(
    seeded: Database, tmp_path: Path, name: str
) -> None:
    async with daemon(make_settings(seeded), migration(tmp_path)) as running:
        await running.ready()
        await asyncio.to_thread(execute, seeded.dsn, GONE[name])
        await running.until(lambda: len(of(running).context.quarantined) == 9)
        with pytest.raises(NotReadyError):
            await running.cut_over(dry_run=True)


@pytest.mark.parametrize("name", ["rewritten", "a guard switched off and on"])
async def test_what_was_altered_at_the_last_moment_is_noticed_under_the_lock(
    seeded: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("replicator.pipeline.pipeline.LOOK_SECONDS", 3_600.0)
    monkeypatch.setattr("replicator.daemon.session.CLOSED_SECONDS", 3_600.0)

    async def alter() -> None:
        await asyncio.to_thread(execute, seeded.dsn, MENDED[name])

    async with daemon(make_settings(seeded), migration(tmp_path)) as running:
        await running.ready()
        with handled(Failpoint.CUTOVER_BEGUN, alter), pytest.raises(NotReadyError, match="past the log"):
            await running.cut_over()
        assert one(seeded.dsn, "SELECT replicator.active_schema()") == "public"


@pytest.mark.parametrize("name", STOPS)
async def test_another_table_stops_the_daemon(seeded: Database, tmp_path: Path, name: str) -> None:
    statements, says = STOPS[name]
    async with daemon(make_settings(seeded), migration(tmp_path)) as running:
        await running.ready()
        await asyncio.to_thread(execute, seeded.dsn, statements)
        with pytest.raises(ReplicatorError, match=says) as stopped:
            await running.until(lambda: False)
    assert "replicator check" in stopped.value.remedy
    if name == "another table":
        async with daemon(make_settings(seeded), migration(tmp_path)) as running:
            await running.until(lambda: running.active is not None and of(running).verifier.passes)
            assert not of(running).verifier.standing.ok
            with pytest.raises(psycopg.Error) as refused:
                await asyncio.to_thread(execute, seeded.dsn, ["DELETE FROM shop.t"])
            assert refused.value.sqlstate == "RP002"


async def test_on_the_way_back_the_old_tables_are_looked_at(seeded: Database, tmp_path: Path) -> None:
    async with daemon(make_settings(seeded), migration(tmp_path)) as running:
        await running.ready()
        await running.cut_over()
        await running.clean()
        before = of(running).context.breaches
        await asyncio.to_thread(execute, seeded.dsn, ["ALTER TABLE t ALTER v TYPE text USING upper(v)"])
        await running.until(lambda: of(running).context.breaches > before)
        await running.until(lambda: not of(running).context.unseen and of(running).verifier.clean)
        assert rows(seeded, "shop") == rows(seeded, "public")
        await running.in_the_end(running.roll_back)


async def test_what_the_daemon_does_itself_is_no_change(seeded: Database, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "20_indexes.sql").write_text("CREATE INDEX IF NOT EXISTS t_v ON shop.t (v);")
    (tmp_path / "new" / "30_constraints.sql").write_text(
        "ALTER TABLE shop.t ADD CHECK (v <> ''), ALTER v SET NOT NULL;"
    )
    settings, declared = make_settings(seeded), migration(tmp_path)
    async with daemon(settings, declared) as running:
        await running.ready()
        breaches, passes = of(running).context.breaches, of(running).verifier.passes
        await running.cut_over(dry_run=True)
        execute(seeded.dsn, ["ANALYZE shop.t", "GRANT SELECT ON shop.t TO pg_monitor", "CREATE INDEX ON shop.t (w)"])
        await of(running).look_at_definitions()
        assert (of(running).context.breaches, of(running).verifier.passes) == (breaches, passes)
        await running.cut_over()
        await running.clean()
        assert of(running).context.breaches == 0
