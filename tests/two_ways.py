"""A migration whose two directions are inverse to each other, for tests in which both schemas take writes.

Several rows to one (customers), one row to several (people and profiles; addresses), and a key that is remembered.
"""

from pathlib import Path
from typing import Any

import psycopg

from replicator import Migration, Query, Row
from replicator.values import as_json

OLD = """
CREATE TABLE people (id integer PRIMARY KEY, name text NOT NULL, bio text NOT NULL);
CREATE TABLE addresses (person integer, kind text, street text NOT NULL, PRIMARY KEY (person, kind));
CREATE TABLE notes (id integer PRIMARY KEY, code text NOT NULL, body text NOT NULL);
"""
NEW = """
CREATE SCHEMA IF NOT EXISTS shop;
CREATE TABLE IF NOT EXISTS shop.customers (id integer PRIMARY KEY, name text NOT NULL, addresses jsonb NOT NULL);
CREATE TABLE IF NOT EXISTS shop.profiles (customer integer PRIMARY KEY, bio text NOT NULL);
CREATE TABLE IF NOT EXISTS shop.notes (code text PRIMARY KEY, id integer NOT NULL, body text NOT NULL);
"""
CUSTOMERS = """
SELECT p.id, p.name,
    coalesce((SELECT jsonb_object_agg(kind, street) FROM public.addresses WHERE person = p.id), '{}') AS addresses
FROM public.people AS p
"""
PEOPLE = "SELECT c.id, c.name, p.bio FROM shop.customers AS c JOIN shop.profiles AS p ON p.customer = c.id"


def two_ways(folder: Path) -> Migration:
    """The migration; its DDL is written into a folder."""
    new = folder / "new"
    new.mkdir(parents=True, exist_ok=True)
    (new / "10_tables.sql").write_text(NEW)
    migration = Migration("two_ways", old="public", new="shop", sql=folder)

    customers = Query(CUSTOMERS, key=["id"], depends_on={"people": ["id"], "addresses": ["person"]})
    people = Query(PEOPLE, key=["id"], depends_on={"customers": ["id"], "profiles": ["customer"]})

    @migration.transform(source=customers, into="customers", key=lambda old: old["id"])
    def customer(old: Row) -> dict[str, Any]:
        return {"id": old["id"], "name": old["name"], "addresses": as_json(old["addresses"])}

    @migration.transform(source="people", into="profiles", key=lambda old: old["id"])
    def profile(old: Row) -> dict[str, Any]:
        return {"customer": old["id"], "bio": old["bio"]}

    @migration.transform(source="notes", into="notes")
    def note(old: Row) -> dict[str, Any]:
        return {"code": old["code"], "id": old["id"], "body": old["body"]}

    @migration.reverse(source=people, into="people", key=lambda new: new["id"])
    def person(new: Row) -> dict[str, Any]:
        return {"id": new["id"], "name": new["name"], "bio": new["bio"]}

    @migration.reverse(source="customers", into="addresses")
    def addresses(new: Row) -> list[dict[str, Any]]:
        found = as_json(new["addresses"]) or {}
        return [{"person": new["id"], "kind": kind, "street": street} for kind, street in sorted(found.items())]

    @migration.reverse(source="notes", into="notes")
    def old_note(new: Row) -> dict[str, Any]:
        return {"id": new["id"], "code": new["code"], "body": new["body"]}

    return migration


def create_old(dsn: str, people: int = 20) -> None:
    """The old tables, and rows."""
    with psycopg.connect(dsn) as old:
        old.execute(OLD.encode())
        for statement in (
            "INSERT INTO people SELECT i, 'name ' || i, 'bio ' || i FROM generate_series(1, {n}) AS i",
            "INSERT INTO addresses SELECT i, 'home', 'street ' || i FROM generate_series(1, {n}) AS i",
            "INSERT INTO notes SELECT i, 'c' || i, 'body ' || i FROM generate_series(1, {n}) AS i",
        ):
            old.execute(statement.format(n=people).encode())
