"""Every type arrives byte for byte: by backfill, stream and the way back; and a wrong value does not pass for right."""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from replicator import Migration, Row
from replicator.apply import reading
from replicator.pipeline.repair import repair
from replicator.postgres.rows.source import key_groups
from replicator.postgres.session.connect import connect, connection
from replicator.postgres.wire.walsender import open_walsender
from tests.comparing import BEHIND, full_pass
from tests.engine import Engine, engine, make_settings
from tests.fix_postgres import Database
from tests.fix_types_table import RecordTypes
from tests.small import IN_SQL
from tests.type_catalogue import ARRAYS, BEFORE, EXCLUDED, NUMBERS, OTHERS, VALUES, Case, Column, definitions, shaped

pytestmark = pytest.mark.every_server

LATER = 1_000
"""What is added to the ids of rows that come by the stream."""

HOSTILE = {
    "bytea_output": "escape",
    "datestyle": "SQL, DMY",
    "intervalstyle": "iso_8601",
    "extra_float_digits": "-5",
    "timezone": "Asia/Kathmandu",
    "xmloption": "document",
    "array_nulls": "off",
    "quote_all_identifiers": "on",
    "lc_monetary": "POSIX",
}
"""Settings of the database that bend how values are printed and read: the engine's connections have their own."""

Tables = dict[str, list[Column]]
Cell = tuple[str, int, str]
"""Table, id, column."""


def available(connected: "psycopg.Connection[tuple[object, ...]]", version: int, case: Case) -> bool:
    """Whether the server has the type."""
    if case.extension:
        found = connected.execute("SELECT FROM pg_available_extensions WHERE name = %s", [case.extension])
        return version >= case.since and found.fetchone() is not None
    if case.needs:
        try:
            connected.execute(f"SELECT {case.needs}".encode())
        except psycopg.errors.FeatureNotSupported:
            return False
    return version >= case.since


def tables(numbers: Sequence[Case], others: Sequence[Case]) -> Tables:
    """Numbers apart, for their rows may be read again; arrays apart, for they have fewer rows."""
    return {
        name: [shaped(each, shape) for shape in shapes for each in cases]
        for name, shapes, cases in (
            ("values", VALUES, others),
            ("arrays", ARRAYS, others),
            ("numbers", VALUES, numbers),
            ("arrays of numbers", ARRAYS, numbers),
        )
    }


def create(database: Database) -> Tables:
    """The types, and old and new tables; the old ones hold a row of each value, and one of nulls."""
    with database.connect() as connected:
        numbers, others = [
            [each.on(database.version) for each in cases if available(connected, database.version, each)]
            for cases in (NUMBERS, OTHERS)
        ]
        made = tables(numbers, others)
        with connected.transaction():
            for statement in itertools.chain(BEFORE, *map(definitions, numbers + others)):
                connected.execute(statement.encode())
            connected.execute("CREATE SCHEMA store")
            for schema, (name, columns) in itertools.product(("public", "store"), made.items()):
                listed = ", ".join(f"{sql.Identifier(each.name).as_string()} {each.type}" for each in columns)
                table = sql.Identifier(schema, name).as_string()
                connected.execute(f"CREATE TABLE {table} (id integer PRIMARY KEY, touched integer, {listed})".encode())
            insert(connected, "public", made)
        for name, value in HOSTILE.items():
            connected.execute(
                sql.SQL("ALTER DATABASE {} SET {} = {}").format(
                    sql.Identifier(database.name), sql.SQL(name), sql.Literal(value)
                )
            )
    return made


@contextlib.contextmanager
def opened(database: Database) -> Iterator["psycopg.Connection[tuple[object, ...]]"]:
    """A connection that reads values as they are meant, whatever the database is set to."""
    with database.connect() as connected:
        connected.execute("SET array_nulls = on")
        connected.execute("SET xmloption = content")
        yield connected


def rows_of(columns: Sequence[Column]) -> int:
    """How many rows it takes, with one of nulls."""
    return max(len(each.values) for each in columns) + 1


def insert(connected: "psycopg.Connection[tuple[object, ...]]", schema: str, made: Tables, above: int = 0) -> None:
    """A row of each value, and one of nulls."""
    for name, columns in made.items():
        for number in range(1, rows_of(columns) + 1):
            values = [each.values[(number - 1) % len(each.values)] for each in columns]
            listed = [
                "NULL" if number == rows_of(columns) else "'" + value.replace("'", "''") + "'" for value in values
            ]
            table = sql.Identifier(schema, name).as_string()
            connected.execute(f"INSERT INTO {table} VALUES ({above + number}, 0, {', '.join(listed)})".encode())


def rotate(connected: "psycopg.Connection[tuple[object, ...]]", schema: str, made: Tables) -> None:
    """Give each row the values of the next."""
    for name, columns in made.items():
        names = [sql.Identifier(each.name).as_string() for each in columns]
        table, rows = sql.Identifier(schema, name).as_string(), rows_of(columns)
        connected.execute(
            f"UPDATE {table} AS t SET {', '.join(f'{each} = s.{each}' for each in names)} FROM {table} AS s "
            f"WHERE t.id <= {rows} AND s.id = t.id %% {rows} + 1".replace("%%", "%").encode()
        )


def touch(connected: "psycopg.Connection[tuple[object, ...]]", schema: str, made: Tables) -> None:
    """An update that leaves all values alone."""
    for name in made:
        connected.execute(f"UPDATE {sql.Identifier(schema, name).as_string()} SET touched = touched + 1".encode())


def same(folder: Path, made: Iterable[str]) -> Migration:
    """Each table to its like, and back."""
    (folder / "new").mkdir()
    (folder / "new" / "10_tables.sql").write_text("CREATE SCHEMA IF NOT EXISTS store;")
    migration = Migration("types", old="public", new="store", sql=folder)

    def as_it_is(row: Row) -> dict[str, object]:
        return dict(row)

    for name in made:
        if IN_SQL:
            for declare in (migration.sql_transform, migration.sql_reverse):
                declare(source=name, into=name, sql="SELECT old.*", key="old.id", name=name)
            continue
        migration.transform(source=name, into=name, key=lambda row: row["id"], name=name)(as_it_is)
        migration.reverse(source=name, into=name, key=lambda row: row["id"], name=name)(as_it_is)
    migration.retire('Odd, "table"', because="some values name it")
    return migration


async def cells(dsn: str, schema: str, made: Tables) -> dict[Cell, tuple[str | None, str | None]]:
    """Every value, as it prints and as ``column::text``."""
    found: dict[Cell, tuple[str | None, str | None]] = {}
    async with connection(dsn, "test", text=True) as opened:
        for table, columns in made.items():
            listed = [sql.SQL("{0}, {0}::text").format(sql.Identifier(each.name)) for each in columns]
            cursor = await opened.execute(
                sql.SQL("SELECT id, {} FROM {}").format(sql.SQL(", ").join(listed), sql.Identifier(schema, table))
            )
            async for number, *texts in cursor:
                for column, printed, cast in zip(columns, texts[::2], texts[1::2], strict=True):
                    found[table, int(number), column.name] = (printed, cast)
    return found


async def differing(database: Database, made: Tables) -> set[Cell]:
    """Where old and new tables are not alike."""
    old, new = [await cells(database.dsn, schema, made) for schema in ("public", "store")]
    return {cell for cell in old.keys() | new.keys() if old.get(cell) != new.get(cell)}


def passed(made: Tables, wrong: Iterable[Cell]) -> dict[str, bool]:
    """By type, whether none of its values is among the wrong ones."""
    failed = {name for _, _, name in wrong}
    return {column.case.name: column.name not in failed for columns in made.values() for column in columns}


async def test_by_backfill_and_stream(
    database: Database, tmp_path: Path, record_types: RecordTypes, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = create(database)
    read_again: set[str] = set()

    def read(reader: object, source: object, keys: object) -> object:
        read_again.add(source.name)  # type: ignore[attr-defined]
        return key_groups(reader, source, keys)  # type: ignore[arg-type]

    monkeypatch.setattr(reading, "key_groups", read)
    async with engine(database, same(tmp_path, made)) as following:
        await following.backfill()
        wrong = await differing(database, made)
        record_types("backfill", database.version, passed(made, wrong))
        assert not wrong
        with opened(database) as connected:
            insert(connected, "public", made, LATER)
            await following.drain()
            wrong = await differing(database, made)
            rotate(connected, "public", made)
            await following.drain()
            wrong |= await differing(database, made)
            assert read_again <= {"numbers"}, "the stream itself did not carry the values"
            touch(connected, "public", made)
            await following.drain()
            wrong |= await differing(database, made)
        assert {"values", "arrays"} <= read_again, "no value was out of line"
        record_types(database.plugin, database.version, passed(made, wrong))
        assert not wrong
        assert following.running.context.quarantined == set()


async def test_a_wrong_value_is_told_from_a_right_one(
    database: Database, tmp_path: Path, record_types: RecordTypes
) -> None:
    made = create(database)
    async with engine(database, same(tmp_path, made)) as following:
        await following.backfill()
        called_wrong = {cell for each in await full_pass(following) for cell in cells_of(each)}
        with opened(database) as connected:
            connected.execute(BEHIND)
            rotate(connected, "store", made)
        old, new = [await cells(database.dsn, schema, made) for schema in ("public", "store")]
        wrong = {cell for cell, (_, text) in old.items() if new[cell][1] != text}
        divergences = await full_pass(following)
        found = {cell for each in divergences for cell in cells_of(each)}
        assert {(table, name) for table, _, name in wrong} == {
            (table, each.name) for table, columns in made.items() for each in columns
        }, "a type has no wrong value"
        mistaken = called_wrong | (found ^ wrong)
        record_types("verify", database.version, passed(made, mistaken))
        assert not mistaken
        before = await cells(database.dsn, "store", made)
        await repair(following.running, divergences, "test")
        with opened(database) as connected:
            rows: list[Any] = connected.execute(
                "SELECT table_name, row_key->>0, row_as_it_was FROM _replicator.kept"
            ).fetchall()
        kept = {(table, int(key), name): row[name] for table, key, row in rows for name in row}
        assert wrong <= kept.keys()
        # As it prints, where a cast to text is another's to make; the type reads both.
        assert {cell: kept[cell] for cell in wrong if kept[cell] not in before[cell]} == {}
        assert await full_pass(following) == []
        assert await differing(database, made) == set()


def cells_of(divergence: object) -> list[Cell]:
    """What a divergence points at."""
    target, key, columns = (getattr(divergence, name) for name in ("target", "key", "columns"))
    assert columns, divergence
    return [(target, int(key[0]), column) for column in columns]


async def test_by_the_way_back(database: Database, tmp_path: Path, record_types: RecordTypes) -> None:
    made = create(database)
    migration = same(tmp_path, made)
    async with engine(database, migration) as forward:
        await forward.backfill()
    back = Engine(make_settings(database), migration, "reverse")
    await back.set_up_slot()
    try:
        await back.start()
        await back.backfill()
        with opened(database) as connected:
            connected.execute(BEHIND)
            wrong: set[Cell] = set()
            for change in (insert, rotate, touch):
                arguments: Mapping[str, int] = {"above": LATER} if change is insert else {}
                change(connected, "store", made, **arguments)
                await back.drain()
                wrong |= await differing(database, made)
        record_types("reverse", database.version, passed(made, wrong))
        assert not wrong
        assert back.running.context.quarantined == set()
    finally:
        await back.stop()


def test_no_built_in_type_is_forgotten(database: Database) -> None:
    with database.connect() as connected:
        found = connected.execute(
            "SELECT oid::regtype::text, typname FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace "
            "AND typtype IN ('b', 'r', 'm') AND NOT EXISTS (SELECT FROM pg_type AS of WHERE of.typarray = pg_type.oid)"
        ).fetchall()
        known = set()
        for case in (*NUMBERS, *OTHERS):
            row = connected.execute("SELECT to_regtype(%s)::text", [case.sql.split("(")[0]]).fetchone()
            known.add(row[0] if row else None)
        assert {name for shown, name in found if shown not in known} == set(EXCLUDED)
        for name in EXCLUDED:
            with pytest.raises(psycopg.errors.FeatureNotSupported):
                connected.execute(f"SELECT 'x'::{name}".encode())


async def test_every_connection_has_settings_of_its_own(database: Database) -> None:
    create(database)
    for walsender in (False, True):
        connected = await (open_walsender(database.dsn) if walsender else connect(database.dsn, "test"))
        try:
            for name, hostile in HOSTILE.items():
                row = await (await connected.execute(f"SHOW {name}".encode())).fetchone()
                assert row is not None
                assert row[0] != hostile, name
        finally:
            await connected.close()


async def test_the_encoding_that_a_document_declares_is_lost(database: Database, tmp_path: Path) -> None:
    """Postgres prints it to nobody; it is not called a divergence either."""
    document = """<?xml version="1.0" encoding="ISO-8859-1"?><a/>"""
    with database.connect() as connected:
        if not available(connected, database.version, next(each for each in OTHERS if each.name == "xml")):
            pytest.skip("the server is built without libxml")
        connected.execute("CREATE SCHEMA store")
        for schema in ("public", "store"):
            connected.execute(f"CREATE TABLE {schema}.documents (id integer PRIMARY KEY, document xml)".encode())
        connected.execute("INSERT INTO documents VALUES (1, %s)", [document])
        async with engine(database, same(tmp_path, ["documents"])) as following:
            await following.backfill()
            assert await full_pass(following) == []
            found = connected.execute("SELECT document::text FROM store.documents").fetchone()
        assert found == ("<a/>",)
