"""After the cutover nothing gets into an old table but what the daemon writes, whatever the way."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psycopg
import pytest

from replicator.daemon import session
from replicator.postgres.control.trigger_names import GUARD, GUARD_ROWS
from tests.engine import execute, make_settings
from tests.fix_postgres import Database
from tests.guarded import NEW, OLD, cut_over
from tests.roles import Roles, identity, readme_roles
from tests.sessions import daemon
from tests.statements import one, refusal
from tests.waiting import until

pytestmark = pytest.mark.two_servers

PASSES: Final = (
    "UPDATE t SET v = 'x'", "DELETE FROM t WHERE false", "INSERT INTO t VALUES (50, 'x')",
    "UPDATE t_low SET v = 'x'", "DELETE FROM t_low", "INSERT INTO t_low VALUES (50, 'x')", "TRUNCATE t_low",
    "UPDATE t_low_leaf SET v = 'x'", "INSERT INTO t_low_leaf VALUES (50, 'x')", "TRUNCATE t_low_leaf",
    "INSERT INTO t_high VALUES (150, 'x')", "TRUNCATE t_high", "TRUNCATE t",
    "INSERT INTO t_late VALUES (250, 'x')", "INSERT INTO t VALUES (250, 'x')",
    "INSERT INTO u VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET v = EXCLUDED.v",
    "INSERT INTO u VALUES (1, 'x') ON CONFLICT DO NOTHING",
    "UPDATE seen SET v = 'x'", "DELETE FROM seen", "INSERT INTO ruled VALUES (50, 'x')",
    "INSERT INTO elsewhere VALUES (50, 'x')",
    "WITH gone AS (DELETE FROM u RETURNING *) SELECT count(*) FROM gone",
    "TRUNCATE u",
)  # fmt: skip
MERGE: Final = "MERGE INTO u USING (SELECT 1 AS id) AS s ON u.id = s.id WHEN MATCHED THEN UPDATE SET v = 'x'"


@pytest.mark.every_server
async def test_every_way_into_an_old_table_is_shut(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, [OLD])
    async with cut_over(make_settings(database), tmp_path) as running:
        execute(database.dsn, ["CREATE TABLE t_late PARTITION OF t FOR VALUES FROM (200) TO (300)"])
        ways = [*PASSES, *([MERGE] if database.version >= 15 else [])]
        for before in ("SELECT 1", "SET session_replication_role = replica", "SET replicator.writer = 'daemon'"):
            with database.connect() as opened:
                opened.execute(before.encode())
                through = [each for each in ways if refusal(opened, each) != "RP002"]
                assert through == [], before
                with (
                    pytest.raises(psycopg.Error, match="is not open for writes"),
                    opened.cursor() as cursor,
                    cursor.copy("COPY u FROM STDIN") as copy,
                ):
                    copy.write_row((60, "x"))
        execute(database.dsn, ["UPDATE shop.t SET v = 'from the new schema'"])
        await running.until(lambda: one(database.dsn, "SELECT min(v) FROM t") == "from the new schema")


async def test_what_comes_later_is_closed_too(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partition with rows and TRUNCATE, an inheriting table, a guard that somebody switches off."""
    monkeypatch.setattr(session, "CLOSED_SECONDS", 0.1)
    execute(database.dsn, [OLD])
    open_ones = (
        "SELECT count(*) FROM pg_class c WHERE relname IN ('t_late', 'u_child', 'u') AND relkind = 'r' AND "
        "relnamespace = 'public'::regnamespace AND (SELECT count(*) FROM pg_trigger WHERE tgrelid = c.oid "
        f"AND tgname IN ('{GUARD}', '{GUARD_ROWS}') AND tgenabled = 'A') < 2"
    )
    async with cut_over(make_settings(database), tmp_path) as running:
        execute(database.dsn, [
            "CREATE TABLE t_late PARTITION OF t FOR VALUES FROM (200) TO (300)",
            "CREATE TABLE u_child () INHERITS (u)",
            "ALTER TABLE u DISABLE TRIGGER ALL",
            "ALTER TABLE u ENABLE TRIGGER ALL",
        ])  # fmt: skip
        assert one(database.dsn, open_ones) == 3
        await running.until(lambda: one(database.dsn, open_ones) == 0)
        with database.connect() as opened:
            for each in ("TRUNCATE t_late", "INSERT INTO u_child VALUES (1)", "TRUNCATE u_child", "DELETE FROM u"):
                assert refusal(opened, each) == "RP002", each
        await running.until(lambda: running.active is not None and running.active.context.unseen)


async def test_guards_of_an_earlier_version_let_the_daemon_pass(database: Database, tmp_path: Path) -> None:
    """They asked for a word, and their function did; nothing was noted as closed, and no trigger at rest."""
    execute(database.dsn, [OLD])
    settings, migration = make_settings(database), identity(tmp_path, NEW, ("t", "u"))
    migration.retire("elsewhere", because="it is written to by others")
    async with daemon(settings, migration) as running:
        await running.ready()
    execute(database.dsn, [
        "DELETE FROM _replicator.closed",
        *(f"DROP TRIGGER {GUARD_ROWS} ON shop.{table}" for table in ("t", "u")),
        *(f"CREATE OR REPLACE TRIGGER {GUARD} BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON shop.{table} "
          "EXECUTE FUNCTION _replicator.refuse_write('new', 'public', 'shop')" for table in ("t", "u")),
        "UPDATE t SET v = 'meanwhile'",
    ])  # fmt: skip
    async with daemon(settings, migration) as running:
        await running.until(lambda: one(database.dsn, "SELECT min(v) FROM shop.t") == "meanwhile")
        with database.connect() as opened:
            assert refusal(opened, "DELETE FROM shop.t") == "RP002"
        await running.ready()


async def test_a_subscription_does_not_get_by(database: Database, other_database: Database, tmp_path: Path) -> None:
    """Its worker is a replica's session that fires row triggers only; it is the daemon's own role's here."""
    execute(database.dsn, [OLD])
    execute(other_database.dsn, [
        "CREATE TABLE u (id integer PRIMARY KEY, v text)", "CREATE PUBLICATION theirs FOR TABLE u",
    ])  # fmt: skip
    slot = f"{database.name}_theirs"
    with other_database.connect() as opened:
        opened.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,))
    async with cut_over(make_settings(database), tmp_path):
        with database.connect() as opened:
            opened.execute("ALTER ROLE CURRENT_USER IN DATABASE " + database.name + " SET replicator.writer = 'daemon'")
            opened.execute(
                f"CREATE SUBSCRIPTION {slot} CONNECTION '{other_database.dsn}' PUBLICATION theirs "
                f"WITH (create_slot = false, slot_name = '{slot}', copy_data = false)".encode()
            )
        try:
            execute(other_database.dsn, ["INSERT INTO u VALUES (777, 'by a subscription')"])
            failed = f"SELECT apply_error_count > 0 FROM pg_stat_subscription_stats WHERE subname = '{slot}'"
            if database.version >= 15:
                await until(lambda: one(database.dsn, failed))
            assert one(database.dsn, "SELECT count(*) FROM u WHERE id = 777") == 0
        finally:
            with database.connect() as opened:
                opened.execute(f"ALTER SUBSCRIPTION {slot} DISABLE".encode())
                opened.execute(f"ALTER SUBSCRIPTION {slot} SET (slot_name = NONE)".encode())
                opened.execute(f"DROP SUBSCRIPTION {slot}".encode())
                opened.execute(f"ALTER ROLE CURRENT_USER IN DATABASE {database.name} RESET ALL".encode())


@pytest.fixture
def roles(database: Database) -> Iterator[Roles]:
    with readme_roles(database, OLD) as made:
        yield made


async def test_who_owns_the_tables_makes_partitions_and_does_not_get_by(roles: Roles, tmp_path: Path) -> None:
    """The pass is the daemon's: neither the word that was it, nor another, nor the pass without the role."""
    async with cut_over(roles.settings(), tmp_path):
        (known,) = [one(roles.database.dsn, "SELECT pass FROM _replicator.secrets")]
        with roles.connect(roles.app) as app:
            app.execute("CREATE TABLE public.t_late PARTITION OF public.t FOR VALUES FROM (200) TO (300)")
            for setting in (
                "replicator.writer = 'daemon'",
                "replicator.pass = 'daemon'",
                f"replicator.pass = '{known}'",
            ):
                app.execute(f"SET {setting}".encode())
                for each in ("UPDATE public.t SET v = 'x'", "INSERT INTO public.t_late VALUES (250, 'x')"):
                    assert refusal(app, each) == "RP002", (setting, each)
