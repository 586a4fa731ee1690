"""Control tables that an older version has made: taken along, or refused with what to do, before all other checks."""

import asyncio
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replicator.daemon.daemon import run
from replicator.errors import CheckError, LeaseError
from replicator.migration import Migration
from replicator.postgres.control import control
from replicator.postgres.control.control import install, installed, installed_for, upgrade, upgrade_all
from replicator.postgres.control.upgrading import bring_along
from replicator.postgres.session.connect import connection
from replicator.preflight import preflight
from replicator.runbook.finish import finalize
from replicator.switchover.phases import CUTOVER
from tests.engine import Engine, execute, make_settings
from tests.fix_postgres import Database
from tests.roles import identity, readme_roles
from tests.sessions import daemon
from tests.statements import ORIGINS, OURS

FIXTURES = Path(__file__).parents[1] / "fixtures"
KEYED_BY_TEXT = (
    "CREATE SCHEMA replicator",
    "CREATE TABLE replicator.ownership (migration text, epoch integer)",
    "CREATE TABLE replicator.lease (epoch bigint)",
    "CREATE TABLE replicator.progress (pipeline text PRIMARY KEY)",
    "CREATE TABLE replicator.produced (pipeline text, transform text, source_key text, target_key text, "
    "PRIMARY KEY (pipeline, transform, source_key, target_key))",
    "CREATE TABLE replicator.quarantine (id bigint GENERATED ALWAYS AS IDENTITY UNIQUE, pipeline text, "
    "transform text, source text, source_key text, PRIMARY KEY (pipeline, transform, source_key))",
    "CREATE FUNCTION replicator.active_schema() RETURNS text LANGUAGE sql AS 'SELECT NULL::text'",
    "CREATE FUNCTION replicator.use_new_schema() RETURNS boolean LANGUAGE sql AS 'SELECT false'",
)
pytestmark = pytest.mark.one_server


def rows(dsn: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as opened:
        return opened.execute(query.encode()).fetchall()


async def test_keys_that_an_older_version_spelt_otherwise(database: Database) -> None:
    """In the middle of a migration they are refused."""
    execute(database.dsn, [*KEYED_BY_TEXT, "INSERT INTO replicator.progress VALUES ('forward')"])
    async with connection(database.dsn, "test") as opened:
        with pytest.raises(CheckError, match="an older version's, in the middle of a migration"):
            async with opened.transaction():
                await bring_along(opened)
        await opened.execute("DELETE FROM replicator.progress")
        for _ in range(2):
            await bring_along(opened)
    key = "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'quarantine_id'"
    assert rows(database.dsn, key) == [("quarantine_id", "PRIMARY KEY (id)")]
    assert rows(database.dsn, "SELECT to_regclass('_replicator.produced')::text") == [(None,)]


async def test_control_tables_as_an_older_version_has_left_them(database: Database, tmp_path: Path) -> None:
    """Another migration may begin there."""
    execute(database.dsn, [(FIXTURES / "control_before_forms.sql").read_text()])
    begun = Migration("next", old="public", new="store", sql=tmp_path)
    async with connection(database.dsn, "test") as opened:
        with pytest.raises(CheckError, match="The control tables are an older version's"):
            await installed(opened)
        await install(opened, begun)
        await install(opened, begun)
        assert await installed_for(opened, begun)
    assert rows(database.dsn, "SELECT to_regclass('_replicator.definitions') IS NOT NULL") == [(True,)]


async def test_neither_database_is_changed_when_one_cannot_be(
    database: Database, other_database: Database, tmp_path: Path
) -> None:
    """In soak, only the old tables' database has a progress. No check advises to drop the slots meanwhile."""
    for each in (database, other_database):
        execute(each.dsn, KEYED_BY_TEXT)
    execute(database.dsn, ["INSERT INTO replicator.progress VALUES ('reverse')"])
    settings = make_settings(database, other_database)
    with pytest.raises(CheckError, match="in the middle of a migration: it spelt keys otherwise"):
        await run(settings, identity(tmp_path), stop=asyncio.Event())
    assert rows(other_database.dsn, "SELECT to_regclass('replicator.produced') IS NOT NULL") == [(True,)]
    failed = [each for each in await preflight(settings, identity(tmp_path)) if each.outcome == "fail"]
    assert {each.check for each in failed} == {"source.connection", "target.connection"}
    assert all("The control tables are an older version's" in each.detail for each in failed)


def in_one_schema(database: Database, role: str) -> None:
    """What this version has made becomes what the one before would have made."""
    execute(
        database.dsn,
        [
            f"SET ROLE {role}",
            "DROP FUNCTION replicator.active_schema(), replicator.use_new_schema()",
            "DROP SCHEMA replicator",
            "DROP VIEW _replicator.active",
            "DROP TABLE _replicator.version",
            "ALTER SCHEMA _replicator RENAME TO replicator",
            "BEGIN",
            (FIXTURES / "control_in_one_schema.sql").read_text(),
            "COMMIT",
        ],
    )


@pytest.mark.every_server
async def test_a_migration_goes_on_from_the_tables_in_one_schema(database: Database, tmp_path: Path) -> None:
    """The application's sessions, and what it has built on our functions, notice nothing."""
    with readme_roles(database) as roles:
        roles.superuser(
            f"GRANT EXECUTE ON FUNCTION {', '.join(ORIGINS)} TO {roles.replicator}",
            "INSERT INTO public.t SELECT i, 'v' || i FROM generate_series(1, 20) AS i",
        )
        settings, migration = roles.settings(), identity(tmp_path)
        async with daemon(settings, migration) as running:
            await running.ready()
        in_one_schema(database, roles.replicator)
        with roles.connect(roles.app) as app, roles.connect(roles.app) as reader:
            app.execute("CREATE VIEW public.mine AS SELECT replicator.active_schema() AS active")
            app.execute("PREPARE asked AS SELECT replicator.active_schema()")
            assert app.execute("EXECUTE asked").fetchone() == ("public",)
            reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            assert reader.execute("SELECT replicator.active_schema()").fetchone() == ("public",)
            await upgrade_all([settings.source])
            for asking in ("EXECUTE asked", "SELECT active FROM public.mine", "SELECT replicator.active_schema()"):
                assert app.execute(asking.encode()).fetchone() == ("public",), asking
            reader.execute("COMMIT")  # what it has in its cache until then is the function of old
            assert reader.execute("SELECT replicator.active_schema()").fetchone() == ("public",)
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="schema _replicator"):
                app.execute("SELECT FROM _replicator.lease")
            with pytest.raises(psycopg.errors.DatabaseError, match="is not open for writes"):
                app.execute("INSERT INTO shop.t VALUES (99, 'no')")
            async with daemon(settings, migration) as running:
                await running.ready()
                await running.clean()
                await running.session.switchovers.run(CUTOVER, running.report)
                assert app.execute("EXECUTE asked").fetchone() == ("shop",)
                app.execute("INSERT INTO shop.t VALUES (21, 'new')")
                await running.until(lambda: rows(database.dsn, "SELECT v FROM public.t WHERE id = 21") == [("new",)])
            await finalize(settings, migration, running.report, now=True)
            assert app.execute("SELECT active FROM public.mine").fetchone() == ("shop",)


async def test_a_daemon_of_the_older_version_is_left_alone(database: Database, tmp_path: Path) -> None:
    settings, migration = make_settings(database), identity(tmp_path)
    async with connection(database.dsn, "test") as opened:
        await install(opened, migration)
        in_one_schema(database, "postgres")
        with psycopg.connect(database.dsn, autocommit=True) as older:
            older.execute(
                "INSERT INTO replicator.lease (epoch, holder, pid, backend_start) "
                "SELECT 1, 'it', pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
            )
            with pytest.raises(LeaseError, match="A daemon of an older version"):
                await upgrade_all([settings.source])
        while not rows(database.dsn, "SELECT 1 FROM pg_namespace WHERE nspname = '_replicator'"):
            try:
                await upgrade(opened)
            except LeaseError:  # the server has not noticed yet that it is gone
                continue


async def test_a_start_touches_nothing_that_is_as_it_should_be(database: Database, tmp_path: Path) -> None:
    """Whoever holds what is ours, a row in the catalogue by a grant of nothing, or a table: no start waits for him."""
    with readme_roles(database) as roles:
        settings, migration = roles.settings(), identity(tmp_path)
        await Engine(settings, migration).make_tables()
        with roles.connect(roles.stranger) as stranger, roles.connect(roles.replicator) as reading:
            stranger.execute("BEGIN")
            for each in (
                "GRANT EXECUTE ON FUNCTION replicator.active_schema() TO PUBLIC",
                "GRANT EXECUTE ON FUNCTION replicator.use_new_schema() TO PUBLIC",
                "GRANT USAGE ON SCHEMA replicator TO PUBLIC",
                "SELECT replicator.active_schema()",
            ):
                stranger.execute(each.encode())
            reading.execute("BEGIN")
            tables = "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace IN ({})"
            for (table,) in rows(database.dsn, tables.format(OURS)):
                reading.execute(f"LOCK TABLE {table} IN ROW EXCLUSIVE MODE".encode())
            async with connection(settings.source, "test") as opened:
                await opened.execute("SET lock_timeout = '1ms'")
                await control._upgrade_once(opened)
                await install(opened, migration)
