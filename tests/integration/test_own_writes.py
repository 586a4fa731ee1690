"""What the daemon writes fires nothing of the application's, and foreign keys hold."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from replicator import Migration
from replicator.core.tables import Name
from replicator.daemon import session
from replicator.errors import NotReadyError
from replicator.pipeline.pipeline import Pipeline
from replicator.postgres.control.control import install
from replicator.postgres.control.trigger_names import GUARD
from replicator.postgres.guarding.guards import guard, open_to_writers
from replicator.postgres.session.connect import connection
from replicator.preflight import preflight
from replicator.runbook.finish import abort, finalize
from replicator.runtime.failpoints import Failpoint, handled
from replicator.settings import Settings
from replicator.switchover import closing
from tests.engine import Engine, execute, make_settings
from tests.fix_postgres import Database
from tests.roles import identity
from tests.sessions import Running, daemon
from tests.statements import ENABLED, one

pytestmark = pytest.mark.one_server

COUNTER: Final = """
    CREATE FUNCTION public.count_comment() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        UPDATE posts SET n = n + CASE TG_OP WHEN 'INSERT' THEN 1 ELSE -1 END
        WHERE id = CASE TG_OP WHEN 'INSERT' THEN NEW.post ELSE OLD.post END;
        RETURN NULL;
    END $$;
    CREATE FUNCTION public.log_post() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO audit (what) VALUES (TG_OP); RETURN NULL; END $$;
    CREATE TABLE public.posts (id integer PRIMARY KEY, n integer NOT NULL DEFAULT 0);
    CREATE TABLE public.comments (id integer PRIMARY KEY, post integer NOT NULL REFERENCES public.posts);
    CREATE TABLE public.audit (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text);
    CREATE TRIGGER counts AFTER INSERT OR DELETE ON public.comments
        FOR EACH ROW EXECUTE FUNCTION public.count_comment();
    CREATE CONSTRAINT TRIGGER logs AFTER INSERT OR UPDATE ON public.posts
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.log_post();
    INSERT INTO public.posts (id) SELECT generate_series(1, 5);
    INSERT INTO public.comments SELECT i, 1 + i % 5 FROM generate_series(1, 20) AS i;
"""
NEW: Final = """
    CREATE SCHEMA IF NOT EXISTS shop;
    CREATE TABLE IF NOT EXISTS shop.posts (id integer PRIMARY KEY, n integer NOT NULL DEFAULT 0);
    CREATE TABLE IF NOT EXISTS shop.comments (id integer PRIMARY KEY, post integer NOT NULL);
"""
TRIGGER: Final = """
    CREATE OR REPLACE TRIGGER counts AFTER INSERT OR DELETE ON shop.comments
        FOR EACH ROW EXECUTE FUNCTION public.count_comment();
"""
CONSTRAINTS: Final = (
    "ALTER TABLE shop.comments ADD CONSTRAINT comments_post_fkey FOREIGN KEY (post) REFERENCES shop.posts;"
)
WRONG: Final = "SELECT count(*) FROM {0}.posts p WHERE n <> (SELECT count(*) FROM {0}.comments c WHERE c.post = p.id)"


def counting(folder: Path, *, late: bool = False) -> Migration:
    """The new tables' trigger is made with them, or, ``late``, while the daemon follows."""
    migration = identity(folder, NEW + ("" if late else TRIGGER), ("posts", "comments"))
    (folder / "new" / "30_constraints.sql").write_text(CONSTRAINTS + (TRIGGER if late else ""))
    migration.retire("audit", because="it is a log")
    return migration


def write(dsn: str, schema: str, number: int) -> None:
    """One comment more, and one less, as the application does."""
    execute(dsn, [
        f"SET LOCAL search_path = {schema}",
        f"INSERT INTO comments VALUES ({number}, 1 + {number} % 5)",
        f"DELETE FROM comments WHERE id = {number} - 90",
    ])  # fmt: skip


async def right(running: Running, dsn: str, number: int, *places: str) -> None:
    """The writes have come to the other side; the counters are right on both, and verification finds nothing."""
    for place in places:
        posts, comments = (f"public.{each}{place[6:]}" if place.startswith("public") else f"{place}.{each}"
                           for each in ("posts", "comments"))  # fmt: skip
        there = f"SELECT count(*) FROM {comments} WHERE id = {number}"
        await running.until(lambda query=there: one(dsn, query) == 1)
        wrong = f"SELECT count(*) FROM {posts} p WHERE n <> (SELECT count(*) FROM {comments} c WHERE c.post = p.id)"
        await running.until(lambda query=wrong: one(dsn, query) == 0)
    await running.clean()
    assert running.active is not None
    assert not running.active.verifier.divergences


@pytest.mark.parametrize("strategy", ["rename", "schema"])
async def test_a_counter_cache_there_and_back_and_there(database: Database, tmp_path: Path, strategy: Any) -> None:
    dsn = database.dsn
    execute(dsn, [COUNTER])
    moved = ("public_old", "public", "public") if strategy == "rename" else ("public", "shop", "shop")
    async with daemon(make_settings(database), counting(tmp_path, late=strategy == "schema")) as running:
        await running.ready()
        assert one(dsn, ENABLED.format("shop.comments")) == "countsD"
        write(dsn, "public", 101)
        await right(running, dsn, 101, "public", "shop")
        for number in (102, 104):
            await running.cut_over(strategy=strategy)
            old, new, used = moved
            write(dsn, used, number)
            await right(running, dsn, number, old, new)
            assert one(dsn, ENABLED.format(f"{new}.comments")) == "countsO"
            await running.roll_back()
            assert one(dsn, ENABLED.format("public.posts")) == "logsO"
            write(dsn, "public", number + 1)
            await right(running, dsn, number + 1, "public", "shop")
        assert one(dsn, "SELECT count(*) FROM _replicator.quarantine") == 0


async def test_a_trigger_that_touches_a_retired_table_that_is_renamed(database: Database, tmp_path: Path) -> None:
    dsn = database.dsn
    execute(dsn, [COUNTER])
    async with daemon(make_settings(database), counting(tmp_path)) as running:
        await running.ready()
        await running.cut_over(strategy="rename")
        execute(dsn, ["UPDATE public.posts SET n = n"])
        write(dsn, "public", 101)
        await right(running, dsn, 101, "public_old", "public")
        await running.roll_back()
    assert one(dsn, ENABLED.format("public.posts")) == "logsO"


STATES: Final = """
    CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
    CREATE TABLE public.p (id integer PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE public.p1 PARTITION OF public.p FOR VALUES FROM (0) TO (10);
    CREATE TABLE public.p2 PARTITION OF public.p FOR VALUES FROM (10) TO (20);
    CREATE TRIGGER always BEFORE INSERT ON public.p FOR EACH ROW EXECUTE FUNCTION public.f();
    CREATE TRIGGER off BEFORE INSERT ON public.p FOR EACH ROW EXECUTE FUNCTION public.f();
    CREATE TRIGGER origin BEFORE INSERT ON public.p FOR EACH ROW EXECUTE FUNCTION public.f();
    CREATE TRIGGER replica BEFORE INSERT ON public.p FOR EACH STATEMENT EXECUTE FUNCTION public.f();
    ALTER TABLE public.p ENABLE ALWAYS TRIGGER always;
    ALTER TABLE public.p DISABLE TRIGGER off;
    ALTER TABLE ONLY public.p ENABLE REPLICA TRIGGER replica;
    ALTER TABLE ONLY public.p1 DISABLE TRIGGER origin;
    ALTER TABLE ONLY public.p2 ENABLE REPLICA TRIGGER always;
"""


async def test_every_state_is_given_back(database: Database, tmp_path: Path) -> None:
    """Partitions may have another than their root; one that is made meanwhile has its root's."""
    execute(database.dsn, [STATES])
    tables = [Name(schema="public", table="p")]
    before = [one(database.dsn, ENABLED.format(each)) for each in ("p", "p1", "p2")]
    assert before == ["alwaysA,offD,originO,replicaR", "alwaysA,offD,originD", "alwaysR,offD,originO"]
    migration = identity(tmp_path)
    async with connection(database.dsn, "test") as opened:
        await install(opened, migration)
        for _ in range(2):
            await guard(opened, migration, "old", tables)
            await guard(opened, migration, "old", tables)
            resting = [one(database.dsn, ENABLED.format(each)) for each in ("p", "p1", "p2")]
            assert resting == ["alwaysD,offD,originD,replicaD", "alwaysD,offD,originD", "alwaysD,offD,originD"]
            execute(database.dsn, ["CREATE TABLE p3 PARTITION OF p FOR VALUES FROM (20) TO (30)"])
            await guard(opened, migration, "old", tables)
            await open_to_writers(opened, tables)
            assert [one(database.dsn, ENABLED.format(each)) for each in ("p", "p1", "p2")] == before
            assert one(database.dsn, ENABLED.format("p3")) == "alwaysA,offD,originO"
            execute(database.dsn, ["DROP TABLE p3"])
        assert one(database.dsn, "SELECT count(*) FROM _replicator.resting") == 0


async def test_a_trigger_that_appears_later_is_laid_to_rest(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "CLOSED_SECONDS", 0.1)
    execute(database.dsn, [COUNTER])
    async with daemon(make_settings(database), counting(tmp_path)) as running:
        await running.ready()
        pipeline = running.active
        assert pipeline is not None
        execute(database.dsn, [
            "CREATE TRIGGER late AFTER INSERT ON shop.comments FOR EACH ROW EXECUTE FUNCTION public.count_comment()",
            "ALTER TABLE shop.comments ENABLE ALWAYS TRIGGER counts",
        ])  # fmt: skip
        await running.until(lambda: one(database.dsn, ENABLED.format("shop.comments")) == "countsD,lateD")
        await running.until(lambda: bool(pipeline.context.unseen))  # what it has done meanwhile is found
        await running.until(lambda: not pipeline.context.unseen)
        execute(database.dsn, ["DROP TRIGGER late ON shop.comments"])
        await running.in_the_end(running.cut_over)
        assert one(database.dsn, ENABLED.format("shop.comments")) == "countsA"


SWITCHED: Final = {
    "a trigger": ("ALTER TABLE shop.comments ENABLE TRIGGER counts", "the trigger counts on shop.comments"),
    "a guard": (f"ALTER TABLE shop.comments DISABLE TRIGGER {GUARD}", "writes to shop.comments"),
}


@pytest.mark.parametrize("what", SWITCHED)
async def test_what_is_switched_at_the_last_moment_is_noticed_under_the_lock(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Between two looks; what it has let through is compared before the move is tried again."""
    monkeypatch.setattr(session, "CLOSED_SECONDS", 0.1)
    execute(database.dsn, [COUNTER])
    switch, named = SWITCHED[what]
    suspected: list[bool] = []
    async with daemon(make_settings(database), counting(tmp_path)) as running:
        await running.ready()
        looks = closing.close_again

        async def none(settings: Settings, noted: Callable[[], None]) -> None:
            """No look."""

        async def flip() -> None:
            execute(database.dsn, [switch])

        monkeypatch.setattr(session, "close_again", none)
        monkeypatch.setattr(Pipeline, "compare_all", lambda _: suspected.append(True))
        told = f"Not closed to others was: {named}|changed past the log.*a guard"
        with handled(Failpoint.CUTOVER_LOCKED, flip), pytest.raises(NotReadyError, match=told):
            await running.cut_over()
        pipeline = running.active
        assert suspected or (pipeline is not None and pipeline.context.unseen)
        monkeypatch.setattr(session, "close_again", looks)
        await running.until(lambda: one(database.dsn, ENABLED.format("shop.comments")) == "countsD")
        await running.in_the_end(running.cut_over)


@pytest.mark.parametrize("end", ["abort", "finalize"])
async def test_the_end_gives_back_what_rests(database: Database, tmp_path: Path, end: str) -> None:
    execute(database.dsn, [COUNTER])
    settings, migration = make_settings(database), counting(tmp_path)
    if end == "abort":  # what is not ours stays: so its triggers must be as they were
        execute(database.dsn, [NEW, TRIGGER])
        await Engine(settings, migration).make_tables()
        assert one(database.dsn, ENABLED.format("shop.comments")) == "countsD"
        await abort(settings, migration, _tell)
        assert one(database.dsn, ENABLED.format("shop.comments")) == "countsO"
        return
    async with daemon(settings, migration) as running:
        await running.ready()
        await running.cut_over()
        assert one(database.dsn, ENABLED.format("public.posts")) == "logsD"
    await finalize(settings, migration, _tell, now=True)
    assert one(database.dsn, ENABLED.format("public.posts")) == "logsO"
    assert one(database.dsn, ENABLED.format("public.comments")) == "countsO"


async def _tell(_: str) -> None:
    """Progress is nobody's here."""


async def test_check_says_that_they_rest_and_its_own_trial_fires_none(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, [COUNTER])
    migration = counting(tmp_path)
    failing = (
        "CREATE OR REPLACE FUNCTION public.fails() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'fired'; END $$"
    )
    ddl = (
        NEW
        + TRIGGER
        + ("CREATE OR REPLACE TRIGGER fails BEFORE INSERT ON shop.posts FOR EACH ROW EXECUTE FUNCTION public.fails();")
    )
    execute(database.dsn, [failing])
    (tmp_path / "new" / "10_tables.sql").write_text(ddl)
    found = {each.check: each for each in await preflight(make_settings(database), migration)}
    assert not [each for each in found.values() if each.outcome == "fail"]
    assert "counts on shop.comments" in found["new_tables.triggers"].detail
    assert "logs on public.posts" in found["old_tables.triggers"].detail
