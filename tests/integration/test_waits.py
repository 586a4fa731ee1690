"""Waits are bounded, and whoever is in the way is named: sessions, prepared transactions, autovacuum."""

import asyncio
import contextlib
import re
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replicator import Migration
from replicator.core.tables import Name
from replicator.postgres.control.mailbox import request
from replicator.postgres.locking.locks import (
    EVERYBODY,
    WRITERS,
    LockedOutError,
    Mode,
    lock_more,
    lock_tables,
    patience_of,
)
from replicator.postgres.session.connect import Connection, connection
from replicator.runtime.failpoints import Failpoint, handled
from replicator.switchover.phases import Phase
from tests.engine import SECONDS, execute, make_settings
from tests.fix_postgres import Database
from tests.same_names import create_old, same_names
from tests.sessions import Running, daemon
from tests.statements import one
from tests.waiting import until

pytestmark = pytest.mark.one_server

TABLES = [Name(schema="public", table=f"t{number}") for number in range(4)]


@pytest.fixture
def tables(database: Database) -> Database:
    execute(database.dsn, [f"CREATE TABLE {each.table} (id integer PRIMARY KEY)" for each in TABLES])
    execute(database.dsn, [f"INSERT INTO {each.table} VALUES (1)" for each in TABLES])
    return database


@contextlib.asynccontextmanager
async def two(dsn: str) -> AsyncIterator[tuple[Connection, Connection]]:
    """The one that locks, and the one that looks on."""
    async with connection(dsn, "cutover") as locking, connection(dsn, "cutover watch") as observer:
        yield locking, observer


async def lock(dsn: str, tables: list[Name], mode: Mode = WRITERS, seconds: float = 0.5) -> None:
    async with two(dsn) as (locking, observer), locking.transaction():
        await lock_tables(locking, tables, mode, seconds, observer)


@contextlib.contextmanager
def session(dsn: str, *statements: str) -> Iterator["psycopg.Connection[Any]"]:
    """A session of the application's, in a transaction."""
    with psycopg.connect(dsn, application_name="till 7") as opened:
        for statement in statements:
            opened.execute(statement.encode())
        yield opened
        opened.rollback()


# ---- locks


async def test_all_tables_have_one_deadline(tables: Database) -> None:
    """Each is free before the limit has passed for it alone; together they take longer."""
    awaited = "SELECT count(*) FROM pg_locks WHERE relation = '{}'::regclass AND NOT granted"
    with contextlib.ExitStack() as stack:
        holders = [stack.enter_context(session(tables.dsn, f"UPDATE {each.table} SET id = id")) for each in TABLES]

        def comes(table: str) -> bool:
            return locking.done() or bool(one(tables.dsn, awaited.format(table)))

        locking = asyncio.create_task(lock(tables.dsn, TABLES))
        for each, holder in zip(TABLES, holders, strict=True):
            await until(partial(comes, each.table))
            await asyncio.wait([locking], timeout=0.35)
            holder.rollback()
        with pytest.raises(LockedOutError, match="The 4 tables could not be locked within 500 ms"):
            await locking


async def test_the_application_is_never_told_of_a_deadlock(tables: Database) -> None:
    """Who waits for us first is looked at first, once we wait for it too: it would be the one to fail."""
    execute(tables.dsn, [f"ALTER DATABASE {tables.name} SET deadlock_timeout = '300ms'"])
    first, second, third = TABLES[:3]
    with (
        session(tables.dsn, f"UPDATE {second.table} SET id = id") as other,
        session(tables.dsn, f"UPDATE {third.table} SET id = id") as application,
    ):
        locking = asyncio.create_task(lock(tables.dsn, [first, second, third]))
        asked = "SELECT count(*) FROM pg_locks WHERE relation = 't1'::regclass AND NOT granted"
        await until(lambda: one(tables.dsn, asked), every=0.001)
        release = threading.Timer(0.25, other.rollback)
        release.start()
        await asyncio.to_thread(application.execute, f"UPDATE {first.table} SET id = id".encode())
        with pytest.raises(LockedOutError):
            await locking
        release.join()


async def test_who_holds_locks_already_does_not_queue(tables: Database) -> None:
    """Else who waits for the first of them, and holds the second, is told of a deadlock."""
    execute(tables.dsn, [f"ALTER DATABASE {tables.name} SET deadlock_timeout = '50ms'"])
    first, second = TABLES[:2]
    async with two(tables.dsn) as (locking, observer), locking.transaction():
        with session(tables.dsn, f"SELECT FROM {second.table}") as application:
            await lock_tables(locking, [first], WRITERS, 0.5, observer)
            writing = asyncio.create_task(asyncio.to_thread(application.execute, b"UPDATE t0 SET id = id"))
            with pytest.raises(LockedOutError, match=f"process {application.info.backend_pid} .*till 7"):
                await lock_more(locking, [second], EVERYBODY, 0.4, observer)
            await locking.execute("ROLLBACK")
            await writing


@pytest.mark.parametrize(("setting", "seconds"), [("1s", 0.5), ("400ms", 0.2), ("2", 0.02), ("1min", 2.0)])
async def test_the_deadline_is_below_deadlock_timeout(tables: Database, setting: str, seconds: float) -> None:
    execute(tables.dsn, [f"ALTER DATABASE {tables.name} SET deadlock_timeout = '{setting}'"])
    async with connection(tables.dsn, "test") as asking:
        expected = min(seconds, 0.5)  # the server's own is 1 s
        assert await patience_of(asking, 2.0) == pytest.approx(expected)


async def test_what_is_asked_for_later_is_bounded_too(tables: Database) -> None:
    with session(tables.dsn, "UPDATE t1 SET id = id"):
        async with two(tables.dsn) as (locking, observer), locking.transaction():
            await lock_tables(locking, TABLES[:1], WRITERS, 0.2, observer)
            with pytest.raises(psycopg.errors.LockNotAvailable):
                await locking.execute("ALTER TABLE public.t1 DISABLE TRIGGER USER")
            await locking.execute("ROLLBACK")


# ---- names


async def blamed(dsn: str, mode: Mode = WRITERS) -> str:
    with pytest.raises(LockedOutError) as caught:
        await lock(dsn, TABLES[:2], mode)
    assert "secret" not in str(caught.value)
    return caught.value.problem


async def test_a_session_is_named_with_what_it_does(tables: Database) -> None:
    with session(tables.dsn, "UPDATE t1 SET id = id WHERE 'secret' <> ''") as writer:
        said = await blamed(tables.dsn)
        assert f"process {writer.info.backend_pid} (role {writer.info.user}, till 7): idle in transaction for" in said
    with session(tables.dsn, "SELECT 'secret' FROM t0") as reader:
        assert f"process {reader.info.backend_pid} " in await blamed(tables.dsn, EVERYBODY)
        await lock(tables.dsn, TABLES)  # a reader is in no writer's way


async def test_a_statement_that_runs_is_named_by_its_kind(tables: Database) -> None:
    with session(tables.dsn, "SET vacuum_cost_delay = 100", "SET vacuum_cost_limit = 1") as vacuuming:
        vacuuming.commit()
        vacuuming.autocommit = True
        execute(tables.dsn, ["INSERT INTO t1 SELECT generate_series(2, 20000)", "DELETE FROM t1 WHERE id > 1"])
        work = asyncio.create_task(asyncio.to_thread(vacuuming.execute, b"VACUUM /* secret */ t1"))
        held = "SELECT count(*) FROM pg_locks WHERE relation = 't1'::regclass AND mode = 'ShareUpdateExclusiveLock'"
        await until(lambda: one(tables.dsn, held))
        assert f"process {vacuuming.info.backend_pid} " in (said := await blamed(tables.dsn))
        assert re.search("active VACUUM for [0-9]+ s; its transaction is", said)
        vacuuming.cancel()
        with pytest.raises(psycopg.errors.QueryCanceled):
            await work


async def test_a_prepared_transaction_is_named_with_what_ends_it(tables: Database) -> None:
    execute_prepared(tables.dsn, f"{tables.name} it''s", "UPDATE t1 SET id = id")
    said = await blamed(tables.dsn)
    assert f"the prepared transaction '{tables.name} it''s' (role postgres, database {tables.name}): prepared " in said
    ends = said[said.index("ROLLBACK PREPARED") : said.index(" ends it")]
    with psycopg.connect(tables.dsn, autocommit=True) as ending:
        ending.execute(ends.encode())
    await lock(tables.dsn, TABLES)


async def test_what_a_role_may_not_see_it_says(tables: Database) -> None:
    role = f"{tables.name}_r"
    execute(tables.dsn, [f"CREATE ROLE {role} LOGIN", f"GRANT ALL ON t0, t1 TO {role}"])
    try:
        with session(tables.dsn, "UPDATE t1 SET id = id") as writer:
            said = await blamed(tables.dsn.replace("postgres@", f"{role}@"))
            assert f"process {writer.info.backend_pid} (role {writer.info.user}, till 7): pg_read_all_stats" in said
    finally:
        execute(tables.dsn, [f"DROP OWNED BY {role}", f"DROP ROLE {role}"])


# ---- commands


@pytest.fixture
def migration(database: Database, tmp_path: Path) -> Migration:
    create_old(database.dsn)
    return same_names(tmp_path)


def bound(running: Running) -> asyncio.Timeout:
    """What keeps the time of a move."""
    found = running.session.switchovers._bound
    assert found is not None
    return found


async def asked(running: Running, dsn: str, command: str, arguments: Mapping[str, Any]) -> int:
    async with connection(dsn, "test") as own:
        return await request(own, command, {"wait": True, **arguments})


async def answered(running: Running, dsn: str, number: int) -> tuple[int, Any]:
    done = f"SELECT finished_at FROM _replicator.commands WHERE id = {number}"
    await running.until(lambda: one(dsn, done))
    query = f"SELECT ARRAY[exit_code::text, result::text] FROM _replicator.commands WHERE id = {number}"
    code, result = one(dsn, query)
    return int(code), result


async def told(running: Running, dsn: str, number: int, part: str) -> None:
    progress = f"SELECT progress::text FROM _replicator.commands WHERE id = {number}"
    await running.until(lambda: part in (one(dsn, progress) or ""))


async def test_a_prepared_transaction_in_the_way_of_the_slot(database: Database, migration: Migration) -> None:
    """It is named, the time is kept, all is as it was; and once it has ended as it says, the cutover works."""
    gid = f"{database.name} held"
    async with daemon(make_settings(database, ready_for=0), migration) as running:
        await running.ready()
        execute_prepared(database.dsn, gid, "UPDATE people SET bio = 'x' WHERE id = 1")
        number = await asked(running, database.dsn, "cutover", {"timeout": 300})
        await told(running, database.dsn, number, gid)
        bound(running).reschedule(0)  # the time is up
        code, result = await answered(running, database.dsn, number)
        assert code == 3
        assert f"ROLLBACK PREPARED '{gid}'" in result
        assert "within 300 s (--timeout)" in result
        assert running.session.phase.now == Phase.FOLLOW
        assert one(database.dsn, "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()") == 1
        with psycopg.connect(database.dsn, autocommit=True) as ending:
            ending.execute(f"ROLLBACK PREPARED '{gid}'".encode())
        await running.clean()
        code, result = await answered(running, database.dsn, await asked(running, database.dsn, "cutover", {}))
        assert code == 0, result


async def test_a_reader_in_the_way_of_the_renaming(
    database: Database, migration: Migration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named in the progress, the error and the journal."""
    monkeypatch.setattr("replicator.switchover.attempts.ATTEMPTS", 2)
    async with daemon(make_settings(database, ready_for=0), migration) as running:
        await running.ready()
        with session(database.dsn, "SELECT FROM notes") as reader:
            named = f"process {reader.info.backend_pid} (role {reader.info.user}, till 7): idle in transaction"
            number = await asked(running, database.dsn, "cutover", {"strategy": "rename"})
            await told(running, database.dsn, number, named)
            code, result = await answered(running, database.dsn, number)
            assert code == 3
            assert named in result
        assert running.session.phase.now == Phase.FOLLOW
        why = "SELECT details ->> 'why' FROM _replicator.journal WHERE event = 'attempt' ORDER BY id LIMIT 1"
        assert named in one(database.dsn, why)


async def test_time_does_not_run_out_once_the_commit_is_under_way(database: Database, migration: Migration) -> None:
    due = list[float | None]()

    async with daemon(make_settings(database, ready_for=0), migration) as running:

        async def look() -> None:
            due.append(bound(running).when())

        await running.ready()
        with handled(Failpoint.CUTOVER_COMMITTING, look):
            number = await asked(running, database.dsn, "cutover", {"timeout": 300})
            code, result = await answered(running, database.dsn, number)
        assert code == 0, result
    assert due == [None]


async def test_other_tables_are_opened_once_they_can_be(
    database: Database, other_database: Database, migration: Migration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the commit, whoever keeps the other database's tables is waited for in short turns."""
    async with daemon(make_settings(database, other_database), migration) as running:
        await running.ready()
        with session(other_database.dsn) as busy:
            named = f"process {busy.info.backend_pid} "

            async def hold(*_: object) -> None:
                busy.execute("LOCK TABLE shop.notes IN SHARE UPDATE EXCLUSIVE MODE")

            turns: list[str] = []

            async def tell(problem: str) -> None:
                turns.append(problem)
                if len(turns) == 2:
                    busy.rollback()

            monkeypatch.setattr("replicator.switchover.cutover.see_that_they_open", hold)
            monkeypatch.setattr("replicator.switchover.handover._tell", tell)
            async with asyncio.timeout(SECONDS):
                await running.cut_over()
        assert named in turns[0]
        assert one(other_database.dsn, "SELECT owner FROM _replicator.ownership") == "new"


def execute_prepared(dsn: str, gid: str, statement: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as preparing:
        preparing.execute("BEGIN")
        preparing.execute(statement.encode())
        preparing.execute(f"PREPARE TRANSACTION '{gid}'".encode())


# ---- the gate for lag


async def test_the_log_of_others_shuts_no_gate(
    database: Database, other_database: Database, migration: Migration
) -> None:
    """Megabytes a second, and nobody would wait for any of it."""
    async with daemon(make_settings(database, ready_for=3), migration) as running:
        await running.ready()

        def lag() -> dict[str, Any]:
            gates = {each["name"]: each for each in running.session.reporter.document["gates"]}
            return dict(gates.get("lag") or {"ok": False, "detail": ""})

        stop, written = threading.Event(), 0

        def write() -> None:
            nonlocal written
            with psycopg.connect(other_database.dsn, autocommit=True) as other:
                while not stop.wait(0.1):
                    other.execute("SELECT pg_logical_emit_message(false, 'other', repeat('x', 2000000))")
                    written += 1

        writing = asyncio.create_task(asyncio.to_thread(write))
        try:
            await running.until(lambda: written > 50)
            await running.until(lambda: lag()["ok"])
            assert "below the limit for" in lag()["detail"]
        finally:
            stop.set()
            await writing
