"""SQL transforms: what is refused, what they return, and that the engine does with them what it does with Python."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator import Migration
from replicator.core.selects import Select
from replicator.errors import MigrationError
from replicator.pipeline.setup import read_plan
from replicator.runbook.dry_run import dry_run
from tests.checking import check, one_database
from tests.engine import differences, engine, execute, make_settings
from tests.fix_postgres import Database, Running, Server, fresh_database
from tests.small import BAD_ROWS, GOOD, create_small, entries, people, small_migration
from tests.statements import one

pytestmark = pytest.mark.one_server


async def test_backfill_and_follow(database: Database, tmp_path: Path) -> None:
    create_small(database.dsn, GOOD, "INSERT INTO pets SELECT i, i % 7 + 1, 'pet' || i FROM generate_series(1, 30) i")
    async with engine(database, small_migration(tmp_path, in_sql=True)) as running:
        await running.backfill()
        assert await differences(running) == []
        execute(
            database.dsn,
            [
                "UPDATE people SET note = '#a' || id || ' #b' || id, name = 'nobody' WHERE id % 3 = 0",
                "UPDATE people SET id = id + 1000 WHERE id % 5 = 0",
                "DELETE FROM people WHERE id % 7 = 0",
                "UPDATE pets SET name = name || '%s' WHERE id % 2 = 0",
            ],
        )
        await running.drain()
        assert await differences(running) == []
        await running.running.verifier.open()
        result = await running.running.verifier.full_pass()
        assert result.divergences == []
        assert 1 in people(database.dsn)
        assert 3 not in people(database.dsn)


async def test_bad_rows(database: Database, tmp_path: Path) -> None:
    """Each is in quarantine, whatever refuses it, and leaves it when it is mended or gone; its neighbours are there."""
    rows = [BAD_ROWS[each][0].replace("500", str(500 + place)) for place, each in enumerate(BAD_ROWS)]
    create_small(database.dsn, GOOD, *rows[:2])
    async with engine(database, small_migration(tmp_path, in_sql=True)) as made:
        await made.backfill()
        assert people(database.dsn) == set(range(1, 101))
        execute(
            database.dsn, [*rows[2:], "UPDATE people SET note = '#new' WHERE id = 7", "DELETE FROM people WHERE id = 8"]
        )
        await made.drain()
        found = {key: (transform, error) for transform, key, error in entries(database.dsn)}
        assert list(found) == ['["500"]', '["501"]', '["502"]', '["503"]']
        assert {transform for transform, _ in found.values()} == {"person"}
        assert "fails for people ['500']: Postgres refused a value: DivisionByZero" in found['["500"]'][1]
        assert not any("twelve" in error or "secret" in error for _, error in found.values())
        assert people(database.dsn) == set(range(1, 101)) - {8}
        execute(
            database.dsn,
            [
                "UPDATE people SET name = 'good', age = '1' WHERE id IN (500, 502)",
                "DELETE FROM people WHERE id IN (501, 503)",
            ],
        )
        await made.drain()
        assert entries(database.dsn) == []
        assert await differences(made) == []


# ---- what is refused, and that the remedy works

T = "CREATE TABLE t (id integer PRIMARY KEY, v text, at timestamp, kind kind)"
NEW = "CREATE TABLE shop.t (id bigint PRIMARY KEY, v varchar(5), n numeric(5, 2), at timestamptz, kind kind)"
FUNCTIONS = """
CREATE FUNCTION own(t text) RETURNS text LANGUAGE sql AS 'SELECT upper(t)';
CREATE FUNCTION known(t text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT upper(t)';
CREATE FUNCTION lying(t text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN t || now()::text; END';
CREATE FUNCTION deeper(t text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT public.lying(t)';
CREATE FUNCTION word(t text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT t || CURRENT_TIMESTAMP::text';
CREATE AGGREGATE collected(text) (SFUNC = textcat, STYPE = text);
"""


@pytest.fixture(scope="module")
def shared(request: pytest.FixtureRequest, _running: Running) -> Iterator[Database]:
    """One that nothing is changed in."""
    with one_database(request.config, _running) as found:
        execute(found.dsn, ["CREATE TYPE kind AS ENUM ('a', 'b')", T, "CREATE TABLE other (id integer)", FUNCTIONS])
        execute(found.dsn, ["CREATE SCHEMA shop", NEW.replace("kind kind", "kind public.kind")])
        execute(found.dsn, ["INSERT INTO t SELECT i, 'v' || i, '2026-01-01', 'a' FROM generate_series(1, 5) i"])
        yield found


def declared(folder: Path, select: str, key: str | None = "old.id", **others: Any) -> Migration:
    (folder / "new").mkdir(exist_ok=True)
    (folder / "new" / "10_tables.sql").write_text("CREATE SCHEMA IF NOT EXISTS shop;")
    migration = Migration("in_sql", old="public", new="shop", sql=folder, way_back=False)
    migration.sql_transform(**{"source": "t", "into": "t", "sql": select, "key": key, "name": "one"} | others)
    return migration


async def refusal(database: Database, migration: Migration) -> str:
    with pytest.raises(MigrationError) as error:
        await read_plan(make_settings(database), migration, "forward")
    return str(error.value)


REFUSED = {
    "another table": ("SELECT old.id, o.id::text AS v FROM public.other AS o", "it reads public.other, whose changes"),
    "a subquery": ("SELECT old.id, (SELECT max(id) FROM public.t)::text AS v", "it reads public.t, whose changes"),
    "a catalogue": ("SELECT old.id, relname::text AS v FROM pg_class", "it reads pg_catalog.pg_class"),
    "a column": ("SELECT old.id, old.w AS v", "column old.w does not exist"),
    "no such target": ("SELECT old.id, old.v AS w", "it returns w, and shop.t has no such column"),
    "no name": ("SELECT old.id, lower(old.v) || 'x'", "it returns ?column?, and shop.t has no such column"),
    "a name twice": ("SELECT old.id, old.v AS v, 'x' AS v", 'column "v" specified more than once'),
    "a type": ("SELECT old.id, old.v AS n", 'column "n" is of type numeric but expression is of type text'),
    "a bare null": ("SELECT old.id, NULL AS n", 'column "n" is of type numeric but expression is of type text'),
    "an enum": ("SELECT old.id, 'a' AS kind", "is of type public.kind but expression is of type text"),
    "no schema": ("SELECT old.id, known(old.v) AS v", "Write each table, type and function with its schema"),
    "a clock": ("SELECT old.id, now() AS at", "it calls now(), which returns another value at another time"),
    "a clock in a word": ("SELECT old.id, CURRENT_DATE::timestamptz AS at", "it calls CURRENT_TIMESTAMP or the like"),
    "a clock in a constant": ("SELECT old.id, 'now'::timestamptz AS at", "it calls 'now'"),
    "a clock in a date": ("SELECT old.id, date ' Today ' ::timestamptz AS at", "it calls 'today'"),
    "an age": ("SELECT old.id, age(old.at)::text AS v", "it calls age()"),
    "chance": ("SELECT old.id, random()::text AS v", "it calls random()"),
    "a setting": ("SELECT old.id, current_setting('TimeZone') AS v", "it calls current_setting()"),
    "a sequence": ("SELECT old.id, nextval('public.s')::text AS v", 'relation "public.s" does not exist'),
    "a role": ("SELECT old.id, CURRENT_USER::text AS v", "it calls CURRENT_TIMESTAMP or the like"),
    "undeclared": ("SELECT old.id, public.own(old.v) AS v", "ALTER FUNCTION public.own(text) IMMUTABLE;"),
    "a clock in a function": ("SELECT old.id, public.lying(old.v) AS v", "it calls now()"),
    "a clock deeper": ("SELECT old.id, public.deeper(old.v) AS v", "it calls now()"),
    "a clock as a word in one": ("SELECT old.id, public.word(old.v) AS v", "it calls public.word(text)"),
    "a parameter": ("SELECT old.id, $1 AS v", "there is no parameter $1"),
    "two statements": ("SELECT old.id; SELECT 1", "its SELECT is not one query"),
    "a bracket": ("SELECT old.id) AS new, (SELECT 1 AS v", "its SELECT is not one query"),
    "nothing": ("-- a comment", "its SELECT is not one query"),
    "a write": ("DELETE FROM public.other RETURNING id", "syntax error"),
    "a system column": ("SELECT old.id, old.xmin::text AS v", "column old.xmin does not exist"),
    "no key": ("SELECT old.v", "it does not return id, which is in the primary key"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_is_refused(shared: Database, tmp_path: Path, what: str) -> None:
    select, says = REFUSED[what]
    error = await refusal(shared, declared(tmp_path, select, None if what == "no key" else "old.id"))
    assert "transform one: " in error
    assert says in error


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (
            "old.v",
            "column old.v does not exist. It may read only what is the key of t",
        ),
        ("old.id, 1", "its key= has 2 columns; the primary key of shop.t has 1"),
        ("old.id::text", "what it returns cannot be assigned"),
        ("old.id + random()::int", "it calls random()"),
        ("old.id) AS x, (SELECT 1", "its key= is not one query"),
    ],
)
async def test_a_key_that_is_refused(shared: Database, tmp_path: Path, key: str, says: str) -> None:
    assert says in await refusal(shared, declared(tmp_path, "SELECT old.id", key))


@pytest.mark.parametrize(
    ("select", "reads"),
    [
        ("SELECT old.id::numeric AS id, public.known(old.v) AS v, NULL::numeric AS n", {"id", "v"}),
        ("SELECT old.id, old.at AT TIME ZONE 'UTC' AS at, 'a'::public.kind AS kind", {"id", "at"}),
        ("SELECT old.id, to_jsonb(old) ->> 'v' AS v; -- %s", {"id", "v", "at", "kind"}),
        ("SELECT old.id, 'today' || old.v AS v", {"id", "v"}),
        ("SELECT old.*", {"id", "v", "at", "kind"}),
        ("SELECT 7 AS id WHERE false", set()),
        ("SELECT old.id, (SELECT public.collected(w) FROM unnest(ARRAY[old.v]) AS w) AS v", {"id", "v"}),
    ],
)
async def test_what_is_not_refused_and_what_it_reads(
    shared: Database, tmp_path: Path, select: str, reads: set[str]
) -> None:
    plan = await read_plan(make_settings(shared), declared(tmp_path, select), "forward")
    function = plan.sources["t"].transforms[0].function
    assert isinstance(function, Select)
    assert {each.name for each in function.reads} == reads


async def test_everything_wrong_is_said_at_once(shared: Database, tmp_path: Path) -> None:
    migration = declared(tmp_path, "SELECT now() AS id")
    migration.sql_transform(source="t", into="t", sql="SELECT old.x", name="two")
    error = await refusal(shared, migration)
    assert "transform one: it calls now()" in error
    assert "transform two: " in error


async def test_what_a_remedy_says_works(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, ["CREATE TYPE kind AS ENUM ('a', 'b')", T, FUNCTIONS, "CREATE SCHEMA shop"])
    execute(database.dsn, [NEW.replace("kind kind", "kind public.kind")])
    migration = declared(tmp_path, "SELECT old.id, public.own(old.v) AS v")
    remedy = await refusal(database, migration)
    execute(database.dsn, [re.search("`(ALTER .*;)`", remedy)[1]])  # type: ignore[index]
    await read_plan(make_settings(database), migration, "forward")


def test_names_and_files(tmp_path: Path) -> None:
    migration = Migration("m", old="a", new="b", sql=tmp_path)
    migration.sql_transform(source="t", into="u", sql="transforms/orders.sql")
    migration.sql_reverse(source="u", into="t", sql="SELECT old.id")
    assert [(each.name, each.direction) for each in migration.transforms] == [
        ("orders", "forward"),
        ("u_into_t", "reverse"),
    ]
    with pytest.raises(MigrationError, match="cannot be read"):
        migration.select_text(migration.transforms[0].function)  # type: ignore[arg-type]
    with pytest.raises(MigrationError, match="only the server can run it"):
        migration.transforms[0].function({})


async def test_two_databases(database: Database, server: Server, tmp_path: Path) -> None:
    """They run where the target is: a type that only the source has is missed as soon as a column of it is read."""
    execute(database.dsn, ["CREATE TYPE kind AS ENUM ('a', 'b')", T])
    execute(database.dsn, ["INSERT INTO t SELECT i, 'v' || i, '2026-01-01', 'a' FROM generate_series(1, 5) i"])
    table = "CREATE SCHEMA IF NOT EXISTS shop; CREATE TABLE IF NOT EXISTS shop.t (id bigint PRIMARY KEY, v text);"
    with fresh_database(server) as other:
        execute(other.dsn, [table])
        unread = declared(tmp_path, "SELECT old.id, old.v || to_char(old.at, 'YYYY') AS v")
        reading = declared(tmp_path, "SELECT old.id, old.kind::text AS v")
        with pytest.raises(MigrationError, match=r"it reads kind of type public.kind, which the database of shop.t"):
            await read_plan(make_settings(database, other), reading, "forward")
        (tmp_path / "new" / "10_tables.sql").write_text(table)
        async with engine(database, unread, other) as made:
            await made.backfill()
            execute(database.dsn, ["UPDATE t SET v = 'new', kind = 'b' WHERE id = 2"])
            await made.drain()
            assert await differences(made) == []
            assert one(other.dsn, "SELECT string_agg(v, ' ' ORDER BY id) FROM shop.t").startswith("v12026 new2026")
        execute(other.dsn, ["CREATE TYPE public.kind AS ENUM ('a', 'b')"])
        await read_plan(make_settings(database, other), reading, "forward")


TABLES = """
CREATE SCHEMA IF NOT EXISTS shop;
CREATE TYPE shop.state AS ENUM ('fresh', 'old');
CREATE FUNCTION shop.stated(t text) RETURNS shop.state LANGUAGE sql IMMUTABLE
    AS $$ SELECT CASE WHEN t = 'v1' THEN 'old' ELSE 'fresh' END::shop.state $$;
CREATE TABLE IF NOT EXISTS shop.t (id bigint PRIMARY KEY, v text, state shop.state NOT NULL);
"""


async def test_check_and_dry_run_before_anything_is_made(database: Database, tmp_path: Path) -> None:
    """Types and functions of sql/new are there for the trial only, for the way back too."""
    execute(database.dsn, ["CREATE TABLE t (id integer PRIMARY KEY, v text, kept text, lost text)"])
    execute(database.dsn, ["INSERT INTO t SELECT i, 'v' || i, 'k', 'l' FROM generate_series(1, 5) i"])
    migration = declared(tmp_path, "SELECT old.id, old.v || old.kept AS v, shop.stated(old.v) AS state")
    migration.way_back = True
    (tmp_path / "new" / "10_tables.sql").write_text(TABLES)
    back = (
        "SELECT old.id::integer AS id, left(old.v, 2) AS v, 'k' AS kept, CASE old.state WHEN 'old' THEN 'l' END AS lost"
    )
    migration.sql_reverse(source="t", into="t", sql=back, key="old.id::integer", name="back")
    found = await check(database, migration)
    assert found["forward.sample"].outcome == "pass", found["forward.sample"]
    assert found["forward.deterministic"].outcome == "pass"
    assert found["reverse.transforms"].outcome == "pass", found["reverse.transforms"]
    assert "t.lost" in found["forward.unread_columns"].detail
    assert "t.kept" not in found["forward.unread_columns"].detail
    tried = await dry_run(make_settings(database), migration, None, lambda *_: None)
    assert tried.ok
    assert [(each.rows, each.derived) for each in tried.transforms] == [(5, 5)]
    (table,) = tried.way_back.tables
    assert (table.rows, table.refused, table.differing) == (5, 0, {"lost": 4})
