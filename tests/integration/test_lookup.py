"""A query source whose keys are looked up: what a changed row concerns, by the author's SQL."""

from pathlib import Path
from typing import Any

import psycopg
import pytest

from replicator import Lookup, Migration, Query, Row
from tests.engine import differences, engine, execute
from tests.fix_postgres import Database
from tests.small import HOMES, TABLES, create_small

CHANGES = [
    "INSERT INTO pets VALUES (10, 2, 'rex')",
    "UPDATE pets SET name = 'max' WHERE id = 10",
    "UPDATE pets SET owner = 3 WHERE id = 10",
    "DELETE FROM pets WHERE id = 10",
    "UPDATE people SET id = 9 WHERE id = 3",
    "TRUNCATE pets",
]


def looked_up(folder: Path, rule: Any) -> Migration:
    (folder / "new").mkdir()
    (folder / "new" / "10_tables.sql").write_text(TABLES)
    migration = Migration("small", old="public", new="store", sql=folder)

    @migration.transform(source=Query(HOMES, key=["owner"], depends_on={"pets": rule, "people": ["id"]}), into="homes")
    def home(old: Row) -> dict[str, Any]:
        return {"owner": old["owner"], "pets": old["pets"]}

    return migration


@pytest.mark.parametrize("full", [False, True], ids=["key only", "whole old row"])
async def test_each_change_reaches_the_keys_it_concerns(database: Database, tmp_path: Path, full: bool) -> None:
    """With the key only, the log does not say whose a pet was: every home is then read again."""
    create_small(
        database.dsn,
        "INSERT INTO people SELECT i, 'p' FROM generate_series(1, 5) i",
        "INSERT INTO pets SELECT i, i, 'a' FROM generate_series(1, 5) i",
        *(["ALTER TABLE pets REPLICA IDENTITY FULL"] if full else []),
    )
    async with engine(database, looked_up(tmp_path, Lookup("SELECT %(owner)s::integer"))) as made:
        await made.backfill()
        for change in CHANGES:
            execute(database.dsn, [change])
            await made.drain()
            assert await differences(made) == [], change
        with psycopg.connect(database.dsn) as target:
            assert target.execute("SELECT count(*) FROM store.homes").fetchone() == (0,)
