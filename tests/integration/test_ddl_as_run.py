"""The new schema's DDL is tried as it will be run, and built on tables of every kind."""

from pathlib import Path

import pytest

from replicator import Migration
from replicator.errors import MigrationError
from replicator.postgres.session.connect import connection
from replicator.preflight import preflight
from replicator.runbook.dry_run import dry_run
from replicator.switchover.gates import _schema
from tests.engine import engine, execute, make_settings
from tests.fix_postgres import Database
from tests.twins import NEW, OLD, twins

pytestmark = pytest.mark.one_server

PARTITIONED = NEW.replace(
    "day integer, v text, PRIMARY KEY (id, day))",
    "day integer, v text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);\n"
    "CREATE TABLE IF NOT EXISTS shop.days_1 PARTITION OF shop.days DEFAULT",
)
REFUSED = (
    "CREATE INDEX CONCURRENTLY IF NOT EXISTS days_v ON shop.days (v);",
    "CREATE INDEX CONCURRENTLY ON shop.days (v);",
    "CREATE INDEX IF NOT EXISTS days_v ON shop.days (v);\nDROP INDEX CONCURRENTLY shop.days_v;",
    "CREATE MATERIALIZED VIEW shop.seen AS SELECT v FROM shop.t;\nREFRESH MATERIALIZED VIEW CONCURRENTLY shop.seen;",
    "CREATE UNIQUE INDEX CONCURRENTLY ON shop.t (nothing);",
)
RUN = (
    "CREATE INDEX IF NOT EXISTS days_v ON shop.days (v);\nCREATE INDEX CONCURRENTLY IF NOT EXISTS t_v ON shop.t (v);",
    "VACUUM ANALYZE shop.t;",
    "CREATE INDEX IF NOT EXISTS t_v ON shop.t (v);\nREINDEX INDEX CONCURRENTLY shop.t_v;",
)


async def silent(*_: object) -> None:
    pass


def with_indexes(folder: Path, statements: str) -> Migration:
    migration = twins(folder)
    (folder / "new" / "10_tables.sql").write_text(PARTITIONED)
    (folder / "new" / "20_indexes.sql").write_text(statements)
    return migration


@pytest.mark.parametrize("statements", REFUSED)
async def test_what_would_fail_after_the_backfill_is_refused_before(
    database: Database, tmp_path: Path, statements: str
) -> None:
    execute(database.dsn, [OLD])
    migration, settings = with_indexes(tmp_path, statements), make_settings(database)
    found = {each.check: each for each in await preflight(settings, migration)}
    assert found["new_tables.constraints"].outcome == "fail"
    assert found["new_tables.constraints"].remedy
    with pytest.raises(MigrationError):
        await dry_run(settings, migration, None, lambda *_: None)
    async with engine(database, migration) as made:
        await made.backfill()
        with pytest.raises(MigrationError):  # so the check was right
            await made.build()


@pytest.mark.parametrize("statements", RUN)
async def test_what_works_is_not_refused(database: Database, tmp_path: Path, statements: str) -> None:
    execute(database.dsn, [OLD])
    migration, settings = with_indexes(tmp_path, statements), make_settings(database)
    found = {each.check: each for each in await preflight(settings, migration)}
    assert found["new_tables.constraints"].outcome == "pass"
    assert (await dry_run(settings, migration, None, lambda *_: None)).ok
    async with engine(database, migration) as made:
        await made.backfill()
        await made.build()


@pytest.mark.every_server
async def test_a_foreign_key_to_a_partitioned_table_does_not_shut_the_gate(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, [OLD])
    migration = with_indexes(tmp_path, "")
    (tmp_path / "new" / "10_tables.sql").write_text(
        PARTITIONED + "CREATE TABLE IF NOT EXISTS shop.notes (id integer PRIMARY KEY, d integer, day integer);"
    )
    add = "ALTER TABLE shop.notes ADD CONSTRAINT of_day FOREIGN KEY (d, day) REFERENCES shop.days NOT VALID;"
    (tmp_path / "new" / "30_constraints.sql").write_text(add)
    async with engine(database, migration) as made:
        await made.backfill()
        await made.build()
        async with connection(database.dsn, "test") as target:
            shut = await _schema(made.running, target)
            assert not shut.ok
            assert "of_day" in shut.detail
        validate = "\nALTER TABLE shop.notes VALIDATE CONSTRAINT of_day;"
        (tmp_path / "new" / "30_constraints.sql").write_text(add + validate)
        await made.build()
        async with connection(database.dsn, "test") as target:
            opened = await _schema(made.running, target)
            assert opened.ok, opened
