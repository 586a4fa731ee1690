"""The SQL files of the reference migration, and its transforms, run by a naive copy."""

import re
from pathlib import Path

import psycopg
from psycopg import sql

from replicator import Query
from replicator.migration import Direction, Transform, as_rows
from replicator.postgres.ddl.statements import split
from replicator.values import to_text
from tests.old_rows import Row
from transforms import migration

SQL = Path(__file__).parents[1] / "sql"

OLD_TABLES = ("requests", "settings", "admins", "spotify_auth", "event_settings")

PINNED = {"DateStyle": "ISO, YMD", "TimeZone": "UTC", "extra_float_digits": "3"}

KEPT_AS_TEXT = ("timestamp", "timestamptz", "uuid", "jsonb")

ADD_CONSTRAINT = re.compile(r"ALTER TABLE (\S+) ADD CONSTRAINT (\S+)")

Connection = psycopg.Connection[Row]


def run(connection: Connection, *files: str) -> None:
    """Run the statements of DDL files one by one, but for constraints that are there already."""
    for file in files:
        for statement in split((SQL / file).read_text()):
            added = ADD_CONSTRAINT.match(statement)
            if added is None or not has_constraint(connection, *added.groups()):
                connection.execute(statement.encode())


def has_constraint(connection: Connection, table: str, name: str) -> bool:
    found = connection.execute(
        "SELECT FROM pg_constraint WHERE conrelid = %s::regclass AND conname = %s", [table, name]
    )
    return found.rowcount > 0


def read(connection: Connection, text: str) -> list[Row]:
    return connection.execute(text.encode()).fetchall()


def read_source(connection: Connection, each: Transform) -> list[Row]:
    if isinstance(each.source, Query):
        text = (SQL / each.source.sql).read_text()
        return read(connection, f"SELECT * FROM ({text}) AS q")
    schema = migration.old if each.direction == "forward" else migration.new
    return read(connection, f"SELECT * FROM {schema}.{each.source}")


def insert(connection: Connection, schema: str, table: str, rows: list[Row]) -> None:
    for row in rows:
        statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            sql.Identifier(schema, table),
            sql.SQL(", ").join(map(sql.Identifier, row)),
            sql.SQL(", ").join(sql.Placeholder() * len(row)),
        )
        connection.execute(statement, [to_text(value, "json") for value in row.values()])


def run_all(connection: Connection, direction: Direction, into: str) -> None:
    """Run all transforms of one direction in one transaction, in any order of the tables."""
    with connection.transaction():
        connection.execute("SET CONSTRAINTS ALL DEFERRED")
        for each in migration.of(direction):
            for source in read_source(connection, each):
                insert(connection, into, each.into, list(as_rows(each.function(source))))
        connection.execute("SET CONSTRAINTS ALL IMMEDIATE")  # which checks them
