"""Constraints are built while rows come in: what clashes only because it was read ahead of the stream is no clash."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from structlog.testing import capture_logs

from replicator import Migration, Query, Row
from replicator.errors import MigrationError
from replicator.pipeline.pipeline import Pipeline
from tests.engine import differences, engine, execute
from tests.fix_postgres import Database
from tests.small import create_small, small_migration
from tests.waiting import until

pytestmark = pytest.mark.two_servers

PEOPLE = "INSERT INTO people SELECT i, 'p' || i, i::text FROM generate_series(1, 9) i"
PETS = "INSERT INTO pets SELECT i, i, 'cat' FROM generate_series(1, 9) i"
VALIDATED = "SELECT convalidated FROM pg_constraint WHERE conname = 'homes_owner_fkey'"


@contextlib.contextmanager
def stepping(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[asyncio.Semaphore, asyncio.Event]]:
    """Batches are applied one by one, as many as the semaphore lets; the event says that one waits."""
    let, waits = asyncio.Semaphore(0), asyncio.Event()
    original = Pipeline._apply

    async def apply(self: Pipeline, piece: Any) -> None:
        waits.set()
        await let.acquire()
        await original(self, piece)

    with monkeypatch.context() as patched:
        patched.setattr(Pipeline, "_apply", apply)
        yield let, waits


def column(dsn: str, query: str) -> list[Any]:
    with psycopg.connect(dsn) as opened:
        return [row[0] for row in opened.execute(query.encode())]


async def test_a_child_that_was_read_before_its_parent_came(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first transaction makes the query read what the second one has done: a home whose owner is not there yet."""
    create_small(database.dsn, PEOPLE, PETS)
    async with engine(database, small_migration(tmp_path), batch_rows=1) as made:
        await made.backfill()
        with stepping(monkeypatch) as (let, waits):
            execute(database.dsn, ["INSERT INTO pets VALUES (10, 1, 'dog')"])
            await made.within(waits.wait())
            execute(
                database.dsn, ["INSERT INTO people VALUES (20, 'new', '1')", "INSERT INTO pets VALUES (20, 20, 'cat')"]
            )
            waits.clear()
            let.release()
            await made.within(waits.wait())
            assert column(database.dsn, "SELECT owner FROM store.homes WHERE owner = 20") == [20]
            assert column(database.dsn, "SELECT id FROM store.people WHERE id = 20") == []

            lines: list[str] = []
            building = asyncio.create_task(made.build(lines.append))
            await made.within(until(lambda: any("caught up" in line for line in lines) or building.done()))
            (homes,) = (each for each in made.running.context.plan.targets if each.name.table == "homes")
            assert homes.foreign_keys, "from the moment that it is there, batches must know of it"
            for _ in range(100):
                let.release()
            await made.within(building)
        assert column(database.dsn, VALIDATED) == [True]
        await made.drain()
        assert await differences(made) == []


async def test_a_child_without_a_parent_is_still_an_error(database: Database, tmp_path: Path) -> None:
    create_small(database.dsn, PEOPLE, PETS)
    async with engine(database, small_migration(tmp_path)) as made:
        await made.backfill()
        execute(
            database.dsn,
            [
                "SELECT set_config('replicator.pass', pass, false) FROM _replicator.secrets",
                "INSERT INTO store.homes VALUES (404, '{cat}')",
            ],
        )
        with pytest.raises(MigrationError, match="violates foreign key"):
            await made.within(made.build())


OLD = """
CREATE TABLE owners (id integer PRIMARY KEY);
CREATE TABLE notes (id integer PRIMARY KEY, owner integer);
ALTER TABLE notes REPLICA IDENTITY FULL;
CREATE TABLE things (id integer PRIMARY KEY, owner integer);
"""
NEW = """
CREATE SCHEMA IF NOT EXISTS store;
CREATE TABLE IF NOT EXISTS store.owners (id integer PRIMARY KEY);
CREATE TABLE IF NOT EXISTS store.things (id integer PRIMARY KEY, owner integer NOT NULL);
"""
FOREIGN_KEY = """
ALTER TABLE store.things ADD CONSTRAINT things_owner_fkey
    FOREIGN KEY (owner) REFERENCES store.owners (id) DEFERRABLE NOT VALID;
ALTER TABLE store.things VALIDATE CONSTRAINT things_owner_fkey;
"""


def owners_and_things(folder: Path) -> Migration:
    """Parents are read again, children come with the log."""
    (folder / "new").mkdir()
    (folder / "new" / "10_tables.sql").write_text(NEW)
    (folder / "new" / "30_constraints.sql").write_text(FOREIGN_KEY)
    migration = Migration("things", old="public", new="store", sql=folder)
    owners = Query("SELECT id FROM public.owners", key=["id"], depends_on={"owners": ["id"], "notes": ["owner"]})

    @migration.transform(source=owners, into="owners", key=lambda old: old["id"])
    def owner(old: Row) -> dict[str, Any]:
        return {"id": old["id"]}

    @migration.transform(source="things", into="things", key=lambda old: old["id"])
    def thing(old: Row) -> dict[str, Any]:
        return {"id": old["id"], "owner": old["owner"]}

    return migration


async def test_a_child_that_comes_after_its_parent_was_read_to_be_gone(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing in the child's own batch was read: it is an earlier batch that ran ahead."""
    execute(database.dsn, [OLD, "INSERT INTO owners VALUES (1), (2)"])
    async with engine(database, owners_and_things(tmp_path), batch_rows=1, on_error="halt") as made:
        await made.backfill()
        await made.build()
        with stepping(monkeypatch) as (let, waits):
            execute(database.dsn, ["INSERT INTO notes VALUES (1, 1)"])
            await made.within(waits.wait())
            execute(database.dsn, ["INSERT INTO things VALUES (5, 1)"])
            execute(database.dsn, ["DELETE FROM things", "DELETE FROM owners WHERE id = 1"])
            for _ in range(100):
                let.release()
            await made.drain()
        assert await differences(made) == []
        assert made.running.context.quarantined == set()


AT_ONCE = FOREIGN_KEY.replace("DEFERRABLE ", "")


@pytest.mark.parametrize("extensions", [5, 0])
async def test_a_parent_that_was_read_to_be_gone_before_its_child_went(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extensions: int
) -> None:
    """The foreign key cannot wait for the end of the transaction: it refuses the deletion itself."""
    monkeypatch.setattr("replicator.pipeline.batches.EXTENSIONS", extensions)
    migration = owners_and_things(tmp_path)
    (tmp_path / "new" / "30_constraints.sql").write_text(AT_ONCE)
    execute(database.dsn, [OLD, "INSERT INTO owners VALUES (1), (2)", "INSERT INTO things VALUES (5, 1), (6, 2)"])
    async with engine(database, migration, batch_rows=1) as made:
        await made.backfill()
        await made.build()
        with stepping(monkeypatch) as (let, waits), capture_logs() as said:
            execute(database.dsn, ["INSERT INTO notes VALUES (1, 1)"])
            await made.within(waits.wait())
            execute(database.dsn, ["DELETE FROM things WHERE id = 5", "DELETE FROM owners WHERE id = 1"])
            for _ in range(100):
                let.release()
            await made.drain()
        assert await differences(made) == []
        assert column(database.dsn, "SELECT source_key FROM _replicator.quarantine") == []
        assert any(each["event"] == "rows quarantined" for each in said) == (not extensions)
