"""Partitions that come, and go with their rows, between two looks at the catalogue: no look ever sees them."""

from pathlib import Path
from typing import Any

import pytest

from replicator import Migration, Row
from replicator.errors import NotReadyError
from tests.engine import execute, make_settings
from tests.fix_postgres import Database
from tests.sessions import Running, daemon
from tests.statements import one

pytestmark = pytest.mark.two_servers

OLD = """
CREATE TABLE days (id integer PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE days_1 PARTITION OF days FOR VALUES FROM (0) TO (100);
INSERT INTO days SELECT i, 'v' || i FROM generate_series(1, 20) i;
"""
NEW = "CREATE SCHEMA IF NOT EXISTS shop; CREATE TABLE IF NOT EXISTS shop.days (id integer PRIMARY KEY, v text)"
COMES = "CREATE TABLE days_2 PARTITION OF days FOR VALUES FROM (100) TO (200)"
FAR = "SELECT count(*) FROM shop.days WHERE id >= 100"


def days(folder: Path) -> Migration:
    (folder / "new").mkdir()
    (folder / "new" / "10_tables.sql").write_text(NEW)
    migration = Migration("days", old="public", new="shop", sql=folder)

    @migration.transform(source="days", into="days", key=lambda row: row["id"])
    def there(row: Row) -> dict[str, Any]:
        return {"id": row["id"], "v": row["v"]}

    @migration.reverse(source="days", into="days", key=lambda row: row["id"])
    def back(row: Row) -> dict[str, Any]:
        return {"id": row["id"], "v": row["v"]}

    return migration


@pytest.fixture
def no_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is looked at but when somebody asks for it."""
    monkeypatch.setattr("replicator.pipeline.pipeline.LOOK_SECONDS", 3600.0)
    monkeypatch.setattr("replicator.pipeline.pipeline.BETWEEN_LOOKS", 0.05)


async def comes_and_goes(running: Running, dsn: str, number: int) -> None:
    execute(dsn, [COMES])
    execute(dsn, [f"INSERT INTO days VALUES ({number}, 'far')"])
    await running.until(lambda: one(dsn, FAR) == 1)
    execute(dsn, ["ALTER TABLE days DETACH PARTITION days_2; DROP TABLE days_2"])


@pytest.mark.usefixtures("no_looks")
async def test_its_rows_go_from_the_new_table_too(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, [OLD])
    async with daemon(make_settings(database), days(tmp_path)) as running:
        await running.ready()
        for number in (150, 151):  # another one of the same name, too
            await comes_and_goes(running, database.dsn, number)
            await running.until(lambda: one(database.dsn, FAR) == 0)
            await running.ready()
        await running.cut_over()
        assert one(database.dsn, "SELECT count(*) FROM shop.days") == 20


@pytest.mark.usefixtures("no_looks")
async def test_ownership_does_not_move_before(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.pipeline.pipeline.BETWEEN_LOOKS", 3600.0)
    execute(database.dsn, [OLD])
    async with daemon(make_settings(database), days(tmp_path)) as running:
        await running.ready()
        await comes_and_goes(running, database.dsn, 150)
        with pytest.raises(NotReadyError, match="Rows may have changed past the log"):
            await running.cut_over()
