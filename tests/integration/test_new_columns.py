"""Columns that come while the migration runs: the gate is shut until the migration accounts for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from replicator import ALL, Migration, Query, Row
from replicator.errors import NotReadyError
from replicator.preflight import preflight
from tests.engine import execute, make_settings
from tests.fix_postgres import Database
from tests.sessions import daemon, gate, of
from tests.statements import each_alone, one

pytestmark = [pytest.mark.one_server, pytest.mark.usefixtures("quick")]

OLD = """
CREATE TABLE t (id integer PRIMARY KEY, v text);
CREATE TABLE pets (id integer PRIMARY KEY, owner integer);
INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 20) i;
INSERT INTO pets SELECT i, i FROM generate_series(1, 20) i;
"""
NEW = """
CREATE SCHEMA IF NOT EXISTS shop;
CREATE TABLE IF NOT EXISTS shop.t (id integer PRIMARY KEY, v text, extra text);
CREATE TABLE IF NOT EXISTS shop.owners (id integer PRIMARY KEY, pets text);
"""
PETS = "SELECT owner AS id, string_agg({}, ',') AS pets FROM public.pets GROUP BY owner"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.pipeline.pipeline.LOOK_SECONDS", 0.1)
    monkeypatch.setattr("replicator.pipeline.pipeline.BETWEEN_PASSES", 0.3)
    monkeypatch.setattr("replicator.pipeline.pipeline.BETWEEN_LOOKS", 0.05)


def migration(folder: Path, *, reads: bool = False, names: str = "id::text") -> Migration:
    (folder / "new").mkdir(exist_ok=True)
    (folder / "new" / "10_tables.sql").write_text(NEW)
    made = Migration("growing", old="public", new="shop", sql=folder)

    @made.transform(source="t", into="t", key=lambda row: row["id"])
    def forth(row: Row) -> dict[str, Any]:
        more = {"extra": row["extra"]} if reads else {}
        return {"id": row["id"], "v": row["v"], **more}

    @made.reverse(source="t", into="t", key=lambda row: row["id"])
    def back(row: Row) -> dict[str, Any]:
        return {"id": row["id"], "v": row["v"]}

    @made.transform(source=Query(PETS.format(names), key=["id"], depends_on={"pets": ALL}), into="owners")
    def owner(row: Row) -> dict[str, Any]:
        return {"id": row["id"], "pets": row["pets"]}

    return made


def retiring(folder: Path, table: str) -> Migration:
    made = migration(folder)
    made.retire(table, column="extra", because="nobody needs it")
    return made


DEFINITIONS = "definitions"

ACCOUNTS: dict[str, tuple[str, Callable[[Path], Migration]]] = {
    "a transform reads it": ("t", lambda folder: migration(folder, reads=True)),
    "the migration retires it": ("t", lambda folder: retiring(folder, "t")),
    "a query reads it": ("pets", lambda folder: migration(folder, names="extra")),
    "of a query's table, it is retired": ("pets", lambda folder: retiring(folder, "pets")),
}


@pytest.mark.parametrize("name", ACCOUNTS)
async def test_the_gate_is_shut_until_the_migration_accounts_for_a_new_column(
    database: Database, tmp_path: Path, name: str
) -> None:
    table, accounting = ACCOUNTS[name]
    settings = make_settings(database)
    execute(database.dsn, [OLD])
    async with daemon(settings, migration(tmp_path)) as running:
        await running.ready()
        each_alone(database.dsn, (f"ALTER TABLE {table} ADD COLUMN extra text", f"UPDATE {table} SET extra = 'x'"))
        await running.until(lambda: of(running).monitor.wrong)
        shut = await gate(running, settings, DEFINITIONS)
        assert (await gate(running, settings)).ok
        assert f"since the first start: public.{table}.extra." in shut.detail
        with pytest.raises(NotReadyError, match="have come since the first start"):
            await running.cut_over(dry_run=True)
    async with daemon(settings, migration(tmp_path)) as running:  # a start alone accounts for nothing
        await running.ready()
        assert not (await gate(running, settings, DEFINITIONS)).ok
    found = {each.check: each for each in await preflight(settings, migration(tmp_path))}
    assert f"{table}.extra" in found["forward.unread_columns"].detail
    for _ in range(2):
        async with daemon(settings, accounting(tmp_path)) as running:
            await running.ready()
            assert (await gate(running, settings, DEFINITIONS)).ok
            await running.until(lambda: not of(running).context.unseen and of(running).verifier.clean)
    if "reads" in name:
        values = {"t": "SELECT count(extra) FROM shop.t", "pets": "SELECT count(*) FROM shop.owners WHERE pets = 'x'"}
        assert one(database.dsn, values[table]) == 20


async def test_of_an_empty_table(database: Database, tmp_path: Path) -> None:
    settings = make_settings(database)
    execute(database.dsn, [OLD, "TRUNCATE t"])
    async with daemon(settings, migration(tmp_path)) as running:
        await running.ready()
        each_alone(database.dsn, ("ALTER TABLE t ADD COLUMN extra text",))
        await running.until(lambda: of(running).monitor.wrong)
    async with daemon(settings, migration(tmp_path)) as running:
        await running.ready()
        assert not (await gate(running, settings, DEFINITIONS)).ok
    async with daemon(settings, migration(tmp_path, reads=True)) as running:
        await running.ready()
        assert (await gate(running, settings, DEFINITIONS)).ok


async def test_a_column_that_goes_again_opens_the_gate(database: Database, tmp_path: Path) -> None:
    settings = make_settings(database)
    execute(database.dsn, [OLD])
    async with daemon(settings, migration(tmp_path)) as running:
        await running.ready()
        each_alone(database.dsn, ("ALTER TABLE t ADD COLUMN extra text",))
        await running.until(lambda: of(running).monitor.wrong)
        each_alone(database.dsn, ("ALTER TABLE t DROP COLUMN extra",))
        await running.until(lambda: not of(running).monitor.wrong)


async def test_the_way_back_accounts_for_columns_too(database: Database, tmp_path: Path) -> None:
    settings = make_settings(database)
    execute(database.dsn, [OLD])
    async with daemon(settings, migration(tmp_path)) as running:
        await running.ready()
        await running.cut_over()
        each_alone(database.dsn, ("ALTER TABLE shop.t ADD COLUMN late text", "UPDATE shop.t SET late = 'x'"))
        await running.until(lambda: of(running).monitor.wrong)
        assert "shop.t.late" in (await gate(running, settings, DEFINITIONS)).detail
