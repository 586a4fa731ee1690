"""What strangers tried: situations of known kinds, in other clothes. Each lost rows with every gate open once."""

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from replicator import Migration, Query, Row
from replicator.errors import CheckError, DefinitionError, RetryableError
from replicator.postgres.catalog.catalog import read_tables
from replicator.postgres.session.connect import Connection, connection
from replicator.postgres.trying.readmission import refused_again
from replicator.postgres.trying.underlying import Underlying, read_underlying
from replicator.preflight import preflight
from replicator.settings import Settings
from replicator.switchover.gates import look_at_gates
from replicator.switchover.phases import Phase
from tests.engine import execute, make_settings
from tests.fix_postgres import Database
from tests.roles import readme_roles
from tests.sessions import Running, daemon
from tests.statements import one

pytestmark = pytest.mark.one_server

OLD = """
CREATE TABLE t (id integer PRIMARY KEY, v text);
INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 20) i;
"""
NEW = """
CREATE SCHEMA IF NOT EXISTS shop;
CREATE TABLE IF NOT EXISTS shop.t (id integer PRIMARY KEY, v text);
"""


def same(row: Row) -> dict[str, Any]:
    return {"id": row["id"], "v": row["v"]}


def by_id(row: Row) -> Any:
    return row["id"]


def as_it_is(migration: Migration) -> None:
    migration.transform(source="t", into="t", key=by_id)(same)
    migration.reverse(source="t", into="t", key=by_id)(same)


def made(folder: Path, declare: Callable[[Migration], None] = as_it_is, new: str = NEW) -> Migration:
    (folder / "new").mkdir(exist_ok=True)
    (folder / "new" / "10_tables.sql").write_text(new)
    found = Migration("strange", old="public", new="shop", sql=folder)
    declare(found)
    return found


def of(running: Running) -> Any:
    assert running.active is not None
    return running.active


def rows(database: Database, query: str) -> Any:
    return one(database.dsn, f"SELECT array_agg(q::text ORDER BY q::text) FROM ({query}) q")


async def shut(running: Running, settings: Settings) -> dict[str, str]:
    """The gates that are, with the reason."""
    async with connection(settings.target, "test") as target:
        gates = await look_at_gates(of(running), Phase.FOLLOW, settings, target)
    return {each.name: each.detail for each in gates if not each.ok}


async def does(database: Database, statements: Iterable[str]) -> None:
    await asyncio.to_thread(execute, database.dsn, statements)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pass comes by itself: what is not noticed stays."""
    monkeypatch.setattr("replicator.pipeline.pipeline.LOOK_SECONDS", 0.1)
    monkeypatch.setattr("replicator.pipeline.pipeline.BETWEEN_PASSES", 3_600.0)
    monkeypatch.setattr("replicator.pipeline.pipeline.BETWEEN_LOOKS", 0.05)


# ---- what a value's text is made of

NESTED = [
    "CREATE TYPE mood AS ENUM ('good', 'bad')",
    "CREATE TYPE pair AS (m mood, n integer)",
    "CREATE TYPE moods AS RANGE (subtype = mood)",
    "CREATE DOMAIN mine AS mood",
    "CREATE DOMAIN theirs AS mine",
]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("pair[]", '{"(good,1)"}'),
        ("moods", "[good,bad)"),
        ("theirs[]", "{good}"),
    ],
)
async def test_a_label_inside_another_type_is_renamed(
    database: Database, tmp_path: Path, kind: str, value: str
) -> None:
    execute(database.dsn, [*NESTED, f"CREATE TABLE t (id integer PRIMARY KEY, v {kind})"])
    execute(database.dsn, [f"INSERT INTO t VALUES (1, '{value}')"])
    async with daemon(make_settings(database, ready_for=0.0), made(tmp_path)) as running:
        await running.ready()
        await does(database, ["ALTER TYPE mood RENAME VALUE 'good' TO 'glad'"])
        await running.until(lambda: rows(database, "TABLE shop.t") == rows(database, "SELECT id, v::text FROM t"))
        assert "glad" in one(database.dsn, "SELECT v FROM shop.t")


# ---- a row that is changed by who gets it


def spoiling(row: Row) -> dict[str, Any]:
    row["v"] = "spoilt"  # type: ignore[index]
    return {"id": row["id"], "v": "first"}


def second(row: Row) -> dict[str, Any]:
    return {"id": -row["id"], "v": row["v"]}


def two_of_one(migration: Migration) -> None:
    migration.transform(source="t", into="t", key=by_id)(spoiling)
    migration.transform(source="t", into="u")(second)
    migration.reverse(source="u", into="t")(second)


async def test_a_transform_that_changes_its_row_changes_no_others(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, [OLD])
    new = NEW + "CREATE TABLE IF NOT EXISTS shop.u (id integer PRIMARY KEY, v text);"
    async with daemon(make_settings(database), made(tmp_path, two_of_one, new)) as running:
        await running.ready()
        await does(database, ["UPDATE t SET v = 'later' WHERE id = 1"])
        await of(running).catch_up()
        assert rows(database, "SELECT -id, v FROM shop.u") == rows(database, "TABLE t")


# ---- a query that comes to return several rows for a key

JOINED = "SELECT t.id, o.v FROM public.t LEFT JOIN public.o ON o.t_id = t.id"


def joined(migration: Migration) -> None:
    query = Query(JOINED, key=["id"], depends_on={"t": ["id"], "o": ["t_id"]})
    migration.transform(source=query, into="t", key=by_id)(same)
    migration.reverse(source="t", into="t", key=by_id)(same)


OTHERS = ["CREATE TABLE o (t_id integer, v text, PRIMARY KEY (t_id, v))", "INSERT INTO o SELECT id, 'one' FROM t"]


async def test_a_query_that_comes_to_return_two_rows_for_a_key(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, [OLD, *OTHERS])
    settings = make_settings(database, ready_for=0.0)
    async with daemon(settings, made(tmp_path, joined)) as running:
        await running.ready()
        await does(database, ["INSERT INTO o VALUES (3, 'two')"])
        await of(running).catch_up()
        assert "quarantine" in await shut(running, settings)
        error = one(database.dsn, "SELECT error FROM _replicator.quarantine")
        assert "several rows" in error
        await does(database, ["DELETE FROM o WHERE v = 'one' AND t_id = 3"])
        await of(running).catch_up()
        await running.until(lambda: not of(running).context.quarantined)
        assert rows(database, "TABLE shop.t") == rows(database, JOINED)
        await running.clean()


async def test_a_query_that_returns_two_rows_for_a_key_from_the_start(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, [OLD, *OTHERS, "INSERT INTO o VALUES (3, 'two'), (3, 'three'), (20, 'two')"])
    settings = make_settings(database, ready_for=0.0)
    async with daemon(settings, made(tmp_path, joined)) as running:
        await running.until(lambda: running.session.phase.now == Phase.FOLLOW)
        keys = {key for _, key in of(running).context.quarantined}
        assert keys == {("3",), ("20",)}
        assert one(database.dsn, "SELECT count(*) FROM shop.t") == 18


# ---- foreign keys that are there and check nothing

CHILD = "CREATE TABLE c (id integer PRIMARY KEY, t_id integer); INSERT INTO c SELECT i, i FROM generate_series(1, 9) i"
KEY = "ALTER TABLE shop.c ADD CONSTRAINT c_t FOREIGN KEY (t_id) REFERENCES shop.t"


def child(row: Row) -> dict[str, Any]:
    return {"id": row["id"], "t_id": row["t_id"]}


def with_children(migration: Migration) -> None:
    as_it_is(migration)
    for way in (migration.transform, migration.reverse):
        way(source="c", into="c", key=by_id)(child)


@pytest.mark.parametrize("table", ["c", "t"])
async def test_a_foreign_key_that_is_switched_off_is_not_valid(database: Database, tmp_path: Path, table: str) -> None:
    execute(database.dsn, [OLD, CHILD])
    new = NEW + "CREATE TABLE IF NOT EXISTS shop.c (id integer PRIMARY KEY, t_id integer);"
    settings, migration = make_settings(database, ready_for=0.0), made(tmp_path, with_children, new)
    (tmp_path / "new" / "30_constraints.sql").write_text(KEY)
    async with daemon(settings, migration) as running:
        await running.ready()
        await does(database, [f"ALTER TABLE shop.{table} DISABLE TRIGGER ALL"])
        assert (await shut(running, settings))["schema"] == "not valid: shop.c: c_t (switched off)"
        await does(database, ["ALTER TABLE shop.c DROP CONSTRAINT c_t", KEY])
        assert "schema" not in await shut(running, settings)


# ---- a query whose meaning changes under it

VIEWED = "SELECT id, v FROM public.seen"
SEEN = "CREATE OR REPLACE VIEW seen AS SELECT id, v FROM inner_one"
INNER = "CREATE OR REPLACE VIEW inner_one AS SELECT id, loud(v) AS v FROM t"
LOUD = "CREATE OR REPLACE FUNCTION loud(text) RETURNS text LANGUAGE sql AS $$ SELECT pg_catalog.{}($1) $$"


def viewed(migration: Migration) -> None:
    migration.transform(source=Query(VIEWED, key=["id"], depends_on={"t": ["id"]}), into="t", key=by_id)(same)
    migration.reverse(source="t", into="t", key=by_id)(same)


@pytest.mark.parametrize(
    "change",
    [
        LOUD.format("upper"),
        "CREATE OR REPLACE VIEW seen AS SELECT id, 'x'::text AS v FROM inner_one WHERE id < 15",
    ],
)
async def test_a_view_that_a_query_reads_is_replaced(database: Database, tmp_path: Path, change: str) -> None:
    execute(database.dsn, [OLD, LOUD.format("lower"), INNER, SEEN])
    async with daemon(make_settings(database, ready_for=0.0), made(tmp_path, viewed)) as running:
        await running.ready()
        await does(database, [change])
        assert rows(database, "TABLE shop.t") != rows(database, VIEWED)
        await running.until(lambda: rows(database, "TABLE shop.t") == rows(database, VIEWED))
        await running.in_the_end(running.cut_over)


async def test_a_view_that_is_replaced_while_its_table_is_locked(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "SELECT t.id, s.v FROM public.t JOIN public.seen s ON s.id = t.id"
    waited = False

    async def noting(source: Connection, query: str) -> Underlying:
        nonlocal waited
        try:
            return await read_underlying(source, query)
        except RetryableError:
            waited = True
            raise

    monkeypatch.setattr("replicator.postgres.trying.underlying.LOCK_TIMEOUT", "100ms")
    monkeypatch.setattr("replicator.pipeline.query_definitions.read_underlying", noting)
    execute(database.dsn, [OLD, LOUD.format("lower"), INNER, SEEN])
    async with daemon(make_settings(database), made(tmp_path, asking(text))) as running:
        await running.ready()
        with database.connect() as holder, holder.transaction():
            holder.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
            await does(database, ["CREATE OR REPLACE VIEW seen AS SELECT id, 'x'::text AS v FROM inner_one"])
            await running.until(lambda: waited)
        await running.until(lambda: rows(database, "TABLE shop.t") == rows(database, text))
        await running.until(lambda: not of(running).context.unseen)


async def test_a_view_that_comes_to_read_another_table(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, [OLD, LOUD.format("lower"), INNER, SEEN, "CREATE TABLE u AS TABLE t"])
    async with daemon(make_settings(database), made(tmp_path, viewed)) as running:
        await running.ready()
        await does(database, ["CREATE OR REPLACE VIEW inner_one AS SELECT id, v FROM u"])
        with pytest.raises(DefinitionError, match=r"reads public\.u since") as stopped:
            await running.until(lambda: False)
        assert "depends_on" in stopped.value.remedy


# ---- old tables that refuse what is written back

BLIND = [
    "CREATE FUNCTION inner_one(text) RETURNS boolean IMMUTABLE LANGUAGE sql AS $$ SELECT $1 <> 'bad' $$",
    "CREATE FUNCTION fine(text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN inner_one($1); END $$",
]


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE t ADD CHECK (fine(v))",
        "CREATE INDEX ON t (fine(v))",
        "ALTER TABLE t ADD COLUMN g boolean GENERATED ALWAYS AS (fine(v)) STORED",
        "CREATE DOMAIN d AS text CHECK (fine(VALUE)); ALTER TABLE t ALTER v TYPE d",
    ],
)
async def test_what_the_old_table_would_refuse_on_the_way_back_is_told_before(
    database: Database, tmp_path: Path, statement: str
) -> None:
    if "INDEX" in statement and database.version >= 17:
        pytest.skip("From Postgres 17 on, nobody can make such an index.")
    execute(database.dsn, [OLD, *BLIND, statement])
    settings, migration = make_settings(database), made(tmp_path)
    found = {each.check: each for each in await preflight(settings, migration)}["reverse.own_rows"]
    assert found.outcome == "fail"
    assert "public.t refuses 20 of 20 of its own rows" in found.detail
    assert "SET search_path" in found.remedy
    execute(database.dsn, ["ALTER FUNCTION fine(text) SET search_path = public, pg_temp"])
    found = {each.check: each for each in await preflight(settings, migration)}["reverse.own_rows"]
    assert found.outcome == "pass"
    if "ADD CHECK" not in statement:  # once is enough
        return
    async with daemon(settings, migration) as running:
        await running.ready()
        await running.cut_over()
        await does(database, ["UPDATE shop.t SET v = 'later' WHERE id = 1"])
        await of(running).catch_up()
        assert rows(database, "SELECT id, v FROM t") == rows(database, "TABLE shop.t")


async def test_who_may_not_read_the_old_table_is_told_so(database: Database) -> None:
    """No row is to blame, and nothing is to be mended about rows."""
    with readme_roles(database) as roles:
        async with connection(roles.settings().source, "test") as opened:
            table = (await read_tables(opened, "public"))["t"]
            roles.superuser("INSERT INTO public.t VALUES (1, 'a')",
                            "ALTER TABLE public.t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")  # fmt: skip
            with pytest.raises(CheckError, match="Row level security"):
                await refused_again(opened, table)


async def test_rows_that_a_constraint_does_not_refuse_yet(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, [OLD, "UPDATE t SET v = 'bad' WHERE id = 3"])
    execute(database.dsn, ["ALTER TABLE t ADD CONSTRAINT good CHECK (v <> 'bad') NOT VALID"])
    found = {each.check: each for each in await preflight(make_settings(database), made(tmp_path))}["reverse.own_rows"]
    assert found.outcome == "warn"
    assert "public.t refuses 1 of 20 of its own rows" in found.detail
    assert "bad" not in found.detail


# ---- queries that are written in other ways


def asking(text: str) -> Callable[[Migration], None]:
    def declare(migration: Migration) -> None:
        migration.transform(source=Query(text, key=["id"], depends_on={"t": ["id"]}), into="t", key=by_id)(same)
        migration.reverse(source="t", into="t", key=by_id)(same)

    return declare


async def test_a_query_that_ends_in_a_comment(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, [OLD])
    migration = made(tmp_path, asking("SELECT id, v FROM public.t -- all of them;"))
    assert [each for each in await preflight(make_settings(database), migration) if each.outcome == "fail"] == []
    async with daemon(make_settings(database), migration) as running:
        await running.ready()
        assert rows(database, "TABLE shop.t") == rows(database, "TABLE t")


@pytest.mark.parametrize(
    "text", ["SELECT id, v FROM public.t FOR UPDATE", "SELECT id, public.noted(v) AS v FROM public.t"]
)
async def test_a_query_that_does_more_than_read(database: Database, tmp_path: Path, text: str) -> None:
    """The daemon would end at its first chunk."""
    body = "INSERT INTO public.t VALUES (99, $1) RETURNING v"
    noted = f"CREATE FUNCTION noted(text) RETURNS text LANGUAGE sql AS $$ {body} $$"
    execute(database.dsn, [OLD, noted])
    found = {each.check: each for each in await preflight(make_settings(database), made(tmp_path, asking(text)))}
    assert found["forward.sample"].outcome == "fail"
    assert "only read" in found["forward.sample"].detail
    assert one(database.dsn, "SELECT count(*) FROM t") == 20
