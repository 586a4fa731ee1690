"""Keys whose text is not the same by every route, or that are equal though they are spelt otherwise."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from replicator.core.tables import Table
from replicator.postgres.catalog.catalog import read_tables
from replicator.postgres.rows.source import keys_where
from replicator.postgres.session.connect import connection
from tests.comparing import full_pass
from tests.engine import differences, engine, execute
from tests.fix_postgres import Database
from tests.keyed import keyed

pytestmark = pytest.mark.two_servers

KEYS = {
    "numeric": ("0.00000001", "1.10", "100", "123456789012345678901234567890.5"),
    "float8": ("1", "1e15", "0.00001", "-0"),
    "real": ("1", "0.1", "1e-45", "16777216"),
    "bytea": ("\\x00ff", "\\x5c78", "\\x", "\\xc3a9"),
    "boolean": ("t", "f"),
    "uuid": ("00000000-0000-0000-0000-00000000000A", "00000000-0000-0000-0000-00000000000b"),
    "char(5)": ("a", "  b", "", "c c"),
    "timestamptz": ("2026-01-01 00:00:00+05:45", "infinity", "0044-03-15 12:00:00+00 BC", "2026-01-01"),
    "jsonb": ('{"a": 1.10}', '"\\u00e9"', "null", "[]"),
    "text[]": ('{"a b",NULL}', "{}", "[0:0]={x}", '{"\\""}'),
    "int4range": ("empty", "[1,3)", "(,)", "[5,)"),
}


@pytest.mark.parametrize("kind", KEYS)
async def test_keys_of_every_kind(database: Database, tmp_path: Path, kind: str) -> None:
    values = ["'" + each.replace("'", "''") + "'" for each in KEYS[kind]]
    execute(database.dsn, [f"CREATE TABLE things (id {kind} PRIMARY KEY, note text)"])
    execute(database.dsn, [f"INSERT INTO things VALUES ({each}, 'first')" for each in values])
    tables = ("public.things", "store.computed", "store.remembered", "store.asked")

    def contents() -> list[list[Any]]:
        with psycopg.connect(database.dsn) as connected:
            return [
                sorted(connected.execute(f"SELECT id::text, note FROM {table}".encode()).fetchall()) for table in tables
            ]

    async with engine(database, keyed(tmp_path, kind), chunk_rows=1) as made:
        await made.backfill()
        for changes in (
            ["UPDATE things SET note = 'second'"],
            [f"DELETE FROM things WHERE id = {values[0]}"],
            [
                f"INSERT INTO things VALUES ({values[0]}, 'third')",
                f"UPDATE things SET note = 'x' WHERE id = {values[1]}",
            ],
            ["TRUNCATE things", *(f"INSERT INTO things VALUES ({each}, 'fourth')" for each in values)],
        ):
            execute(database.dsn, changes)
            await made.drain()
            old, *new = contents()
            assert all(each == old for each in new), changes
        assert await differences(made) == []
        assert await full_pass(made) == []


async def test_a_key_that_is_no_number(database: Database, tmp_path: Path) -> None:
    """wal2json before 2.6 says null for it: no row can be named so, and the daemon stops."""
    execute(database.dsn, ["CREATE TABLE things (id float8 PRIMARY KEY, note text)"])
    async with engine(database, keyed(tmp_path, "float8")) as made:
        await made.backfill()
        execute(database.dsn, ["INSERT INTO things VALUES ('NaN', 'x'), ('-Infinity', 'y')"])
        if database.plugin == "wal2json":
            assert "NaN or infinity" in str(await made.failure())
            return
        execute(database.dsn, ["UPDATE things SET note = 'z' WHERE id = 'NaN'"])
        await made.drain()
        assert await differences(made) == []
        assert await full_pass(made) == []


@pytest.mark.parametrize(("kind", "one", "other"), [("numeric", "1.0", "1.00"), ("float8", "0", "-0")])
async def test_a_key_that_is_spelt_otherwise(
    database: Database, tmp_path: Path, kind: str, one: str, other: str
) -> None:
    execute(database.dsn, [f"CREATE TABLE things (id {kind} PRIMARY KEY, note text)"])
    execute(database.dsn, [f"INSERT INTO things VALUES ('{one}', 'first')"])
    async with engine(database, keyed(tmp_path, kind)) as made:
        await made.backfill()
        execute(database.dsn, [f"UPDATE things SET id = '{other}', note = 'second'"])
        await made.drain()
        for table in ("computed", "remembered", "asked"):
            with psycopg.connect(database.dsn) as connected:
                found = connected.execute(f"SELECT note FROM store.{table}".encode()).fetchall()
            assert found == [("second",)], table
        assert await full_pass(made) == []


@pytest.mark.one_server
async def test_rows_are_looked_for_by_values_that_stand_in_no_statement(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands in one is seen by whoever may read pg_stat_activity, and may be in the server's log."""
    execute(
        database.dsn,
        [
            'CREATE TABLE things (id integer PRIMARY KEY, "50%" varchar(20), n numeric)',
            "INSERT INTO things VALUES (1, 'it''s a secret', 1.10), (2, 'it''s a secret', 2), (3, 'other', 1.1)",
        ],
    )
    statements: list[str] = []
    run = psycopg.AsyncConnection.execute

    async def noting(self: psycopg.AsyncConnection[Any], query: Any, *others: Any, **named: Any) -> Any:
        statements.append(query.as_string(None) if isinstance(query, sql.Composable) else str(query))
        return await run(self, query, *others, **named)

    async with connection(database.dsn, "test", text=True) as opened:
        table = (await plain_tables(database.dsn))["things"]
        monkeypatch.setattr(psycopg.AsyncConnection, "execute", noting)
        assert await keys_where(opened, table, {"50%": "it's a secret", "n": "1.1"}) == [("1",)]
        assert await keys_where(opened, table, {"n": "no number"}) == []
    assert statements
    assert not any("secret" in each or "no number" in each for each in statements)


async def plain_tables(dsn: str) -> Mapping[str, Table]:
    async with connection(dsn, "test catalogue") as opened:
        return await read_tables(opened, "public")
