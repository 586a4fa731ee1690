"""Rows that a transform or the target refuses: kept with the error, in the way of nothing else, and never lost."""

from pathlib import Path

import psycopg
import pytest

from replicator.errors import ConnectionLostError, RowError
from replicator.pipeline.repair import repairing
from replicator.runtime.failpoints import Failpoint, handled
from tests.engine import differences, engine, execute
from tests.fix_postgres import Database
from tests.small import BAD_ROWS, GOOD, create_small, entries, people, small_migration

pytestmark = pytest.mark.one_server


@pytest.mark.parametrize("bad", BAD_ROWS)
async def test_a_bad_row_in_the_backfill(database: Database, tmp_path: Path, bad: str) -> None:
    statement, says = BAD_ROWS[bad]
    create_small(database.dsn, GOOD, statement)
    async with engine(database, small_migration(tmp_path)) as made:
        await made.backfill()
        ((transform, key, error),) = entries(database.dsn)
        assert (transform, key) == ("person", '["500"]')
        assert says in error
        assert "secret" not in error
        assert "twelve" not in error
        assert people(database.dsn) == set(range(1, 101))


@pytest.mark.two_servers
@pytest.mark.parametrize("bad", BAD_ROWS)
async def test_a_bad_row_in_the_stream_and_its_mending(database: Database, tmp_path: Path, bad: str) -> None:
    statement, says = BAD_ROWS[bad]
    create_small(database.dsn, GOOD)
    async with engine(database, small_migration(tmp_path)) as made:
        await made.backfill()
        execute(
            database.dsn,
            [statement, "UPDATE people SET name = 'changed' WHERE id = 7", "DELETE FROM people WHERE id = 8"],
        )
        await made.drain()
        ((transform, key, error),) = entries(database.dsn)
        assert (transform, key) == ("person", '["500"]')
        assert says in error
        assert people(database.dsn) == set(range(1, 101)) - {8}
        assert made.running.context.quarantined == {("person", ("500",))}
        execute(database.dsn, ["UPDATE people SET name = 'good', age = '1' WHERE id = 500"])
        await made.drain()
        assert entries(database.dsn) == []
        assert await differences(made) == []


async def test_a_later_version_mends_what_the_backfill_refused(database: Database, tmp_path: Path) -> None:
    create_small(database.dsn, GOOD, BAD_ROWS["check"][0])
    async with engine(database, small_migration(tmp_path)) as made:
        await made.backfill()
        assert len(entries(database.dsn)) == 1
        execute(database.dsn, ["UPDATE people SET age = '10' WHERE id = 500"])
        await made.drain()
        assert entries(database.dsn) == []
        assert await differences(made) == []


async def test_deleting_the_row_resolves_its_entry(database: Database, tmp_path: Path) -> None:
    create_small(database.dsn, GOOD, BAD_ROWS["transform"][0])
    async with engine(database, small_migration(tmp_path)) as made:
        await made.backfill()
        execute(database.dsn, ["DELETE FROM people WHERE id = 500"])
        await made.drain()
        assert entries(database.dsn) == []


@pytest.mark.parametrize("then", ["good", "refused"])
async def test_a_repair_that_is_not_committed_changes_nothing(database: Database, tmp_path: Path, then: str) -> None:
    """In memory as little as in the table: else an entry would stand for ever, or excuse a row that is in none."""
    limit = ["ALTER TABLE store.people DROP CONSTRAINT people_age_check"]
    if then == "refused":
        limit.append("ALTER TABLE store.people ADD CHECK (age < 100) NOT VALID")
    create_small(database.dsn, f"INSERT INTO people VALUES (500, 'old', '{999 if then == 'good' else 150}')")
    async with engine(database, small_migration(tmp_path)) as made:

        async def redo() -> None:
            async with repairing(made.running) as work:
                await work.derive_again({"people": {("500",)}})

        await made.backfill()
        before = set(made.running.context.quarantined)
        assert len(before) == (then == "good")
        execute(database.dsn, limit)

        async def lose() -> None:
            raise ConnectionLostError("The connection failed.")

        with handled(Failpoint.REDO_WRITTEN, lose), pytest.raises(ConnectionLostError):
            await redo()
        assert made.running.context.quarantined == before
        await redo()
        assert len(made.running.context.quarantined) == len(entries(database.dsn)) == (then == "refused")


async def test_halt_stops_at_the_row_and_confirms_nothing(database: Database, tmp_path: Path) -> None:
    create_small(database.dsn, GOOD)
    async with engine(database, small_migration(tmp_path), on_error="halt") as made:
        await made.backfill()
        before = made.running.position
        execute(database.dsn, [BAD_ROWS["transform"][0]])
        error = await made.failure()
        assert isinstance(error, RowError)
        assert "person" in str(error)
        await made.stop()
        execute(database.dsn, ["UPDATE people SET name = 'late' WHERE id = 500"])
        with psycopg.connect(database.dsn) as target:
            row = target.execute(
                "SELECT applied_lsn >= %s::pg_lsn FROM _replicator.progress", [f"0/{before:X}"]
            ).fetchone()
            assert row is not None
        assert 500 not in people(database.dsn)


async def test_halt_holds_after_rows_have_been_tried_again(database: Database, tmp_path: Path) -> None:
    """What somebody asks for may be quarantined, for he is there to see it; what the stream brings, still not."""
    create_small(database.dsn, GOOD)
    async with engine(database, small_migration(tmp_path), on_error="halt") as made:
        await made.backfill()
        async with made.running.writing() as work:
            await work.derive_again({"people": {("1",)}})
        execute(database.dsn, [BAD_ROWS["transform"][0]])
        assert isinstance(await made.failure(), RowError)


async def test_two_rows_for_one_target_row_name_both(database: Database, tmp_path: Path) -> None:
    create_small(database.dsn, "INSERT INTO people VALUES (1, 'a', '1', '#same'), (2, 'b', '2', '#same')")
    async with engine(database, small_migration(tmp_path)) as made:
        await made.backfill()
        ((transform, _, error),) = entries(database.dsn)
        assert transform == "tags"
        assert "['1']" in error
        assert "['2']" in error


async def test_an_orphan_is_quarantined_and_its_neighbours_are_written(database: Database, tmp_path: Path) -> None:
    create_small(database.dsn, GOOD)
    async with engine(database, small_migration(tmp_path)) as made:
        await made.backfill()
        await made.build()
        execute(
            database.dsn,
            [
                "INSERT INTO people VALUES (200, 'nobody', '1')",
                "INSERT INTO pets VALUES (1, 200, 'rex'), (2, 5, 'tom')",
            ],
        )
        await made.drain()
        ((transform, key, error),) = entries(database.dsn)
        assert (transform, key) == ("home", '["200"]')
        assert "homes_owner_fkey" in error
        with psycopg.connect(database.dsn) as target:
            assert target.execute("SELECT owner, pets FROM store.homes").fetchall() == [(5, ["tom"])]


async def test_a_deletion_that_would_take_children_along_is_refused(database: Database, tmp_path: Path) -> None:
    create_small(database.dsn, GOOD, "INSERT INTO pets VALUES (1, 5, 'tom')")
    async with engine(database, small_migration(tmp_path)) as made:
        await made.backfill()
        await made.build()
        execute(database.dsn, ["UPDATE people SET name = 'nobody' WHERE id = 5"])
        await made.drain()
        ((transform, key, error),) = entries(database.dsn)
        assert (transform, key) == ("person", '["5"]')
        assert "store.homes" in error
        with psycopg.connect(database.dsn) as target:
            assert target.execute("SELECT owner FROM store.homes").fetchall() == [(5,)]


async def test_a_large_transaction_may_delete_parents_before_their_children(database: Database, tmp_path: Path) -> None:
    create_small(database.dsn, GOOD, "INSERT INTO pets SELECT i, i, 'p' FROM generate_series(1, 100) i")
    async with engine(database, small_migration(tmp_path), batch_rows=10) as made:
        await made.backfill()
        await made.build()
        execute(
            database.dsn,
            [
                "UPDATE people SET name = 'nobody' WHERE id <= 50",
                "UPDATE people SET note = 'x' WHERE id > 50",
                "DELETE FROM pets WHERE owner <= 50",
            ],
        )
        await made.drain()
        assert entries(database.dsn) == []
        assert await differences(made) == []
