"""While a side is closed, its tables change: what leaves one is open again, what comes is closed, whoever made it."""

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

import psycopg
import pytest

from replicator.daemon import session
from replicator.postgres.guarding import guards
from replicator.postgres.guarding.guards import Member
from replicator.postgres.session.connect import Connection
from tests.engine import execute, make_settings
from tests.fix_postgres import Database
from tests.guarded import OLD, cut_over
from tests.roles import readme_roles
from tests.sessions import of
from tests.statements import ENABLED, one, refusal

TRIGGER = (
    "CREATE FUNCTION public.kept() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "CREATE TRIGGER of_all BEFORE UPDATE ON public.t FOR EACH ROW EXECUTE FUNCTION public.kept()",
    "CREATE TRIGGER of_it BEFORE UPDATE ON public.t_high FOR EACH ROW EXECUTE FUNCTION public.kept()",
    "CREATE TABLE public.u_child () INHERITS (public.u)",
)
GUARDED = (
    "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'public.{}'::regclass AND tgenabled = 'A' "
    "AND tgname LIKE 'replicator_guard%'"
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "CLOSED_SECONDS", 0.1)
    monkeypatch.setattr("replicator.pipeline.pipeline.LOOK_SECONDS", 0.1)


@pytest.mark.one_server
async def test_what_leaves_a_closed_table_is_the_applications_again(database: Database, tmp_path: Path) -> None:
    execute(database.dsn, [OLD, *TRIGGER[:3]])
    async with cut_over(make_settings(database), tmp_path) as running:
        await asyncio.to_thread(execute, database.dsn, [TRIGGER[3]])
        await running.until(lambda: one(database.dsn, GUARDED.format("u_child")) == 2)
        assert one(database.dsn, ENABLED.format("public.t_high")) == "of_allD,of_itD"
        with database.connect() as opened:
            await asyncio.to_thread(opened.execute, "ALTER TABLE t DETACH PARTITION t_high")
            await asyncio.to_thread(opened.execute, "ALTER TABLE u_child NO INHERIT u")
            await running.until(lambda: one(database.dsn, ENABLED.format("public.t_high")) == "of_itO")
            await running.until(lambda: one(database.dsn, GUARDED.format("u_child")) == 0)
            for each in ("INSERT INTO t_high VALUES (150, 'x')", "TRUNCATE t_high", "INSERT INTO u_child VALUES (1)"):
                assert await asyncio.to_thread(refusal, opened, each) is None, each
            for each in ("INSERT INTO t VALUES (50, 'x')", "TRUNCATE t_low", "DELETE FROM u"):
                assert await asyncio.to_thread(refusal, opened, each) == "RP002", each
            assert one(database.dsn, "SELECT count(*) FROM _replicator.resting WHERE name = 'of_it'") == 0
            await asyncio.to_thread(
                opened.execute, "ALTER TABLE t ATTACH PARTITION t_high FOR VALUES FROM (100) TO (200)"
            )
            await running.until(lambda: one(database.dsn, GUARDED.format("t_high")) == 2)
            assert await asyncio.to_thread(refusal, opened, "TRUNCATE t_high") == "RP002"
            assert one(database.dsn, ENABLED.format("public.t_high")) == "of_allD,of_itD"


@pytest.mark.one_server
async def test_a_partition_of_another_owner_keeps_nothing_else_open(database: Database, tmp_path: Path) -> None:
    """The daemon goes on, the gate says what to do, and no role is granted that is a superuser's."""
    with readme_roles(database, OLD) as roles:
        async with cut_over(roles.settings(), tmp_path) as running:
            roles.superuser("CREATE TABLE public.t_first PARTITION OF public.t FOR VALUES FROM (200) TO (300)")
            with roles.connect(roles.app) as app:
                await asyncio.to_thread(
                    app.execute, "CREATE TABLE public.t_then PARTITION OF public.t FOR VALUES FROM (300) TO (400)"
                )
            await running.until(lambda: of(running).monitor.wrong)
            with roles.connect(roles.app) as app:
                await running.until(lambda: one(database.dsn, GUARDED.format("t_then")) == 2)
                assert await asyncio.to_thread(refusal, app, "TRUNCATE public.t_then") == "RP002"
            (wrong,) = of(running).monitor.wrong
            assert wrong.name == "old_tables.ownership"
            assert "t_first" in wrong.problem
            with contextlib.suppress(psycopg.Error):
                roles.superuser(*[line for line in wrong.remedy.splitlines() if line.endswith(";")])
            await running.until(lambda: not of(running).monitor.wrong)
            with roles.connect(roles.app) as app:
                await running.until(lambda: one(database.dsn, GUARDED.format("t_first")) == 2)
                assert await asyncio.to_thread(refusal, app, "TRUNCATE public.t_first") == "RP002"


@pytest.mark.one_server
async def test_a_partition_that_goes_while_it_is_closed_ends_nothing(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was listed, and is dropped before it is named."""
    execute(database.dsn, [OLD])
    gone: list[str] = []
    refuse = guards._refuse

    async def drop_first(opened: Connection, members: Sequence[Member], told: tuple[str, str, str]) -> None:
        if not gone and [each for each in members if each.name.table == "t_far"]:
            await asyncio.to_thread(execute, database.dsn, ["DROP TABLE t_far"])
            gone.append("t_far")
        await refuse(opened, members, told)

    async with cut_over(make_settings(database), tmp_path) as running:
        monkeypatch.setattr(guards, "_refuse", drop_first)
        await asyncio.to_thread(
            execute, database.dsn, ["CREATE TABLE t_far PARTITION OF t FOR VALUES FROM (900) TO (1000)"]
        )
        await running.until(lambda: gone)
        await asyncio.to_thread(
            execute, database.dsn, ["CREATE TABLE t_farther PARTITION OF t FOR VALUES FROM (1000) TO (1100)"]
        )
        await running.until(lambda: one(database.dsn, GUARDED.format("t_farther")) == 2)
