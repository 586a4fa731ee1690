"""What our SQL names is Postgres' own or has its schema: nothing planted runs, and no type is compared wrongly."""

from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import pytest

from replicator import ALL, Lookup, Migration, Query, Row
from replicator.preflight import preflight
from replicator.switchover.phases import COMPLETION, OPENING
from tests.engine import execute, make_settings
from tests.fix_postgres import Database, Running, _choices, fresh_database
from tests.planting import CALLED, plant
from tests.roles import Roles, readme_roles
from tests.sessions import daemon
from tests.statements import one

OLD: Final = (
    "CREATE TYPE public.mood AS ENUM ('low', 'high')",
    "CREATE TYPE public.pair AS (a integer, b text)",
    "CREATE TABLE public.people (name varchar(20) PRIMARY KEY, mood public.mood NOT NULL, pair public.pair, "
    "facts jsonb, numbers integer[], at timestamptz NOT NULL DEFAULT now(), code char(4))",
    "CREATE TABLE public.moods (mood public.mood, name name, n oid, PRIMARY KEY (mood, name))",
    "CREATE TABLE public.visits "
    "(id bigint PRIMARY KEY, person varchar(20) REFERENCES public.people (name), hours numeric)",
    "INSERT INTO public.people SELECT 'p' || i, 'low', ROW(i, 'x')::public.pair, '{}', '{1,2}', now(), 'c' "
    "FROM generate_series(1, 60) i",
    "INSERT INTO public.moods SELECT m, 'p' || i, i "
    "FROM generate_series(1, 60) i, unnest('{low,high}'::public.mood[]) m",
    "ALTER TABLE public.visits REPLICA IDENTITY FULL",
    "INSERT INTO public.visits SELECT i, 'p' || (i % 60 + 1), i FROM generate_series(1, 200) i",
)
NEW: Final = """
CREATE SCHEMA IF NOT EXISTS shop;
CREATE TABLE IF NOT EXISTS shop.people (name varchar(20) PRIMARY KEY, mood public.mood NOT NULL, pair public.pair,
    facts jsonb, numbers integer[], at timestamptz NOT NULL, code char(4));
CREATE TABLE IF NOT EXISTS shop.moods (mood public.mood, name name, n oid, PRIMARY KEY (mood, name));
CREATE TABLE IF NOT EXISTS shop.visits (id bigint PRIMARY KEY, person varchar(20), hours numeric);
CREATE TABLE IF NOT EXISTS shop.totals (person varchar(20) PRIMARY KEY, hours numeric NOT NULL);
"""
CONSTRAINTS: Final = """
ALTER TABLE shop.visits ADD CONSTRAINT visits_person_fkey
    FOREIGN KEY (person) REFERENCES shop.people (name) DEFERRABLE NOT VALID;
ALTER TABLE shop.visits VALIDATE CONSTRAINT visits_person_fkey;
"""
TOTALS: Final = "SELECT person, sum(hours) AS hours FROM public.visits WHERE person IS NOT NULL GROUP BY person"


def planted_migration(folder: Path) -> Migration:
    """The same tables, and one that is summed up."""
    (folder / "new").mkdir(parents=True)
    (folder / "new" / "10_tables.sql").write_text(NEW)
    (folder / "new" / "30_constraints.sql").write_text(CONSTRAINTS)
    migration = Migration("planted", old="public", new="shop", sql=folder)

    def same(each: Row) -> dict[str, Any]:
        return dict(each)

    keys = {"people": ("name",), "moods": ("mood", "name"), "visits": ("id",)}
    for table, key in keys.items():
        migration.transform(source=table, into=table, name=table, key=itemgetter(*key))(same)
        migration.reverse(source=table, into=table, name=table)(same)

    @migration.transform(
        source=Query(TOTALS, key=["person"], depends_on={"visits": ["person"]}), into="totals", key=itemgetter("person")
    )
    def total(old: Row) -> dict[str, Any]:
        return dict(old)

    return migration


@pytest.fixture
def contrib(request: pytest.FixtureRequest, _running: Running) -> Iterator[Database]:
    """A database on the first server that has the extensions of Postgres' own."""
    for choice in _choices(request.config):
        with fresh_database(_running.server(choice)) as made:
            with made.connect() as opened:
                found = opened.execute("SELECT FROM pg_available_extensions WHERE name IN ('citext', 'ltree')")
            if found.rowcount == 2:
                yield made
                return
    pytest.skip("no server has citext and ltree")


@pytest.fixture
def roles(database: Database) -> Iterator[Roles]:
    with readme_roles(database, *OLD) as made:
        yield made


WRITES: Final = (
    "UPDATE {0}.people SET mood = 'high', facts = '{{\"a\": 1}}' WHERE name < 'p3'",
    "DELETE FROM {0}.visits WHERE id % 7 = 0",
    "UPDATE {0}.moods SET n = 99 WHERE mood = 'high'::public.mood",
    "DELETE FROM {0}.moods WHERE name = 'p9'",
    "INSERT INTO {0}.people SELECT 'new ' || txid_current(), mood, pair, facts, numbers, at, code "
    "FROM {0}.people LIMIT 1",
)


@pytest.mark.two_servers
@pytest.mark.timeout(300)
async def test_nothing_that_the_application_plants_runs(roles: Roles, tmp_path: Path) -> None:
    """As in CVE-2018-1058: a function that fits a call better than Postgres' own would run with the daemon's rights."""
    origins = ("create(text)", "drop(text)", "oid(text)", "session_setup(text)", "session_reset()")
    roles.superuser(
        f"GRANT ALL ON SCHEMA public TO {roles.app}",
        *(f"GRANT EXECUTE ON FUNCTION pg_replication_origin_{each} TO {roles.replicator}" for each in origins),
    )
    with roles.connect(roles.app) as app:
        assert plant(app) > 1000

    def called() -> bool:
        return bool(one(roles.database.dsn, CALLED))

    settings, migration = roles.settings(), planted_migration(tmp_path)
    found = {each.check: each for each in await preflight(settings, migration)}
    assert [each for each in found.values() if each.outcome == "fail"] == []
    assert not called()
    async with daemon(settings, migration) as running:
        await running.ready()
        await write(roles, "public")
        await running.clean()
        await running.cut_over()
        await write(roles, "shop")
        await running.clean()
        await running.roll_back()
        await write(roles, "public")
        await running.clean()
        await running.session.switchovers.run(OPENING, running.report)
        await write(roles, "shop")
        await write(roles, "public")
        await running.session.switchovers.run(COMPLETION, running.report)
    assert not called()


# ---- types of extensions, in a schema that no session looks in

KEYS: Final = """
CREATE SCHEMA ext;
CREATE EXTENSION citext SCHEMA ext;
CREATE EXTENSION ltree SCHEMA ext;
CREATE DOMAIN public.login AS ext.citext CHECK (VALUE <> '');
CREATE TABLE public.users (email ext.citext PRIMARY KEY, note text);
CREATE TABLE public.paths (tenant integer, path ext.ltree, owner ext.citext REFERENCES public.users ON UPDATE CASCADE,
    PRIMARY KEY (tenant, path));
CREATE TABLE public.logins (login public.login, tenant integer, note text, PRIMARY KEY (login, tenant));
INSERT INTO public.users
    SELECT CASE WHEN i % 2 = 0 THEN 'User' ELSE 'uSER' END || i, 'n' FROM generate_series(1, 150) i;
INSERT INTO public.paths SELECT i % 3, ('a' || i || '.B')::ext.ltree, 'user' || i FROM generate_series(1, 150) i;
INSERT INTO public.logins SELECT 'L' || i % 70, i / 70, 'n' FROM generate_series(0, 139) i;
ALTER TABLE public.paths REPLICA IDENTITY FULL;
"""
NEW_KEYS: Final = """
CREATE SCHEMA IF NOT EXISTS shop;
CREATE TABLE IF NOT EXISTS shop.users (email ext.citext PRIMARY KEY, note text);
CREATE TABLE IF NOT EXISTS shop.paths (tenant integer, path ext.ltree, owner ext.citext, PRIMARY KEY (tenant, path));
CREATE TABLE IF NOT EXISTS shop.logins (login public.login, tenant integer, note text, PRIMARY KEY (login, tenant));
CREATE TABLE IF NOT EXISTS shop.counts (owner ext.citext PRIMARY KEY, paths bigint NOT NULL);
"""
OWNER_KEY: Final = """
ALTER TABLE shop.paths ADD CONSTRAINT paths_owner_fkey FOREIGN KEY (owner) REFERENCES shop.users (email)
    DEFERRABLE NOT VALID;
ALTER TABLE shop.paths VALIDATE CONSTRAINT paths_owner_fkey;
"""
COUNTS: Final = "SELECT owner, count(*) AS paths FROM public.paths WHERE owner IS NOT NULL GROUP BY owner"


def keyed_migration(folder: Path) -> Migration:
    """Tables whose keys are of such types, in part or as a domain over one, and a query that is keyed so."""
    (folder / "new").mkdir(parents=True)
    (folder / "new" / "10_tables.sql").write_text(NEW_KEYS)
    (folder / "new" / "30_constraints.sql").write_text(OWNER_KEY)
    migration = Migration("keyed", old="public", new="shop", sql=folder)

    def same(each: Row) -> dict[str, Any]:
        return dict(each)

    keys = {"users": ("email",), "paths": ("tenant", "path"), "logins": ("login", "tenant")}
    for table, key in keys.items():
        migration.transform(source=table, into=table, name=table, key=itemgetter(*key))(same)
        migration.reverse(source=table, into=table, name=table, key=itemgetter(*key))(same)

    @migration.transform(source=Query(COUNTS, key=["owner"], depends_on={"paths": ["owner"]}), into="counts")
    def count(old: Row) -> dict[str, Any]:
        return dict(old)

    return migration


CHANGES: Final = (
    "UPDATE {0}.users SET email = lower(email::text)::ext.citext WHERE email OPERATOR(ext.<) 'user3'",
    "UPDATE {0}.users SET note = 'changed' WHERE email OPERATOR(ext.=) 'USER7'",
    "DELETE FROM {0}.paths WHERE path OPERATOR(ext.=) 'a9.B'",
    "UPDATE {0}.paths SET owner = 'USER8' WHERE tenant = 1 AND owner OPERATOR(ext.<) 'user2'",
    "DELETE FROM {0}.logins WHERE login OPERATOR(ext.=) 'l7'",
    "UPDATE {0}.logins SET login = 'New' WHERE login OPERATOR(ext.=) 'l9'",
    "DELETE FROM {0}.users AS u WHERE NOT EXISTS (SELECT FROM {0}.paths p WHERE p.owner OPERATOR(ext.=) u.email)",
)


async def test_keys_of_an_extensions_type(contrib: Database, tmp_path: Path) -> None:
    """Forward and back: chunks, keys, foreign keys and comparisons find the rows as the type's own operators do."""
    execute(contrib.dsn, [KEYS])
    settings, migration = make_settings(contrib, chunk_rows=20), keyed_migration(tmp_path)
    found = await preflight(settings, migration)
    assert [each for each in found if each.outcome == "fail"] == []
    async with daemon(settings, migration) as running:
        await running.ready()
        for there, other in (("public", "shop"), ("shop", "public")):
            for each in CHANGES:
                execute(contrib.dsn, ["SET search_path = pg_catalog; " + each.format(there)])
            await running.clean()
            for table in ("users", "paths", "logins"):
                await running.until(lambda table=table: same(contrib.dsn, table))
            assert one(contrib.dsn, "SELECT count(*) FROM _replicator.quarantine") == 0
            if other == "shop":
                await running.cut_over()
        await running.roll_back()
        execute(contrib.dsn, ["DELETE FROM public.paths", "DELETE FROM public.users"])
        await running.until(lambda: one(contrib.dsn, "SELECT count(*) FROM shop.users, shop.counts") == 0)
        await running.clean()


def same(dsn: str, table: str) -> bool:
    """Whether both schemas hold the same rows, to the letter."""
    rows = "SELECT string_agg(t::text, ',' ORDER BY t::text COLLATE \"C\") FROM {}.{} t"
    return bool(one(dsn, rows.format("public", table)) == one(dsn, rows.format("shop", table)))


async def write(roles: Roles, schema: str) -> None:
    with roles.connect(roles.app) as app:
        app.execute("SET search_path = pg_catalog")
        for each in WRITES:
            app.execute(each.format(schema).encode())


# ---- what the author writes


@pytest.mark.one_server
@pytest.mark.parametrize(
    ("ddl", "query", "named"),
    [
        ("CREATE TABLE IF NOT EXISTS plain (id integer)", "SELECT 1 AS id", "CREATE TABLE IF NOT EXISTS plain"),
        ("CREATE TABLE IF NOT EXISTS shop.t (id own)", "SELECT 1 AS id", 'type "own" does not exist'),
        (
            "CREATE TABLE IF NOT EXISTS shop.t (id integer PRIMARY KEY)",
            "SELECT id FROM t",
            'relation "t" does not exist',
        ),
        ("CREATE TABLE IF NOT EXISTS shop.t (id integer PRIMARY KEY)", "SELECT one() AS id", "function one() does not"),
    ],
)
async def test_check_says_what_is_named_without_its_schema(
    database: Database, tmp_path: Path, ddl: str, query: str, named: str
) -> None:
    execute(
        database.dsn,
        [
            "CREATE TABLE public.t (id integer PRIMARY KEY)",
            "CREATE DOMAIN public.own AS integer",
            "CREATE FUNCTION public.one() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
            "CREATE SCHEMA shop",
        ],
    )
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "10_tables.sql").write_text(ddl)
    migration = Migration("plain", old="public", new="shop", sql=tmp_path)
    migration.transform(source=Query(query, key=["id"], depends_on={"t": ALL}), into="t", name="t")(dict)
    found = [each for each in await preflight(make_settings(database), migration) if each.outcome == "fail"]
    said = [each for each in found if named in each.detail]
    assert len(said) == 1, found
    assert "with its schema, as in public.customers" in said[0].remedy


BY_EMAIL: Final = "SELECT u.email, count(*) AS n FROM public.visits v JOIN public.users u ON {} GROUP BY u.email"
NO_LOOKUP: Final = "Lookups that do not work: the one of query"
VISITS: Final = "SELECT email AS k FROM public.users WHERE {}"


@pytest.mark.parametrize(
    ("joined", "looked_up", "wrong"),
    [
        ("v.email = u.email", "email OPERATOR(ext.=) %(email)s", "The query query takes other operators"),
        ("v.email::text = u.email::text", "email OPERATOR(ext.=) %(email)s", ""),
        ("v.email OPERATOR(ext.=) u.email", "email OPERATOR(ext.=) %(email)s", ""),
        ("v.email OPERATOR(ext.=) u.email", "email = %(email)s", NO_LOOKUP),
        ("v.email OPERATOR(ext.=) u.email", "email LIKE '%%' AND email OPERATOR(ext.=) %(email)s", NO_LOOKUP),
        ("v.email OPERATOR(ext.=) u.email AND v.id % 1 = 0", "email::text = %(email)s", ""),
    ],
)  # fmt: skip
async def test_check_refuses_an_operator_that_is_silently_another_one(
    contrib: Database, tmp_path: Path, joined: str, looked_up: str, wrong: str
) -> None:
    """``=`` is found in pg_catalog for citext too, but it is text's: rows that belong together would be missed."""
    execute(
        contrib.dsn,
        ["CREATE SCHEMA ext", "CREATE EXTENSION citext SCHEMA ext", "CREATE SCHEMA shop",
         "CREATE TABLE public.users (email ext.citext PRIMARY KEY)",
         "CREATE TABLE public.visits (id integer PRIMARY KEY, email ext.citext)",
         "ALTER TABLE public.visits REPLICA IDENTITY FULL",
         "INSERT INTO public.users VALUES ('a@x')", "INSERT INTO public.visits VALUES (1, 'A@x')"],
    )  # fmt: skip
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "10_tables.sql").write_text(
        "CREATE TABLE IF NOT EXISTS shop.counts (email ext.citext PRIMARY KEY, n bigint)"
    )
    migration = Migration("meant", old="public", new="shop", sql=tmp_path, way_back=False)
    source = Query(
        BY_EMAIL.format(joined),
        key=["email"],
        depends_on={"users": ["email"], "visits": Lookup(VISITS.format(looked_up))},
    )
    migration.transform(source=source, into="counts", name="count")(dict)
    found = [each for each in await preflight(make_settings(contrib), migration) if each.outcome == "fail"]
    assert len(found) == bool(wrong), found
    if wrong:
        said = f"{found[0].detail} {found[0].remedy}"
        assert wrong in said
        assert "OPERATOR(ext.=)" in said
