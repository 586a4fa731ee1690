"""What bears our name and is not ours: it is refused, never taken over, and never dropped."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.errors import CheckError, NotReadyError, ReplicatorError
from replicator.postgres.session.connect import connection
from replicator.postgres.wire.origins import create_origin, drop_origin, origin_of
from replicator.preflight import preflight
from replicator.runbook.finish import abort
from tests.checking import follow_remedy
from tests.engine import Engine, engine, execute, make_settings
from tests.fix_postgres import Database
from tests.small import create_small, small_migration
from tests.statements import one

OF_OTHERS = {
    "for another table": "CREATE PUBLICATION t_publication FOR TABLE elsewhere.other WITH (publish = 'insert')",
    "for all tables": "CREATE PUBLICATION t_publication FOR ALL TABLES",
    "for the same tables": "CREATE PUBLICATION t_publication FOR TABLE people, pets",
    "for nothing": "CREATE PUBLICATION t_publication",
}
CHANGED = (
    "ALTER PUBLICATION t_publication SET (publish = 'insert')",
    "ALTER PUBLICATION t_publication SET (publish_via_partition_root = true)",
    "ALTER PUBLICATION t_publication SET TABLE pets",
    "ALTER PUBLICATION t_publication SET TABLE people WHERE (id > 5), pets",
    "ALTER PUBLICATION t_publication SET TABLE people (id, name), pets",
    "ALTER PUBLICATION t_publication RENAME TO another",
    "DROP PUBLICATION t_publication; CREATE PUBLICATION t_publication FOR TABLE people, pets",
)


async def silent(_: str) -> None:
    pass


def publications(database: Database) -> object:
    return one(database.dsn, "SELECT array_agg(oid::text || pubname || pubinsert || pubdelete) FROM pg_publication")


@pytest.fixture
def small(database: Database) -> Iterator[Database]:
    create_small(database.dsn, "INSERT INTO people VALUES (1, 'Ada', '40')", "CREATE SCHEMA elsewhere")
    execute(database.dsn, ["CREATE TABLE elsewhere.other (id integer PRIMARY KEY)"])
    yield database
    with database.connect() as opened:
        opened.execute("DROP PUBLICATION IF EXISTS t_publication")


@pytest.mark.two_servers
@pytest.mark.parametrize("kind", OF_OTHERS)
async def test_a_publication_that_is_not_ours(small: Database, tmp_path: Path, kind: str) -> None:
    settings, migration = make_settings(small), small_migration(tmp_path)
    execute(small.dsn, [OF_OTHERS[kind]])
    before = publications(small)
    found = {each.check: each for each in await preflight(settings, migration)}
    pgoutput = small.plugin == "pgoutput"  # else no publication is needed, and none is in the way
    assert ("source.publication" in found) == pgoutput
    async with contextlib.AsyncExitStack() as stack:
        made = Engine(settings, migration)
        stack.push_async_callback(made.stop)
        await made.make_tables()
        if pgoutput:
            assert "t_publication" in found["source.publication"].detail
            with pytest.raises(CheckError, match="has not made"):
                await made.set_up_slot()
        else:
            await made.set_up_slot()
    await abort(settings, migration, silent)
    assert publications(small) == before
    if pgoutput:
        follow_remedy(small.dsn, found["source.publication"])
        found = {each.check: each for each in await preflight(settings, migration)}
        assert found["source.publication"].outcome == "pass"


@pytest.mark.one_server
async def test_our_own_goes_and_comes_again(small: Database, tmp_path: Path) -> None:
    settings, migration = make_settings(small), small_migration(tmp_path)
    for _ in range(2):
        made = Engine(settings, migration)
        await made.set_up()
        await made.set_up_slot()  # as after a crash between publication, slot and progress
        assert (await abort(settings, migration, silent)).slots == [settings.slot]
        assert publications(small) is None
        assert one(small.dsn, "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()") == 0


@pytest.mark.parametrize("change", CHANGED)
@pytest.mark.two_servers
async def test_our_publication_is_watched(
    small: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    if small.plugin != "pgoutput" or (small.version < 15 and "WHERE" in change):
        pytest.skip("There is none.")
    monkeypatch.setattr("replicator.pipeline.pipeline.LOOK_SECONDS", 0.1)
    async with engine(small, small_migration(tmp_path)) as made:
        await made.backfill()
        execute(small.dsn, [change])
        error = await made.failure()
        assert "publication" in str(error)
        assert isinstance(error, ReplicatorError)
        assert error.remedy
    with small.connect() as opened:
        opened.execute("DROP PUBLICATION IF EXISTS another")


@pytest.mark.one_server
async def test_a_slot_that_is_not_ours(small: Database, tmp_path: Path) -> None:
    settings, migration = make_settings(small), small_migration(tmp_path)
    there = f"SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{settings.slot}'"
    with small.connect() as opened:
        opened.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [settings.slot])
    found = {each.check: each for each in await preflight(settings, migration)}
    assert found["source.slot"].outcome == "fail"
    made = Engine(settings, migration)
    await made.make_tables()
    with pytest.raises(CheckError, match=f"a slot {settings.slot} that this migration has not made"):
        await made.set_up_slot()
    assert (await abort(settings, migration, silent)).slots == []
    assert one(small.dsn, there) == 1
    follow_remedy(small.dsn, found["source.slot"])
    assert one(small.dsn, there) == 0


@pytest.mark.one_server
async def test_an_origin_that_is_not_ours(small: Database, tmp_path: Path) -> None:
    settings, migration = make_settings(small), small_migration(tmp_path)
    name = origin_of(settings.slot)
    there = f"SELECT count(*) FROM pg_replication_origin WHERE roname = '{name}'"
    made = Engine(settings, migration)
    await made.set_up()
    with small.connect() as opened:
        opened.execute("SELECT pg_replication_origin_create(%s)", [name])
    async with connection(small.dsn, "test") as opened:
        with pytest.raises(CheckError, match="a replication origin"):
            await create_origin(opened, name)
        await drop_origin(opened, name)
        assert one(small.dsn, there) == 1
        await abort(settings, migration, silent)
        assert one(small.dsn, there) == 1
        await opened.execute("SELECT pg_replication_origin_drop(%s)", (name,))


@pytest.mark.one_server
async def test_a_schema_that_is_not_ours(small: Database, tmp_path: Path) -> None:
    settings, migration = make_settings(small), small_migration(tmp_path)
    execute(small.dsn, ["CREATE SCHEMA _replicator", "CREATE TABLE _replicator.ownership (id integer, migration text)"])
    found = {each.check: each for each in await preflight(settings, migration)}
    assert "it holds the table _replicator.ownership" in found["source.control_tables"].detail
    with pytest.raises(CheckError, match="The schema _replicator is not ours"):
        await Engine(settings, migration).make_tables()
    with pytest.raises(NotReadyError, match="No migration has been started here"):
        await abort(settings, migration, silent)
    assert one(small.dsn, "SELECT count(*) FROM _replicator.ownership") == 0
