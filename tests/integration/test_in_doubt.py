"""Commits that are in the log and not visible yet, a commit whose reply is lost, a daemon that has lost its lease.

The model (`tests/model`) has found each of these.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from psycopg import AsyncConnection

from replicator.core.lsn import LSN, parse_lsn
from replicator.daemon.pipelines import Pipelines
from replicator.errors import ConnectionLostError
from replicator.postgres.control.lease import Lease
from replicator.postgres.session.connect import Connection, connection
from replicator.runtime.failpoints import Failpoint, handled
from replicator.switchover.cutover import Cutover
from replicator.switchover.phases import Phase
from tests.engine import SECONDS, Engine, create_old_tables, differences, execute, make_settings, reference
from tests.fix_postgres import Database, MakeCluster
from tests.reference import NEW_REQUEST, seed
from tests.sessions import daemon
from tests.statements import one
from tests.waiting import until

pytestmark = pytest.mark.one_server

HIDING = {"synchronous_standby_names": "nobody", "synchronous_commit": "local"}
"""Settings of a server on which a commit is hidden when it asks for a standby."""

HIDDEN = "SELECT count(*) FROM pg_stat_activity WHERE pid = {} AND wait_event = 'SyncRep'"
WAITS_FOR_ROW = (
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%_replicator.ownership FOR%'"
)


@pytest.fixture
def hiding(database: Database, make_cluster: MakeCluster) -> Database:
    """A source whose commits may be hidden."""
    cluster = make_cluster(**HIDING)
    return Database("postgres", cluster.dsn(), database.plugin, database.version, database.server)


def waits_for(dsn: str, xid: int) -> Callable[[], Any]:
    """Whether somebody waits for this transaction's end."""
    query = f"SELECT count(*) FROM pg_locks WHERE NOT granted AND transactionid = '{xid}'::xid"
    return lambda: one(dsn, query)


def here(dsn: str) -> LSN:
    return parse_lsn(one(dsn, "SELECT pg_current_wal_lsn()::text"))


async def begin(dsn: str, number: int) -> tuple[AsyncConnection[Any], int]:
    """A transaction that has written; gives its id."""
    opened = await AsyncConnection.connect(dsn)
    await opened.execute(NEW_REQUEST.format(f"t{number}").encode())
    cursor = await opened.execute("SELECT (pg_current_xact_id()::text::int8 % 4294967296)::int8")
    return opened, (await cursor.fetchone() or (0,))[0]


async def test_what_is_not_visible_when_the_slot_is_made_is_not_missed(
    hiding: Database, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It began after the slot's first look and is in the log before its position: the stream does not bring it."""

    async def chosen(*_: object) -> str:
        return database.plugin  # to try it makes a slot as well

    monkeypatch.setattr("replicator.pipeline.setup.choose_plugin", chosen)
    create_old_tables(hiding.dsn)
    made = Engine(make_settings(hiding, database), reference())
    await made.make_tables()
    first, first_id = await begin(hiding.dsn, 1)
    setting_up = asyncio.create_task(made.set_up_slot())
    await until(waits_for(hiding.dsn, first_id))
    second, second_id = await begin(hiding.dsn, 2)
    await first.commit()
    await until(waits_for(hiding.dsn, second_id))
    late, _ = await begin(hiding.dsn, 3)
    await late.execute("SET LOCAL synchronous_commit = on")
    committing = asyncio.create_task(late.commit())
    await until(lambda: one(hiding.dsn, HIDDEN.format(late.info.backend_pid)))
    await second.commit()
    await until(lambda: one(hiding.dsn, "SELECT confirmed_flush_lsn FROM pg_replication_slots"))
    try:
        done, _ = await asyncio.wait({setting_up}, timeout=0.5)  # who does not wait is done by then
        if done:
            await made.start()
            await made.backfill()
        one(hiding.dsn, f"SELECT pg_cancel_backend({late.info.backend_pid})")
        await committing
        await asyncio.wait_for(setting_up, SECONDS)
        if made.pipeline is None:
            await made.start()
            await made.backfill()
        await made.drain()
        assert await differences(made) == []
    finally:
        await made.stop()
        for each in (first, second, late):
            await each.close()


async def test_the_opposite_stream_writes_nothing_before_its_start(database: Database) -> None:
    """What it brings until then was written by the stream before it: to write it back could undo a later change."""
    seed(database.dsn)
    written_by = "SELECT xmin::text FROM requests WHERE id = 'r1'"

    async def write_meanwhile() -> None:
        opposite = running.session.pipelines.get("reverse")
        execute(database.dsn, ["UPDATE requests SET status = 'played' WHERE id = 'r1'"])
        before = one(database.dsn, written_by)
        assert running.active is not None
        assert opposite is not None
        await running.active.wait_applied(here(database.dsn))
        await opposite.wait_applied(here(database.dsn))
        assert one(database.dsn, written_by) == before

    async with daemon(make_settings(database)) as running:
        await running.ready()
        with handled(Failpoint.OPPOSITE_MADE, write_meanwhile):
            await running.cut_over()


async def test_a_new_daemon_waits_for_the_old_ones_cutover(database: Database) -> None:
    """Else it would take the cutover for one that has not happened, and the old one's commit would come after that."""
    seed(database.dsn)
    taking: list[asyncio.Task[Lease]] = []
    holds_lease = "SELECT pid FROM pg_stat_activity WHERE application_name = 'replicator lease'"
    waits = (
        "SELECT count(*) FROM pg_locks WHERE relation = to_regclass('_replicator.lease') AND NOT granted "
        "AND mode = 'ExclusiveLock'"
    )  # fmt: skip

    async def lose_the_lease() -> None:
        one(database.dsn, f"SELECT pg_terminate_backend(({holds_lease}))")
        taking.append(asyncio.create_task(Lease.acquire(database.dsn)))
        await until(lambda: taking[0].done() or one(database.dsn, waits))
        assert not taking[0].done(), "the new daemon does not wait"

    async with daemon(make_settings(database)) as running:
        await running.ready()
        with (
            handled(Failpoint.CUTOVER_COMMITTING, lose_the_lease),
            contextlib.suppress(Exception),  # what comes after the commit may fail: the lease is lost
        ):
            await running.cut_over()
        lease = await asyncio.wait_for(taking[0], SECONDS)
        await lease.release()
        with contextlib.suppress(Exception):
            await running.task
    assert one(database.dsn, "SELECT owner FROM _replicator.ownership") == "new"


async def test_a_daemon_that_has_lost_its_lease_does_not_cut_over(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(database.dsn)
    monkeypatch.setattr(Pipelines, "epoch_on", lambda _self, _dsn: -1)
    async with daemon(make_settings(database)) as running:
        await running.ready()
        with pytest.raises(Exception, match="Another daemon has taken"):
            await running.cut_over()
        assert one(database.dsn, "SELECT owner FROM _replicator.ownership") == "old"


class Deaf:
    """The connection breaks as the commit is sent."""

    async def execute(self, statement: str) -> None:
        raise ConnectionLostError("The reply was lost.")


async def test_a_commit_still_under_way_when_its_reply_is_lost_is_waited_for(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server gets to the commit late: until then the state row shows the old owner."""
    seed(database.dsn)
    commit = Cutover._commit
    late: list[asyncio.Task[None]] = []

    async def lose_the_reply(self: Cutover, holder: Connection, epoch: int) -> None:
        close = holder.close

        async def unnoticed() -> None:
            """The server does not know yet that nobody listens."""

        async def commit_late() -> None:
            await until(lambda: cutting_over.done() or one(database.dsn, WAITS_FOR_ROW))
            await holder.execute("COMMIT")
            await close()

        setattr(holder, "close", unnoticed)  # noqa: B010  # the type checker would mind
        late.append(asyncio.create_task(commit_late()))
        await commit(self, Deaf(), epoch)  # type: ignore[arg-type]

    monkeypatch.setattr(Cutover, "_commit", lose_the_reply)
    async with daemon(make_settings(database)) as running:
        await running.ready()
        cutting_over = asyncio.create_task(running.cut_over())
        await asyncio.wait({cutting_over})
        await late[0]
        assert one(database.dsn, "SELECT owner FROM _replicator.ownership") == "new"
        assert (await cutting_over).epoch == 1
        assert running.session.phase.now == Phase.SOAK


async def test_a_statement_sees_what_came_of_the_lock_it_waited_for(database: Database) -> None:
    """Whatever the database's own isolation level: else a dead daemon's write would not see that it is one."""
    execute(database.dsn, [f'ALTER DATABASE "{database.name}" SET default_transaction_isolation = serializable'])
    async with connection(database.dsn, "test") as opened:
        cursor = await opened.execute("SHOW transaction_isolation")
        assert await cursor.fetchone() == ("read committed",)
