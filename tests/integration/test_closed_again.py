"""Somebody switches a guard of the closed side off, and writes there: no move comes between what is done about it."""

import asyncio
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replicator.daemon import session
from replicator.errors import NotReadyError
from replicator.postgres.guarding.guards import guard_rest
from replicator.postgres.session.connect import connection
from replicator.runtime.failpoints import Failpoint, handled
from replicator.switchover import closing
from tests.engine import execute, make_settings
from tests.fix_postgres import Database
from tests.roles import OLD, identity
from tests.sessions import daemon
from tests.statements import one

pytestmark = pytest.mark.one_server

ROWS = "INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 20) i"
OFF = "ALTER TABLE shop.t DISABLE TRIGGER replicator_guard; ALTER TABLE shop.t DISABLE TRIGGER replicator_guard_rows"
STRAY = "UPDATE shop.t SET v = 'stray' WHERE id = 1"
GUARD = "SELECT tgenabled::text FROM pg_trigger WHERE tgname = 'replicator_guard' AND tgrelid = 'shop.t'::regclass"
FIRST = "SELECT v FROM shop.t WHERE id = 1"


async def test_that_rows_are_to_be_compared_is_noted_before_all_is_closed_again(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "CLOSED_SECONDS", 3600.0)
    execute(database.dsn, [OLD, ROWS])
    async with daemon(make_settings(database), identity(tmp_path)) as running:
        await running.ready()
        execute(database.dsn, [OFF, STRAY])
        noted: list[Any] = []

        def note() -> None:
            with psycopg.connect(database.dsn, autocommit=True) as other:
                other.execute("SET lock_timeout = '10ms'")
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    other.execute(STRAY.encode())
            noted.append(one(database.dsn, GUARD))

        async with connection(database.dsn, "test") as opened:
            assert await guard_rest(opened, 5.0, note) == ["writes to shop.t"]
            assert await guard_rest(opened, 5.0, note) == []
        assert noted == ["D"]
        assert one(database.dsn, GUARD) == "A"


async def test_a_cutover_right_after_it_is_closed_again_waits_for_the_comparison(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "CLOSED_SECONDS", 0.05)
    monkeypatch.setattr("replicator.pipeline.pipeline.BETWEEN_LOOKS", 3600.0)
    execute(database.dsn, [OLD, ROWS])
    closed = asyncio.Event()

    async def lingers(*_: object) -> None:
        if one(database.dsn, FIRST) == "stray":
            closed.set()
            await asyncio.Event().wait()

    async with daemon(make_settings(database), identity(tmp_path)) as running:
        await running.ready()
        monkeypatch.setattr(closing, "note_partitions", lingers)
        execute(database.dsn, [f"BEGIN; {OFF}; {STRAY}; COMMIT"])
        await running.until(closed.is_set)
        assert one(database.dsn, GUARD) == "A"
        with pytest.raises(NotReadyError, match="a guard was switched off"):
            await running.cut_over()
        assert one(database.dsn, "SELECT replicator.active_schema()") == "public"


async def test_what_is_written_after_the_last_check_is_seen_with_the_tables_locked(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "CLOSED_SECONDS", 3600.0)
    monkeypatch.setattr("replicator.pipeline.pipeline.LOOK_SECONDS", 3600.0)  # else it may be the one that notices
    execute(database.dsn, [OLD, ROWS])

    async def strike() -> None:
        execute(database.dsn, [f"BEGIN; {OFF}; {STRAY}; COMMIT"])

    async with daemon(make_settings(database), identity(tmp_path)) as running:
        await running.ready()
        with (
            handled(Failpoint.CUTOVER_CHECKED, strike),
            pytest.raises(NotReadyError, match=r"Not closed to others was: writes to shop\.t"),
        ):
            await running.cut_over()
        assert one(database.dsn, "SELECT replicator.active_schema()") == "public"
