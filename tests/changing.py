"""A migration with every kind of source, whose tables change under way."""

from pathlib import Path
from typing import Any

from replicator import ALL, Migration, Query, Row
from tests.engine import execute
from tests.fix_postgres import Database

PEOPLE = """
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TABLE people (
    id integer PRIMARY KEY, name text, nick text, code varchar(5), price numeric(6, 2), mood mood,
    loud text GENERATED ALWAYS AS (upper(name)) STORED
);
CREATE TABLE pets (id integer PRIMARY KEY, owner integer, name text);
CREATE TABLE words (word varchar(5) PRIMARY KEY, weight numeric);
CREATE TABLE visits (id integer, day date NOT NULL, note text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE visits_1 PARTITION OF visits FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE visits_2 PARTITION OF visits FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
INSERT INTO people (id, name, code, price, mood) SELECT i, 'n' || i, 'c' || i, i, 'sad' FROM generate_series(1, 20) i;
INSERT INTO pets SELECT i, i % 5, 'p' || i FROM generate_series(1, 20) i;
INSERT INTO words SELECT 'w' || i, i FROM generate_series(1, 200) i;
INSERT INTO visits SELECT i, '2026-01-01'::date + i % 50, 'n' || i FROM generate_series(1, 120) i;
"""

NEW = """
CREATE SCHEMA IF NOT EXISTS store;
CREATE TABLE IF NOT EXISTS store.people (
    id integer PRIMARY KEY, name text, nick text, code text, price text, mood text, loud text
);
CREATE TABLE IF NOT EXISTS store.pets (id integer PRIMARY KEY, owner integer, name text);
CREATE TABLE IF NOT EXISTS store.words (word text PRIMARY KEY, weight numeric);
CREATE TABLE IF NOT EXISTS store.visits (id integer, day date, note text, PRIMARY KEY (id, day));
CREATE TABLE IF NOT EXISTS store.notes (note text PRIMARY KEY, id integer);
CREATE TABLE IF NOT EXISTS store.homes (owner integer PRIMARY KEY, pets text);
"""

HOMES = "SELECT owner, string_agg(name, ',' ORDER BY id) AS pets FROM public.pets GROUP BY owner"


def changing(folder: Path) -> Migration:
    """Every kind of source; the rows of some are passed on whole, so that a new column would come along."""
    (folder / "new").mkdir(exist_ok=True)
    (folder / "new" / "10_tables.sql").write_text(NEW)
    migration = Migration("changing", old="public", new="store", sql=folder)

    @migration.transform(source="people", into="people", key=lambda old: old["id"])
    def person(old: Row) -> dict[str, Any]:
        return dict(old)

    @migration.transform(source="pets", into="pets", key=lambda old: old["id"])
    def pet(old: Row) -> dict[str, Any]:
        return {"id": old["id"], "owner": old["owner"], "name": old["name"]}

    @migration.transform(source="words", into="words", key=lambda old: old["word"])
    def word(old: Row) -> dict[str, Any]:
        return dict(old)

    @migration.transform(source="visits", into="visits", key=lambda old: (old["id"], old["day"]))
    def visit(old: Row) -> dict[str, Any]:
        return dict(old)

    @migration.transform(source="visits", into="notes")
    def note(old: Row) -> dict[str, Any]:
        return {"note": f"{old['id']} {old['note']}", "id": old["id"]}

    @migration.transform(source=Query(HOMES, key=["owner"], depends_on={"pets": ALL}), into="homes")
    def home(old: Row) -> dict[str, Any]:
        return dict(old)

    return migration


def create(database: Database) -> None:
    execute(database.dsn, [PEOPLE])
