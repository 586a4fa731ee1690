"""A partitioned source table: its partitions speak in its name, those too that are younger than the daemon."""

from pathlib import Path
from typing import Any

import psycopg

from replicator import Migration, Row
from tests.engine import differences, engine, execute
from tests.fix_postgres import Database

OLD = """
CREATE TABLE visits (id integer, day date NOT NULL, note text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE visits_1 PARTITION OF visits FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE SCHEMA elsewhere;
CREATE TABLE elsewhere.visits_2 PARTITION OF visits FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
INSERT INTO visits SELECT i, '2026-01-01'::date + i % 50, 'n' FROM generate_series(1, 200) i;
"""
NEW = """
CREATE SCHEMA IF NOT EXISTS store;
CREATE TABLE IF NOT EXISTS store.visits (id integer, day date, note text, PRIMARY KEY (id, day));
CREATE TABLE IF NOT EXISTS store.notes (note text PRIMARY KEY, id integer, day date);
"""


def visits(folder: Path) -> Migration:
    (folder / "new").mkdir()
    (folder / "new" / "10_tables.sql").write_text(NEW)
    migration = Migration("visits", old="public", new="store", sql=folder)

    @migration.transform(source="visits", into="visits", key=lambda old: (old["id"], old["day"]))
    def visit(old: Row) -> dict[str, Any]:
        return dict(old)

    @migration.transform(source="visits", into="notes")
    def note(old: Row) -> dict[str, Any] | None:
        return {"note": f"{old['id']} {old['day']}", "id": old["id"], "day": old["day"]}

    return migration


async def test_changes_in_partitions_old_and_new(database: Database, tmp_path: Path) -> None:
    with psycopg.connect(database.dsn) as old:
        old.execute(OLD)
    async with engine(database, visits(tmp_path)) as made:
        await made.backfill()
        assert await differences(made) == []
        for change in (
            "UPDATE visits SET note = 'x' WHERE id < 10",
            "UPDATE visits SET day = '2026-02-20' WHERE id = 3",
            "DELETE FROM visits WHERE id = 4",
            "INSERT INTO elsewhere.visits_2 VALUES (900, '2026-02-03', 'direct')",
            "CREATE TABLE visits_3 PARTITION OF visits FOR VALUES FROM ('2026-03-01') TO ('2026-04-01')",
            "INSERT INTO visits VALUES (901, '2026-03-05', 'young')",
            "TRUNCATE visits_1",
            "INSERT INTO visits VALUES (902, '2026-01-05', 'after')",
            "TRUNCATE visits",
            "INSERT INTO visits VALUES (903, '2026-01-05', 'last')",
        ):
            execute(database.dsn, [change])
            await made.drain()
            assert await differences(made) == [], change
