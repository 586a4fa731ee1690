"""One row's error is one row's error: whatever its class or SQLSTATE, it is quarantined, and the rest goes on."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import psycopg
import pytest

from replicator import Migration, Query, Row
from replicator.errors import DatabaseError
from replicator.values import as_json
from tests.engine import differences, engine, execute
from tests.fix_postgres import Database

pytestmark = pytest.mark.one_server

OLD = "CREATE TABLE things (id integer PRIMARY KEY, what text NOT NULL, document json);"
NEW = """
CREATE SCHEMA IF NOT EXISTS shop;
CREATE TABLE IF NOT EXISTS shop.things (
    id integer PRIMARY KEY, what text NOT NULL, document text, number numeric(5, 2)
);
"""
SECRET = "a secret value"

Bad = Callable[[Row], Any]


class Unwritable:
    """A value that has no text."""

    def __str__(self) -> NoReturn:
        raise NotImplementedError(SECRET)


class Wild(dict[str, Any]):
    """A row that cannot be looked at."""

    def items(self) -> NoReturn:
        raise LookupError(SECRET)


class NoError(BaseException):
    """What no ``except Exception`` catches."""

    def __str__(self) -> NoReturn:
        raise SystemExit(SECRET)


def leaves(_: Row) -> NoReturn:
    raise SystemExit(SECRET)


def is_cancelled(_: Row) -> NoReturn:
    raise asyncio.CancelledError(SECRET)


def is_no_error(_: Row) -> NoReturn:
    raise NoError


def recurses(row: Row) -> Any:
    return recurses(row)


def deep(row: Row) -> dict[str, Any]:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    return {"id": row["id"], "what": "deep", "document": nested}


def given(**columns: Any) -> Bad:
    return lambda row: {"id": row["id"], "what": "x", **columns}


TRANSFORMS: dict[str, Bad] = {
    "a NUL in JSON": lambda row: {"id": row["id"], "what": as_json('{"a": "x\\u0000y"}')["a"]},
    "half a surrogate pair": lambda row: {"id": row["id"], "what": as_json('["\\ud800"]')[0]},
    "half a pair in bytes": given(document=["\udfff"]),
    "exit": leaves,
    "cancelled": is_cancelled,
    "no error": is_no_error,
    "recursion": recurses,
    "memory": lambda _: exec("raise MemoryError"),  # noqa: S102
    "a deep value": deep,
    "no text": given(document=Unwritable()),
    "a row that raises": lambda _: Wild(id=1),
    "no row": lambda _: 7,
    "another column": given(nix=1),
    "no key": lambda _: {"what": "x"},
    "overflow": given(number=10.0**300),
    "a key that is none": lambda _: {"id": "one\0", "what": "x"},
    "too long a number": given(number=int("9" * 5_000) if hasattr(int, "no") else 10**5_000),
}
"""Transforms of the row 7."""


def things(folder: Path, bad: Bad, ddl: str = "") -> Migration:
    """Copies things; of the seventh it makes what it is told."""
    (folder / "new").mkdir()
    (folder / "new" / "10_tables.sql").write_text(NEW + ddl)
    migration = Migration("things", old="public", new="shop", sql=folder)

    @migration.transform(source="things", into="things")
    def thing(old: Row) -> Any:
        return bad(old) if old["what"] == "bad" else as_it_is(old)

    return migration


def as_it_is(row: Row) -> dict[str, Any]:
    return {"id": row["id"], "what": row["what"], "number": row["id"]}


def entries(dsn: str) -> list[tuple[str, str, str]]:
    with psycopg.connect(dsn) as target:
        return target.execute("SELECT transform, source_key, error FROM replicator.quarantine ORDER BY 2").fetchall()


def ids(dsn: str) -> list[int]:
    with psycopg.connect(dsn) as target:
        return [row[0] for row in target.execute("SELECT id FROM shop.things ORDER BY id")]


MANY = "INSERT INTO things SELECT i, CASE i WHEN 7 THEN 'bad' ELSE 'good' END FROM generate_series(1, 9) i"


@pytest.mark.parametrize("what", TRANSFORMS)
async def test_what_a_transform_does_is_the_rows(database: Database, tmp_path: Path, what: str) -> None:
    """In a chunk, in the stream, in the verifier, and when it is tried again."""
    execute(database.dsn, [OLD, MANY])
    async with engine(database, things(tmp_path, TRANSFORMS[what])) as made:
        await made.backfill()
        ((transform, key, error),) = entries(database.dsn)
        assert (transform, key) == ("thing", '["7"]')
        assert SECRET not in error
        execute(
            database.dsn, ["UPDATE things SET what = what WHERE id > 5", "UPDATE things SET what = 'n' WHERE id = 8"]
        )
        await made.drain()
        assert len(entries(database.dsn)) == 1
        await made.running.verifier.open()
        assert (await made.within(made.running.verifier.full_pass())).divergences == []
        execute(database.dsn, ["UPDATE things SET what = 'mended' WHERE id = 7"])
        await made.drain()
        assert entries(database.dsn) == []
        assert await differences(made) == []


FUNCTION = """
    CREATE OR REPLACE FUNCTION shop.fine(what text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
        IF what = 'bad' THEN {} END IF; RETURN true;
    END $$;
    ALTER TABLE shop.things DROP CONSTRAINT IF EXISTS fine;
    ALTER TABLE shop.things ADD CONSTRAINT fine CHECK (shop.fine(what));
"""
UNIQUE = """
    ALTER TABLE shop.things DROP CONSTRAINT IF EXISTS numbered;
    ALTER TABLE shop.things ADD CONSTRAINT numbered UNIQUE (number) DEFERRABLE INITIALLY DEFERRED;
"""


def raises(state: str) -> str:
    """A constraint whose function refuses the bad row."""
    return FUNCTION.format(f"RAISE EXCEPTION '{SECRET}' USING ERRCODE = '{state}';")


REFUSED = {
    "P0001": raises("P0001"),
    "21000": raises("21000"),
    "0A000": raises("0A000"),
    "42501": raises("42501"),
    "42P01": raises("42P01"),
    "XX000": raises("XX000"),
    "54000": raises("54000"),
    "RP001": raises("RP001"),
    "ZZ999": raises("ZZ999"),
    "an undefined table": FUNCTION.format("PERFORM 1 FROM nowhere;"),
    "an undefined function": FUNCTION.format("PERFORM nothing(what);"),
    "a stack that overflows": FUNCTION.format("RETURN shop.fine(what);"),
    "an index row that is too large": "CREATE INDEX IF NOT EXISTS wide ON shop.things (document);",
    "at the end of the transaction": UNIQUE,
}


def wide(row: Row) -> dict[str, Any]:
    """As it is, with a text that does not compress."""
    import hashlib

    return as_it_is(row) | {"document": "".join(hashlib.sha256(bytes([i])).hexdigest() for i in range(200))}


def numbered(row: Row) -> dict[str, Any]:
    """With the number of the first one."""
    return as_it_is(row) | {"number": 1}


MAKING = {"an index row that is too large": wide, "at the end of the transaction": numbered}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("halves", [True, False], ids=["backfill", "stream"])
async def test_what_postgres_refuses_is_the_rows(database: Database, tmp_path: Path, what: str, halves: bool) -> None:
    execute(database.dsn, [OLD, MANY] if halves else [OLD])
    async with engine(database, things(tmp_path, MAKING.get(what, as_it_is), REFUSED[what])) as made:
        await made.backfill()
        execute(database.dsn, [MANY] if not halves else ["UPDATE things SET what = what"])
        await made.drain()
        ((transform, key, error),) = entries(database.dsn)
        assert (transform, key) == ("thing", '["7"]')
        assert SECRET not in error
        assert ids(database.dsn) == [1, 2, 3, 4, 5, 6, 8, 9]
        execute(database.dsn, ["UPDATE things SET what = 'mended' WHERE id = 7"])
        await made.drain()
        assert entries(database.dsn) == []
        assert await differences(made) == []


async def test_what_comes_without_any_row_is_no_rows(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, [OLD, MANY])
    async with engine(database, things(tmp_path, as_it_is)) as made:
        await made.backfill()
        execute(database.dsn, ["ALTER TABLE shop.things RENAME COLUMN what TO which", "UPDATE things SET what = 'x'"])
        error = await made.failure()
        assert "not what it was" in str(error)
        assert entries(database.dsn) == []


async def test_what_every_row_meets_is_no_rows(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, [OLD])
    broken = FUNCTION.replace("what = 'bad'", "what <> 'fine'").format("PERFORM nothing(what);")
    async with engine(database, things(tmp_path, as_it_is, broken), batch_rows=1_000) as made:
        await made.backfill()
        execute(database.dsn, ["INSERT INTO things SELECT i, 'good' FROM generate_series(1, 500) i"])
        error = await made.failure()
        assert isinstance(error, DatabaseError)
        assert "every row of shop.things" in str(error)
        assert entries(database.dsn) == []
        await made.stop()
        execute(database.dsn, ["ALTER TABLE shop.things DROP CONSTRAINT fine"])
        await made.start()
        await made.drain()
        assert await differences(made) == []


QUOTIENTS = "SELECT id, CASE what WHEN 'bad' THEN 1 / (id - id) ELSE 1 END AS quotient, what FROM things"


async def test_what_a_query_cannot_give_is_the_rows(database: Database, tmp_path: Path) -> None:
    """Read by range, by key, and all at once; and by the verifier."""
    execute(database.dsn, [OLD, MANY.replace("9)", "600)")])
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "10_tables.sql").write_text(NEW)
    migration = Migration("things", old="public", new="shop", sql=tmp_path)
    query = Query(QUOTIENTS, key=["id"], depends_on={"things": ["id"]})

    @migration.transform(source=query, into="things")
    def thing(old: Row) -> Any:
        return {"id": old["id"], "what": old["what"], "number": old["quotient"]}

    async with engine(database, migration) as made:
        await made.backfill()
        ((_, key, error),) = entries(database.dsn)
        assert (key, "DivisionByZero" in error) == ('["7"]', True)
        execute(database.dsn, ["UPDATE things SET what = what || '' WHERE id IN (3, 6, 7, 8)"])
        await made.drain()
        assert len(entries(database.dsn)) == 1
        assert ids(database.dsn) == [each for each in range(1, 601) if each != 7]
        await made.running.verifier.open()
        assert (await made.within(made.running.verifier.full_pass())).divergences == []
        execute(database.dsn, ["UPDATE things SET what = 'mended' WHERE id = 7"])
        await made.drain()
        assert entries(database.dsn) == []


async def test_a_row_that_the_verifier_cannot_compare_differs(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, [OLD, MANY])
    async with engine(database, things(tmp_path, as_it_is)) as made:
        await made.backfill()
        await made.running.verifier.open()
        plan = made.running.context.plan
        object.__setattr__(plan.transforms[0], "function", lambda row: as_it_is(row) | {"number": row["what"]})
        found = (await made.within(made.running.verifier.full_pass())).divergences
        assert {each.key for each in found} == {(str(each),) for each in range(1, 10)}
        assert all("InvalidTextRepresentation" in each.note for each in found)
