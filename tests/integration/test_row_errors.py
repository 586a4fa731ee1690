"""One row's error is one row's error: whatever its class or SQLSTATE, it is quarantined, and the rest goes on."""

import asyncio
import hashlib
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import psycopg
import pytest

from replicator import ALL, Migration, Query, Row
from replicator.errors import DatabaseError, RowError
from replicator.pipeline.repair import repairing
from replicator.values import as_json
from tests.engine import differences, engine, execute
from tests.fix_postgres import Database

pytestmark = pytest.mark.one_server

OLD = "CREATE TABLE things (id integer PRIMARY KEY, what text NOT NULL, document json);"
NEW = """
CREATE SCHEMA IF NOT EXISTS shop;
CREATE TABLE IF NOT EXISTS shop.things (
    id integer PRIMARY KEY, what text NOT NULL, document text, number numeric(6, 2)
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


def raises(error: Exception) -> NoReturn:
    raise error


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
    "an odd column": given(**{"nix\0\ud800": 1}),
    "an odd exception": lambda _: raises(type("Odd\0\ud800", (Exception,), {})()),
    "no key": lambda _: {"what": "x"},
    "overflow": given(number=10.0**300),
    "a key that is none": lambda _: {"id": "one\0", "what": "x"},
    "too long a number": given(number=int("9" * 5_000) if hasattr(int, "no") else 10**5_000),
}
"""What transforms do, by the text of the row."""


def things(folder: Path, ddl: str = "") -> Migration:
    """Copies things; of some it makes what their text says."""
    (folder / "new").mkdir()
    (folder / "new" / "10_tables.sql").write_text(NEW + ddl)
    migration = Migration("things", old="public", new="shop", sql=folder)

    @migration.transform(source="things", into="things")
    def thing(old: Row) -> Any:
        make: Bad = TRANSFORMS.get(old["what"], as_it_is)
        return make(old)

    return migration


def as_it_is(row: Row) -> dict[str, Any]:
    return {"id": row["id"], "what": row["what"], "number": row["id"]}


def wide(row: Row) -> dict[str, Any]:
    """With a text that does not compress."""
    parts = (hashlib.sha256(bytes([number])).hexdigest() for number in range(200))
    return as_it_is(row) | {"document": "".join(parts)}


REFUSALS: dict[str, Bad] = {
    **{f"raise {state}": as_it_is for state in ("P0001", "42501", "42P01", "40001", "53400", "57014")},
    "raise RP001": as_it_is,
    "raise ZZ999": as_it_is,
    "an undefined table": as_it_is,
    "an undefined function": as_it_is,
    "an index row that is too large": wide,
    "a number twice, at the end of the transaction": lambda row: as_it_is(row) | {"number": 1},
}
"""What the target refuses, and its transform."""

FUNCTION = f"""
    CREATE OR REPLACE FUNCTION shop.fine(what text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
        IF what LIKE 'raise %' THEN RAISE EXCEPTION '{SECRET}' USING ERRCODE = substr(what, 7); END IF;
        IF what = 'an undefined table' THEN PERFORM 1 FROM nowhere; END IF;
        IF what = 'an undefined function' THEN PERFORM nothing(what); END IF;
        RETURN true;
    END $$;
    ALTER TABLE shop.things DROP CONSTRAINT IF EXISTS fine;
    ALTER TABLE shop.things ADD CONSTRAINT fine CHECK (shop.fine(what));
    ALTER TABLE shop.things DROP CONSTRAINT IF EXISTS numbered;
    ALTER TABLE shop.things ADD CONSTRAINT numbered UNIQUE (number) DEFERRABLE INITIALLY DEFERRED;
    CREATE INDEX IF NOT EXISTS wide ON shop.things (document);
"""


def entries(dsn: str) -> list[tuple[str, str, str]]:
    with psycopg.connect(dsn) as target:
        return target.execute("SELECT transform, source_key, error FROM _replicator.quarantine ORDER BY 2").fetchall()


def ids(dsn: str) -> list[int]:
    with psycopg.connect(dsn) as target:
        return [row[0] for row in target.execute("SELECT id FROM shop.things ORDER BY id")]


def add(dsn: str, whats: Iterable[str], start: int) -> dict[str, str]:
    """In one transaction, one bad row of each kind among good ones; gives the quarantined keys with their kinds."""
    kinds = dict(enumerate(whats, start + 1))
    with psycopg.connect(dsn) as old:
        old.execute(
            "INSERT INTO things SELECT i, 'good' FROM generate_series(%s::integer, %s::integer) i",
            [start + 100, start + 200],
        )
        for number, what in kinds.items():
            old.execute("INSERT INTO things VALUES (%s, %s)", [number, what])
    return {f'["{number}"]': what for number, what in kinds.items()}


MANY = "INSERT INTO things SELECT i, 'good' FROM generate_series(1, 9) i"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("bad", [TRANSFORMS, REFUSALS], ids=["transform", "target"])
async def test_whatever_goes_wrong_with_a_row_is_the_rows(
    database: Database, tmp_path: Path, bad: dict[str, Bad], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a chunk, in the stream, in the verifier, and when it is tried again."""
    monkeypatch.setattr(sys.modules[__name__], "TRANSFORMS", bad)
    execute(database.dsn, [OLD, MANY])
    refused = add(database.dsn, bad, 1_000)
    async with engine(database, things(tmp_path, FUNCTION), batch_rows=500) as made:
        await made.backfill()
        assert {key: refused.get(key) for _, key, _ in entries(database.dsn)} == refused
        refused |= add(database.dsn, bad, 2_000)
        await made.drain()
        execute(database.dsn, ["UPDATE things SET what = what", "UPDATE things SET what = 'fine' WHERE id = 8"])
        await made.drain()
        assert {key: refused.get(key) for _, key, _ in entries(database.dsn)} == refused
        assert not [error for _, _, error in entries(database.dsn) if SECRET in error]
        await made.running.verifier.open()
        assert (await made.within(made.running.verifier.full_pass())).divergences == []
        async with repairing(made.running) as work:
            await work.derive_again({"things": {(json.loads(key)[0],) for key in refused}})
        assert {key: refused.get(key) for _, key, _ in entries(database.dsn)} == refused
        execute(database.dsn, ["UPDATE things SET what = 'mended' WHERE what <> 'good'"])
        await made.drain()
        assert entries(database.dsn) == []
        assert await differences(made) == []


async def test_what_comes_without_any_row_is_no_rows(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, [OLD, MANY])
    async with engine(database, things(tmp_path)) as made:
        await made.backfill()
        execute(database.dsn, ["ALTER TABLE shop.things RENAME COLUMN what TO which", "UPDATE things SET what = 'x'"])
        error = await made.failure()
        assert "not what it was" in str(error)
        assert entries(database.dsn) == []


async def test_what_every_row_meets_is_no_rows(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, [OLD])
    broken = FUNCTION.replace("what = 'an undefined function'", "what = 'good'")
    async with engine(database, things(tmp_path, broken), batch_rows=1_000) as made:
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


@pytest.mark.parametrize("state", ["QT001", "42501"])
async def test_what_a_function_raises_for_many_rows_is_theirs(database: Database, tmp_path: Path, state: str) -> None:
    """Its author has judged them, in whichever words: that no other row comes with them says nothing."""
    execute(database.dsn, [OLD])
    async with engine(database, things(tmp_path, FUNCTION), batch_rows=1_000) as made:
        await made.backfill()
        execute(database.dsn, [f"INSERT INTO things SELECT i, 'raise {state}' FROM generate_series(1, 150) i"])
        await made.drain()
        assert len(entries(database.dsn)) == 150
        execute(database.dsn, ["UPDATE things SET what = 'mended'"])
        await made.drain()
        assert entries(database.dsn) == []
        assert await differences(made) == []


QUOTIENTS = "SELECT id, CASE what WHEN 'bad' THEN 1 / (id - id) ELSE 1 END AS quotient, what FROM public.things"


async def test_what_a_query_cannot_give_is_the_rows(database: Database, tmp_path: Path) -> None:
    """Read by range, by key, and all at once; and by the verifier."""
    execute(database.dsn, [OLD, MANY.replace("9)", "600)"), "UPDATE things SET what = 'bad' WHERE id = 7"])
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
    async with engine(database, things(tmp_path)) as made:
        await made.backfill()
        await made.running.verifier.open()
        plan = made.running.context.plan
        object.__setattr__(plan.transforms[0], "function", lambda row: as_it_is(row) | {"number": row["what"]})
        found = (await made.within(made.running.verifier.full_pass())).divergences
        assert {each.key for each in found} == {(str(each),) for each in range(1, 10)}
        assert all("InvalidTextRepresentation" in each.note for each in found)


POISONED = "SELECT id, what FROM public.things WHERE 1 / CASE WHEN what = 'bad' THEN id - id ELSE 1 END = 1"


async def test_a_row_for_which_the_condition_of_a_query_fails(database: Database, tmp_path: Path) -> None:
    """Whoever looks at it on the way to others fails too: these are read past it, in chunks, by key, and as a whole."""
    execute(database.dsn, [OLD, MANY, "UPDATE things SET what = 'bad' WHERE id = 5", "ANALYZE things"])
    async with engine(database, conditional(tmp_path, {"things": ["id"]}), chunk_rows=3) as made:
        await made.backfill()
        assert [key for _, key, _ in entries(database.dsn)] == ['["5"]']
        assert ids(database.dsn) == [1, 2, 3, 4, 6, 7, 8, 9]
        verifier = made.running.verifier
        await verifier.open()
        change = "UPDATE things SET what = CASE id WHEN 7 THEN 'bad' ELSE 'fine' END WHERE id IN (3, 5, 7, 9)"
        execute(database.dsn, [change])
        await made.drain()
        assert [key for _, key, _ in entries(database.dsn)] == ['["7"]']
        (found,) = (await made.within(verifier.full_pass())).divergences
        assert "cannot be read as a whole" in found.note
        assert "DivisionByZero" in found.note
        execute(database.dsn, ["UPDATE things SET what = 'mended' WHERE id = 7"])
        await made.drain()
        assert entries(database.dsn) == []
        assert not verifier.clean, "rows may have been missed"
        assert (await made.within(verifier.full_pass())).divergences == []
        assert made.running.verifier.clean
        assert await differences(made) == []


async def test_a_query_that_fails_for_a_row_that_nothing_leads_to(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, [OLD, MANY, "UPDATE things SET what = 'bad' WHERE id = 5"])
    async with engine(database, conditional(tmp_path, {"things": ALL}), chunk_rows=3) as made:
        with pytest.raises(RowError, match="nobody can say for which"):
            await made.running.backfill()
        execute(database.dsn, ["UPDATE things SET what = 'mended' WHERE id = 5"])
        await made.backfill()
        assert await differences(made) == []


def conditional(folder: Path, depends_on: dict[str, Any]) -> Migration:
    (folder / "new").mkdir()
    (folder / "new" / "10_tables.sql").write_text(NEW)
    migration = Migration("things", old="public", new="shop", sql=folder)

    @migration.transform(source=Query(POISONED, key=["id"], depends_on=depends_on), into="things")
    def thing(old: Row) -> Any:
        return {"id": old["id"], "what": old["what"]}

    return migration
