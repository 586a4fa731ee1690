"""One row's error is one row's error in every step: looking up, writing in parts, waiting constraints, deleting."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replicator import Lookup, Migration, Query, Row
from replicator.apply import parts
from replicator.apply.rederiving import rederiving
from replicator.errors import DefinitionError, RetryableError
from replicator.pipeline.repair import repair
from replicator.postgres.control.rederivations import Rederivation
from replicator.postgres.session.connect import connection
from tests.engine import Engine, differences, engine, execute, make_settings
from tests.fix_postgres import Database

pytestmark = pytest.mark.one_server

OLD = """
CREATE TABLE parents (id integer PRIMARY KEY, divisor integer NOT NULL DEFAULT 1, name text NOT NULL DEFAULT 'n');
CREATE TABLE children (id integer PRIMARY KEY, parent integer NOT NULL, note text NOT NULL DEFAULT 'n');
"""


def entries(dsn: str) -> dict[tuple[str, str], str]:
    """What stands in quarantine: by transform and key, the error."""
    with psycopg.connect(dsn) as target:
        rows = target.execute("SELECT transform, source_key, error FROM _replicator.quarantine").fetchall()
    return {(transform, key): error for transform, key, error in rows}


def keys(*numbers: int, transform: str = "thing") -> set[tuple[str, str]]:
    return {(transform, json.dumps([str(number)])) for number in numbers}


async def restarted(made: Engine) -> None:
    """As after a crash."""
    await made.stop()
    await made.start()
    await made.drain()


async def standing(made: Engine) -> set[tuple[str, str]]:
    """What stands, once memory and table have been found to say the same."""
    found = set(entries(made.target_dsn))
    assert {(name, json.dumps(key)) for name, key in made.running.context.quarantined} == found
    return found


def into(folder: Path, ddl: str, migration_name: str = "things") -> Migration:
    (folder / "new").mkdir()
    (folder / "new" / "10_tables.sql").write_text("CREATE SCHEMA IF NOT EXISTS shop;" + ddl)
    return Migration(migration_name, old="public", new="shop", sql=folder)


# ---- looking up

FAMILIES = """
SELECT c.id, p.name, c.note FROM public.children AS c JOIN public.parents AS p ON p.id = c.parent
"""
LOOKUPS = {
    "a value that is none": "SELECT c.id FROM public.children AS c "
    "WHERE c.parent = %(id)s::int AND 1 / %(divisor)s::int < 9",
    "one of the rows that it reads": """
        SELECT c.id FROM public.children AS c JOIN public.parents AS p ON p.id = c.parent
        WHERE p.id = %(id)s::int AND CASE WHEN p.divisor = 0 THEN (c.id / p.divisor) ELSE 1 END = 1
    """,
    "a key out of range": "SELECT c.id + CASE WHEN %(divisor)s::int = 0 THEN 3000000000 ELSE 0 END "
    "FROM public.children AS c WHERE c.parent = %(id)s::int",
}


def families(folder: Path, lookup: str) -> Migration:
    migration = into(folder, "CREATE TABLE IF NOT EXISTS shop.families (id integer PRIMARY KEY, name text, note text);")
    depends_on: dict[str, Any] = {"children": ["id"], "parents": Lookup(lookup)}

    @migration.transform(source=Query(FAMILIES, key=["id"], depends_on=depends_on), into="families", name="family")
    def family(old: Row) -> dict[str, Any]:
        return dict(old)

    return migration


@pytest.mark.parametrize("lookup", LOOKUPS)
async def test_a_lookup_that_fails_for_a_changed_row_loses_nothing(
    database: Database, tmp_path: Path, lookup: str
) -> None:
    """Which keys it would have found, nobody knows: so all of its source are read again, and no row is left stale."""
    execute(database.dsn, [
        OLD, "ALTER TABLE parents REPLICA IDENTITY FULL",
        "INSERT INTO parents SELECT i FROM generate_series(1, 9) i",
        "INSERT INTO children SELECT i, 1 + i %% 9 FROM generate_series(1, 90) i".replace("%%", "%"),
    ])  # fmt: skip
    async with engine(database, families(tmp_path, LOOKUPS[lookup])) as made:
        await made.backfill()
        execute(database.dsn, ["UPDATE parents SET divisor = 0, name = 'zero' WHERE id = 3"])
        await made.drain()
        assert await differences(made) == []
        execute(database.dsn, [
            "UPDATE parents SET name = 'nil' WHERE id = 3", "UPDATE parents SET name = 'other' WHERE id = 4",
            "UPDATE children SET note = 'x' WHERE id = 5",
        ])  # fmt: skip
        await restarted(made)
        assert await differences(made) == []
        execute(database.dsn, ["UPDATE parents SET divisor = 1, name = 'one' WHERE id = 3"])
        await made.drain()
        assert await differences(made) == []
        assert await standing(made) == set()


async def test_a_lookup_that_fails_without_any_row_is_no_rows(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, [OLD, "CREATE TABLE helpers (parent integer)", "INSERT INTO parents VALUES (1)"])
    lookup = "SELECT c.id FROM public.children AS c JOIN public.helpers AS h USING (parent) WHERE parent = %(id)s::int"
    async with engine(database, families(tmp_path, lookup)) as made:
        await made.backfill()
        execute(database.dsn, ["DROP TABLE helpers", "UPDATE parents SET name = 'x'"])
        assert isinstance(await made.failure(), DefinitionError)
        await made.stop()
        execute(database.dsn, ["CREATE TABLE helpers (parent integer)"])
        await made.start()
        await made.drain()
        assert await differences(made) == []


# ---- constraints that wait for the end of a large transaction

THINGS = """
CREATE TABLE IF NOT EXISTS shop.things (id integer PRIMARY KEY, what text NOT NULL, code integer NOT NULL);
ALTER TABLE shop.things DROP CONSTRAINT IF EXISTS code;
ALTER TABLE shop.things ADD CONSTRAINT code UNIQUE (code) DEFERRABLE INITIALLY DEFERRED;
CREATE TABLE IF NOT EXISTS shop.codes (id integer PRIMARY KEY, thing integer NOT NULL);
ALTER TABLE shop.codes DROP CONSTRAINT IF EXISTS of_a_thing;
ALTER TABLE shop.codes ADD CONSTRAINT of_a_thing FOREIGN KEY (thing) REFERENCES shop.things DEFERRABLE;
"""
LARGE = int(os.environ.get("REPLICATOR_TEST_LARGE", "700"))
"""Rows of a large transaction: with more than 20,000 it is one as it is, else what is large is brought down."""

BOTH = """
CREATE TABLE things (id integer PRIMARY KEY, what text NOT NULL, code integer NOT NULL);
CREATE TABLE codes (id integer PRIMARY KEY, thing integer NOT NULL);
"""


def things(folder: Path) -> Migration:
    migration = into(folder, THINGS)

    @migration.transform(source="codes", into="codes")
    def code(old: Row) -> dict[str, Any]:
        return dict(old)

    @migration.transform(source="things", into="things")
    def thing(old: Row) -> dict[str, Any]:
        return dict(old)

    return migration


async def test_what_waits_for_the_end_of_a_large_transaction(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many rows it has, who violates the constraint is found; those that only seemed to are written."""
    rows = LARGE
    if rows < parts.MOST_KEYS:
        monkeypatch.setattr(parts, "MOST_KEYS", 100)
        monkeypatch.setattr(parts, "AT_ONCE", 50)
    execute(database.dsn, [BOTH, "INSERT INTO things SELECT i, 'old', -i FROM generate_series(1, 5) i"])
    async with engine(database, things(tmp_path), batch_rows=5_000 if rows > 5_000 else 60) as made:
        await made.backfill()
        execute(database.dsn, [
            f"INSERT INTO codes SELECT i, i FROM generate_series(1, {rows}, 70) i", "INSERT INTO codes VALUES (2, 6)",
            f"INSERT INTO things SELECT i, 'new', i FROM generate_series(10, {rows}) i",
            f"UPDATE things SET code = CASE id WHEN 10 THEN {rows - 1} ELSE 10 END WHERE id IN (10, {rows - 1})",
            "UPDATE things SET code = 33 WHERE id = 650", "DELETE FROM things WHERE id = 2",
        ])  # fmt: skip
        await made.drain()
        found = await standing(made)
        assert found in [keys(2, transform="code") | keys(each) for each in (33, 650)]
        with psycopg.connect(database.dsn) as target:
            assert target.execute("SELECT count(*) FROM shop.things").fetchone() == (rows - 9 + 4 - 1,)
        await restarted(made)
        assert await standing(made) == found
        execute(database.dsn, ["UPDATE things SET code = -id WHERE id IN (33, 650)", "DELETE FROM codes WHERE id = 2"])
        await made.drain()
        assert await standing(made) == set()
        assert await differences(made) == []


# ---- what is written all the same, and what is undone

SHARED = """
CREATE TABLE IF NOT EXISTS shop.things (
    code integer PRIMARY KEY, what text NOT NULL CONSTRAINT fine CHECK (what NOT LIKE 'bad%')
);
"""


def shared(folder: Path) -> Migration:
    """Each thing gives the row of its code, so that two may give one."""
    migration = into(folder, SHARED)

    @migration.transform(source="things", into="things")
    def thing(old: Row) -> dict[str, Any]:
        return {"code": old["code"], "what": old["what"]}

    return migration


async def test_a_row_that_is_written_all_the_same_is_not_quarantined(database: Database, tmp_path: Path) -> None:
    """It clashed with another one, which was refused in turn, for a reason of its own."""
    execute(database.dsn, [BOTH])
    async with engine(database, shared(tmp_path)) as made:
        await made.backfill()
        execute(database.dsn, ["INSERT INTO things VALUES (1, 'bad', 7), (2, 'good', 7), (3, 'good', 8)"])
        await made.drain()
        assert await standing(made) == keys(1)
        assert await differences_of_good_rows(made) == [(7, "good"), (8, "good")]
        execute(database.dsn, ["UPDATE things SET what = 'mended', code = 9 WHERE id = 1"])
        await made.drain()
        assert await standing(made) == set()
        assert await differences(made) == []


async def differences_of_good_rows(made: Engine) -> list[tuple[int, str]]:
    with psycopg.connect(made.target_dsn) as target:
        return target.execute("SELECT code, what FROM shop.things ORDER BY 1").fetchall()


async def tried_in_vain(made: Engine) -> None:
    async with made.running.writing() as work:
        await work.derive_again({"things": {("1",)}})
        assert {key for _, key in made.running.context.quarantined} == {("2",)}
        raise RetryableError("somebody else was in the way")


async def test_what_is_undone_is_undone_in_memory_too(database: Database, tmp_path: Path) -> None:
    """Else a gate would open, or stay shut, for what the table does not say."""
    execute(database.dsn, [BOTH, "INSERT INTO things VALUES (1, 'bad', 1), (2, 'bad', 2), (3, 'fine', 3)"])
    async with engine(database, shared(tmp_path)) as made:
        await made.backfill()
        assert await standing(made) == keys(1, 2)
        context = made.running.context
        object.__setattr__(context.plan.transforms[0], "function", lambda row: {"code": row["code"], "what": "fine"})
        with pytest.raises(RetryableError):
            await tried_in_vain(made)
        assert await standing(made) == keys(1, 2)
        async with made.running.writing() as work:
            await work.derive_again({"things": {("1",)}})
            savepoint = await work.savepoint("test")
            object.__setattr__(context.plan.transforms[0], "function", lambda _: 1 / 0)
            await work.derive_again({"things": {("2",), ("3",)}})
            assert {key for _, key in context.quarantined} == {("2",), ("3",)}
            await savepoint.back()
            assert work.outcome.failures == []
        assert await standing(made) == keys(2)


# ---- generated columns, and what is derived again

VIRTUAL = "GENERATED ALWAYS AS (100 / divisor) VIRTUAL"


async def test_a_generated_column_that_fails_for_a_row(database: Database, tmp_path: Path) -> None:
    """On the target when it is written; a virtual one, on the source, whenever the row is read."""
    virtual = database.version >= 18
    execute(database.dsn, [
        "CREATE TABLE things (id integer PRIMARY KEY, divisor integer NOT NULL)",
        f"ALTER TABLE things ADD COLUMN q integer {VIRTUAL if virtual else ''}",
        "INSERT INTO things (id, divisor) SELECT i, i % 5 FROM generate_series(1, 9) i",
        "CREATE TABLE parts (id integer PRIMARY KEY, thing integer)", "INSERT INTO parts VALUES (1, 1)",
    ])  # fmt: skip
    migration = into(
        tmp_path,
        "CREATE TABLE IF NOT EXISTS shop.things (id integer PRIMARY KEY, divisor integer NOT NULL, "
        "r integer GENERATED ALWAYS AS (100 / divisor) STORED);"
        "CREATE TABLE IF NOT EXISTS shop.parts (id integer PRIMARY KEY, thing integer);",
    )

    @migration.transform(source="things", into="things")
    def thing(old: Row) -> dict[str, Any]:
        return {"id": old["id"], "divisor": old["divisor"]}

    depends_on: dict[str, Any] = {"parts": ["id"], "things": Lookup("SELECT id FROM public.parts WHERE thing = %(id)s")}

    @migration.transform(source=Query("SELECT id, thing FROM public.parts", key=["id"], depends_on=depends_on),
                         into="parts", name="part")  # fmt: skip
    def part(old: Row) -> dict[str, Any]:
        return dict(old)

    async with engine(database, migration) as made:
        await made.backfill()
        assert await standing(made) == keys(5)
        execute(database.dsn, ["UPDATE things SET divisor = CASE id WHEN 2 THEN 9 ELSE 0 END WHERE id < 4"])
        await made.drain()
        assert await standing(made) == keys(1, 3, 5)
        plan, at = made.running.context.plan, datetime(2026, 1, 1, tzinfo=UTC)
        entries_again = [
            Rederivation(pipeline="forward", what="row", name="things", key=(str(key),), dated=at) for key in (1, 2, 3)
        ]  # fmt: skip
        async with connection(database.dsn, "test", text=True) as reader:
            again = await rederiving(entries_again, plan, reader)
        assert again.dirty["things"] == {("1",), ("2",), ("3",)}
        assert again.dirty_all == (plan.sources.keys() - {"things"} if virtual else set())
        execute(database.dsn, ["UPDATE things SET divisor = 1 WHERE divisor = 0"])
        await restarted(made)
        assert await standing(made) == set()
        assert await differences(made) == []


# ---- repairs

FAMILY = """
CREATE TABLE IF NOT EXISTS shop.parents (id integer PRIMARY KEY);
CREATE TABLE IF NOT EXISTS shop.children (id integer PRIMARY KEY, parent integer NOT NULL);
ALTER TABLE shop.children DROP CONSTRAINT IF EXISTS of_a_parent;
ALTER TABLE shop.children ADD CONSTRAINT of_a_parent FOREIGN KEY (parent) REFERENCES shop.parents {};
CREATE TABLE IF NOT EXISTS shop.others (id integer PRIMARY KEY, parent integer REFERENCES shop.parents {});
"""


@pytest.mark.parametrize("deferrable", ["", "DEFERRABLE"])
async def test_a_row_that_a_repair_cannot_delete_keeps_no_other_from_it(
    database: Database, tmp_path: Path, deferrable: str
) -> None:
    """Children go before their parents; what others hold on to stays, and goes on diverging."""
    execute(database.dsn, ["CREATE TABLE parents (id integer PRIMARY KEY)", "INSERT INTO parents VALUES (1)",
                           "CREATE TABLE children (id integer PRIMARY KEY, parent integer NOT NULL)"])  # fmt: skip
    migration = into(tmp_path, FAMILY.format(deferrable, deferrable))

    @migration.transform(source="parents", into="parents", name="parent")
    def parent(old: Row) -> dict[str, Any]:
        return dict(old)

    @migration.transform(source="children", into="children", name="child")
    def child(old: Row) -> dict[str, Any]:
        return dict(old)

    async with engine(database, migration) as made:
        await made.backfill()
        execute(database.dsn, [
            "SET LOCAL session_replication_role = replica", "ALTER TABLE shop.parents DISABLE TRIGGER USER",
            "ALTER TABLE shop.children DISABLE TRIGGER USER", "INSERT INTO shop.parents VALUES (7), (8), (9)",
            "INSERT INTO shop.children VALUES (70, 7)", "INSERT INTO shop.others VALUES (90, 9)",
        ])  # fmt: skip
        verifier = made.running.verifier
        await verifier.open()
        found = (await made.within(verifier.full_pass())).divergences
        assert {each.key for each in found} == {("7",), ("8",), ("9",), ("70",)}
        assert await repair(made.running, found, "test", emptying=True) == 3
        found = (await made.within(verifier.full_pass())).divergences
        assert {each.key for each in found} == {("9",)}
        execute(database.dsn, ["DELETE FROM shop.others"])
        assert await repair(made.running, found, "test", emptying=True) == 1
        assert await differences(made) == []


# ---- the way back

OLD_PEOPLE = """
CREATE FUNCTION fine(name text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
    IF name = 'raise' THEN RAISE EXCEPTION 'a secret value' USING ERRCODE = 'QT001'; END IF;
    RETURN 1 / length(name) >= 0;
END $$;
CREATE TABLE people (id integer PRIMARY KEY, name text NOT NULL CHECK (fine(name)), code integer);
ALTER TABLE people ADD CONSTRAINT code UNIQUE (code) DEFERRABLE INITIALLY DEFERRED;
"""


async def test_on_the_way_back_too(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one transaction larger than what memory holds of it: each bad row is found, and no other."""
    monkeypatch.setattr(parts, "MOST_KEYS", 50)
    monkeypatch.setattr(parts, "AT_ONCE", 20)
    execute(database.dsn, [OLD_PEOPLE])
    migration = into(
        tmp_path, "CREATE TABLE IF NOT EXISTS shop.people (id bigint PRIMARY KEY, name text, code integer);"
    )

    @migration.transform(source="people", into="people")
    def person(old: Row) -> dict[str, Any]:
        return dict(old)

    @migration.reverse(source="people", into="people", key=lambda new: new["id"])
    def old_person(new: Row) -> dict[str, Any]:
        return {"id": new["id"], "name": new["name"], "code": new["code"]}

    made = Engine(make_settings(database, batch_rows=30), migration, "reverse")
    await made.make_tables()
    await made.set_up_slot()
    try:
        await made.start()
        passing = "SELECT set_config('replicator.pass', pass, false) FROM _replicator.secrets"
        execute(database.dsn, [
            passing, "INSERT INTO shop.people SELECT i, 'p' || i, i FROM generate_series(1, 200) i",
            "UPDATE shop.people SET name = 'raise' WHERE id = 3", "UPDATE shop.people SET name = '' WHERE id = 50",
            "UPDATE shop.people SET code = 40 WHERE id = 190", "UPDATE shop.people SET name = NULL WHERE id = 120",
            "INSERT INTO shop.people VALUES (3000000000, 'far', 777)",
        ])  # fmt: skip
        await made.drain()
        bad = await standing(made)
        assert bad - keys(40, 190, transform="old_person") == keys(3, 50, 120, 3000000000, transform="old_person")
        assert len(bad) == 5
        with psycopg.connect(database.dsn) as old:
            assert old.execute("SELECT count(*) FROM people").fetchone() == (200 - 4,)
        await restarted(made)
        assert await standing(made) == bad
        execute(database.dsn, [
            passing, "DELETE FROM shop.people WHERE id = 3000000000",
            "UPDATE shop.people SET name = 'mended', code = -id WHERE id IN (3, 40, 50, 120, 190)",
        ])  # fmt: skip
        await made.drain()
        assert await standing(made) == set()
        assert await differences(made) == []
    finally:
        await made.stop()
