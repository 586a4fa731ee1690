"""What the log leaves out or bends is read again; all else arrives as it is, by backfill and stream alike."""

import asyncio
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replicator import Migration, Row
from tests.comparing import BEHIND, full_pass
from tests.engine import differences, engine, execute
from tests.fix_postgres import Database, _choices, fresh_database

pytestmark = pytest.mark.every_server

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
    return same_values(folder)


def same_values(folder: Path) -> Migration:
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


WIDTH = 1_600
"""As many columns as Postgres lets a table have."""


async def test_what_a_row_gives_is_remembered_though_its_table_was_emptied_and_it_is_read_again(
    database: Database, tmp_path: Path
) -> None:
    execute(database.dsn, [f"CREATE TABLE vals ({COLUMNS})", insert(1, BIG)])
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "10_tables.sql").write_text(
        f"CREATE SCHEMA IF NOT EXISTS store; CREATE TABLE IF NOT EXISTS store.vals ({COLUMNS});"
    )
    migration = Migration("same", old="public", new="store", sql=tmp_path)

    @migration.transform(source="vals", into="vals")  # without key=, so it is remembered who gave which row
    def val(old: Row) -> dict[str, Any]:
        return dict(old)

    async with engine(database, migration) as made:
        await made.backfill()
        with psycopg.connect(database.dsn) as writer:
            for statement in ("TRUNCATE vals", insert(1, BIG), "UPDATE vals SET i8 = 5"):
                writer.execute(statement.encode())
        await made.drain()
        execute(database.dsn, ["DELETE FROM vals"])
        await made.drain()
        assert await differences(made) == []


async def test_as_many_columns_as_there_can_be(database: Database, tmp_path: Path) -> None:
    columns = "id integer PRIMARY KEY, " + ", ".join(f"c{number} boolean" for number in range(1, WIDTH))
    row = ", ".join(["true"] * (WIDTH - 2))
    execute(database.dsn, [f"CREATE TABLE vals ({columns})", f"INSERT INTO vals VALUES (1, {row}, NULL)"])
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "10_tables.sql").write_text(
        f"CREATE SCHEMA IF NOT EXISTS store; CREATE TABLE IF NOT EXISTS store.vals ({columns});"
    )
    async with engine(database, same_values(tmp_path)) as made:
        await made.backfill()
        execute(
            database.dsn, [f"INSERT INTO vals VALUES (2, {row}, false)", "UPDATE vals SET c7 = false, c1599 = true"]
        )
        await made.drain()
        assert await differences(made) == []
        assert await full_pass(made) == []
        execute(database.dsn, [BEHIND, "UPDATE store.vals SET c1 = false, c1599 = false WHERE id = 2"])
        execute(database.dsn, [BEHIND, "DELETE FROM store.vals WHERE id = 1"])
        divergences = await full_pass(made)
        assert {(each.kind, each.key, each.columns) for each in divergences} == {
            ("different", ("2",), ("c1", "c1599")),
            ("missing", ("1",), ()),
        }


@pytest.mark.timeout(400)
async def test_values_of_a_hundred_megabytes(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copied, streamed, and left out by an update; on one of the servers: it is the engine that could fail."""
    monkeypatch.setattr("tests.engine.SECONDS", 300)
    size, running = 100 << 20, request.getfixturevalue("_running")
    columns = "id integer PRIMARY KEY, touched integer, letters text, bytes bytea"
    letters, some_bytes = f"repeat('\u00e9\"', {size // 3})", f"decode(repeat('00ff5c', {size // 3}), 'hex')"
    with fresh_database(running.server(_choices(request.config)[0])) as database, database.connect() as connected:
        connected.execute(f"CREATE TABLE vals ({columns})".encode())
        connected.execute(f"INSERT INTO vals VALUES (1, 0, {letters}, NULL)".encode())
        connected.execute("CREATE SCHEMA store")
        connected.execute(f"CREATE TABLE store.vals ({columns})".encode())
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "10_tables.sql").write_text("SELECT 1")
        async with engine(database, same_values(tmp_path), workers=1) as made:
            await made.backfill()
            insert = f"INSERT INTO vals VALUES (2, 0, {letters}, {some_bytes})".encode()
            await asyncio.to_thread(connected.execute, insert)
            await made.drain()
            connected.execute("UPDATE vals SET touched = 1 WHERE id = 2")
            await made.drain()
            told = [
                connected.execute(
                    f"SELECT id, touched, md5(letters), length(letters), md5(bytes), length(bytes) FROM {schema}.vals "
                    "ORDER BY id".encode()
                ).fetchall()
                for schema in ("public", "store")
            ]
            assert told[0] == told[1]
            assert [row[3] for row in told[1]] == [size // 3 * 2] * 2
            assert told[1][1][5] == size // 3 * 3
