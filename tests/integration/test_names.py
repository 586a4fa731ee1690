"""Schemas, tables, columns, types, indexes and constraints may have any name that Postgres allows."""

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from psycopg import sql

from replicator import ALL, Lookup, Migration, Query, Row
from replicator.pipeline.repair import compare
from replicator.postgres.control.control import read_status
from replicator.postgres.session.connect import connection
from replicator.runbook.schema import build
from tests.checking import check_with, outcomes
from tests.engine import make_settings
from tests.fix_postgres import Database
from tests.sessions import daemon

pytestmark = pytest.mark.two_servers

NAMES = (
    "Capitals",
    "two  words",
    'double "quotes"',
    "it's",
    "dotted.name",
    "a,b",
    "back\\slash",
    "ends with \\",
    "100%",
    "%s %(name)s %%",
    "select",
    "user",
    "1st",
    "ünï 日本 😀 e\u0301",
    "new\nline",
    "tab\tbed",
    "trailing ",
    " leading",
    "n" * 63,
    "é" * 31,
    "{braces} {0}",
    "semi;colon -- /* comment */",
    "$1 :x ? @ # & | ~ ` ^ !",
    "a(b)[c]<d>",
    "-",
    "*",
    "k0",
    "t",
    "s",
    "\x01\x7f",
)
TABLES = (
    'Capitals "quoted" it\'s',
    "dots.and,commas and\\",
    "100% %s %(name)s {0} {}",
    "select",
    "1st ünï 日本 😀",
    "n" * 63,
    " new\nline\ttab ",
    "semi;colon -- /* comment */ \x01\x7f",
    "a(b)[c]<d> * $1 :x ? ^",
)
OLD = 'Old "s", it\'s a.b\\c 100% é\n;-- '
NEW = 'New "s", it\'s a.b\\c 100% é\n;-- '
KEYS = dict(zip(TABLES, NAMES[2:], strict=False))
"""Which column is each table's key."""
MOOD = 'Mood of "Day", it\'s 5%s. '


def quoted(*parts: str) -> str:
    return sql.Identifier(*parts).as_string()


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def table(schema: str, name: str, *, rest: str = "") -> str:
    """A table with all names for columns; one of them is its key."""
    columns = ", ".join(f"{quoted(each)} text" for each in NAMES)
    key = f"PRIMARY KEY ({quoted(KEYS[name])})"
    return f"CREATE TABLE {rest}{quoted(schema, name)} ({columns}, mood {quoted(schema, MOOD)}, {key})"


def mood(schema: str) -> str:
    return f"CREATE TYPE {quoted(schema, MOOD)} AS ENUM ('it''s \"so\"', 'b,c')"


def row(name: str, key: str, other: str) -> dict[str, str]:
    return {each: key if each == KEYS[name] else f"{other} {each}" for each in NAMES} | {"mood": 'it\'s "so"'}


def insert(dsn: str, schema: str, name: str, *rows: dict[str, str]) -> None:
    with psycopg.connect(dsn) as connected:
        for each in rows:
            values = ", ".join(map(literal, each.values()))
            connected.execute(
                f"INSERT INTO {quoted(schema, name)} ({', '.join(map(quoted, each))}) VALUES ({values})".encode()
            )


def run(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn) as connected:
        connected.execute(statement.encode())


def contents(connected: "psycopg.Connection[Any]", schema: str, name: str) -> list[Any]:
    return sorted(connected.execute(f"SELECT * FROM {quoted(schema, name)}".encode()).fetchall())


def odd_migration(folder: Path) -> Migration:
    """Each table to its like, by a transform that bears its name; and two queries over odd columns."""
    new = folder / "new"
    new.mkdir()
    tables = "".join(table(NEW, name, rest="IF NOT EXISTS ") + ";\n" for name in TABLES)
    counts = f"CREATE TABLE IF NOT EXISTS {quoted(NEW, 'Counts, of')} ({quoted('a key')} text PRIMARY KEY, n bigint);\n"
    (new / "10_tables.sql").write_text(
        f"CREATE SCHEMA IF NOT EXISTS {quoted(NEW)};\n-- a comment, it's one\n{tables}{counts}"
    )
    (new / "20_indexes.sql").write_text(
        "".join(
            f"CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS {quoted(f'{name[:20]} i')} "
            f"ON {quoted(NEW, name)} ({quoted(KEYS[name])});\n"
            for name in TABLES
        )
    )
    (new / "30_constraints.sql").write_text(
        "".join(
            f"ALTER TABLE {quoted(NEW, name)} ADD CONSTRAINT {quoted(f'{name[:20]} f')} "
            f"FOREIGN KEY ({quoted(KEYS[name])}) REFERENCES {quoted(NEW, name)} ({quoted(KEYS[name])}) "
            f"DEFERRABLE NOT VALID;\n"
            f"ALTER TABLE {quoted(NEW, name)} VALIDATE CONSTRAINT {quoted(f'{name[:20]} f')};\n"
            for name in TABLES
        )
    )
    migration = Migration('odd, "names" it\'s 100%', old=OLD, new=NEW, sql=folder)

    def as_it_is(each: Row) -> dict[str, Any]:
        return dict(each)

    for name in TABLES:
        key = None if name == TABLES[2] else lambda each, column=KEYS[name]: each[column]
        migration.transform(source=name, into=name, key=key, name=name)(as_it_is)
        migration.reverse(source=name, into=name, key=key, name=name)(as_it_is)
    counting = (
        f"SELECT a.{quoted(KEYS[TABLES[3]])} AS {quoted('a key 100%')}, count(*) AS n "
        f"FROM {quoted(OLD, TABLES[3])} AS a CROSS JOIN {quoted(OLD, TABLES[2])} AS b WHERE 5 % 3 = 2 GROUP BY 1"
    )
    query = Query(
        counting,
        key=["a key 100%"],
        depends_on={
            TABLES[3]: Lookup(f"SELECT %({KEYS[TABLES[3]]})s::text"),
            TABLES[2]: ALL,
        },
    )

    @migration.transform(source=query, into="Counts, of", name='count "it"')
    def count(each: Row) -> dict[str, Any]:
        return {"a key": each["a key 100%"], "n": each["n"]}

    return migration


async def test_odd_names_through_the_whole_way(database: Database, tmp_path: Path) -> None:
    run(database.dsn, f"CREATE SCHEMA {quoted(OLD)}; CREATE SCHEMA {quoted(NEW)}; {mood(OLD)}; {mood(NEW)}")
    for name in TABLES:
        run(database.dsn, table(OLD, name))
        insert(database.dsn, OLD, name, *(row(name, key, "old") for key in ("a", "b", "c")))
    migration = odd_migration(tmp_path)
    settings = make_settings(database, chunk_rows=2)
    found = await check_with(migration, **{name: value for name, value in settings if name != "migration"})
    assert not outcomes(found, "fail"), [each for each in found.values() if each.outcome == "fail"]

    def same() -> bool:
        with psycopg.connect(database.dsn) as connected:
            return all(contents(connected, OLD, name) == contents(connected, NEW, name) for name in TABLES)

    async with daemon(settings, migration) as running:
        await running.ready()
        assert same()
        assert await build(settings, migration, ["tables", "indexes", "constraints"]) == [], (
            "what is done is done again"
        )
        for name in TABLES:
            insert(database.dsn, OLD, name, row(name, "d", "later"))
            run(database.dsn, f"UPDATE {quoted(OLD, name)} SET mood = 'b,c' WHERE {quoted(KEYS[name])} = 'a'")
            run(
                database.dsn,
                f"UPDATE {quoted(OLD, name)} SET {quoted(KEYS[name])} = 'e' WHERE {quoted(KEYS[name])} = 'b'",
            )
            run(database.dsn, f"DELETE FROM {quoted(OLD, name)} WHERE {quoted(KEYS[name])} = 'c'")
        run(database.dsn, f"TRUNCATE {quoted(OLD, TABLES[0])}, {quoted(OLD, TABLES[4])}")
        insert(database.dsn, OLD, TABLES[4], row(TABLES[4], "f", "after"))
        await running.until(same)
        counted = f"SELECT string_agg(concat({quoted('a key')}, n), ' ' ORDER BY 1) FROM {quoted(NEW, 'Counts, of')}"

        def answer(query: str) -> Any:
            with psycopg.connect(database.dsn) as connected:
                asked = connected.execute(query.encode()).fetchone()
                return asked[0] if asked else None

        await running.until(lambda: answer(counted) == "a3 d3 e3")
        forward = running.active
        assert forward is not None
        await (
            forward.look_at_definitions()
        )  # a TRUNCATE might be a rewrite: only a full pass after it lets ownership move
        assert (await compare(forward)).clean
        labels = {
            sample.labels["table"]
            for family in text_string_to_metric_families(generate_latest(running.session.metrics.registry).decode())
            for sample in family.samples
            if "table" in sample.labels
        }
        assert set(TABLES) <= labels
        async with connection(database.dsn, "test") as opened:
            status = await read_status(opened)
        assert status is not None
        shown = json.dumps(json.loads(json.dumps(status.document)), ensure_ascii=False)
        assert all(json.dumps(name, ensure_ascii=False) in shown for name in TABLES)
        await running.cut_over()
        for name in TABLES:
            with pytest.raises(psycopg.Error) as refused:
                run(database.dsn, f"DELETE FROM {quoted(OLD, name)}")
            assert refused.value.sqlstate == "RP002"
            assert name in (refused.value.diag.message_primary or "").replace('""', '"')
            insert(database.dsn, NEW, name, row(name, "n", "new"))
            run(database.dsn, f"UPDATE {quoted(NEW, name)} SET mood = 'b,c' WHERE {quoted(KEYS[name])} = 'd'")
            run(database.dsn, f"DELETE FROM {quoted(NEW, name)} WHERE {quoted(KEYS[name])} = 'a'")
        run(database.dsn, f"TRUNCATE {quoted(NEW, TABLES[1])} CASCADE")
        await running.until(same)
        assert answer("SELECT replicator.active_schema()") == NEW
        reverse = running.active
        assert reverse is not None
        assert reverse.direction == "reverse"
        await running.clean()
