"""Before anything has moved: what would not come back as it was, and what prepared statements would meet."""

from pathlib import Path
from typing import Any

import psycopg
import pytest

from replicator import Migration, Query, Row
from replicator.runbook.dry_run import DryRun, dry_run
from replicator.runbook.round_trip import Returned
from tests.engine import execute, make_settings
from tests.fix_postgres import Database
from tests.sessions import daemon
from tests.small import create_small, small_migration

pytestmark = pytest.mark.one_server

OLD = """
CREATE TABLE goods (id integer PRIMARY KEY, code varchar(10) NOT NULL UNIQUE, price text, note text);
INSERT INTO goods
SELECT i, 'g' || i, CASE WHEN i % 10 = 0 THEN '0' ELSE i || '.50' END, 'n' FROM generate_series(1, 50) i;
"""


def migration_of(folder: Path, *, drops_ids: bool = False, query: str | None = None) -> Migration:
    """Goods, one to one; or without their numbers, which come back as others."""
    (folder / "new").mkdir(parents=True)
    key = "code varchar(20) PRIMARY KEY, " if drops_ids else "id bigint PRIMARY KEY, code varchar(20) NOT NULL, "
    tables = f"CREATE TABLE IF NOT EXISTS shop.goods ({key} price numeric(10, 2), note text);"
    (folder / "new" / "10_tables.sql").write_text(f"CREATE SCHEMA IF NOT EXISTS shop; {tables}")
    migration = Migration("goods", old="public", new="shop", sql=folder)

    @migration.transform(source="goods", into="goods")
    def there(old: Row) -> dict[str, Any]:
        kept = ("code", "price", "note") if drops_ids else ("id", "code", "price", "note")
        return {name: old[name] for name in kept}

    source: Any = "goods" if query is None else Query(query, key=["id"], depends_on={"goods": ["id"]})

    @migration.reverse(source=source, into="goods")
    def back(new: Row) -> dict[str, Any]:
        number = 1_000 + int(str(new["code"])[1:]) if drops_ids else new["id"]
        return {"id": number, "code": new["code"], "price": new["price"], "note": new["note"]}

    return migration


async def tried(database: Database, migration: Migration, sample: int | None = None) -> DryRun:
    execute(database.dsn, [OLD])
    return await dry_run(make_settings(database), migration, sample, lambda *_: None)


def returned(result: DryRun) -> Returned:
    assert result.ok
    (found,) = result.way_back.tables
    return found


async def test_a_value_that_comes_back_otherwise(database: Database, tmp_path: Path) -> None:
    found = returned(await tried(database, migration_of(tmp_path)))
    assert (found.rows, found.differing, found.added, found.lost) == (50, {"price": 5}, 0, 0)
    assert ("10",) in found.examples


async def test_a_sample(database: Database, tmp_path: Path) -> None:
    found = returned(await tried(database, migration_of(tmp_path), sample=20))
    assert (found.rows, found.differing) == (20, {"price": 2})


async def test_keys_that_the_new_schema_drops(database: Database, tmp_path: Path) -> None:
    found = returned(await tried(database, migration_of(tmp_path, drops_ids=True)))
    assert (found.rows, found.added, found.lost, found.differing) == (50, 50, 50, {})
    assert len(found.examples) == 5


async def test_a_query_reads_the_copies(database: Database, tmp_path: Path) -> None:
    named = "SELECT goods.id, code, shop.goods.price, note FROM shop.goods"
    found = returned(await tried(database, migration_of(tmp_path, query=named)))
    assert (found.rows, found.differing) == (50, {"price": 5})


async def test_what_cannot_be_brought_back_is_said(database: Database, tmp_path: Path) -> None:
    """Through a view the new table itself is read, which is still empty."""
    migration = migration_of(tmp_path, query="SELECT id, code, price, note FROM shop.cheap")
    (tmp_path / "new" / "15_tables.sql").write_text("CREATE VIEW shop.cheap AS SELECT * FROM shop.goods")
    result = await tried(database, migration)
    assert "was not tried" in result.way_back.notes[0]


async def test_all_comes_back(database: Database, tmp_path: Path) -> None:
    """A row that nothing is made of is not missed."""
    create_small(database.dsn, "INSERT INTO people SELECT i, 'p' || i, i::text, '#t' FROM generate_series(1, 30) i")
    execute(database.dsn, ["UPDATE people SET note = '#t' || id", "INSERT INTO people VALUES (99, 'nobody', '1')"])
    result = await dry_run(make_settings(database), small_migration(tmp_path), None, lambda *_: None)
    assert returned(result).same
    assert result.way_back.notes == []


async def test_what_differs_shuts_the_gate_indeed(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, [OLD])
    async with daemon(make_settings(database), migration_of(tmp_path)) as running:
        await running.ready()
        await running.cut_over()
        reverse = running.active
        assert reverse is not None
        await running.until(lambda: len(reverse.verifier.divergences) == 5)


# ---- prepared statements


async def test_prepared_statements_and_what_to_do_about_them(database: Database, tmp_path: Path) -> None:
    retyped = [
        "goods.code: character varying(10), then character varying(20)",
        "goods.id: integer, then bigint",
        "goods.price: text, then numeric(10,2)",
    ]
    migration = migration_of(tmp_path)
    assert (await tried(database, migration)).retyped == retyped
    async with daemon(make_settings(database), migration) as running:
        await running.ready()
        rehearsed = await running.cut_over(strategy="rename", dry_run=True)
        assert list(rehearsed.retyped) == retyped
        await running.clean()
        with psycopg.connect(database.dsn, autocommit=True) as application:
            application.execute("PREPARE code AS SELECT code FROM goods WHERE id = 1")
            application.execute("PREPARE note AS SELECT note FROM goods WHERE id = 1")
            application.execute("EXECUTE code")
            application.execute("EXECUTE note")
            await running.cut_over(strategy="rename")
            assert application.execute("EXECUTE note").fetchone() == ("n",)
            with pytest.raises(psycopg.errors.FeatureNotSupported, match="cached plan must not change result type"):
                application.execute("EXECUTE code")
            application.execute("DEALLOCATE ALL")
            application.execute("PREPARE code AS SELECT code FROM goods WHERE id = 1")
            assert application.execute("EXECUTE code").fetchone() == ("g1",)
