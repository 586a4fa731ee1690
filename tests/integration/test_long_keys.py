"""Keys of several columns, one of them stored out of line: an update leaves it out of the log if it is unchanged."""

from pathlib import Path
from typing import Any

import pytest

from replicator import Lookup, Migration, Query, Row
from tests.engine import differences, engine, execute
from tests.fix_postgres import Database

pytestmark = pytest.mark.two_servers

# 2,400 characters that cannot be compressed: too long to be stored in line, short enough for an index.
LONG = "(SELECT string_agg(md5({} || i::text), '') FROM generate_series(1, 75) AS i)"
TABLES = """
CREATE TABLE words (word text, place integer, note text, PRIMARY KEY (word, place));
ALTER TABLE words ALTER word SET STORAGE EXTERNAL;
"""
NEW = """
CREATE SCHEMA IF NOT EXISTS store;
CREATE TABLE IF NOT EXISTS store.computed (word text, place integer, note text, PRIMARY KEY (word, place));
CREATE TABLE IF NOT EXISTS store.given (word text, place integer, note text, PRIMARY KEY (word, place));
CREATE TABLE IF NOT EXISTS store.asked (word text, place integer, note text, PRIMARY KEY (word, place));
CREATE TABLE IF NOT EXISTS store.looked (word text, place integer, note text, PRIMARY KEY (word, place));
"""


def words(folder: Path) -> Migration:
    """By the table, with and without ``key=``; by a query, to which columns lead, or a lookup."""
    (folder / "new").mkdir()
    (folder / "new" / "10_tables.sql").write_text(NEW)
    migration = Migration("words", old="public", new="store", sql=folder)
    for name in ("asked", "looked"):
        (folder / f"{name}.sql").write_text("SELECT word, place, note FROM public.words")
    lookup = Lookup("SELECT %(word)s, %(place)s")
    asked = Query("asked.sql", key=["word", "place"], depends_on={"words": ["word", "place"]})
    looked = Query("looked.sql", key=["word", "place"], depends_on={"words": lookup})

    def same(old: Row) -> dict[str, Any]:
        return dict(old)

    migration.transform(source="words", into="computed", key=lambda old: (old["word"], old["place"]), name="computed")(
        same
    )
    migration.transform(source="words", into="given", name="given")(same)
    migration.transform(source=asked, into="asked", name="asked")(same)
    migration.transform(source=looked, into="looked", name="looked")(same)
    return migration


@pytest.mark.parametrize("statement", [
    "UPDATE words SET place = place + 10",
    "UPDATE words SET place = place + 10 WHERE place = 1",
    "UPDATE words SET note = 'another'",
    f"UPDATE words SET word = {LONG.format(9)} WHERE place = 2",
    "DELETE FROM words WHERE place = 1",
])  # fmt: skip
async def test_a_key_of_which_a_part_changes(database: Database, tmp_path: Path, statement: str) -> None:
    values = ", ".join(f"({LONG.format(each)}, {each}, 'note')" for each in (1, 2, 3))
    execute(database.dsn, [TABLES, f"INSERT INTO words VALUES {values}"])
    async with engine(database, words(tmp_path)) as made:
        await made.backfill()
        execute(database.dsn, [statement])
        await made.drain()
        assert await differences(made) == []
