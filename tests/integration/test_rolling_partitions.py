"""Both schemas take writes, and tables are partitioned: what happens to one partition happens to no other."""

from pathlib import Path
from typing import Any, Final

import pytest

from replicator import Migration, Query, Row
from replicator.daemon import session
from replicator.errors import NotReadyError
from tests.bidirectional import Both, rolling
from tests.engine import execute, make_settings
from tests.fix_postgres import Database
from tests.statements import one

TABLES: Final = """
    CREATE TABLE {0}days (id integer, day integer, shop integer NOT NULL, v text, PRIMARY KEY (id, day))
        PARTITION BY RANGE (day);
    CREATE TABLE {0}days_1 PARTITION OF {0}days FOR VALUES FROM (0) TO (10);
    CREATE TABLE {0}days_2 PARTITION OF {0}days FOR VALUES FROM (10) TO (20);
    CREATE TABLE {0}sums (shop integer PRIMARY KEY, rows integer NOT NULL);
"""
ROWS: Final = """
    ALTER TABLE days REPLICA IDENTITY FULL; ALTER TABLE days_1 REPLICA IDENTITY FULL;
    ALTER TABLE days_2 REPLICA IDENTITY FULL;
    INSERT INTO days SELECT i, day, i % 3, 'v' FROM generate_series(1, 9) i, unnest(ARRAY[5, 15]) day;
"""
SUMS: Final = "SELECT shop, count(*)::integer AS rows FROM public.days GROUP BY shop"


def partitioned(folder: Path, *, remembering: bool) -> Migration:
    """Partitions there and back, and one table that is made of all of them, on the new side only."""
    (folder / "new").mkdir(exist_ok=True)
    new = "CREATE SCHEMA IF NOT EXISTS shop;" + TABLES.format("shop.").replace("TABLE ", "TABLE IF NOT EXISTS ")
    new += "ALTER TABLE shop.days REPLICA IDENTITY FULL; ALTER TABLE shop.days_1 REPLICA IDENTITY FULL;"
    (folder / "new" / "10_tables.sql").write_text(new + "ALTER TABLE shop.days_2 REPLICA IDENTITY FULL;")
    migration = Migration("partitioned", old="public", new="shop", sql=folder)
    key = None if remembering else lambda row: (row["id"], row["day"])
    for way in (migration.transform, migration.reverse):
        way(source="days", into="days", key=key)(same)
    sums = Query(SUMS, key=["shop"], depends_on={"days": ["shop"]})
    migration.transform(source=sums, into="sums", key=lambda row: row["shop"])(total)
    migration.retire("sums", because="it is made anew")
    return migration


def same(row: Row) -> dict[str, Any]:
    return {"id": row["id"], "day": row["day"], "shop": row["shop"], "v": row["v"]}


def total(row: Row) -> dict[str, Any]:
    return {"shop": row["shop"], "rows": row["rows"]}


def rows(dsn: str, schema: str) -> Any:
    return one(dsn, f"SELECT array_agg(d::text ORDER BY id, day) FROM {schema}.days d")


def numbers(dsn: str, schema: str, day: int) -> Any:
    return one(dsn, f"SELECT array_agg(id || v ORDER BY id) FROM {schema}.days WHERE day = {day}")


async def equal(running: Both, dsn: str) -> None:
    await running.quiet()
    assert rows(dsn, "public") == rows(dsn, "shop")


@pytest.mark.two_servers
@pytest.mark.parametrize(("emptied", "remembering"), [("public", True), ("shop", False)])
async def test_a_truncate_of_one_partition_leaves_the_others_alone(
    database: Database, tmp_path: Path, emptied: str, remembering: bool
) -> None:
    """Rows of others that are on one side only yet, and changes there that are older, stay."""
    other = "shop" if emptied == "public" else "public"
    dsn = database.dsn
    execute(dsn, [TABLES.format(""), ROWS])
    async with rolling(make_settings(database), partitioned(tmp_path, remembering=remembering)) as running:
        await running.open()
        async with running.paused("forward", "reverse"):
            execute(dsn, [f"INSERT INTO {other}.days VALUES (100, 15, 1, 'young'), (101, 15, 2, 'young')"])
            execute(dsn, [f"UPDATE {other}.days SET v = 'new' WHERE (id, day) = (1, 15)"])
            execute(dsn, [f"UPDATE {other}.days SET v = 'too early' WHERE (id, day) = (2, 5)"])
            execute(dsn, [f"TRUNCATE {emptied}.days_1"])
            execute(dsn, [f"INSERT INTO {emptied}.days VALUES (3, 5, 0, 'again')"])
            execute(dsn, [f"UPDATE {other}.days SET v = 'later' WHERE (id, day) = (4, 5)"])
        await equal(running, dsn)
        assert numbers(dsn, "shop", 15) == ["1new", *(f"{i}v" for i in range(2, 10)), "100young", "101young"]
        assert numbers(dsn, "shop", 5) == ["3again", "4later"]
        assert running.pipeline("forward").context.quarantined == set()


@pytest.mark.one_server
async def test_what_hangs_on_a_partition_and_a_truncate_of_all_of_them(database: Database, tmp_path: Path) -> None:
    dsn = database.dsn
    sums = "SELECT array_agg((shop, rows)::text ORDER BY shop) FROM shop.sums"
    execute(dsn, [TABLES.format(""), ROWS])
    async with rolling(make_settings(database), partitioned(tmp_path, remembering=False)) as running:
        await running.open()
        execute(dsn, ["DELETE FROM days WHERE id > 6", "TRUNCATE days_1"])
        await equal(running, dsn)
        assert one(dsn, sums) == ["(0,2)", "(1,2)", "(2,2)"]
        execute(dsn, ["TRUNCATE days", "INSERT INTO days VALUES (3, 5, 0, 'again')"])
        await equal(running, dsn)
        assert numbers(dsn, "shop", 5) == ["3again"]
        assert numbers(dsn, "shop", 15) is None


@pytest.mark.one_server
async def test_a_partition_that_is_made_later(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "CLOSED_SECONDS", 0.1)
    dsn = database.dsn
    execute(dsn, [TABLES.format(""), ROWS])
    async with rolling(make_settings(database), partitioned(tmp_path, remembering=False)) as running:
        await running.open()
        for schema in ("public", "shop"):
            execute(dsn, [f"CREATE TABLE {schema}.days_3 PARTITION OF {schema}.days FOR VALUES FROM (20) TO (30)"])
            execute(dsn, [f"ALTER TABLE {schema}.days_3 REPLICA IDENTITY FULL"])
        noted = "SELECT count(*) FROM pg_trigger WHERE tgname = 'replicator_emptied' AND tgrelid = '{}'::regclass"
        for schema in ("public", "shop"):
            await running.until(lambda each=schema: one(dsn, noted.format(f"{each}.days_3")))
        execute(dsn, ["INSERT INTO days VALUES (1, 25, 0, 'x')"])
        await equal(running, dsn)
        async with running.paused("forward", "reverse"):
            execute(dsn, ["INSERT INTO shop.days VALUES (100, 15, 1, 'young')"])
            execute(dsn, ["TRUNCATE days_3"])
        await equal(running, dsn)
        assert numbers(dsn, "shop", 25) is None
        assert "100young" in numbers(dsn, "public", 15)


@pytest.mark.one_server
async def test_a_trigger_that_appears_keeps_ownership_where_it_is(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can rest on neither side, and acts on what the daemon writes on one of them only."""
    monkeypatch.setattr("replicator.pipeline.pipeline.LOOK_SECONDS", 0.1)
    dsn = database.dsn
    execute(dsn, [TABLES.format(""), ROWS])
    async with rolling(make_settings(database), partitioned(tmp_path, remembering=False)) as running:
        await running.open()
        execute(dsn, [
            "CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
            "CREATE TRIGGER late BEFORE INSERT ON shop.days_2 FOR EACH ROW EXECUTE FUNCTION public.f()",
        ])  # fmt: skip
        await running.until(lambda: running.pipeline("forward").monitor.wrong)
        with pytest.raises(NotReadyError, match=r"late on shop\.days_2"):
            await running.complete()
        execute(dsn, ["DROP TRIGGER late ON shop.days_2"])
        await running.until(lambda: not running.pipeline("forward").monitor.wrong)
        # It may have acted on what the daemon has written: all rows are compared first.
        await running.in_the_end(running.complete)


@pytest.mark.one_server
async def test_what_changes_past_the_log_is_mended_and_the_cutover_completes(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rewrites, partitions that come with rows and go; what the application writes on the other side stays."""
    monkeypatch.setattr("replicator.pipeline.pipeline.LOOK_SECONDS", 0.1)
    monkeypatch.setattr("replicator.daemon.mending.LOOK_SECONDS", 0.1)
    monkeypatch.setattr("replicator.daemon.mending.PAUSE_SECONDS", 0.2)
    dsn = database.dsn
    execute(dsn, [TABLES.format(""), ROWS])
    async with rolling(make_settings(database), partitioned(tmp_path, remembering=False)) as running:
        await running.open()
        execute(dsn, ["UPDATE shop.days SET v = 'new' WHERE (id, day) = (1, 15)"])
        execute(dsn, [
            "ALTER TABLE days DETACH PARTITION days_1",
            "CREATE TABLE days_3 (LIKE days INCLUDING ALL)",
            "INSERT INTO days_3 VALUES (77, 5, 1, 'past the log')",
            "ALTER TABLE days ATTACH PARTITION days_3 FOR VALUES FROM (0) TO (10)",
            "ALTER TABLE days_3 REPLICA IDENTITY FULL",
        ])  # fmt: skip
        with database.connect() as opened:
            opened.execute("VACUUM FULL days_2")
        forward = running.pipeline("forward")
        await forward.look_at_definitions()
        assert forward.context.unseen == {"days"}
        await running.until(lambda: not forward.context.unseen)
        assert numbers(dsn, "shop", 5) == ["77past the log"]
        assert numbers(dsn, "shop", 15) == ["1new", *(f"{i}v" for i in range(2, 10))]
        await running.in_the_end(running.complete)
        assert rows(dsn, "public") == rows(dsn, "shop")
