"""A source table that changes under the daemon: it stops with what to do, or goes on where that is right."""

from pathlib import Path

import psycopg
import pytest

from replicator.errors import DefinitionError
from tests.engine import differences, engine, execute
from tests.fix_postgres import Database
from tests.small import create_small, small_migration


async def test_a_new_column_stops_the_daemon_and_a_restart_goes_on(database: Database, tmp_path: Path) -> None:
    create_small(database.dsn, "INSERT INTO people VALUES (1, 'a', '1')")
    async with engine(database, small_migration(tmp_path)) as made:
        await made.backfill()
        execute(database.dsn, ["UPDATE people SET name = 'before'"])
        execute(database.dsn, ["ALTER TABLE people ADD COLUMN extra text DEFAULT 'x'"])
        execute(database.dsn, ["INSERT INTO people VALUES (2, 'after', '2')"])
        error = await made.failure()
        assert isinstance(error, DefinitionError)
        assert "new column, extra" in str(error)
        await made.stop()
        await made.start()
        await made.drain()
        assert await differences(made) == []
        execute(database.dsn, ["UPDATE people SET extra = 'y'"])
        execute(database.dsn, ["ALTER TABLE people DROP COLUMN extra", "INSERT INTO people VALUES (3, 'dropped', '3')"])
        error = await made.failure()
        assert isinstance(error, DefinitionError)
        assert "extra" in str(error)
        await made.stop()
        await made.start()
        await made.drain()
        assert await differences(made) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            "ALTER TABLE people ALTER COLUMN age TYPE integer USING age::integer",
            "type of public.people.age has changed",
        ),
        ("DROP TABLE pets", "public.pets is gone"),
    ],
)
async def test_what_cannot_be_followed_stops_the_daemon(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, says: str
) -> None:
    monkeypatch.setattr("replicator.pipeline.HEARTBEAT_SECONDS", 0.1)
    create_small(database.dsn, "INSERT INTO people VALUES (1, 'a', '1')")
    async with engine(database, small_migration(tmp_path)) as made:
        await made.backfill()
        execute(database.dsn, [change])
        error = await made.failure()
        assert isinstance(error, DefinitionError)
        assert says in str(error)
        assert error.remedy
        with psycopg.connect(database.dsn) as target:
            assert target.execute("SELECT count(*) FROM store.people").fetchone() == (1,)
