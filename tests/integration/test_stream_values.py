"""What the log leaves out or bends is read again; all else arrives as it is, by backfill and stream alike."""

from pathlib import Path
from typing import Any

import psycopg

from replicator import Migration, Row
from tests.engine import differences, engine, execute
from tests.fix_postgres import Database

COLUMNS = (
    "id integer PRIMARY KEY, n numeric, f double precision, r real, b bytea, big text, doc jsonb, raw json, "
    'list text[], at timestamptz, day date, span interval, u uuid, flag boolean, i8 bigint, "Odd, ""N""" text'
)
VALUES = (
    "'NaN', 'Infinity', '-Infinity', '\\x00ff', repeat('x', 10), '{\"a\": 1.10}', '{\"a\":1, \"a\":2}', "
    "'{\"a,b\",NULL,\"\"}', 'infinity', '0044-03-15 BC', '1 mon -3 days', "
    "'00000000-0000-0000-0000-00000000000A', true, "
    "-9223372036854775808, 'tab\\t \\\\ \"quoted\" ü'"
)


def same(folder: Path) -> Migration:
    (folder / "new").mkdir()
    (folder / "new" / "10_tables.sql").write_text(
        f"CREATE SCHEMA IF NOT EXISTS store; CREATE TABLE IF NOT EXISTS store.vals ({COLUMNS});"
    )
    migration = Migration("same", old="public", new="store", sql=folder)

    @migration.transform(source="vals", into="vals", key=lambda old: old["id"])
    def val(old: Row) -> dict[str, Any]:
        return dict(old)

    return migration


def insert(number: int, big: str = "'small'") -> str:
    return (
        f"INSERT INTO vals SELECT {number}, 12345678901234567890.12345678901234567890, 0.1, 1e-30, '\\x5c78', {big}, "
        "'{\"k\": [1e400, \"\\u00fc\"]}', '[1 , 2]', '{{1,2},{3,4}}', "
        "'2026-01-01 00:00:00.123456+05:30', '2026-02-03', '-1 year 2 mons', gen_random_uuid(), false, 1, ''"
    )


BIG = "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 2000) i)"
"""Too long and too random to be kept in the row: stored out of line."""


async def test_every_value_arrives_as_it_is(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, [f"CREATE TABLE vals ({COLUMNS})", insert(1), f"INSERT INTO vals SELECT 2, {VALUES}"])
    async with engine(database, same(tmp_path)) as made:
        await made.backfill()
        assert await differences(made) == []
        execute(database.dsn, [insert(11), f"INSERT INTO vals SELECT 12, {VALUES}"])
        execute(
            database.dsn,
            ["INSERT INTO vals (id) VALUES (13)", "UPDATE vals SET n = 'NaN', f = '-Infinity' WHERE id = 1"],
        )
        await made.drain()
        assert await differences(made) == []
        with psycopg.connect(database.dsn) as target:
            row = target.execute("SELECT n::text, f::text, r::text FROM store.vals WHERE id = 12").fetchone()
            assert row == ("NaN", "Infinity", "-Infinity")
            assert target.execute("SELECT n, f, r FROM store.vals WHERE id = 13").fetchone() == (None, None, None)


async def test_out_of_line_values_that_an_update_does_not_touch(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, [f"CREATE TABLE vals ({COLUMNS})"])
    async with engine(database, same(tmp_path)) as made:
        await made.backfill()
        for identity in ("DEFAULT", "FULL"):
            execute(database.dsn, [f"ALTER TABLE vals REPLICA IDENTITY {identity}", "DELETE FROM vals", insert(1, BIG)])
            await made.drain()
            execute(database.dsn, ["UPDATE vals SET flag = true"])
            execute(database.dsn, ["UPDATE vals SET id = 2, i8 = 5"])
            execute(database.dsn, ["UPDATE vals SET i8 = 6", "UPDATE vals SET i8 = 7"])
            await made.drain()
            assert await differences(made) == [], identity
            with psycopg.connect(database.dsn) as target:
                row = target.execute("SELECT id, length(big), i8, flag FROM store.vals").fetchone()
                assert row == (2, 64_000, 7, True), identity


async def test_a_row_that_is_gone_when_it_is_read_again(database: Database, tmp_path: Path) -> None:
    """The update leaves its value out, and by the time it is asked for, the row is deleted."""
    execute(database.dsn, [f"CREATE TABLE vals ({COLUMNS})", insert(1, BIG), insert(2, BIG)])
    async with engine(database, same(tmp_path)) as made:
        await made.backfill()
        await made.stop()
        execute(database.dsn, ["UPDATE vals SET flag = true"])
        execute(database.dsn, ["DELETE FROM vals WHERE id = 1"])
        execute(database.dsn, ["UPDATE vals SET id = 3 WHERE id = 2"])
        await made.start()
        await made.drain()
        assert await differences(made) == []
        assert made.running.context.quarantined == set()
