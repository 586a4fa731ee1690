"""What is changed and changed back between two looks is a change: meanwhile the log had other names, or nothing."""

import asyncio
from functools import partial
from pathlib import Path

import pytest

from replicator.postgres.catalog.fingerprints import Definition, may_have_changed, read_definitions
from replicator.postgres.session.connect import connection
from tests.changing import changing, create
from tests.comparing import verify_until
from tests.engine import differences, engine, execute, make_settings
from tests.fix_postgres import Database
from tests.roles import OLD, identity
from tests.sessions import daemon
from tests.statements import one

TABLES = ["people", "pets", "words", "visits"]
MORE = """
CREATE TYPE place AS (street text, town text);
ALTER TABLE pets ADD COLUMN home place, ADD COLUMN nick text;
CREATE SCHEMA elsewhere;
CREATE ROLE {role};
"""

UNDONE = {
    "a partition leaves for a moment": (
        "visits",
        "ALTER TABLE visits DETACH PARTITION visits_1",
        "UPDATE visits_1 SET note = 'unseen'",
        "ALTER TABLE visits ATTACH PARTITION visits_1 FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')",
    ),
    "a table has another name for a moment": (
        "pets",
        "ALTER TABLE pets RENAME TO animals",
        "UPDATE animals SET name = 'unseen'",
        "ALTER TABLE animals RENAME TO pets",
    ),
    "a table is in another schema for a moment": (
        "pets",
        "ALTER TABLE pets SET SCHEMA elsewhere",
        "UPDATE elsewhere.pets SET name = 'unseen'",
        "ALTER TABLE elsewhere.pets SET SCHEMA public",
    ),
    "a partition has another name for a moment": (
        "visits",
        "ALTER TABLE visits_1 RENAME TO elsewhere_1",
        "UPDATE elsewhere_1 SET note = 'unseen'",
        "ALTER TABLE elsewhere_1 RENAME TO visits_1",
    ),
    "two columns change names for a moment": (
        "people",
        "ALTER TABLE people RENAME COLUMN name TO other",
        "ALTER TABLE people RENAME COLUMN nick TO name",
        "ALTER TABLE people RENAME COLUMN other TO nick",
        "UPDATE people SET name = 'the nick', nick = 'the name'",
        "ALTER TABLE people RENAME COLUMN name TO other",
        "ALTER TABLE people RENAME COLUMN nick TO name",
        "ALTER TABLE people RENAME COLUMN other TO nick",
    ),
    "a label has another name for a moment": (
        "people",
        "ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'",
        "UPDATE people SET mood = 'fine'",
        "ALTER TYPE mood RENAME VALUE 'fine' TO 'ok'",
    ),
}
ELSE = {
    "the key is made anew": (
        "people",
        "ALTER TABLE people DROP CONSTRAINT people_pkey",
        "ALTER TABLE people ADD PRIMARY KEY (id)",
    ),
    "a schema has another name for a moment": (
        "all",
        "ALTER SCHEMA public RENAME TO other",
        "ALTER SCHEMA other RENAME TO public",
    ),
    "an attribute of a composite type comes and goes": (
        "pets",
        "ALTER TYPE place ADD ATTRIBUTE land text",
        "ALTER TYPE place DROP ATTRIBUTE land",
    ),
    "a collation for a moment": (
        "pets",
        'ALTER TABLE pets ALTER COLUMN name TYPE text COLLATE "C"',
        'ALTER TABLE pets ALTER COLUMN name TYPE text COLLATE "default"',
    ),
}
"""These do not let rows be written past the log in one transaction, or are no matter to the values of this test."""

OF_A_PUBLICATION = {
    "nothing is published for a moment": (
        "ALTER PUBLICATION p SET (publish = 'insert')",
        "ALTER PUBLICATION p SET (publish = 'insert, update, delete, truncate')",
    ),
    "a table leaves it for a moment": ("ALTER PUBLICATION p DROP TABLE pets", "ALTER PUBLICATION p ADD TABLE pets"),
}

ORDINARY = (
    "VACUUM",
    "ANALYZE",
    "VACUUM FREEZE people",
    "VACUUM FULL pg_class",
    "VACUUM FREEZE pg_class",
    "VACUUM FULL pg_type",
    "VACUUM FULL pg_inherits",
    "CREATE INDEX by_name ON people (name)",
    "CREATE INDEX by_note ON visits (note)",
    "CREATE INDEX CONCURRENTLY by_nick ON people (nick)",
    "REINDEX TABLE people",
    "REINDEX TABLE CONCURRENTLY people",
    "REINDEX TABLE CONCURRENTLY visits",
    "DROP INDEX by_name",
    "GRANT SELECT ON people, visits TO {role}",
    "REVOKE ALL ON people, visits FROM {role}",
    "ALTER TABLE people SET (autovacuum_vacuum_scale_factor = 0.01)",
    "ALTER TABLE visits_1 SET (fillfactor = 90)",
    "ALTER TYPE mood ADD VALUE 'glad'",
    "COMMENT ON TABLE people IS 'people'",
    "CREATE STATISTICS both_names ON name, nick FROM people",
    "CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "CREATE TRIGGER quiet BEFORE UPDATE ON people FOR EACH ROW EXECUTE FUNCTION public.f()",
    "CREATE TABLE elsewhere.child (id integer PRIMARY KEY REFERENCES public.people)",
    "CREATE VIEW elsewhere.seen AS SELECT * FROM public.people",
    "CREATE TABLE public.another (id integer PRIMARY KEY)",
    "DROP TABLE public.another",
    "TRUNCATE elsewhere.child",
    "ALTER TABLE people ADD COLUMN young text DEFAULT 'x'",
)


async def read(database: Database, publication: str = "") -> dict[str, Definition]:
    async with connection(database.dsn, "test") as opened:
        return await read_definitions(opened, "public", TABLES, publication)


def changed(before: dict[str, Definition], now: dict[str, Definition]) -> set[str]:
    return {name for name in now if may_have_changed(before[name], now[name])}


@pytest.fixture
def tables(database: Database) -> Database:
    create(database)
    execute(database.dsn, [MORE.format(role=f"{database.name}_reader")])
    return database


@pytest.mark.one_server
async def test_what_was_undone_is_a_change_of_this_table_only(tables: Database) -> None:
    for name, (table, *statements) in {**UNDONE, **ELSE}.items():
        before = await read(tables)
        execute(tables.dsn, statements)
        expected = set(TABLES) if table == "all" else {table}
        assert changed(before, await read(tables)) == expected, name
    execute(tables.dsn, ["CREATE PUBLICATION p FOR TABLE people, pets, words, visits"])
    for name, there_and_back in OF_A_PUBLICATION.items():
        before = await read(tables, "p")
        execute(tables.dsn, there_and_back)
        assert changed(before, await read(tables, "p")), name


@pytest.mark.one_server
async def test_ordinary_maintenance_is_no_change(tables: Database) -> None:
    role = f"{tables.name}_reader"
    try:
        for statement in ORDINARY:
            before = await read(tables)
            with tables.connect() as opened:
                opened.execute(statement.format(role=role).encode())
            assert changed(before, await read(tables)) == set(), statement
    finally:
        execute(tables.dsn, [f"DROP OWNED BY {role}", f"DROP ROLE {role}"])


@pytest.mark.two_servers
async def test_rows_that_were_written_meanwhile_are_compared_and_mended(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in one transaction, so that no look comes between."""
    monkeypatch.setattr("replicator.pipeline.pipeline.LOOK_SECONDS", 0.1)
    monkeypatch.setattr("replicator.pipeline.pipeline.BETWEEN_LOOKS", 0.05)
    create(database)
    execute(database.dsn, ["CREATE SCHEMA elsewhere"])
    async with engine(database, changing(tmp_path)) as made:
        await made.backfill()
        await verify_until(made, lambda: made.running.verifier.clean)
        for name, (table, *statements) in UNDONE.items():
            await asyncio.to_thread(execute, database.dsn, statements)
            await verify_until(made, partial(made.running.context.unseen.__contains__, table))
            assert not made.running.verifier.clean, name
            await verify_until(made, lambda: made.running.verifier.clean)
            assert await differences(made) == [], name


@pytest.mark.one_server
async def test_what_the_daemon_does_itself_is_no_change(database: Database, tmp_path: Path) -> None:
    """Guards, a renaming, and the names given back."""
    execute(database.dsn, [OLD])
    async with daemon(make_settings(database), identity(tmp_path)) as running:
        await running.ready()
        for strategy in ("rename", "schema"):
            await running.cut_over(strategy=strategy)
            await running.clean()
            await running.roll_back()
            await running.clean()
    assert one(database.dsn, "SELECT count(*) FROM _replicator.journal WHERE event = 'changed past the log'") == 0


@pytest.mark.one_server
async def test_a_breach_during_a_pass_is_not_settled_by_it(database: Database, tmp_path: Path) -> None:
    """A guard that was off, say, while half of the rows had been compared: the other half would vouch for them."""
    create(database)
    async with engine(database, changing(tmp_path)) as made:
        await made.backfill()
        definitions = made.running.monitor.definitions
        definitions.suspect()
        noticed = definitions.noticed()
        definitions.suspect()
        await definitions.settle(noticed)
        assert made.running.context.unseen == set(TABLES)
        await definitions.settle(definitions.noticed())
        assert made.running.context.unseen == set()
