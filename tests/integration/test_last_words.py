"""The ground changes between the checks and the set-up: the daemon's last words are the check's, not the server's."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from replicator import Migration, Row
from replicator.daemon import daemon
from replicator.errors import CheckError, DatabaseError
from replicator.postgres.catalog.catalog import read_tables
from replicator.postgres.control.control import install
from replicator.postgres.session.connect import connection
from replicator.postgres.wire.slots import write_publication
from replicator.runbook import schema
from tests.engine import execute, make_settings
from tests.fix_postgres import Database
from tests.statements import one
from tests.waiting import until

pytestmark = pytest.mark.two_servers

OLD = "CREATE TABLE t (id integer PRIMARY KEY, v text); INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 20) i"
NEW = "CREATE SCHEMA IF NOT EXISTS shop; CREATE TABLE IF NOT EXISTS shop.t (id integer PRIMARY KEY, v text)"


def twin(folder: Path) -> Migration:
    (folder / "new").mkdir()
    (folder / "new" / "10_tables.sql").write_text(NEW)
    migration = Migration("twin", old="public", new="shop", sql=folder)

    @migration.transform(source="t", into="t", key=lambda row: row["id"])
    def there(row: Row) -> dict[str, Any]:
        return {"id": row["id"], "v": row["v"]}

    @migration.reverse(source="t", into="t", key=lambda row: row["id"])
    def back(row: Row) -> dict[str, Any]:
        return {"id": row["id"], "v": row["v"]}

    return migration


def after_the_checks(monkeypatch: pytest.MonkeyPatch, change: Callable[[], None]) -> None:
    """The tables are made; then comes the change, and then the publication and the slot."""
    build = schema.build

    async def and_then(*arguments: Any) -> Sequence[str]:
        done = await build(*arguments)
        change()
        return done

    monkeypatch.setattr(schema, "build", and_then)


async def test_a_table_that_becomes_unlogged(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if database.plugin != "pgoutput":
        pytest.skip("only a publication refuses it by itself")
    execute(database.dsn, [OLD])
    after_the_checks(monkeypatch, lambda: execute(database.dsn, ["ALTER TABLE t SET UNLOGGED"]))
    settings, migration = make_settings(database), twin(tmp_path)
    with pytest.raises(CheckError, match=r"Unlogged: public\.t\.") as refusal:
        await daemon.run(settings, migration, stop=asyncio.Event())
    assert refusal.value.remedy == "ALTER TABLE public.t SET LOGGED;"
    ended = one(database.dsn, "SELECT details ->> 'reason' FROM _replicator.journal WHERE event = 'stop'")
    assert ended == "Unlogged: public.t."
    monkeypatch.undo()
    execute(database.dsn, [refusal.value.remedy])
    stop = asyncio.Event()
    running = asyncio.create_task(daemon.run(settings, migration, stop=stop))
    phase = "SELECT phase FROM _replicator.state"
    await until(lambda: one(database.dsn, phase) == "follow", alive=lambda: running.done() and running.result())
    stop.set()
    await running


async def test_what_no_check_explains_is_told_as_it_is(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(database.dsn, [OLD])

    def fails() -> None:
        raise DatabaseError("A statement failed.")

    after_the_checks(monkeypatch, fails)
    with pytest.raises(DatabaseError, match=r"^A statement failed\.$"):
        await daemon.run(make_settings(database), twin(tmp_path), stop=asyncio.Event())


async def test_a_child_that_appears_is_not_published(database: Database, tmp_path: Path) -> None:
    """A published table without a key takes no updates: the application's, on the parent, would fail for it."""
    execute(
        database.dsn,
        [OLD, "CREATE TABLE child (v2 text) INHERITS (t)", "INSERT INTO child VALUES (70, 'of the child')"],
    )
    async with connection(database.dsn, "test") as opened:
        await install(opened, twin(tmp_path))
        await write_publication(opened, "t_publication", [(await read_tables(opened, "public"))["t"]])
    assert one(database.dsn, "SELECT string_agg(tablename, ' ') FROM pg_publication_tables") == "t"
    execute(database.dsn, ["UPDATE t SET v = 'new' WHERE id IN (1, 70)"])
