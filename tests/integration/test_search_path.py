"""What our SQL names is Postgres' own or has its schema: nothing planted runs, and no type is compared wrongly."""

from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import pytest

from replicator import Migration, Query, Row
from replicator.phases import COMPLETION, OPENING
from replicator.preflight import preflight
from tests.fix_postgres import Database
from tests.integration.test_cutover import daemon, one
from tests.planting import CALLED, plant
from tests.roles import Roles, readme_roles

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
        await running.session.moves.run(OPENING, running.report)
        await write(roles, "shop")
        await write(roles, "public")
        await running.session.moves.run(COMPLETION, running.report)
    assert not called()


async def write(roles: Roles, schema: str) -> None:
    with roles.connect(roles.app) as app:
        app.execute("SET search_path = pg_catalog")
        for each in WRITES:
            app.execute(each.format(schema).encode())
