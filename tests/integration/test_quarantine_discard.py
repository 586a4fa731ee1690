"""Entries in quarantine that end: by a good version, a deletion, a TRUNCATE, a mended migration, or the operator."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from replicator import Migration, Row
from replicator.daemon.requests.quarantining import Resolution
from replicator.errors import RowError, UsageError
from replicator.pipeline.repair import repairing
from replicator.postgres.control.mailbox import Command
from replicator.postgres.control.quarantine import read_entries
from replicator.postgres.session.connect import connection
from replicator.switchover.gates import _quarantine
from tests.engine import Engine, differences, engine, execute
from tests.fix_postgres import Database
from tests.small import BAD_ROWS, GOOD, create_small, entries, people, small_migration

pytestmark = pytest.mark.one_server

BAD = BAD_ROWS["check"][0]


def keys(dsn: str) -> list[tuple[str, str]]:
    return [(transform, key) for transform, key, _ in entries(dsn)]


def rows(dsn: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn) as target:
        return target.execute(query.encode()).fetchall()


async def discard_all(made: Engine) -> None:
    """As the daemon does it."""
    running = made.running
    async with running.context.rw_lock.write(), connection(made.target_dsn, "test") as target:
        ids = [each.id for each in await read_entries(target, state="standing")]
        async with target.transaction():
            await running.context.quarantine.discard(target, ids, by="me@here", because="a test account")
        await running.context.quarantine.load(target)


async def retry(made: Engine, *people: str) -> None:
    async with repairing(made.running) as work:
        await work.derive_again({"people": {(person,) for person in people}})


async def blocks(made: Engine) -> bool:
    async with connection(made.target_dsn, "test") as target:
        return not (await _quarantine(made.running, target)).ok


# --- what resolves an entry -------------------------------------------------------------------------------------------

RESOLVED_BY = {
    "an update": ["UPDATE people SET age = '9' WHERE id = 500"],
    "a deletion": ["DELETE FROM people WHERE id = 500"],
    "a row of the same key": ["DELETE FROM people WHERE id = 500", "INSERT INTO people VALUES (500, 'new', '9')"],
    "another key": ["UPDATE people SET id = 600, age = '9' WHERE id = 500"],
    "a truncation": ["TRUNCATE people, pets"],
    "a truncation and rows": ["TRUNCATE people, pets", "INSERT INTO people VALUES (500, 'new', '9')"],
}


@pytest.mark.parametrize("first", ["backfill", "stream"])
@pytest.mark.parametrize("resolved_by", RESOLVED_BY)
async def test_what_resolves_an_entry(database: Database, tmp_path: Path, first: str, resolved_by: str) -> None:
    create_small(database.dsn, GOOD, *([BAD] if first == "backfill" else []))
    async with engine(database, small_migration(tmp_path)) as made:
        await made.backfill()
        if first == "stream":
            execute(database.dsn, [BAD])
            await made.drain()
        assert keys(database.dsn) == [("person", '["500"]')]
        assert await blocks(made)
        execute(database.dsn, RESOLVED_BY[resolved_by])
        await made.drain()
        assert entries(database.dsn) == []
        assert not await blocks(made)
        assert made.running.context.quarantined == set()
        assert await differences(made) == []


@pytest.mark.parametrize(
    "resolved_by", ["DELETE FROM pets WHERE owner = 7", "TRUNCATE pets", "UPDATE pets SET name = 'x' WHERE owner = 7"]
)
async def test_an_entry_of_a_query(database: Database, tmp_path: Path, resolved_by: str) -> None:
    """A home may not be of pets without a name."""
    create_small(database.dsn, GOOD, "INSERT INTO pets VALUES (1, 7, NULL), (2, 8, 'tom')")
    migration = small_migration(tmp_path)
    tables = tmp_path / "new" / "10_tables.sql"
    tables.write_text(tables.read_text().replace("pets text[] NOT NULL", "pets text[] CHECK (pets[1] IS NOT NULL)"))
    async with engine(database, migration) as made:
        await made.backfill()
        assert keys(database.dsn) == [("home", '["7"]')]
        execute(database.dsn, [resolved_by])
        await made.drain()
        assert entries(database.dsn) == []
        assert await differences(made) == []


@pytest.mark.parametrize("first", ["backfill", "stream"])
async def test_of_what_a_row_fans_out_to_all_or_nothing_is_there(
    database: Database, tmp_path: Path, first: str
) -> None:
    """One of its tags is refused: none is written, nothing lingers, and nothing is taken for extra."""
    create_small(database.dsn, GOOD)
    migration = small_migration(tmp_path)
    tables = tmp_path / "new" / "10_tables.sql"
    tables.write_text(tables.read_text().replace("tag text PRIMARY KEY", "tag text PRIMARY KEY CHECK (tag <> '#bad')"))
    bad = "UPDATE people SET note = '#a #bad #z' WHERE id = 7"
    if first == "backfill":
        execute(database.dsn, [bad])
    async with engine(database, migration) as made:
        await made.backfill()
        if first == "stream":
            execute(database.dsn, [bad])
            await made.drain()
        assert keys(database.dsn) == [("tags", '["7"]')]
        last_good = [] if first == "backfill" else [("#t7",)]
        assert rows(database.dsn, "SELECT tag FROM store.tags WHERE person = 7") == last_good
        await made.running.verifier.open()
        assert (await made.running.verifier.full_pass()).clean
        execute(database.dsn, ["UPDATE people SET note = '#z' WHERE id = 7"])
        await made.drain()
        assert entries(database.dsn) == []
        assert await differences(made) == []


async def test_a_transform_that_is_gone_takes_its_entries_along(database: Database, tmp_path: Path) -> None:
    create_small(database.dsn, GOOD, BAD, "INSERT INTO people VALUES (501, 'a', '1', '#x'), (502, 'b', '1', '#x')")
    async with engine(database, small_migration(tmp_path)) as made:
        await made.backfill()
        assert {transform for transform, _ in keys(database.dsn)} == {"person", "tags"}
        await made.stop()
        without = [each for each in made.migration.transforms if each.name != "tags"]
        made.migration.transforms = without
        await made.start()
        assert keys(database.dsn) == [("person", '["500"]')]
        (entry,) = rows(database.dsn, "SELECT details FROM _replicator.journal WHERE event = 'transforms gone'")
        assert entry == ({"pipeline": "forward", "entries": 1},)


async def test_a_mended_transform_and_a_repair(database: Database, tmp_path: Path) -> None:
    create_small(database.dsn, GOOD, BAD_ROWS["transform"][0])
    async with engine(database, small_migration(tmp_path)) as made:
        await made.backfill()
        await made.stop()
        old, made.migration.transforms = made.migration.transforms, []

        @made.migration.transform(source="people", into="people", key=lambda old: old["id"], name="person")
        def person(old: Row) -> dict[str, object]:
            return {"id": old["id"], "name": old["name"], "age": old["age"], "note": old["note"]}

        made.migration.transforms += [each for each in old if each.name != "person"]
        await made.start()
        assert await blocks(made)
        await retry(made, "500")
        assert entries(database.dsn) == []
        assert await differences(made) == []


# --- halting ----------------------------------------------------------------------------------------------------------


async def test_halt_in_the_backfill_names_the_row_and_what_to_do(database: Database, tmp_path: Path) -> None:
    create_small(database.dsn, GOOD, BAD)
    async with engine(database, small_migration(tmp_path), on_error="halt") as made:
        with pytest.raises(RowError) as failed:
            await made.backfill()
        error = failed.value
        assert error.problem.startswith("person for people ['500']: Postgres refused a row: ")
        assert "REPLICATOR_ON_ERROR=quarantine" in error.remedy
        assert rows(database.dsn, "SELECT count(*) FROM _replicator.quarantine") == [(0,)]
        execute(database.dsn, ["UPDATE people SET age = '9' WHERE id = 500"])  # a chunk is read anew
        await made.backfill()
        assert await differences(made) == []


async def test_past_a_bad_version_in_the_log_by_quarantine(database: Database, tmp_path: Path) -> None:
    """As the error says: with ``quarantine``, the later good version resolves it, and ``halt`` may come back."""
    create_small(database.dsn, GOOD)
    async with engine(database, small_migration(tmp_path), on_error="halt") as made:
        await made.backfill()
        execute(database.dsn, [BAD])
        error = await made.failure()
        assert isinstance(error, RowError)
        assert error.problem.startswith("person for people ['500']: ")
        await made.stop()
        for filler in ("x", "y"):  # or both versions come in one batch, and only the last one counts
            execute(database.dsn, [f"UPDATE people SET note = '{filler}' WHERE id <= 100"])
        execute(database.dsn, ["UPDATE people SET age = '9' WHERE id = 500"])
        await made.start()
        assert isinstance(await made.failure(), RowError), "the bad version is still in the log"
        await made.stop()
        made.settings = made.settings.model_copy(update={"on_error": "quarantine"})
        await made.start()
        await made.drain()
        assert entries(database.dsn) == []
        assert await differences(made) == []
        await made.stop()
        made.settings = made.settings.model_copy(update={"on_error": "halt"})
        await made.start()
        await made.drain()


async def test_halt_on_the_way_back(database: Database, tmp_path: Path) -> None:
    made = await reversed_engine(database, tmp_path, on_error="halt")
    try:
        write_new(database.dsn, "INSERT INTO store.people VALUES (900, 'x', 1, '#a')")
        error = await made.failure()
        assert isinstance(error, RowError)
        assert error.problem.startswith("old_person for people ['900']: ")
    finally:
        await made.stop()


async def test_what_halts_is_not_what_was_discarded(database: Database, tmp_path: Path) -> None:
    create_small(database.dsn, GOOD, BAD)
    async with engine(database, small_migration(tmp_path)) as made:
        await made.backfill()
        await discard_all(made)
        await made.stop()
        made.settings = made.settings.model_copy(update={"on_error": "halt"})
        await made.start()
        execute(database.dsn, ["UPDATE people SET name = name WHERE id = 500"])
        await made.drain()
        execute(database.dsn, ["UPDATE people SET name = 'other' WHERE id = 500"])
        assert isinstance(await made.failure(), RowError)


# --- discarding -------------------------------------------------------------------------------------------------------


async def test_a_discarded_row_is_in_nobodys_way_until_it_changes(database: Database, tmp_path: Path) -> None:
    create_small(database.dsn, GOOD, BAD)
    async with engine(database, small_migration(tmp_path)) as made:
        await made.backfill()
        await made.build()
        execute(database.dsn, ["UPDATE people SET age = '999' WHERE id = 7"])
        await made.drain()
        assert keys(database.dsn) == [("person", '["500"]'), ("person", '["7"]')]
        await discard_all(made)
        assert not await blocks(made)
        assert 500 not in people(database.dsn), "it never had a good version"
        assert rows(database.dsn, "SELECT age FROM store.people WHERE id = 7") == [(7,)], "the last good version stays"
        await made.stop()
        await made.start()
        assert not await blocks(made), "after a restart too"
        await made.running.verifier.open()
        assert (await made.running.verifier.full_pass()).clean
        await retry(made, "500", "7")
        assert not await blocks(made), "tried again, and just as it was"
        execute(database.dsn, ["UPDATE people SET name = name WHERE id IN (7, 500)"])
        await made.drain()
        assert not await blocks(made), "written again, and just as it was"
        execute(database.dsn, ["UPDATE people SET name = 'other' WHERE id = 500"])
        await made.drain()
        assert await blocks(made), "another bad version"
        assert made.running.context.quarantined == {("person", ("500",))}
        execute(database.dsn, ["UPDATE people SET age = '9' WHERE id IN (7, 500)"])
        await made.drain()
        assert entries(database.dsn) == []
        assert await differences(made) == []


async def test_all_are_discarded_or_those_of_a_transform(database: Database, tmp_path: Path) -> None:
    """As they are tried again: the same words mean the same rows."""
    create_small(database.dsn, GOOD, BAD)
    execute(database.dsn, ["INSERT INTO people VALUES (501, 'boom', '1')"])
    async with engine(database, small_migration(tmp_path)) as made, connection(made.target_dsn, "test") as own:
        await made.backfill()

        async def ask(**which: Any) -> list[Any]:
            arguments = {"because": "tests", "by": "me@here", **which}
            command = Command(id=1, command="discard", arguments=arguments, started_at=None, progress=None,
                              finished_at=None, exit_code=None, result=None)  # fmt: skip
            pipelines: Any = SimpleNamespace(active=made.running)
            resolution = Resolution(settings=made.settings, pipelines=pipelines)
            answer: Any = await resolution.discard(command, own)
            return [each["key"] for each in answer["discarded"]]

        assert await ask(entries=None, transform="tags") == []
        with pytest.raises(UsageError, match="There is no transform nobody"):
            await ask(entries=None, transform="nobody")
        assert sorted(await ask(entries=None, transform="person")) == [["500"], ["501"]]
        assert not await blocks(made)
        assert await ask(entries=None, transform=None) == []
        execute(database.dsn, ["INSERT INTO people VALUES (502, 'boom', '1')"])
        await made.drain()
        assert await ask(entries=None, transform=None) == [["502"]], "what is discarded already is let be"
        with pytest.raises(UsageError, match="discarded already"):
            await ask(entries=[1], transform=None)


async def test_who_discarded_what_and_why_is_kept(database: Database, tmp_path: Path) -> None:
    create_small(database.dsn, GOOD, BAD)
    async with engine(database, small_migration(tmp_path)) as made:
        await made.backfill()
        await discard_all(made)
        assert rows(
            database.dsn,
            "SELECT discarded_by, because, discarded_at IS NOT NULL FROM _replicator.quarantine",
        ) == [("me@here", "a test account", True)]
        ((details,),) = rows(database.dsn, "SELECT details FROM _replicator.journal WHERE event = 'discarded'")
        assert isinstance(details, dict)
        assert (details["transform"], details["key"], details["by"]) == ("person", ["500"], "me@here")
        assert details["because"] == "a test account"


async def test_the_children_of_a_discarded_row_stand_by_themselves(database: Database, tmp_path: Path) -> None:
    create_small(database.dsn, GOOD)
    async with engine(database, small_migration(tmp_path)) as made:
        await made.backfill()
        await made.build()
        execute(database.dsn, [BAD, "INSERT INTO pets VALUES (1, 500, 'rex')"])
        await made.drain()
        assert keys(database.dsn) == [("home", '["500"]'), ("person", '["500"]')]
        await discard_all(made)
        execute(database.dsn, ["UPDATE pets SET name = 'tom'"])
        await made.drain()
        assert made.running.context.quarantined == {("home", ("500",))}, "the child changed; its parent is not there"
        await discard_all(made)
        assert not await blocks(made)
        execute(database.dsn, ["UPDATE people SET age = '9' WHERE id = 500"])  # the home depends on its owner
        await made.drain()
        assert entries(database.dsn) == []
        assert await differences(made) == []


async def test_discarding_on_the_way_back(database: Database, tmp_path: Path) -> None:
    made = await reversed_engine(database, tmp_path)
    try:
        write_new(database.dsn, "INSERT INTO store.people VALUES (900, 'x', 1, '#a'), (901, 'y', 1, NULL)")
        await made.drain()
        assert keys(database.dsn) == [("old_person", '["900"]')]
        await discard_all(made)
        await made.running.verifier.open()
        assert (await made.running.verifier.full_pass()).clean
        assert rows(database.dsn, "SELECT id FROM people WHERE id >= 900") == [(901,)]
        write_new(database.dsn, "UPDATE store.people SET note = 'fits' WHERE id = 900")
        await made.drain()
        assert entries(database.dsn) == []
        assert await differences(made) == []
    finally:
        await made.stop()


def write_new(dsn: str, statement: str) -> None:
    execute(dsn, ["SELECT set_config('replicator.pass', pass, false) FROM _replicator.secrets", statement])


async def reversed_engine(database: Database, tmp_path: Path, **others: Any) -> Engine:
    """The way back, with an old table that refuses tags."""
    from tests.engine import make_settings

    create_small(database.dsn, "ALTER TABLE people ADD CHECK (note NOT LIKE '#%')")
    migration: Migration = small_migration(tmp_path)
    made = Engine(make_settings(database, **others), migration, "reverse")
    await made.make_tables()
    await made.set_up_slot()
    await made.start()
    return made
