"""What the application did in one transaction is written in an order that the target's constraints admit.

The tables of both sides are the same, and so are their constraints; the row of each is copied as it is.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from replicator import Migration, Row
from tests.engine import differences, engine, execute
from tests.fix_postgres import Database
from tests.order_catalogue import CASES, CHILDREN, FAMILY, PARENTS, REFERS, UNIQUE, numbered, quarantined

pytestmark = pytest.mark.one_server


def same_tables(folder: Path, dsn: str, tables: str, constraints: str, names: Sequence[str]) -> Migration:
    """The same tables in ``public`` and ``shop``, copied as they are by their column ``id``; constraints on both."""
    new = folder / "new"
    new.mkdir(parents=True, exist_ok=True)
    (new / "10_tables.sql").write_text(
        "CREATE SCHEMA IF NOT EXISTS shop; SET LOCAL search_path = shop, public; "
        + tables.replace("CREATE TABLE ", "CREATE TABLE IF NOT EXISTS shop.")
    )
    (new / "30_constraints.sql").write_text(
        constraints.replace("ALTER TABLE ", "ALTER TABLE shop.").replace("REFERENCES ", "REFERENCES shop.")
    )
    execute(dsn, [tables, constraints])
    migration = Migration("same", old="public", new="shop", sql=folder)
    for name in names:
        migration.transform(source=name, into=name, key=lambda old: old["id"], name=name)(_as_it_is)
        migration.reverse(source=name, into=name, key=lambda new: new["id"], name=name)(_as_it_is)
    return migration


def _as_it_is(row: Row) -> dict[str, Any]:
    return dict(row)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("together", [True, False], ids=["at once", "in pieces"])
async def test_an_ordinary_transaction_is_written(database: Database, tmp_path: Path, together: bool) -> None:
    cases = {name: numbered(case, number) for number, (name, case) in enumerate(CASES.items())}
    migration = same_tables(
        tmp_path,
        database.dsn,
        " ".join(each.tables for each in cases.values()),
        "; ".join(each.constraints.rstrip("; ") for each in cases.values()) + ";",
        [name for each in cases.values() for name in each.names],
    )
    execute(database.dsn, [statement for each in cases.values() for statement in each.before])
    async with engine(database, migration, batch_rows=100 if together else 1) as made:
        await made.backfill()
        await made.build()
        for name, case in cases.items():
            execute(database.dsn, case.transaction)
            await made.drain()
            assert (name, quarantined(database.dsn)) == (name, [])
        assert await differences(made) == []


@pytest.mark.parametrize(
    "name", ["to one that takes over the unique name", "a circle that begins", "rooms are exchanged"]
)
async def test_and_so_it_is_where_all_tables_are_like_that(database: Database, tmp_path: Path, name: str) -> None:
    case = CASES[name]
    migration = same_tables(tmp_path, database.dsn, case.tables, case.constraints, case.names)
    execute(database.dsn, case.before)
    async with engine(database, migration) as made:
        await made.backfill()
        await made.build()
        execute(database.dsn, case.transaction)
        await made.drain()
        assert quarantined(database.dsn) == []
        assert await differences(made) == []


async def test_a_row_that_another_one_gives_from_now_on_is_not_deleted_at_the_transactions_end(
    database: Database, tmp_path: Path
) -> None:
    """Its deletion would wait until then, for it may take children along."""
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "10_tables.sql").write_text(
        "CREATE SCHEMA shop; CREATE TABLE shop.pages (id integer PRIMARY KEY, slug text);"
        "CREATE TABLE shop.links (id integer PRIMARY KEY, page integer);"
    )
    (tmp_path / "new" / "30_constraints.sql").write_text(
        "ALTER TABLE shop.links ADD FOREIGN KEY (page) REFERENCES shop.pages (id) ON DELETE CASCADE;"
    )
    execute(
        database.dsn,
        [
            "CREATE TABLE pages (slug text PRIMARY KEY, id integer); CREATE TABLE links (id integer PRIMARY KEY)",
            "INSERT INTO pages VALUES ('a', 1), ('b', 2)",
        ],
    )
    migration = Migration("passing", old="public", new="shop", sql=tmp_path)
    migration.transform(source="pages", into="pages", name="page")(_as_it_is)
    migration.transform(source="links", into="links", key=lambda old: old["id"], name="link")(_as_it_is)
    async with engine(database, migration, batch_rows=2) as made:
        await made.backfill()
        await made.build()
        execute(
            database.dsn,
            [
                "UPDATE pages SET id = 3 - id",
                "INSERT INTO links VALUES (1), (2), (3), (4)",
            ],
        )
        await made.drain()
        assert quarantined(database.dsn) == []
        assert await differences(made) == []


@pytest.mark.parametrize("acts", ["", "ON UPDATE CASCADE"])
async def test_what_is_unique_changes_hands_among_rows_that_others_refer_to(
    database: Database, tmp_path: Path, acts: str
) -> None:
    """At one stroke, which the old table's constraint admits: there is no order of single changes."""
    migration = same_tables(
        tmp_path, database.dsn, PARENTS + CHILDREN, f"{UNIQUE} {REFERS} {acts};", ("parents", "children")
    )
    execute(
        database.dsn,
        [
            *FAMILY,
            "INSERT INTO parents VALUES (3, 'c')",
            "ALTER TABLE parents DROP CONSTRAINT parents_name_key; ALTER TABLE parents ADD UNIQUE (name) DEFERRABLE",
        ],
    )
    async with engine(database, migration) as made:
        await made.backfill()
        await made.build()
        execute(database.dsn, ["UPDATE parents SET name = CASE name WHEN 'a' THEN 'b' WHEN 'b' THEN 'c' ELSE 'a' END"])
        await made.drain()
        assert quarantined(database.dsn) == []
        assert await differences(made) == []
