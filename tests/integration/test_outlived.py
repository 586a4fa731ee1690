"""Rows of the target that a TRUNCATE of the source would delete, and that something there holds."""

from pathlib import Path
from typing import Any

import pytest

from replicator import Migration, Row
from replicator.pipeline.repair import compare, repair
from tests.bidirectional import rolling
from tests.engine import Engine, differences, engine, execute, make_settings
from tests.fix_postgres import Database
from tests.statements import one
from tests.two_ways import create_old, two_ways

pytestmark = pytest.mark.one_server


def migrated(folder: Path, *, shifted: bool) -> Migration:
    (folder / "new").mkdir(parents=True, exist_ok=True)
    (folder / "new" / "10_tables.sql").write_text(
        "CREATE SCHEMA IF NOT EXISTS shop; "
        "CREATE TABLE IF NOT EXISTS shop.things (id integer PRIMARY KEY, name text NOT NULL)"
    )
    migration = Migration("outlived", old="public", new="shop", sql=folder)
    by = 1000 if shifted else 0

    @migration.transform(source="things", into="things", key=lambda old: old["id"] + by)
    def thing(old: Row) -> dict[str, Any]:
        return {"id": old["id"] + by, "name": old["name"]}

    return migration


def clean(made: Engine) -> bool:
    return made.running.verifier.clean


async def test_the_gate_is_shut_until_it_is_gone(database: Database, tmp_path: Path) -> None:
    """Whose it was cannot be told: so nothing stands in quarantine, and all rows are compared at once."""
    execute(
        database.dsn,
        [
            "CREATE TABLE things (id integer PRIMARY KEY, name text)",
            "INSERT INTO things SELECT i, 'n' FROM generate_series(1, 9) AS i",
        ],
    )
    async with engine(database, migrated(tmp_path, shifted=True)) as made:
        await made.backfill()
        pipeline = made.running
        await pipeline.verifier.open()
        assert (await compare(pipeline)).clean
        assert clean(made)
        execute(
            database.dsn,
            ["CREATE TABLE holds (thing integer REFERENCES shop.things)", "INSERT INTO holds VALUES (1003)"],
        )
        execute(database.dsn, ["TRUNCATE things", "INSERT INTO things VALUES (20, 'new')"])
        await made.drain()
        assert await differences(made) == [("things", "extra", ("1003",))]
        assert not clean(made)
        result = await compare(pipeline)
        assert [(each.kind, each.key) for each in result.divergences] == [("extra", ("1003",))]
        assert not clean(made)
        execute(database.dsn, ["DROP TABLE holds"])
        await repair(pipeline, result.divergences, "test")
        assert (await compare(pipeline)).clean
        assert await differences(made) == []


async def test_where_its_source_row_is_known_it_is_quarantined(database: Database, tmp_path: Path) -> None:
    execute(
        database.dsn, ["CREATE TABLE things (id integer PRIMARY KEY, name text)", "INSERT INTO things VALUES (3, 'n')"]
    )
    async with engine(database, migrated(tmp_path, shifted=False)) as made:
        await made.backfill()
        execute(
            database.dsn,
            ["CREATE TABLE holds (thing integer REFERENCES shop.things)", "INSERT INTO holds VALUES (3)"],
        )
        execute(database.dsn, ["TRUNCATE things"])
        await made.drain()
        assert made.running.context.quarantined == {("thing", ("3",))}
        assert made.running.context.unseen == set()


async def test_while_both_schemas_take_writes(database: Database, tmp_path: Path) -> None:
    """The other rows go all the same, and nothing is quarantined under a key that no row has."""
    create_old(database.dsn)
    async with rolling(make_settings(database), two_ways(tmp_path)) as running:
        await running.open()
        execute(
            database.dsn,
            ["CREATE TABLE holds (customer integer REFERENCES shop.profiles)", "INSERT INTO holds VALUES (3)"],
        )
        execute(database.dsn, ["TRUNCATE people, addresses"])
        await running.until(lambda: one(database.dsn, "SELECT count(*) FROM shop.profiles") == 1)
        await running.quiet()
        assert one(database.dsn, "SELECT customer FROM shop.profiles") == 3
        assert running.pipeline("forward").context.quarantined == {("profile", ("3",))}
