"""Rows that were refused because of others come out of quarantine by themselves, and hold nothing up until then."""

import asyncio
import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replicator import Migration, Query, Row
from replicator.apply import later
from tests.engine import SECONDS, Engine, differences, engine, execute
from tests.fix_postgres import Database
from tests.waiting import until

pytestmark = pytest.mark.one_server

OLD = """
CREATE TABLE owners (id integer PRIMARY KEY, name text NOT NULL);
CREATE TABLE things (id integer PRIMARY KEY, owner integer NOT NULL, code text NOT NULL);
CREATE TABLE busy (id integer PRIMARY KEY, n integer NOT NULL);
"""
NEW = """
CREATE SCHEMA IF NOT EXISTS shop;
CREATE TABLE IF NOT EXISTS shop.owners (id integer PRIMARY KEY, name text NOT NULL CHECK (name <> 'bad'));
CREATE TABLE IF NOT EXISTS shop.things (
    id integer PRIMARY KEY, owner integer NOT NULL REFERENCES shop.owners, code text NOT NULL UNIQUE
);
CREATE TABLE IF NOT EXISTS shop.busy (id integer PRIMARY KEY, n integer NOT NULL);
"""
THINGS = "SELECT id, owner, code FROM public.things"


def migrated(folder: Path) -> Migration:
    """Each table as it is; the things are read again when the log brings one."""
    (folder / "new").mkdir()
    (folder / "new" / "10_tables.sql").write_text(NEW)
    migration = Migration("again", old="public", new="shop", sql=folder)

    @migration.transform(source="owners", into="owners", name="owner")
    def owner(old: Row) -> dict[str, Any]:
        return dict(old)

    @migration.transform(source=Query(THINGS, key=["id"], depends_on={"things": ["id"]}), into="things", name="thing")
    def thing(old: Row) -> dict[str, Any]:
        return dict(old)

    @migration.transform(source="busy", into="busy", name="busy")
    def busy(old: Row) -> dict[str, Any]:
        return dict(old)

    return migration


def attempts(dsn: str) -> dict[tuple[str, str], int]:
    with psycopg.connect(dsn) as target:
        rows = target.execute("SELECT transform, source_key, attempts FROM _replicator.quarantine").fetchall()
    return {(transform, *json.loads(key)): tries for transform, key, tries in rows}


async def until_nothing_stands(made: Engine) -> None:
    async with asyncio.timeout(SECONDS):
        while made.running.context.quarantined:
            await made.drain()
    assert attempts(made.target_dsn) == {}


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again ever more rarely is still tried in the time of a test."""
    monkeypatch.setattr(later, "LONGEST_PAUSE", later.PAUSE / 10)
    monkeypatch.setattr(later, "PAUSE", later.PAUSE / 10)


async def test_what_clashes_for_good_holds_a_busy_stream_up_no_more(database: Database, tmp_path: Path) -> None:
    """What is read again is always newer than a busy stream: so each clash looks as if it might be none."""
    execute(database.dsn, [OLD, "INSERT INTO owners VALUES (1, 'a')", "INSERT INTO busy VALUES (1, 0)",
                           "INSERT INTO things VALUES (1, 1, 'x')"])  # fmt: skip
    async with engine(database, migrated(tmp_path), batch_rows=5) as made:
        await made.backfill()
        await until_nothing_stands(made)  # a child may have been copied before its parent
        pieces = made.running.batches_taken
        done = asyncio.Event()

        async def write() -> None:
            async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=True) as writer:
                await writer.execute("INSERT INTO things VALUES (2, 1, 'x')")
                while not done.is_set():
                    await writer.execute("UPDATE busy SET n = n + 1")

        writing = asyncio.create_task(write())
        await until(lambda: made.running.batches_taken >= pieces + 60)
        done.set()
        await writing
        await made.drain()
        found = attempts(database.dsn)
        assert set(found) == {("thing", "2")}
        assert found["thing", "2"] < 12, "it is tried ever more rarely"


@pytest.mark.usefixtures("soon")
async def test_once_the_other_row_is_mended_they_come_out_by_themselves(database: Database, tmp_path: Path) -> None:
    """A clash, and children of a parent that was refused; after a restart too."""
    execute(database.dsn, [OLD, "INSERT INTO owners VALUES (1, 'a')", "INSERT INTO things VALUES (1, 1, 'x')"])
    async with engine(database, migrated(tmp_path)) as made:
        await made.backfill()
        await until_nothing_stands(made)  # a child may have been copied before its parent
        execute(database.dsn, ["INSERT INTO owners VALUES (2, 'bad')", "INSERT INTO things VALUES (2, 1, 'x')",
                               "INSERT INTO things VALUES (3, 2, 'y'), (4, 1, 'z')"])  # fmt: skip
        await made.drain()
        assert set(attempts(database.dsn)) == {("owner", "2"), ("thing", "2"), ("thing", "3")}
        execute(database.dsn, ["UPDATE owners SET name = 'good' WHERE id = 2"])
        async with asyncio.timeout(SECONDS):
            while len(made.running.context.quarantined) > 1:
                await made.drain()
        await made.stop()
        await made.start()
        execute(database.dsn, ["UPDATE things SET code = 'w' WHERE id = 1"])
        await until_nothing_stands(made)
        assert await differences(made) == []


async def test_a_new_daemon_tries_again_what_it_finds(database: Database, tmp_path: Path) -> None:
    """The one before it died before it could, or did not know what stood in the way."""
    execute(database.dsn, [OLD, "INSERT INTO owners VALUES (1, 'a')", "INSERT INTO things VALUES (1, 1, 'x')"])
    async with engine(database, migrated(tmp_path)) as made:
        await made.backfill()
        await until_nothing_stands(made)  # a child may have been copied before its parent
        execute(database.dsn, ["INSERT INTO things VALUES (2, 1, 'x'), (3, 7, 'y')"])
        await made.drain()
        assert len(made.running.context.quarantined) == 2
        await made.stop()
        execute(database.dsn, ["ALTER TABLE shop.things DROP CONSTRAINT things_code_key"])
        await made.start()
        async with asyncio.timeout(SECONDS):
            while len(made.running.context.quarantined) == 2:
                await made.drain()
        assert set(attempts(database.dsn)) == {("thing", "3")}


@pytest.mark.parametrize("transactions", [1, 40])
async def test_what_was_read_too_early_fits_once_the_stream_has_come_so_far(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transactions: int
) -> None:
    """A value that changes hands, with the stream far behind what is read."""
    monkeypatch.setattr("replicator.pipeline.batches.EXTENSIONS", 0)
    execute(database.dsn, [OLD, "INSERT INTO owners VALUES (1, 'a'), (2, 'b')", "INSERT INTO busy VALUES (1, 0)",
                           "INSERT INTO things VALUES (1, 1, 'x'), (2, 1, 'y'), (3, 1, 'z')"])  # fmt: skip
    async with engine(database, migrated(tmp_path), batch_rows=2) as made:
        await made.backfill()
        async with made.running.write_gate.turn():
            execute(database.dsn, ["UPDATE things SET owner = 2 WHERE id = 2"])
            for _ in range(transactions):
                execute(database.dsn, ["UPDATE busy SET n = n + 1"])
            execute(database.dsn, ["DELETE FROM things WHERE id = 1"])
            execute(database.dsn, ["UPDATE things SET code = 'x' WHERE id = 2"])
        await made.drain()
        await until_nothing_stands(made)
        assert await differences(made) == []
