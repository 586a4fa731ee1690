"""wal2json warns of changes that it leaves out: those of tables that nobody follows are no matter, others end it."""

from pathlib import Path

import psycopg
import pytest

from replicator.core.tables import Name
from replicator.errors import DefinitionError
from replicator.postgres.wire.walsender import is_followed
from tests.engine import engine, execute
from tests.fix_postgres import Database
from tests.statements import each_alone
from tests.twins import OLD, rows, twins

pytestmark = pytest.mark.two_servers

NO_MATTER = {
    "a scratch table": (
        "CREATE TABLE scratch AS SELECT * FROM t",
        "UPDATE scratch SET v = 'x'",
        "DELETE FROM scratch WHERE id < 5",
    ),
    "one that is gone again": ("CREATE TABLE scratch (a integer)", "INSERT INTO scratch VALUES (1)",
                               "UPDATE scratch SET a = 2", "DROP TABLE scratch"),
    "a retired table without a key": ("UPDATE trash SET a = 2", "DELETE FROM trash"),
    "names that look like others": (
        'CREATE TABLE "x"".""t" AS SELECT 1 AS a',
        'UPDATE "x"".""t" SET a = 2',
        'CREATE TABLE "T" AS SELECT 1 AS a',
        'UPDATE "T" SET a = 2',
        'CREATE TABLE "a in table ""public"".""t""" AS SELECT 1 AS a',
        'UPDATE "a in table ""public"".""t""" SET a = 2',
    ),
    "a materialized view": (
        "CREATE MATERIALIZED VIEW seen AS SELECT id, v FROM t",
        "CREATE UNIQUE INDEX ON seen (id)",
        "UPDATE t SET v = 'seen' WHERE id < 4",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY seen",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_MATTER)
async def test_what_nobody_follows_may_be_left_out(database: Database, tmp_path: Path, name: str) -> None:
    execute(database.dsn, [OLD, "CREATE TABLE trash (a integer)", "INSERT INTO trash VALUES (1)"])
    migration = twins(tmp_path)
    migration.retire("trash", because="it is trash")
    async with engine(database, migration) as made:
        await made.backfill()
        each_alone(database.dsn, NO_MATTER[name])
        execute(database.dsn, ["UPDATE t SET v = 'after' WHERE id = 7", "DELETE FROM days WHERE id = 7"])
        await made.drain()
        assert rows(database.dsn, "public") == rows(database.dsn, "shop")
        await made.stop()
        await made.start()  # and what is in the log still is no matter either
        await made.drain()


MATTERS = {
    "a table": ("ALTER TABLE t REPLICA IDENTITY NOTHING", "UPDATE t SET v = 'x'"),
    "a partition": ("ALTER TABLE days_1 REPLICA IDENTITY NOTHING", "DELETE FROM days WHERE id = 3"),
    "a younger partition": (
        "CREATE TABLE days_2 PARTITION OF days FOR VALUES FROM (10) TO (20)",
        "ALTER TABLE days_2 REPLICA IDENTITY NOTHING",
        "INSERT INTO days VALUES (1, 12, 'x')",
        "UPDATE days SET v = 'y' WHERE day = 12",
    ),
}


@pytest.mark.parametrize("name", MATTERS)
async def test_what_is_followed_may_not_be_left_out(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if database.plugin != "wal2json":
        pytest.skip("With pgoutput the application's statement fails.")
    monkeypatch.setattr("replicator.pipeline.pipeline.LOOK_SECONDS", 3_600.0)  # the catalogue is not what tells
    execute(database.dsn, [OLD])
    async with engine(database, twins(tmp_path)) as made:
        await made.backfill()
        each_alone(database.dsn, MATTERS[name])
        error = await made.failure()
        assert isinstance(error, DefinitionError)
        assert "left changes out of the stream" in str(error)
        assert error.remedy


@pytest.mark.one_server
async def test_names_as_the_plugin_writes_them(database: Database) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as opened:
        opened.execute(OLD.encode())
        opened.execute('CREATE SCHEMA "o""d.d"; CREATE TABLE "o""d.d"."d""a.y" PARTITION OF days DEFAULT')
    followed = {Name(schema="public", table="days")}
    for written, expected in (
        ('"public"."days"', True),
        ('"days"', True),
        ('"o"d.d"."d"a.y"', True),
        ('"d"a.y"', True),
        ('"public"."t"', False),
        ('"public"."gone"', False),
        ("", False),
    ):
        assert await is_followed(database.dsn, written, followed) == expected, written
