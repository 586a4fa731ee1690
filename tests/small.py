"""A small migration for tests that need another one than the reference: people and their pets, old to new."""

import os
from pathlib import Path
from typing import Any

import psycopg

from replicator import ALL, Migration, Query, Row

OLD = """
CREATE TABLE people (id integer PRIMARY KEY, name text, age text, note text);
CREATE TABLE pets (id integer PRIMARY KEY, owner integer, name text);
"""
TABLES = """
CREATE SCHEMA IF NOT EXISTS store;
CREATE TABLE IF NOT EXISTS store.people (
    id integer PRIMARY KEY, name text NOT NULL, age integer CHECK (age < 200), note text
);
CREATE TABLE IF NOT EXISTS store.tags (tag text PRIMARY KEY, person integer NOT NULL);
CREATE TABLE IF NOT EXISTS store.homes (owner integer PRIMARY KEY, pets text[] NOT NULL);
"""
CONSTRAINTS = """
ALTER TABLE store.homes ADD CONSTRAINT homes_owner_fkey
    FOREIGN KEY (owner) REFERENCES store.people (id) ON DELETE CASCADE DEFERRABLE INITIALLY IMMEDIATE NOT VALID;
ALTER TABLE store.homes VALIDATE CONSTRAINT homes_owner_fkey;
"""
HOMES = """
SELECT owner, array_agg(pets.name ORDER BY pets.id) AS pets
FROM public.pets JOIN public.people ON people.id = pets.owner GROUP BY owner
"""
GOOD = "INSERT INTO people SELECT i, 'p' || i, i::text, '#t' || i FROM generate_series(1, 100) i"
BAD_ROWS = {
    "transform": ("INSERT INTO people VALUES (500, 'boom', '1')", "raised LookupError"),
    "not null": ("INSERT INTO people VALUES (500, NULL, '1')", '"name"'),
    "check": ("INSERT INTO people VALUES (500, 'old', '999')", "check constraint"),
    "value": ("INSERT INTO people VALUES (500, 'odd', 'twelve')", "column age"),
}


IN_SQL = bool(os.environ.get("REPLICATOR_TEST_SQL_TRANSFORMS"))
"""Then every test of this migration has its transforms in SQL."""
PERSON_IN_SQL = """
SELECT old.id AS id, old.name AS name, old.age::text::integer / (old.name IS DISTINCT FROM 'boom')::integer AS age,
    old.note -- a secret value
WHERE old.name IS DISTINCT FROM 'nobody';
"""
TAGS_IN_SQL = """
SELECT DISTINCT word AS tag, old.id AS person
FROM regexp_split_to_table(old.note, '\\s+') AS word WHERE word LIKE '#%'
"""


def small_migration(folder: Path, *, constraints: bool = True, in_sql: bool = False) -> Migration:
    """People one to one (an error for 'boom'), tags fanned out of the note, homes fanned in from pets.

    :param in_sql: the server runs the transforms.
    """
    new = folder / "new"
    new.mkdir(parents=True, exist_ok=True)
    (new / "10_tables.sql").write_text(TABLES)
    (new / "30_constraints.sql").write_text(CONSTRAINTS if constraints else "")
    migration = Migration("small", old="public", new="store", sql=folder)
    if in_sql or IN_SQL:
        _declare_in_sql(migration)
        return migration

    @migration.transform(source="people", into="people", key=lambda old: old["id"])
    def person(old: Row) -> dict[str, Any] | None:
        if old["name"] == "boom":
            raise LookupError("a secret value")
        if old["name"] == "nobody":
            return None
        return {"id": old["id"], "name": old["name"], "age": old["age"], "note": old["note"]}

    @migration.transform(source="people", into="tags")
    def tags(old: Row) -> list[dict[str, Any]]:
        words = {word for word in (old["note"] or "").split() if word.startswith("#")}
        return [{"tag": word, "person": old["id"]} for word in sorted(words)]

    @migration.transform(source=Query(HOMES, key=["owner"], depends_on={"pets": ALL, "people": ["id"]}), into="homes")
    def home(old: Row) -> dict[str, Any]:
        return {"owner": old["owner"], "pets": old["pets"]}

    @migration.reverse(source="people", into="people", key=lambda new: new["id"])
    def old_person(new: Row) -> dict[str, Any]:
        return {"id": new["id"], "name": new["name"], "age": new["age"], "note": new["note"]}

    return migration


def _declare_in_sql(migration: Migration) -> None:
    (migration.folder() / "person.sql").write_text(PERSON_IN_SQL)
    homes = Query(HOMES, key=["owner"], depends_on={"pets": ALL, "people": ["id"]})
    migration.sql_transform(source="people", into="people", sql="person.sql", key="old.id")
    migration.sql_transform(source="people", into="tags", sql=TAGS_IN_SQL, name="tags")
    migration.sql_transform(source=homes, into="homes", sql="SELECT old.*", name="home")
    back = "SELECT old.id, old.name, old.age::text AS age, old.note"
    migration.sql_reverse(source="people", into="people", sql=back, key="old.id", name="old_person")


def create_small(dsn: str, *statements: str) -> None:
    """The old tables, and rows."""
    with psycopg.connect(dsn) as old:
        for statement in (OLD, *statements):
            old.execute(statement.encode())


def entries(dsn: str) -> list[tuple[str, str, str]]:
    with psycopg.connect(dsn) as target:
        return target.execute(
            "SELECT transform, source_key, error FROM _replicator.quarantine ORDER BY transform, source_key"
        ).fetchall()


def people(dsn: str) -> set[int]:
    with psycopg.connect(dsn) as target:
        return {row[0] for row in target.execute("SELECT id FROM store.people")}
