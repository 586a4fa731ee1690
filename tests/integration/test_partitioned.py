"""Partitioned tables on either side, whatever the strategy; partitions that come and go while the daemon runs."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from replicator.cleanup import plan
from replicator.finish import finalize
from tests.engine import execute, make_settings
from tests.fix_postgres import Database
from tests.integration.test_cutover import Running, daemon, one
from tests.integration.test_rename import NAMES, report
from tests.integration.test_rollback import refused
from tests.partitioned import HASH, NARROW, PLAIN, REST, WIDE, create_old, same_rows

pytestmark = pytest.mark.one_server

ROWS = "SELECT string_agg(format('%s %s %s', id, day, note), ',' ORDER BY id, day) FROM {}"
TREE = """
    SELECT array_agg(oid::regclass::text)
    FROM (SELECT '{0}'::regclass AS oid UNION SELECT relid FROM pg_partition_tree('{0}')) AS tree
"""
SHAPES = {
    "to_range": (PLAIN, NARROW),
    "to_hash": (PLAIN, HASH),
    "to_plain": (WIDE, PLAIN),
    "narrower": (WIDE, NARROW),
}
CHANGES = (
    "INSERT INTO {} VALUES (1000, 20, 'new')",
    "UPDATE {} SET note = 'x' WHERE id < 10",
    "UPDATE {} SET day = 99 - day WHERE id BETWEEN 10 AND 20",  # to another partition
    "DELETE FROM {} WHERE id IN (30, 70)",
)
BACK = ("DELETE FROM {} WHERE id >= 5", "INSERT INTO {} SELECT i, i, 'n' FROM generate_series(5, 99) AS i")


def tree(dsn: str, root: str) -> set[str]:
    """A table and all its partitions."""
    return set(one(dsn, TREE.format(root)))


def in_public(dsn: str) -> list[str]:
    """All names in the old schema."""
    return [each for each in one(dsn, NAMES) if " public." in each]


def write(dsn: str, tables: Iterable[str], statements: Iterable[str]) -> None:
    execute(dsn, [each.format(table) for table in tables for each in statements])


async def same(running: Running, dsn: str, table: str, other: str) -> None:
    await running.until(lambda: one(dsn, ROWS.format(table)) == one(dsn, ROWS.format(other)))


async def test_the_names_are_kept(database: Database, tmp_path: Path) -> None:
    """A new table has its partitions around it, under their own names; each rollback gives every name back."""
    dsn = database.dsn
    execute(dsn, [create_old(SHAPES)])
    settings, migration = make_settings(database), same_rows(tmp_path, SHAPES)
    async with daemon(settings, migration) as running:
        await running.ready()
        names = one(dsn, NAMES)
        trees = {name: (tree(dsn, name), tree(dsn, f"shop.{name}")) for name in SHAPES}
        for turn in range(2):
            await running.cut_over(strategy="rename")
            for name, (old, new) in trees.items():
                assert tree(dsn, name) == {each.removeprefix("shop.") for each in new}
                assert tree(dsn, f"{name}_old") == {f"{each}_old" for each in old}
                for closed in tree(dsn, f"{name}_old"):
                    assert refused(dsn, f"DELETE FROM {closed}")
                    assert refused(dsn, f"TRUNCATE {closed}")
            write(dsn, SHAPES, CHANGES)
            for name in SHAPES:
                await same(running, dsn, name, f"{name}_old")
            await running.clean()
            if turn:
                break
            await running.roll_back()
            assert one(dsn, NAMES) == names
            for _, new in trees.values():
                for closed in new:
                    assert refused(dsn, f"DELETE FROM {closed}")
                    assert refused(dsn, f"TRUNCATE {closed}")
            write(dsn, SHAPES, BACK)
            for name in SHAPES:
                await same(running, dsn, name, f"shop.{name}")
            await running.clean()
    await finalize(settings, migration, report, now=True)
    going = {str(each) for each in (await plan(settings, migration)).tables}
    assert going == {f"public.{name}_old" for name in SHAPES}
    write(dsn, [f"{name}_old" for name in SHAPES], ["TRUNCATE {}", "DROP TABLE {}"])


OUT_OF_THE_REST = """
    BEGIN;
    CREATE TABLE {s}orders_1 (LIKE {s}orders INCLUDING ALL);
    WITH gone AS (DELETE FROM {s}orders_rest WHERE day < 50 RETURNING *) INSERT INTO {s}orders_1 SELECT * FROM gone;
    ALTER TABLE {s}orders ATTACH PARTITION {s}orders_1 FOR VALUES FROM (0) TO (50);
    COMMIT
"""
MADE_ANEW = """
    BEGIN;
    ALTER TABLE orders DETACH PARTITION orders_rest;
    ALTER TABLE orders_rest RENAME TO before;
    CREATE TABLE orders_rest PARTITION OF orders DEFAULT;
    INSERT INTO orders SELECT * FROM before;
    DROP TABLE before;
    COMMIT
"""


async def test_partitions_come_and_go_in_a_table_that_is_renamed(database: Database, tmp_path: Path) -> None:
    """One that the new table gets meanwhile goes with it; by name, one that was noted may be another by then."""
    dsn = database.dsn
    execute(dsn, [create_old({"orders": (WIDE, REST)})])
    async with daemon(make_settings(database), same_rows(tmp_path, {"orders": (WIDE, REST)})) as running:
        await running.ready()
        names = in_public(dsn)
        await running.cut_over(strategy="rename")
        execute(dsn, [OUT_OF_THE_REST.format(s=""), MADE_ANEW])  # the first one has the name of an old one
        execute(dsn, ["CREATE TABLE far PARTITION OF orders FOR VALUES FROM (100) TO (200)"])
        execute(dsn, ["UPDATE orders SET day = 150 WHERE id = 5", "INSERT INTO orders VALUES (500, 160, 'far')"])
        await same(running, dsn, "orders", "orders_old")
        await running.clean()
        await running.roll_back()
        assert in_public(dsn) == names
        assert tree(dsn, "shop.orders") == {"shop.orders", "shop.orders_1", "shop.far", "shop.orders_rest"}
        for closed in tree(dsn, "shop.orders"):
            assert refused(dsn, f"DELETE FROM {closed}")
            assert refused(dsn, f"TRUNCATE {closed}")
        execute(dsn, ["UPDATE orders SET day = 7 WHERE id = 500"])
        await same(running, dsn, "orders", "shop.orders")
        await running.clean()
        await running.cut_over(strategy="rename")
        assert tree(dsn, "orders") == {"orders", "orders_1", "far", "orders_rest"}
        assert tree(dsn, "orders_old") == {"orders_old", "orders_1_old", "orders_2_old"}
