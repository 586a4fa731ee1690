"""Partitioned tables on either side, whatever the strategy; partitions that come and go while the daemon runs."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

import psycopg
import pytest

from replicator.daemon import daemon as whole_daemon
from replicator.errors import LockRoomError, NotReadyError
from replicator.postgres.rows.context import Context
from replicator.postgres.session.connect import connection, translated
from replicator.runbook.cleanup import plan
from replicator.runbook.finish import finalize
from replicator.switchover.closing import close_again
from tests.checking import check_with, follow_remedy
from tests.engine import execute, make_settings
from tests.fix_postgres import Database, MakeCluster
from tests.partitioned import HASH, NARROW, PLAIN, REST, WIDE, create_old, same_rows
from tests.sessions import Running, daemon, silent
from tests.statements import NAMES, one, refused
from tests.waiting import running, until

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


async def perform(dsn: str, statements: list[str]) -> None:
    """Beside the daemon, which goes on: it may hold locks that these wait for."""
    await asyncio.to_thread(execute, dsn, statements)


async def write(dsn: str, tables: Iterable[str], statements: Iterable[str]) -> None:
    """Each statement on each table."""
    await perform(dsn, [each.format(table) for table in tables for each in statements])


async def same(running: Running, dsn: str, table: str, other: str) -> None:
    await running.until(lambda: one(dsn, ROWS.format(table)) == one(dsn, ROWS.format(other)))


async def test_the_names_are_kept(database: Database, tmp_path: Path) -> None:
    """A new table has its partitions around it, under their own names; each rollback gives every name back."""
    dsn = database.dsn
    await perform(dsn, [create_old(SHAPES)])
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
                    assert await asyncio.to_thread(refused, dsn, f"DELETE FROM {closed}")
                    assert await asyncio.to_thread(refused, dsn, f"TRUNCATE {closed}")
            await write(dsn, SHAPES, CHANGES)
            for name in SHAPES:
                await same(running, dsn, name, f"{name}_old")
            await running.clean()
            if turn:
                break
            await running.roll_back()
            assert one(dsn, NAMES) == names
            for _, new in trees.values():
                for closed in new:
                    assert await asyncio.to_thread(refused, dsn, f"DELETE FROM {closed}")
                    assert await asyncio.to_thread(refused, dsn, f"TRUNCATE {closed}")
            await write(dsn, SHAPES, BACK)
            for name in SHAPES:
                await same(running, dsn, name, f"shop.{name}")
            await running.clean()
    await finalize(settings, migration, silent, now=True)
    going = {str(each) for each in (await plan(settings, migration)).tables}
    assert going == {f"public.{name}_old" for name in SHAPES}
    await write(dsn, [f"{name}_old" for name in SHAPES], ["TRUNCATE {}", "DROP TABLE {}"])


async def test_for_a_new_partition_of_a_closed_table_no_other_table_is_compared(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn, suspect = database.dsn, Context.suspect
    shapes, suspected = {"orders": (PLAIN, NARROW), "events": (PLAIN, PLAIN)}, set[str]()

    def note(self: Context, tables: Iterable[str]) -> None:
        suspected.update(tables := list(tables))
        suspect(self, tables)

    await perform(dsn, [create_old(shapes)])
    async with daemon(make_settings(database), same_rows(tmp_path, shapes)) as running:
        await running.ready()
        monkeypatch.setattr(Context, "suspect", note)
        await perform(dsn, ["CREATE TABLE shop.young PARTITION OF shop.orders FOR VALUES FROM (100) TO (200)"])
        guarded = (
            "SELECT EXISTS (SELECT FROM pg_trigger WHERE tgname = 'replicator_guard' AND tgrelid = '{}'::regclass)"
        )
        await running.until(lambda: one(dsn, guarded.format("shop.young")))
        await running.until(lambda: suspected)
        await running.in_the_end(running.cut_over)
        assert suspected == {"orders"}


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
    there = "CREATE TABLE IF NOT EXISTS public.there PARTITION OF {t} FOR VALUES FROM (900) TO (1000)"
    shapes = {"orders": (WIDE, f"{REST};{there}")}
    await perform(dsn, [create_old(shapes)])
    async with daemon(make_settings(database), same_rows(tmp_path, shapes)) as running:
        await running.ready()
        names = in_public(dsn)
        await running.cut_over(strategy="rename")
        await perform(dsn, [OUT_OF_THE_REST.format(s=""), MADE_ANEW])  # the first one has the name of an old one
        await perform(dsn, ["CREATE TABLE far PARTITION OF orders FOR VALUES FROM (100) TO (200)"])
        await perform(dsn, ["UPDATE orders SET day = 150 WHERE id = 5", "INSERT INTO orders VALUES (500, 160, 'far')"])
        await same(running, dsn, "orders", "orders_old")
        await running.in_the_end(running.roll_back)
        assert in_public(dsn) == names
        assert tree(dsn, "shop.orders") == {"shop.orders", "shop.orders_1", "shop.far", "shop.orders_rest", "there"}
        for closed in tree(dsn, "shop.orders"):
            assert await asyncio.to_thread(refused, dsn, f"DELETE FROM {closed}")
            assert await asyncio.to_thread(refused, dsn, f"TRUNCATE {closed}")
        await perform(dsn, ["UPDATE orders SET day = 7 WHERE id = 500"])
        await same(running, dsn, "orders", "shop.orders")
        await running.in_the_end(lambda: running.cut_over(strategy="rename"))
        assert tree(dsn, "orders") == {"orders", "orders_1", "far", "orders_rest", "there"}
        assert tree(dsn, "orders_old") == {"orders_old", "orders_1_old", "orders_2_old"}


async def test_a_partition_that_goes_while_the_cutover_waits_for_its_locks(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tables were listed before. It is told what has happened, instead of trying for minutes to lock them all."""
    dsn, report_on = database.dsn, Running.report
    await perform(dsn, [create_old({"orders": (WIDE, NARROW)})])
    async with daemon(make_settings(database), same_rows(tmp_path, {"orders": (WIDE, NARROW)})) as running:
        await running.ready()

        async def drop(self: Running, step: str) -> None:
            if step.startswith("attempt 1:"):
                await perform(dsn, ["DROP TABLE IF EXISTS orders_2, shop.orders_1"])
            await report_on(self, step)

        monkeypatch.setattr(Running, "report", drop)
        with pytest.raises(NotReadyError, match="changed past the log"):
            await running.cut_over()
        assert [each for each in running.steps if "attempt" in each and "attempt 1" not in each] == []
        await running.in_the_end(running.cut_over)


CHANGED_TREES = (
    # out for a moment, in which nothing refuses a deletion
    """
    ALTER TABLE shop.orders DETACH PARTITION shop.orders_1;
    ALTER TABLE shop.orders_1 DISABLE TRIGGER ALL;
    DELETE FROM shop.orders_1;
    ALTER TABLE shop.orders_1 ENABLE TRIGGER ALL;
    ALTER TABLE shop.orders ATTACH PARTITION shop.orders_1 FOR VALUES FROM (0) TO (50)
    """,
    # a table with rows of its own
    """
    ALTER TABLE shop.orders_2 DETACH PARTITION shop.orders_2_rest;
    CREATE TABLE shop.strange (LIKE shop.orders);
    INSERT INTO shop.strange VALUES (7000, 70, 'nobody gave it');
    ALTER TABLE shop.orders_2 ATTACH PARTITION shop.strange DEFAULT
    """,
    # it is younger than the last look, so TRUNCATE is not refused yet
    "TRUNCATE shop.young",
    "ALTER TABLE shop.orders DETACH PARTITION shop.orders_1",
)


async def test_rows_that_go_with_a_partition_of_a_closed_table(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No guard is asked. They come again, and ownership does not move before: not even between two looks."""
    dsn = database.dsn
    monkeypatch.setattr("replicator.daemon.session.CLOSED_SECONDS", 3600.0)
    monkeypatch.setattr("replicator.pipeline.pipeline.LOOK_SECONDS", 3600.0)
    await perform(dsn, [create_old({"orders": (PLAIN, NARROW)})])
    async with daemon(make_settings(database), same_rows(tmp_path, {"orders": (PLAIN, NARROW)})) as running:
        await running.ready()
        pipeline = running.active
        assert pipeline is not None
        for change in CHANGED_TREES:
            if "young" in change:
                await perform(dsn, ["CREATE TABLE shop.young PARTITION OF shop.orders FOR VALUES FROM (100) TO (200)"])
                await perform(dsn, ["INSERT INTO orders VALUES (500, 150, 'young')"])
                await same(running, dsn, "orders", "shop.orders")
            await perform(dsn, [change])
            with pytest.raises(NotReadyError, match=r"Not closed to others|changed past the log"):
                await running.cut_over()
            await close_again(running.settings, pipeline.compare_all)
            await same(running, dsn, "orders", "shop.orders")
            await running.compared()
        await running.in_the_end(running.cut_over)


def detach_half_way(dsn: str) -> None:
    """Cancelled, while it waited for a reader, after its first transaction."""
    with psycopg.connect(dsn) as reader, psycopg.connect(dsn, autocommit=True) as opened:
        reader.execute("SELECT count(*) FROM orders")
        opened.execute("SET statement_timeout = '300ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            opened.execute("ALTER TABLE orders DETACH PARTITION orders_1 CONCURRENTLY")


async def test_partitions_come_and_go_in_a_table_that_is_read(database: Database, tmp_path: Path) -> None:
    """Whatever the log says of it, or does not, the new table follows; what goes with a partition goes there, too."""
    dsn = database.dsn
    await perform(dsn, [create_old({"orders": (NARROW, WIDE)})])
    async with daemon(make_settings(database), same_rows(tmp_path, {"orders": (NARROW, WIDE)})) as running:
        await running.ready()
        for change in (
            "CREATE TABLE young PARTITION OF orders FOR VALUES FROM (100) TO (110)",
            "INSERT INTO orders VALUES (500, 105, 'young')",
            "UPDATE orders SET day = 105 WHERE id < 5; UPDATE orders SET day = 60 WHERE id = 500",
            "CREATE TABLE more (LIKE orders INCLUDING ALL); INSERT INTO more VALUES (600, 115, 'it comes with it'); "
            "ALTER TABLE orders ATTACH PARTITION more FOR VALUES FROM (110) TO (120)",
            "BEGIN; CREATE TABLE even (LIKE orders INCLUDING ALL); "
            "WITH gone AS (DELETE FROM orders_2_rest WHERE day = 60 RETURNING *) INSERT INTO even SELECT * FROM gone; "
            "ALTER TABLE orders_2 ATTACH PARTITION even FOR VALUES IN (60); COMMIT",
            "ALTER TABLE orders DETACH PARTITION orders_2",  # with what is below it
            "ALTER TABLE orders DETACH PARTITION young; UPDATE young SET note = 'nobody follows it'",
            "TRUNCATE more",
            "ALTER TABLE orders DETACH PARTITION orders_rest",
        ):
            await perform(dsn, change.split("; "))
            await same(running, dsn, "orders", "shop.orders")
        await running.clean()
        pipeline = running.active
        assert pipeline is not None
        await asyncio.to_thread(detach_half_way, dsn)
        await running.until(lambda: [each.name for each in pipeline.monitor.wrong] == ["old_tables.partitions"])
        (wrong,) = pipeline.monitor.wrong
        await perform(dsn, ["INSERT INTO orders_1 VALUES (700, 40, 'in the log, and in no table')"])
        assert wrong.remedy.splitlines()[-1] == "ALTER TABLE public.orders DETACH PARTITION public.orders_1 FINALIZE;"
        await perform(dsn, [wrong.remedy.splitlines()[-1]])
        await running.until(lambda: not pipeline.monitor.wrong)
        await same(running, dsn, "orders", "shop.orders")
        await running.in_the_end(running.cut_over)


OUTSIDE = """
CREATE TABLE days (day integer PRIMARY KEY);
INSERT INTO days SELECT i FROM generate_series(0, 199) AS i;
CREATE TABLE invoices (id integer PRIMARY KEY, of integer, day integer, FOREIGN KEY (of, day) REFERENCES orders);
CREATE TABLE stamps (id integer, day integer, PRIMARY KEY (id, day), FOREIGN KEY (id, day) REFERENCES orders)
    PARTITION BY HASH (id);
CREATE TABLE stamps_0 PARTITION OF stamps FOR VALUES WITH (MODULUS 1, REMAINDER 0);
INSERT INTO invoices VALUES (1, 1, 1);
INSERT INTO stamps VALUES (2, 2);
ALTER TABLE orders ADD FOREIGN KEY (day) REFERENCES days;
ALTER TABLE orders_2 ADD CONSTRAINT its_own FOREIGN KEY (day) REFERENCES days ON DELETE CASCADE
"""
KEYS = """
    SELECT string_agg(c.conrelid::regclass || ' ' || c.conname || ' ' || pg_get_constraintdef(c.oid), E'\\n'
                      ORDER BY c.conrelid::regclass::text, c.conname)
    FROM pg_constraint c WHERE c.contype = 'f' AND c.conparentid = 0
"""


async def use_keys(dsn: str, orders: str) -> None:
    """What the application does with them: at once, and before anything has come over to the other side."""
    await perform(
        dsn,
        [
            "INSERT INTO days VALUES (150000) ON CONFLICT DO NOTHING",
            f"INSERT INTO {orders} VALUES (900, 199, 'referred to')",
            "INSERT INTO invoices VALUES (900, 900, 199)",
            "INSERT INTO stamps VALUES (900, 199)",
            "DELETE FROM stamps WHERE id = 900",
            "DELETE FROM invoices WHERE id = 900",
            f"DELETE FROM {orders} WHERE id = 900",
            "DELETE FROM days WHERE day = 150000",
        ],
    )


async def test_foreign_keys_that_join_a_partitioned_table_with_others(database: Database, tmp_path: Path) -> None:
    dsn, shapes = database.dsn, {"orders": (WIDE, NARROW)}
    await perform(dsn, [create_old(shapes), OUTSIDE])
    before = one(dsn, KEYS)
    async with daemon(make_settings(database), same_rows(tmp_path, shapes)) as running:
        await running.ready()
        for strategy, place in (("schema", "shop.orders"), ("rename", "orders")):
            await running.cut_over(strategy=strategy)
            await use_keys(dsn, place)
            lines = [each for each in before.splitlines() if not each.startswith("orders")]
            wanted = "\n".join(lines).replace("REFERENCES orders(", f"REFERENCES {place}(")
            await running.until(lambda wanted=wanted: one(dsn, KEYS) == wanted)
            with pytest.raises(psycopg.errors.ForeignKeyViolation):
                await perform(dsn, ["INSERT INTO invoices VALUES (7, 77, 7)"])
            young = f"CREATE TABLE {place}_{strategy} PARTITION OF {place} FOR VALUES FROM ({{0}}) TO ({{0}}0)"
            await perform(dsn, [young.format(300 if strategy == "schema" else 4000)])
            with pytest.raises(psycopg.errors.ForeignKeyViolation):
                await perform(dsn, [f"DELETE FROM {place} WHERE id = 1"])
            await running.in_the_end(running.roll_back)  # the new partition may be noticed only then
            await use_keys(dsn, "orders")
            await running.until(lambda: one(dsn, KEYS) == before)
            await running.clean()


async def test_check_says_what_room_for_locks_is_needed(make_cluster: MakeCluster, tmp_path: Path) -> None:
    """Before anything runs out of it: an error would come at night, and to the application as well."""
    cluster = make_cluster(
        max_locks_per_transaction="10", max_connections="12", max_wal_senders="4", max_replication_slots="4",
        max_prepared_transactions="0", max_worker_processes="1", autovacuum_max_workers="1",
    )  # fmt: skip
    dsn = cluster.dsn()
    parts = "".join(
        f";CREATE TABLE IF NOT EXISTS {{t}}_{day} PARTITION OF {{t}} FOR VALUES FROM ({day}) TO ({day + 1})"
        for day in range(100)
    )
    shapes = {"orders": (f" PARTITION BY RANGE (day){parts}", PLAIN)}
    with psycopg.connect(dsn, autocommit=True) as opened:
        for statement in create_old(shapes).rstrip(";").split(";"):
            opened.execute(statement.encode())
    async with connection(dsn, "test") as many:
        with pytest.raises(LockRoomError, match=r"Raise max_locks_per_transaction"), translated():
            await many.execute("SELECT pg_advisory_xact_lock(i) FROM generate_series(1, 100000) AS i")
    migration = same_rows(tmp_path, shapes)
    found = (await check_with(migration, source_dsn=dsn))["source.locks"]
    assert found.outcome == "fail"
    assert found.detail.startswith("102 tables and partitions with 102 indexes are locked at once by a cutover, or ")
    assert found.detail.endswith("the server has room for 190 locks.")
    with psycopg.connect(dsn, autocommit=True) as opened:
        opened.execute("ALTER SYSTEM SET max_locks_per_transaction = 15")
    cluster.stop()
    cluster.start()
    assert (await check_with(migration, source_dsn=dsn))["source.locks"].outcome == "warn"
    follow_remedy(dsn, found)
    cluster.stop()
    cluster.start()
    assert (await check_with(migration, source_dsn=dsn))["source.locks"].outcome == "pass"


async def test_a_partition_in_another_schema_needs_nobody(database: Database, tmp_path: Path) -> None:
    """wal2json is asked for tables by schema: the daemon begins again by itself to ask for this one, too."""
    dsn, stop = database.dsn, asyncio.Event()
    await perform(dsn, [create_old({"orders": (WIDE, PLAIN)}), "CREATE SCHEMA parts"])
    migration = same_rows(tmp_path, {"orders": (WIDE, PLAIN)})
    task = asyncio.create_task(whole_daemon.run(make_settings(database), migration, stop=stop))

    async def shown(query: str) -> None:
        await until(lambda: one(dsn, query), alive=running(task))

    try:
        await shown("SELECT to_regclass('shop.orders') IS NOT NULL AND to_regclass('_replicator.state') IS NOT NULL")
        await shown("SELECT EXISTS (SELECT FROM _replicator.state WHERE phase = 'follow')")
        await perform(dsn, ["CREATE TABLE parts.far PARTITION OF orders FOR VALUES FROM (200) TO (300)"])
        await perform(dsn, ["INSERT INTO orders VALUES (500, 250, 'far')", "UPDATE orders SET day = 251 WHERE id = 7"])
        await shown("SELECT count(*) = 2 FROM shop.orders WHERE day > 249")
        await perform(dsn, ["UPDATE orders SET note = 'followed' WHERE day = 250"])
        await shown("SELECT EXISTS (SELECT FROM shop.orders WHERE note = 'followed')")
    finally:
        stop.set()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_new_owner_makes_partitions_of_what_is_open(database: Database, tmp_path: Path) -> None:
    """They get the guards that are switched off: whoever makes them must be allowed to, or next month's would fail."""
    dsn, role = database.dsn, f"r_{database.name}"
    await perform(dsn, [create_old({"orders": (WIDE, NARROW)}), f"CREATE ROLE {role} LOGIN"])
    own = psycopg.conninfo.make_conninfo(dsn, user=role)
    allowed = f"SELECT has_function_privilege('{role}', '_replicator.refuse_write()', 'EXECUTE')"
    try:
        async with daemon(make_settings(database), same_rows(tmp_path, {"orders": (WIDE, NARROW)})) as running:
            await running.ready()
            await running.cut_over()
            await perform(dsn, [f"ALTER TABLE shop.orders OWNER TO {role}", f"GRANT ALL ON SCHEMA shop TO {role}"])
            await running.until(lambda: one(dsn, allowed))
            await perform(own, ["CREATE TABLE shop.young PARTITION OF shop.orders FOR VALUES FROM (100) TO (200)"])
            await perform(own, ["INSERT INTO shop.orders VALUES (500, 150, 'young')"])
            await same(running, dsn, "orders", "shop.orders")
    finally:
        await perform(dsn, [f"DROP OWNED BY {role}", f"DROP ROLE {role}"])


async def test_a_hundred_and_fifty_partitions_on_either_side(database: Database, tmp_path: Path) -> None:
    """In the place of a thousand, which `benchmarks/by_hand/partitions.py` goes through step by step."""
    dsn = database.dsn
    parts = "".join(
        f";CREATE TABLE IF NOT EXISTS {{t}}_{day} PARTITION OF {{t}} FOR VALUES FROM ({day}) TO ({day + 1})"
        for day in range(150)
    )
    shapes = {"orders": (f" PARTITION BY RANGE (day){parts}",) * 2}
    await perform(dsn, [create_old(shapes)])
    async with daemon(
        make_settings(database, chunk_rows=1_000, max_write_pause=60), same_rows(tmp_path, shapes)
    ) as running:
        await running.ready()
        names = one(dsn, NAMES)
        await running.cut_over(strategy="rename")
        assert len(tree(dsn, "orders_old")) == 151
        await perform(dsn, ["UPDATE orders SET day = 149 - day", "DELETE FROM orders WHERE id = 5"])
        await same(running, dsn, "orders", "orders_old")
        await running.clean()
        await running.roll_back()
        assert one(dsn, NAMES) == names
        await perform(dsn, ["DELETE FROM orders WHERE id = 6"])
        await same(running, dsn, "orders", "shop.orders")
