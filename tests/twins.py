"""A migration that copies its tables as they are, one of them partitioned, there and back."""

from pathlib import Path
from typing import Any

from replicator import ALL, Migration, Query, Row
from tests.statements import one

OLD = """
CREATE TABLE t (id integer PRIMARY KEY, v text);
CREATE TABLE days (id integer, day integer, v text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE days_1 PARTITION OF days FOR VALUES FROM (0) TO (10);
CREATE TABLE prices (day integer, price integer) PARTITION BY RANGE (day);
CREATE TABLE prices_1 PARTITION OF prices FOR VALUES FROM (0) TO (10);
ALTER TABLE prices REPLICA IDENTITY FULL;
ALTER TABLE prices_1 REPLICA IDENTITY FULL;
INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 20) i;
INSERT INTO days SELECT i, i % 10, 'v' || i FROM generate_series(1, 20) i;
"""

NEW = """
CREATE SCHEMA IF NOT EXISTS shop;
CREATE TABLE IF NOT EXISTS shop.t (id integer PRIMARY KEY, v text);
CREATE TABLE IF NOT EXISTS shop.days (id integer, day integer, v text, PRIMARY KEY (id, day));
CREATE TABLE IF NOT EXISTS shop.offers (id integer PRIMARY KEY, price integer);
"""

OFFERS = "SELECT id, (SELECT max(price) FROM public.prices) AS price FROM public.t"


def twins(folder: Path) -> Migration:
    """Both tables as they are, there and back."""
    (folder / "new").mkdir(exist_ok=True)
    (folder / "new" / "10_tables.sql").write_text(NEW)
    migration = Migration("twins", old="public", new="shop", sql=folder, whole_schema=True)
    for way in (migration.transform, migration.reverse):
        way(source="t", into="t", key=lambda row: row["id"])(same)
        way(source="days", into="days", key=lambda row: (row["id"], row["day"]))(same_day)
    migration.transform(source=Query(OFFERS, key=["id"], depends_on={"t": ["id"], "prices": ALL}), into="offers")(offer)
    return migration


def same(row: Row) -> dict[str, Any]:
    return {"id": row["id"], "v": row["v"]}


def offer(row: Row) -> dict[str, Any]:
    return {"id": row["id"], "price": row["price"]}


def same_day(row: Row) -> dict[str, Any]:
    return {"id": row["id"], "day": row["day"], "v": row["v"]}


def rows(dsn: str, schema: str) -> Any:
    query = (
        "SELECT array_agg(x ORDER BY x) FROM (SELECT t::text FROM {0}.t UNION ALL SELECT d::text FROM {0}.days d) q(x)"
    )
    return one(dsn, query.format(schema))
