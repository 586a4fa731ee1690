"""A child that is read through a query refers to parents that the stream has yet to bring: it is tried again later."""

import asyncio
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replicator import Lookup, Migration, Query, Row
from tests.engine import SECONDS, differences, engine, execute
from tests.fix_postgres import Database

pytestmark = pytest.mark.two_servers

OLD = """
CREATE TABLE parents (id integer, day integer, PRIMARY KEY (id, day));
CREATE TABLE children (id integer PRIMARY KEY, parent integer NOT NULL);
"""
NEW = """
CREATE SCHEMA IF NOT EXISTS shop;
CREATE TABLE IF NOT EXISTS shop.parents (id integer, day integer, PRIMARY KEY (id, day));
CREATE TABLE IF NOT EXISTS shop.children (id integer PRIMARY KEY, parent integer NOT NULL, day integer NOT NULL);
"""
CONSTRAINT = "ALTER TABLE shop.children ADD FOREIGN KEY (parent, day) REFERENCES shop.parents (id, day)"
CHILDREN = "SELECT c.id, c.parent, p.day FROM public.children c JOIN public.parents p ON p.id = c.parent"
OF_PARENT = "SELECT id FROM public.children WHERE parent = %(id)s::integer"


def moving(folder: Path, deferrable: str) -> Migration:
    (folder / "new").mkdir()
    (folder / "new" / "10_tables.sql").write_text(NEW)
    (folder / "new" / "30_constraints.sql").write_text(f"{CONSTRAINT} {deferrable};")
    migration = Migration("moving", old="public", new="shop", sql=folder)
    query = Query(CHILDREN, key=["id"], depends_on={"children": ["id"], "parents": Lookup(OF_PARENT)})

    @migration.transform(source="parents", into="parents", key=lambda old: (old["id"], old["day"]))
    def parent(old: Row) -> dict[str, Any]:
        return dict(old)

    @migration.transform(source=query, into="children")
    def child(old: Row) -> dict[str, Any]:
        return dict(old)

    return migration


@pytest.mark.parametrize("deferrable", ["", "DEFERRABLE"], ids=["at once", "at the end"])
async def test_children_of_parents_whose_keys_change(database: Database, tmp_path: Path, deferrable: str) -> None:
    execute(
        database.dsn,
        [OLD, "INSERT INTO parents VALUES (1, 0), (2, 0)", "INSERT INTO children VALUES (1, 1), (2, 1), (3, 2)"],
    )
    async with engine(database, moving(tmp_path, deferrable), batch_rows=3) as made:
        await made.backfill()
        await made.build()
        async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=True) as writer:
            for number in range(300):
                await writer.execute("UPDATE parents SET day = day + 1 WHERE id = %s", [1 + number % 2])
        await made.drain()
        async with asyncio.timeout(SECONDS):
            while made.running.context.quarantined:
                await made.drain()
        assert await differences(made) == []
