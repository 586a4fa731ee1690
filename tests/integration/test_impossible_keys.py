"""Keys that no row can have: they lead nowhere, need not be deleted, and keep nothing in quarantine."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replicator import Migration, Query, Row
from replicator.core.tables import Column, Name, Table
from replicator.errors import TransformError
from replicator.mapping.derive import TargetRow
from replicator.postgres.rows import given
from replicator.postgres.rows.given import GivenColumns
from replicator.postgres.session.connect import connection
from tests.engine import differences, engine, execute
from tests.fix_postgres import Database

pytestmark = pytest.mark.one_server

LEADING = {
    "bigint to integer": ("bigint", "integer", "3000000000"),
    "a fraction to bigint": ("numeric", "bigint", "1.5"),
    "bigint to numeric": ("bigint", "numeric(4, 1)", "1000"),
    "text to integer": ("text", "integer", "three"),
    "text beyond integer": ("text", "integer", "3000000000"),
    "text to uuid": ("text", "uuid", "none"),
}
"""What a changed row holds, the type of the key that it leads to, and a value that is none of it."""
GOOD = {"uuid": "6f0c3a52-8f8c-4d0e-9d4e-0d6a3f0c1a2b"}


@pytest.mark.parametrize("case", LEADING)
async def test_what_leads_to_no_key_is_no_rows_error(database: Database, tmp_path: Path, case: str) -> None:
    leading, key, bad = LEADING[case]
    good = GOOD.get(key, "7")
    execute(database.dsn, [
        f"CREATE TABLE owners (id {key} PRIMARY KEY, name text)",
        f"CREATE TABLE things (id integer PRIMARY KEY, owner {leading} NOT NULL)",
        "ALTER TABLE things REPLICA IDENTITY FULL", f"INSERT INTO owners VALUES ('{good}', 'n')",
    ])  # fmt: skip
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "10_tables.sql").write_text(
        "CREATE SCHEMA IF NOT EXISTS shop; "
        f"CREATE TABLE IF NOT EXISTS shop.counts (id {key} PRIMARY KEY, things integer);"
    )
    migration = Migration("counts", old="public", new="shop", sql=tmp_path)
    query = Query(
        "SELECT o.id, (SELECT count(*) FROM public.things AS t WHERE t.owner::text = o.id::text) AS things "
        "FROM public.owners AS o",
        key=["id"], depends_on={"owners": ["id"], "things": ["owner"]},
    )  # fmt: skip

    @migration.transform(source=query, into="counts")
    def count(old: Row) -> dict[str, Any]:
        return dict(old)

    async with engine(database, migration) as made:
        await made.backfill()
        execute(database.dsn, [f"INSERT INTO things VALUES (1, '{bad}'), (2, '{good}')"])
        await made.drain()
        assert made.running.context.quarantined == set()
        execute(database.dsn, [f"UPDATE things SET owner = '{bad}' WHERE id = 2"])
        execute(database.dsn, ["DELETE FROM things WHERE id = 1"])
        await made.drain()
        assert made.running.context.quarantined == set()
        assert await differences(made) == []


async def test_what_stood_for_such_a_key_is_resolved_when_it_is_tried_again(database: Database, tmp_path: Path) -> None:
    """An earlier version has put it there."""
    execute(
        database.dsn, ["CREATE TABLE things (id integer PRIMARY KEY, n integer)", "INSERT INTO things VALUES (1, 1)"]
    )
    migration = copying(tmp_path, "id integer PRIMARY KEY, n integer", lambda old: old["id"])
    async with engine(database, migration) as made:
        await made.backfill()
        await made.stop()
        execute(database.dsn, [
            "INSERT INTO _replicator.quarantine (pipeline, transform, source, source_key, error, fingerprint) "
            """VALUES ('forward', 'thing', 'things', '["3000000000"]', 'refused', '')"""
        ])  # fmt: skip
        await made.start()
        await made.drain()
        assert made.running.context.quarantined == set()
        assert await differences(made) == []


def copying(folder: Path, columns: str, key: Callable[[Row], Any] | None) -> Migration:
    (folder / "new").mkdir()
    (folder / "new" / "10_tables.sql").write_text(
        f"CREATE SCHEMA IF NOT EXISTS shop; CREATE TABLE IF NOT EXISTS shop.things ({columns});"
    )
    migration = Migration("things", old="public", new="shop", sql=folder)

    @migration.transform(source="things", into="things", key=key)
    def thing(old: Row) -> dict[str, Any] | None:
        return None if old["n"] == 0 else {"id": old["id"], "n": old["n"]}

    return migration


KEYS: dict[str, tuple[str, str, list[str], Callable[[Row], Any]]] = {
    "out of range": ("bigint", "integer", ["3000000000"], lambda old: old["id"]),
    "too many digits": ("bigint", "numeric(5, 2)", ["1000"], lambda old: old["id"]),
    "no value": ("text", "uuid", ["none"], lambda old: old["id"]),
    "too long": ("text", "varchar(3)", ["abcd"], lambda old: old["id"]),
    "refused by a domain": ("text", "public.short", ["abcd"], lambda old: old["id"]),
    "key= fails": ("text", "text", ["/0"], lambda old: old["id"] if old["id"] != "/0" else 1 / 0),
}
"""The source's key type, the target's, keys that the target cannot hold, and ``key=``."""


@pytest.mark.parametrize("case", KEYS)
async def test_a_row_that_the_target_has_no_key_for(database: Database, tmp_path: Path, case: str) -> None:
    """It is quarantined while it is there; gone, or giving nothing, it is no error: there can be no row to delete."""
    held, holding, bad, key = KEYS[case]
    good = [GOOD["uuid"]] if holding == "uuid" else ["1", "2"]
    execute(database.dsn, [
        "CREATE DOMAIN short AS text CHECK (length(VALUE) < 4)",
        f"CREATE TABLE things (id {held} PRIMARY KEY, n integer)",
        *(f"INSERT INTO things VALUES ('{each}', 1)" for each in good),
        f"INSERT INTO things VALUES ('{bad[0]}', 0)",
    ])  # fmt: skip
    async with engine(database, copying(tmp_path, f"id {holding} PRIMARY KEY, n integer", key)) as made:
        await made.backfill()
        standing = made.running.context.quarantined
        assert standing == set(), "it gives nothing"
        execute(
            database.dsn,
            [f"UPDATE things SET n = 5 WHERE id = '{bad[0]}'", f"UPDATE things SET n = 5 WHERE id = '{good[0]}'"],
        )
        await made.drain()
        assert made.running.context.quarantined == {("thing", (bad[0],))}
        execute(database.dsn, [f"UPDATE things SET n = 0 WHERE id = '{bad[0]}'"])
        await made.drain()
        assert made.running.context.quarantined == set()
        await made.running.verifier.open()
        assert (await made.within(made.running.verifier.full_pass())).divergences == []
        execute(database.dsn, [f"UPDATE things SET n = 6 WHERE id IN ('{bad[0]}', '{good[0]}')"])
        await made.drain()
        assert made.running.context.quarantined == {("thing", (bad[0],))}
        assert (await made.within(made.running.verifier.full_pass())).divergences == []
        await made.stop()
        await made.start()
        execute(database.dsn, [f"DELETE FROM things WHERE id IN ('{bad[0]}', '{good[0]}')"])
        await made.drain()
        assert made.running.context.quarantined == set()
        await made.running.verifier.open()
        assert (await made.within(made.running.verifier.full_pass())).divergences == []
        assert await differences(made) == []
        with psycopg.connect(database.dsn) as target:
            assert target.execute("SELECT count(*) FROM shop.things").fetchone() == (len(good) - 1,)


# ---- columns that are given for some rows only


TABLE = Table(
    name=Name(schema="shop", table="things"),
    columns=tuple(
        Column(name=name, type="integer", type_oid=23, kind="integer") for name in ("id", "first", "second", "fails")
    ),
    key=("id",),
)


def row(key: str, **columns: str) -> TargetRow:
    return TargetRow("thing", (key,), (key,), {"id": key, **columns})


async def test_columns_that_others_come_to_give_meanwhile(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a default is read, another task writes a row that gives one more column."""
    execute(database.dsn, ["CREATE SCHEMA shop", "CREATE TABLE shop.things (id integer, first integer DEFAULT 1, "
                           "second integer DEFAULT 2, fails integer DEFAULT 1 / 0)"])  # fmt: skip
    columns = GivenColumns("forward", None)
    read = given.read_default

    async with connection(database.dsn, "test") as target:
        await columns.complete(target, TABLE, [row("1", first="7")])

        async def slow(*arguments: Any) -> Any:
            monkeypatch.setattr(given, "read_default", read)
            await columns.complete(target, TABLE, [row("2", second="7", first="7")])
            return await read(*arguments)

        monkeypatch.setattr(given, "read_default", slow)
        assert await columns.complete(target, TABLE, [row("3")]) == [row("3", first="1")]
        assert await columns.complete(target, TABLE, [row("3")]) == [row("3", first="1", second="2")]
        found = await columns.complete(target, TABLE, [row("4", fails="1"), row("5")])
        assert isinstance(found[1], TransformError), "its default cannot be written; others are not to blame"
        assert found[0] == row("4", fails="1", first="1", second="2")
        assert json.dumps(["5"]) in str(found[1]).replace("'", '"')
