"""A target key that passes from one source row to another, in whatever order, transactions and parts that comes."""

from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replicator import Migration, Query, Row
from replicator.postgres.control.control import install
from replicator.postgres.session.connect import connection
from tests.engine import differences, engine, execute, make_settings
from tests.fix_postgres import Database
from tests.sessions import daemon

OLD = """
CREATE TABLE posts (id integer PRIMARY KEY, slug text NOT NULL, body text NOT NULL);
CREATE TABLE pages (id integer PRIMARY KEY, slug text NOT NULL, body text NOT NULL);
CREATE TABLE prices (item integer, version integer, current boolean NOT NULL, PRIMARY KEY (item, version));
CREATE TABLE orders (id integer PRIMARY KEY, what text NOT NULL);
CREATE TABLE orders_archive (number integer PRIMARY KEY, what text NOT NULL);
"""
NEW = """
CREATE SCHEMA IF NOT EXISTS shop;
CREATE TABLE IF NOT EXISTS shop.posts (slug text PRIMARY KEY, id integer NOT NULL UNIQUE, body text NOT NULL);
CREATE TABLE IF NOT EXISTS shop.pages (slug text PRIMARY KEY, id integer NOT NULL UNIQUE, body text NOT NULL);
CREATE TABLE IF NOT EXISTS shop.prices (item integer PRIMARY KEY, version integer NOT NULL);
CREATE TABLE IF NOT EXISTS shop.orders (id integer PRIMARY KEY, what text NOT NULL, archived boolean NOT NULL);
"""


def handing_over(folder: Path, new: str = NEW) -> Migration:
    """Posts, and pages by a query, by their slug, which may change; orders and an archive in one table; prices."""
    (folder / "new").mkdir(parents=True, exist_ok=True)
    (folder / "new" / "10_tables.sql").write_text(new)
    migration = Migration("handing_over", old="public", new="shop", sql=folder)

    pages = Query("SELECT id, slug, body FROM public.pages", key=["id"], depends_on={"pages": ["id"]})
    for name, source in (("posts", "posts"), ("pages", pages)):

        @migration.transform(source=source, into=name, name=name)
        def post(old: Row) -> dict[str, Any]:
            return {"slug": old["slug"], "id": old["id"], "body": old["body"]}

    @migration.transform(source="prices", into="prices", key=lambda old: old["item"])
    def price(old: Row) -> dict[str, Any] | None:
        return {"item": old["item"], "version": old["version"]} if old["current"] else None

    @migration.transform(source="orders", into="orders", key=lambda old: old["id"])
    def order(old: Row) -> dict[str, Any]:
        return {"id": old["id"], "what": _checked(old["what"]), "archived": False}

    @migration.transform(source="orders_archive", into="orders", key=lambda old: old["number"])
    def archived(old: Row) -> dict[str, Any]:
        return {"id": old["number"], "what": _checked(old["what"]), "archived": True}

    return migration


def _checked(what: Any) -> Any:
    if what == "bad":
        raise ValueError
    return what


def rows(dsn: str, query: str) -> list[Any]:
    with psycopg.connect(dsn) as opened:
        return opened.execute(query.encode()).fetchall()


BEFORE = (
    "INSERT INTO posts SELECT i, 's' || i, 'body ' || i FROM generate_series(1, 9) AS i",
    "INSERT INTO pages SELECT i, 's' || i, 'body ' || i FROM generate_series(1, 9) AS i",
    "INSERT INTO prices SELECT i, v, v = 2 FROM generate_series(1, 9) AS i, generate_series(1, 2) AS v",
    "INSERT INTO orders SELECT i, 'order ' || i FROM generate_series(1, 9) AS i",
)

SLUGS: dict[str, Sequence[Sequence[str]]] = {
    "a row takes the key, then the other one gets another": [
        ["INSERT INTO posts VALUES (11, 's1', 'newer')"],
        ["UPDATE posts SET slug = 's1-old' WHERE id = 1"],
    ],
    "a row takes the key, then the other one goes": [
        ["UPDATE posts SET slug = 's1' WHERE id = 2"],
        ["DELETE FROM posts WHERE id = 1"],
    ],
    "the other one writes once more, and what it wrote is unique": [
        ["INSERT INTO posts VALUES (11, 's1', 'newer')"],
        ["UPDATE posts SET body = 'mine' WHERE id = 1"],
        ["UPDATE posts SET slug = 's1-old' WHERE id = 1"],
    ],
    "it passes on twice": [
        ["UPDATE posts SET slug = 's1' WHERE id = 2"],
        ["UPDATE posts SET slug = 's1' WHERE id = 3"],
        ["DELETE FROM posts WHERE id = 2", "UPDATE posts SET slug = 's2' WHERE id = 1"],
    ],
    "it passes on, and the one that took it gives it back": [
        ["UPDATE posts SET slug = 's1' WHERE id = 2"],
        ["UPDATE posts SET slug = 's2' WHERE id = 2"],
    ],
    "the one that took it goes": [
        ["INSERT INTO posts VALUES (11, 's1', 'newer')"],
        ["DELETE FROM posts WHERE id = 11"],
    ],
    "several at a time": [
        ["INSERT INTO posts SELECT id + 10, slug, 'newer' FROM posts"],
        ["DELETE FROM posts WHERE id < 10"],
    ],
    "around a circle, in one transaction": [
        ["UPDATE posts SET slug = 's' || id % 9 + 1"],
        ["UPDATE posts SET slug = 's' || (id + 1) % 9 + 1", "DELETE FROM posts WHERE id < 4"],
    ],
}
ORDERS: dict[str, Sequence[Sequence[str]]] = {
    "to a row of another table": [
        ["INSERT INTO orders_archive SELECT id, what FROM orders WHERE id < 5"],
        ["DELETE FROM orders WHERE id < 5"],
    ],
    "to a row of another table, in one transaction": [
        ["INSERT INTO orders_archive SELECT id, what FROM orders WHERE id < 5", "DELETE FROM orders WHERE id < 5"],
    ],
    "and back": [
        ["INSERT INTO orders_archive SELECT id, what FROM orders WHERE id < 5"],
        ["DELETE FROM orders WHERE id < 5"],
        ["INSERT INTO orders SELECT number, 'again' FROM orders_archive WHERE number < 3"],
        ["DELETE FROM orders_archive WHERE number < 4"],
    ],
    "the table that gave it is emptied": [
        ["INSERT INTO orders_archive SELECT id, what FROM orders WHERE id < 5"],
        ["TRUNCATE orders"],
    ],
    "and filled again": [
        ["INSERT INTO orders_archive SELECT id, what FROM orders WHERE id < 5"],
        ["TRUNCATE orders", "INSERT INTO orders VALUES (5, 'again'), (20, 'new')"],
    ],
    "both are emptied": [
        ["INSERT INTO orders_archive SELECT id, what FROM orders WHERE id < 5"],
        ["TRUNCATE orders, orders_archive"],
    ],
    "a row was refused when it took the key": [
        ["INSERT INTO orders_archive VALUES (1, 'bad')"],
        ["DELETE FROM orders WHERE id = 1"],
        ["UPDATE orders_archive SET what = 'good'"],
    ],
    "both gave it in one transaction": [
        ["UPDATE orders SET what = 'sent' WHERE id < 3", "INSERT INTO orders_archive VALUES (1, 'one'), (2, 'two')"],
        ["DELETE FROM orders WHERE id < 3"],
    ],
}
PRICES: dict[str, Sequence[Sequence[str]]] = {
    "a new version comes, then the other one goes": [
        ["INSERT INTO prices VALUES (1, 3, true), (2, 3, true), (3, 3, true)"],
        ["DELETE FROM prices WHERE item < 4 AND version < 3"],
    ],
    "a new version comes, then the other one does not count": [
        ["INSERT INTO prices VALUES (1, 3, true), (2, 3, true), (3, 3, true)"],
        ["UPDATE prices SET current = false WHERE version = 2"],
    ],
    "in one transaction": [
        ["INSERT INTO prices VALUES (1, 3, true)", "UPDATE prices SET current = false WHERE item = 1 AND version = 2"],
    ],
    "versions that never counted go": [["DELETE FROM prices WHERE version = 1"]],
    "and change": [["UPDATE prices SET version = 0 WHERE version = 1"]],
}
HISTORIES = {
    **SLUGS,
    **{
        f"{name} (a query)": [[each.replace("posts", "pages") for each in transaction] for transaction in history]
        for name, history in SLUGS.items()
    },
    **ORDERS,
    **PRICES,
}


def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row that is read is a part of its own."""
    for module in ("postgres.rows.streaming", "apply.reading", "apply.heirs"):
        monkeypatch.setattr(f"replicator.{module}.GROUP_BYTES", 1)
    monkeypatch.setattr("replicator.apply.heirs.READ_AT_ONCE", 2)
    monkeypatch.setattr("replicator.apply.heirs.KEYS_AT_ONCE", 2)


def quarantined(dsn: str) -> list[Any]:
    return rows(dsn, "SELECT transform, source_key FROM _replicator.quarantine ORDER BY 1, 2")


@pytest.mark.one_server
@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", ["at once", "in pieces", "read in parts"])
async def test_the_row_is_there_whoever_gives_it(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    execute(database.dsn, [OLD, *BEFORE])
    if how == "read in parts":
        small_parts(monkeypatch)
    async with engine(database, handing_over(tmp_path), batch_rows=1 if how == "in pieces" else 100) as made:
        await made.backfill()
        for name, history in HISTORIES.items():
            for transaction in history:
                execute(database.dsn, transaction)
                await made.drain()
            assert (name, await differences(made)) == (name, [])
            assert (name, quarantined(database.dsn)) == (name, [])
            execute(database.dsn, ["TRUNCATE posts, pages, prices, orders, orders_archive", *BEFORE])
            await made.drain()


@pytest.mark.one_server
async def test_what_is_written_in_its_place_waits_to_be_compared(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, [OLD, *BEFORE])
    async with engine(database, handing_over(tmp_path)) as made:
        await made.backfill()
        execute(database.dsn, ["INSERT INTO orders_archive SELECT id, what FROM orders WHERE id = 1"])
        await made.drain()
        await made.running.verifier.open()
        execute(database.dsn, ["DELETE FROM orders WHERE id = 1"])
        await made.drain()
        assert list(made.running.context.dirty_keys.waiting_keys("orders_archive")) == [("1",)]
        assert (await made.running.verifier.full_pass()).clean


@pytest.mark.one_server
async def test_what_a_row_in_quarantine_gave_stays(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, [OLD, *BEFORE])
    async with engine(database, handing_over(tmp_path)) as made:
        await made.backfill()
        execute(database.dsn, ["INSERT INTO orders_archive VALUES (1, 'old')"])
        await made.drain()
        execute(database.dsn, ["UPDATE orders_archive SET what = 'bad'"])
        await made.drain()
        for statement in ("DELETE FROM orders WHERE id = 1", "DELETE FROM orders WHERE id = 2"):
            execute(database.dsn, [statement])
            await made.drain()
            assert rows(database.dsn, "SELECT what, archived FROM shop.orders WHERE id = 1") == [("old", True)]
        assert quarantined(database.dsn) == [("archived", '["1"]')]
        execute(database.dsn, ["UPDATE orders_archive SET what = 'good'"])
        await made.drain()
        assert quarantined(database.dsn) == []
        assert await differences(made) == []


@pytest.mark.one_server
@pytest.mark.parametrize("chunk_rows", [2, 50])
async def test_rows_that_gave_one_key_when_they_were_copied(
    database: Database, tmp_path: Path, chunk_rows: int
) -> None:
    execute(
        database.dsn,
        [
            OLD,
            *BEFORE,
            "INSERT INTO posts SELECT id + 10, slug, 'newer' FROM posts",
            "INSERT INTO orders_archive SELECT id, what FROM orders",
        ],
    )
    async with engine(database, handing_over(tmp_path), chunk_rows=chunk_rows) as made:
        await made.backfill()
        execute(database.dsn, ["DELETE FROM posts WHERE id < 15", "DELETE FROM orders"])
        await made.drain()
        execute(database.dsn, ["DELETE FROM posts WHERE id = 15", "UPDATE posts SET slug = 's4' WHERE id = 19"])
        await made.drain()
        assert quarantined(database.dsn) == []
        assert await differences(made) == []


@pytest.mark.one_server
async def test_control_tables_of_a_version_that_asked_nobody(database: Database, tmp_path: Path) -> None:
    """In the middle of a migration: they get the index by which is asked."""
    execute(database.dsn, [OLD, *BEFORE])
    migration = handing_over(tmp_path)
    index = "SELECT indexdef FROM pg_indexes WHERE indexname = 'produced_target'"
    async with engine(database, migration) as made:
        await made.backfill()
        [made_by_us] = rows(database.dsn, index)
        await made.stop()
        execute(database.dsn, ["DROP INDEX _replicator.produced_target", "DELETE FROM _replicator.version"])
        async with connection(database.dsn, "test") as opened:
            for _ in range(2):
                await install(opened, migration)
        assert rows(database.dsn, index) == [made_by_us]
        await made.start()
        execute(database.dsn, ["INSERT INTO orders_archive SELECT id, what FROM orders WHERE id = 1"])
        await made.drain()
        execute(database.dsn, ["DELETE FROM orders WHERE id = 1"])
        await made.drain()
        assert await differences(made) == []


def archive_and_back(folder: Path) -> Migration:
    """Orders and their archive in one table, and back; what an old order says in ``note`` nobody gives."""
    (folder / "new").mkdir(parents=True)
    (folder / "new" / "10_tables.sql").write_text(
        "CREATE SCHEMA IF NOT EXISTS shop; CREATE TABLE IF NOT EXISTS shop.orders "
        "(id integer PRIMARY KEY, what text NOT NULL UNIQUE, archived boolean NOT NULL);"
    )
    migration = Migration("archive", old="public", new="shop", sql=folder)
    for table, number, archived in (("orders", "id", False), ("orders_archive", "number", True)):

        @migration.transform(source=table, into="orders", name=table, key=itemgetter(number))
        def there(old: Row, number: str = number, archived: bool = archived) -> dict[str, Any]:
            return {"id": old[number], "what": old["what"], "archived": archived}

        @migration.reverse(source="orders", into=table, name=table)
        def back(new: Row, number: str = number, archived: bool = archived) -> dict[str, Any] | None:
            return {number: new["id"], "what": new["what"]} if new["archived"] == archived else None

    migration.retire("orders", column="note", because="Nobody reads it.")
    return migration


@pytest.mark.one_server
async def test_through_a_cutover_and_back(database: Database, tmp_path: Path) -> None:
    """The rows go from table to table on either side, and an exchange of what is unique writes some of them anew."""
    execute(database.dsn, [
        "CREATE TABLE orders (id integer PRIMARY KEY, what text NOT NULL UNIQUE, note text)",
        "CREATE TABLE orders_archive (number integer PRIMARY KEY, what text NOT NULL)",
        "INSERT INTO orders SELECT i, 'order ' || i, 'note ' || i FROM generate_series(1, 30) i",
    ])  # fmt: skip
    to_the_archive = ["INSERT INTO orders_archive SELECT id, what FROM orders WHERE id < 5",
                      "DELETE FROM orders WHERE id < 5"]  # fmt: skip
    out_of_it = ["INSERT INTO orders SELECT number, what FROM orders_archive WHERE number < 3",
                 "DELETE FROM orders_archive WHERE number < 3"]  # fmt: skip
    exchanged = ["UPDATE {0} SET what = 'between' WHERE id = {1}", "UPDATE {0} SET what = 'order {1}' WHERE id = {2}",
                 "UPDATE {0} SET what = 'order {2}' WHERE id = {1}"]  # fmt: skip
    async with daemon(make_settings(database), archive_and_back(tmp_path)) as running:
        await running.ready()
        for transaction in (to_the_archive, out_of_it, [each.format("orders", 11, 12) for each in exchanged]):
            execute(database.dsn, ["; ".join(transaction)])
        await running.clean()
        await running.cut_over()
        changed = ["UPDATE shop.orders SET archived = NOT archived WHERE id IN (1, 4, 20)",
                   "DELETE FROM shop.orders WHERE id = 25",
                   *[each.format("shop.orders", 13, 14) for each in exchanged]]  # fmt: skip
        execute(database.dsn, ["; ".join(changed)])
        await running.clean()
        await running.roll_back()
        assert sorted(rows(database.dsn, "SELECT id FROM orders")) == [
            (i,) for i in range(2, 31) if i not in {3, 20, 25}
        ]
        assert sorted(rows(database.dsn, "SELECT number FROM orders_archive")) == [(1,), (3,), (20,)]
        of_before = "note = 'note ' || id AND (id BETWEEN 11 AND 14) = (what <> 'order ' || id)"
        kept = f"SELECT count(*) FROM orders WHERE {of_before}"
        assert rows(database.dsn, kept) == [(24,)], "2 and 4 came out of the archive, all others have never left"
        execute(database.dsn, ["; ".join(to_the_archive)])
        await running.clean()
        await running.cut_over()
        assert rows(database.dsn, "SELECT count(*) FROM shop.orders WHERE archived = (id < 5 OR id = 20)") == [(29,)]
        assert rows(database.dsn, "SELECT count(*) FROM _replicator.quarantine") == [(0,)]
