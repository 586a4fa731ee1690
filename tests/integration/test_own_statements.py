"""The team's own statements in the transaction of a cutover and of a rollback."""

from pathlib import Path

import pytest

from replicator import Migration
from replicator.errors import NotReadyError
from replicator.switchover.phases import CLOSING, COMPLETION, CUTOVER, OPENING, ROLLBACK, Transition
from tests.checking import check
from tests.engine import execute, make_settings
from tests.fix_postgres import Database
from tests.sessions import Running, daemon
from tests.small import create_small, small_migration
from tests.statements import one

pytestmark = pytest.mark.one_server

VIEW = "CREATE VIEW public.names AS SELECT id, name FROM public.people"
TO_NEW = "CREATE OR REPLACE VIEW public.names AS SELECT id, name FROM store.people;"
TO_OLD = "CREATE OR REPLACE VIEW public.names AS SELECT id, name FROM public.people;"
READS = (
    "SELECT string_agg(DISTINCT d.refobjid::regclass::text, ', ') FROM pg_rewrite r "
    "JOIN pg_depend d ON d.objid = r.oid AND d.classid = 'pg_rewrite'::regclass "
    "AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class "
    "WHERE r.ev_class = 'public.names'::regclass"
)


def with_statements(folder: Path, **texts: str) -> Migration:
    migration = small_migration(folder)
    for kind, text in texts.items():
        (folder / kind).mkdir(exist_ok=True)
        (folder / kind / "10_views.sql").write_text(text)
    return migration


def seed(database: Database) -> None:
    create_small(database.dsn, VIEW, "INSERT INTO people VALUES (1, 'Ada', '36', NULL)")


async def back(running: Running) -> None:
    await running.clean()
    await running.roll_back()


async def test_a_view_is_switched_in_the_moment_of_the_move(database: Database, tmp_path: Path) -> None:
    seed(database)
    migration = with_statements(tmp_path, cutover=TO_NEW, rollback=TO_OLD)
    found = (await check(database, migration))["migration.cutover_statements"]
    assert found.outcome == "pass"
    assert "2 statements run; rolled back" in found.detail
    async with daemon(make_settings(database), migration) as running:
        await running.ready()
        await running.cut_over(dry_run=True)
        assert one(database.dsn, READS) == "people"
        await running.cut_over()
        assert one(database.dsn, READS) == "store.people"
        await running.clean()
        await running.roll_back(dry_run=True)
        assert one(database.dsn, READS) == "store.people"
        await back(running)
        assert one(database.dsn, READS) == "people"


async def test_names_are_as_a_renaming_leaves_them(database: Database, tmp_path: Path) -> None:
    """A view knows its tables by more than their names: without the statements it would go on with the old one."""
    seed(database)
    migration = with_statements(
        tmp_path,
        cutover="CREATE OR REPLACE VIEW public.names AS SELECT p.id, p.name FROM public.people p LEFT JOIN "
        "public.people_old o ON o.id = p.id;",
        rollback=TO_OLD,
    )
    found = (await check(database, migration))["migration.cutover_statements"]
    assert found.outcome == "warn"
    assert "sql/cutover/10_views.sql fails" in found.detail
    assert "--strategy rename" in found.remedy
    async with daemon(make_settings(database), migration) as running:
        await running.ready()
        await running.cut_over(strategy="rename")
        execute(database.dsn, ["UPDATE people SET name = 'Eve' WHERE id = 1"])
        assert one(database.dsn, "SELECT name FROM names") == "Eve"
        await back(running)
        execute(database.dsn, ["UPDATE people SET name = 'Zoe' WHERE id = 1"])
        assert one(database.dsn, "SELECT name FROM names") == "Zoe"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("DROP VIEW public.names; SELECT 1 / 0;", "sql/cutover/10_views.sql fails: "),
        ("DROP VIEW public.names; COMMIT;", "sql/cutover/10_views.sql would begin or end a transaction."),
    ],
    ids=["an error", "a commit"],
)
async def test_what_fails_moves_nothing(database: Database, tmp_path: Path, text: str, said: str) -> None:
    seed(database)
    migration = with_statements(tmp_path, cutover=text)
    found = (await check(database, migration))["migration.cutover_statements"]
    assert found.outcome == "fail"
    assert said in found.detail
    async with daemon(make_settings(database), migration) as running:
        await running.ready()
        with pytest.raises(Exception, match=said) as raised:
            await running.cut_over()
        assert not raised.value.__class__.__module__.startswith("psycopg")
        assert one(database.dsn, "SELECT owner FROM _replicator.ownership") == "old"
        assert one(database.dsn, READS) == "people"
        execute(database.dsn, ["UPDATE people SET name = 'Eve' WHERE id = 1"])
        await running.until(lambda: one(database.dsn, "SELECT name FROM store.people") == "Eve")


async def test_nothing_undoes_them(database: Database, tmp_path: Path) -> None:
    seed(database)
    found = (await check(database, with_statements(tmp_path, cutover=TO_NEW)))["migration.cutover_statements"]
    assert found.outcome == "warn"
    assert "sql/rollback none to undo them" in found.detail


async def test_two_databases_have_no_transaction_in_common(
    database: Database, other_database: Database, tmp_path: Path
) -> None:
    seed(database)
    execute(other_database.dsn, ["CREATE TABLE names (id integer)"])
    migration = with_statements(tmp_path, cutover="INSERT INTO public.names VALUES (1);")
    async with daemon(make_settings(database, other_database), migration) as running:
        await running.ready()
        with pytest.raises(NotReadyError, match="the schemas are in two databases"):
            await running.cut_over()
        assert one(database.dsn, "SELECT owner FROM _replicator.ownership") == "old"


@pytest.mark.parametrize(
    ("move", "kind"),
    [(CUTOVER, "cutover"), (ROLLBACK, "rollback"), (OPENING, None), (COMPLETION, "cutover"), (CLOSING, None)],
)
def test_when_they_run(move: Transition, kind: str | None) -> None:
    """While both schemas take writes they have not run: then there is nothing to undo."""
    assert move.statements == kind
