"""The two ends of a migration: finalize after the soak, abort before the cutover."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from replicator import Migration, Row
from replicator.daemon.daemon import run
from replicator.errors import CheckError, LeaseError, MigrationError, NotReadyError, SlotError
from replicator.postgres.control.control import install
from replicator.postgres.control.journal import read_journal
from replicator.postgres.control.mailbox import request
from replicator.postgres.session.connect import connection
from replicator.postgres.wire.origins import create_origin, origin_of
from replicator.postgres.wire.slots import create_slot, read_slot
from replicator.preflight import preflight
from replicator.runbook import finish
from replicator.runbook.finish import abort, finalize
from replicator.settings import Settings
from tests.engine import execute, make_settings, reference
from tests.fix_postgres import Database
from tests.reference import seed
from tests.same_names import create_old, same_names
from tests.sessions import daemon, silent, soaking
from tests.small import create_small, small_migration
from tests.statements import SLOTS, one

pytestmark = pytest.mark.one_server

PUBLICATIONS = "SELECT count(*) FROM pg_publication"
GUARDS = "SELECT count(*) FROM pg_trigger WHERE tgname = 'replicator_guard'"
OBJECTS = """
    SELECT array_agg(x ORDER BY x)::text FROM (
        SELECT n.nspname || '.' || c.relname || c.relkind::text
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname !~ '^(pg_|information_schema)'
        UNION ALL SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_'
        UNION ALL SELECT tgname::text || tgrelid::regclass FROM pg_trigger WHERE NOT tgisinternal
        UNION ALL SELECT n.nspname || '.' || p.proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname !~ '^(pg_|information_schema)'
    ) AS found (x)
"""


# ---- finalize


async def test_finalize_is_refused_before_the_soak_is_over(database: Database) -> None:
    settings = make_settings(database, soak=48)
    seed(database.dsn, 5)
    async with daemon(settings) as running:
        await running.ready()
        with pytest.raises(NotReadyError, match="nothing to finalize in the phase follow"):
            await finalize(settings, reference(), silent, now=True)
        await running.cut_over()
    with pytest.raises(NotReadyError, match="REPLICATOR_SOAK is 48"):
        await finalize(settings, reference(), silent, now=False)
    execute(database.dsn, ["UPDATE _replicator.ownership SET since = since - interval '49 hours'"])
    assert (await finalize(settings, reference(), silent, now=False)).slots


async def test_finalize_leaves_the_journal_and_the_data(database: Database, other_database: Database) -> None:
    settings = make_settings(database, other_database)
    await soaking(database, settings)
    origin = origin_of(settings.slot_of("forward"))
    async with connection(other_database.dsn, "test") as target:
        await create_origin(target, origin)  # as a daemon may leave it that died in a rolling cutover
    removed = await finalize(settings, reference(), silent, now=True)
    assert removed.slots == [settings.slot_of("reverse")]
    assert one(database.dsn, f"SELECT count(*) FROM pg_replication_origin WHERE roname = '{origin}'") == 0
    for dsn in (database.dsn, other_database.dsn):
        assert [one(dsn, each) for each in (SLOTS, PUBLICATIONS, GUARDS)] == [0, 0, 0]
        assert one(dsn, "SELECT replicator.active_schema()") == "party"
        assert one(dsn, "SELECT count(*) FROM _replicator.progress") == 0
    execute(database.dsn, ["DELETE FROM requests WHERE id = 'r1'"])
    execute(other_database.dsn, ["DELETE FROM party.requests WHERE legacy->>'id' = 'r2'"])
    async with connection(other_database.dsn, "test") as target:
        assert [each.event for each in await read_journal(target)][-1] == "finalized"
    await run(settings, reference(), stop=asyncio.Event())  # returns at once
    assert one(database.dsn, SLOTS) == 0
    assert (await finalize(settings, reference(), silent, now=False)).slots == []


async def test_finalize_goes_on_where_it_was_interrupted(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make_settings(database)
    await soaking(database, settings)

    async def die(*_: object) -> None:
        raise SystemError("killed here")

    with monkeypatch.context() as patched:
        patched.setattr(finish, "_remove_guards", die)
        with pytest.raises(SystemError):
            await finalize(settings, reference(), silent, now=True)
    assert one(database.dsn, GUARDS) > 0
    await finalize(settings, reference(), silent, now=False)
    assert one(database.dsn, GUARDS) == 0
    with pytest.raises(NotReadyError, match="The migration is over"):
        await abort(settings, reference(), silent)


async def test_the_daemon_finalizes_and_ends(database: Database) -> None:
    settings = make_settings(database)
    seed(database.dsn, 5)
    async with daemon(settings) as running:
        await running.ready()
        await running.cut_over()
        with pytest.raises(LeaseError):
            await finalize(settings, reference(), silent, now=True)
        async with connection(database.dsn, "test") as own:
            await request(own, "finalize", {"now": True})
        await asyncio.wait_for(running.task, 60)
    assert [one(database.dsn, each) for each in (SLOTS, PUBLICATIONS, GUARDS)] == [0, 0, 0]
    assert one(database.dsn, "SELECT exit_code FROM _replicator.commands WHERE command = 'finalize'") == 0


def another_migration(folder: Path) -> Migration:
    """The same old tables once more."""
    (folder / "new").mkdir(parents=True)
    tables = "CREATE SCHEMA IF NOT EXISTS later; CREATE TABLE IF NOT EXISTS later.people (id integer PRIMARY KEY);"
    (folder / "new" / "10_tables.sql").write_text(tables)
    migration = Migration("again", old="public", new="later", sql=folder)
    migration.retire("pets", because="they are not asked for")

    @migration.transform(source="people", into="people", key=lambda old: old["id"])
    def person(old: Row) -> dict[str, Any]:
        return {"id": old["id"]}

    @migration.reverse(source="people", into="people", key=lambda new: new["id"])
    def old_person(new: Row) -> dict[str, Any]:
        return {"id": new["id"]}

    return migration


async def refusals(settings: Settings, migration: Migration) -> list[str]:
    return [each.detail for each in await preflight(settings, migration) if each.outcome == "fail"]


async def test_another_migration_may_begin_after_it(
    database: Database, other_database: Database, tmp_path: Path
) -> None:
    """It finds nothing of the last one: not how often that one has moved, nor whose search_path."""
    settings = make_settings(database, other_database)
    create_small(database.dsn, "INSERT INTO people SELECT i, 'p' || i, '1' FROM generate_series(1, 5) i")
    first, another = small_migration(tmp_path / "first"), another_migration(tmp_path / "another")
    async with daemon(settings, first) as running:
        await running.ready()
        await running.cut_over()
    for end in (finalize(settings, another, silent, now=True), abort(settings, another, silent)):
        with pytest.raises(MigrationError, match="in the middle of the migration small"):
            await end
    assert any("in the middle of the migration small" in each for each in await refusals(settings, another))
    role = f"app_{database.name}"
    moved = f"UPDATE _replicator.ownership SET search_path_role = '{role}', search_path_before = 'elsewhere'"
    for dsn in (database.dsn, other_database.dsn):
        execute(dsn, [moved])
    await finalize(settings, first, silent, now=True)
    assert await refusals(settings, another) == []
    async with daemon(settings, another) as running:
        await running.ready()
        assert (await running.cut_over()).epoch == 1
        execute(settings.target, ["INSERT INTO later.people VALUES (99)"])
        await running.until(lambda: one(database.dsn, "SELECT count(*) FROM people WHERE id = 99"))
        await running.clean()
        assert (await running.roll_back()).epoch == 2
    execute(database.dsn, ["DELETE FROM people"])


async def test_names_that_the_last_migration_has_left_are_in_the_way(database: Database, tmp_path: Path) -> None:
    settings = make_settings(database)
    create_old(database.dsn)
    first, another = same_names(tmp_path / "first"), another_migration(tmp_path / "another")
    async with daemon(settings, first) as running:
        await running.ready()
        await running.cut_over(strategy="rename")
    await finalize(settings, first, silent, now=True)
    assert any("still say which tables it has renamed" in each for each in await refusals(settings, another))


# ---- abort


@pytest.mark.two_servers
async def test_abort_leaves_everything_as_it_was(database: Database, other_database: Database) -> None:
    settings = make_settings(database, other_database)
    seed(database.dsn)
    before = [one(dsn, OBJECTS) for dsn in (database.dsn, other_database.dsn)]
    async with daemon(settings) as running:
        await running.ready()
        with pytest.raises(LeaseError, match="Another daemon"):
            await abort(settings, reference(), silent)
        await running.cut_over()
        await running.clean()
        await running.roll_back()
    removed = await abort(settings, reference(), silent)
    assert removed.slots == [settings.slot_of("forward")]
    assert [one(dsn, OBJECTS) for dsn in (database.dsn, other_database.dsn)] == before
    assert [one(database.dsn, each) for each in (SLOTS, PUBLICATIONS, GUARDS)] == [0, 0, 0]
    execute(database.dsn, ["UPDATE requests SET status = 'played'"])
    with pytest.raises(NotReadyError, match="No migration"):
        await abort(settings, reference(), silent)
    async with daemon(settings) as running:  # and it can begin anew
        await running.ready()


async def test_abort_lets_anothers_slot_and_origin_alone(database: Database, other_database: Database) -> None:
    """Their names count for the whole server, and by default are the same in every database."""
    settings = make_settings(database)
    seed(database.dsn, 5)
    slot, origin = settings.slot_of("forward"), origin_of(settings.slot_of("forward"))
    async with connection(other_database.dsn, "test") as another:
        await install(another, Migration("another", old="public", new="party"))
        await create_slot(another, slot, "pgoutput")
        await create_origin(another, origin)
        async with daemon(settings) as running:
            with pytest.raises(SlotError, match="belongs to the database"):
                await running.task
        await abort(settings, reference(), silent)
        found = await read_slot(another, slot)
        assert found is not None
        assert found.here
        assert one(database.dsn, f"SELECT count(*) FROM pg_replication_origin WHERE roname = '{origin}'") == 1


async def test_abort_is_refused_after_the_cutover(database: Database) -> None:
    settings = make_settings(database)
    await soaking(database, settings)
    with pytest.raises(NotReadyError, match="The new schema owns the data"):
        await abort(settings, reference(), silent)
    assert one(database.dsn, SLOTS) == 1


async def test_abort_touches_nothing_that_is_somebody_elses(database: Database) -> None:
    settings = make_settings(database)
    seed(database.dsn, 5)
    execute(database.dsn, ["CREATE SCHEMA party", "CREATE TABLE party.mine (id integer PRIMARY KEY)"])
    async with daemon(settings) as running:
        await running.ready()
    execute(database.dsn, ["CREATE VIEW public.seen AS SELECT id FROM party.admins"])
    with pytest.raises(CheckError, match=r"table party\.admins .* cannot be dropped: .*view public.seen"):
        await abort(settings, reference(), silent)
    assert one(database.dsn, SLOTS) == 1
    assert one(database.dsn, GUARDS) == 4
    execute(database.dsn, ["DROP VIEW public.seen"])
    removed = await abort(settings, reference(), silent)
    assert "schema party" not in removed.objects
    assert one(database.dsn, "SELECT count(*) FROM pg_class WHERE relnamespace = 'party'::regnamespace") == 2
