"""The cutover, and what follows it: one transaction moves ownership, or nothing has happened."""

import asyncio
from typing import Any, cast

import psycopg
import pytest

from replicator.core.lsn import parse_lsn
from replicator.daemon.report import Reporter
from replicator.daemon.session import Session
from replicator.errors import ConnectionLostError, CutoverError, NotReadyError, ReplicatorError, RetryableError
from replicator.observe.metrics import Metrics
from replicator.postgres.control.ownership import same_database
from replicator.postgres.session.connect import Connection, connection
from replicator.runtime.failpoints import Failpoint, handled
from replicator.switchover import handover
from replicator.switchover.phases import Phase
from tests.deaths import KilledError, killed_at
from tests.engine import SECONDS, execute, make_settings, reference
from tests.fix_postgres import Database
from tests.reference import seed
from tests.sessions import daemon
from tests.statements import one

pytestmark = pytest.mark.two_servers


async def test_ownership_moves_and_the_old_tables_follow(database: Database) -> None:
    seed(database.dsn)
    async with daemon(make_settings(database)) as running:
        await running.ready()
        with pytest.raises(psycopg.Error) as refused:
            execute(database.dsn, ["DELETE FROM party.requests"])
        assert refused.value.sqlstate == "RP002"
        result = await running.cut_over()
        assert result.epoch == 1
        assert 0 < result.write_pause_seconds < 30
        assert one(database.dsn, "SELECT replicator.active_schema()") == "party"
        with pytest.raises(psycopg.Error) as refused:
            execute(database.dsn, ["UPDATE requests SET status = 'played'"])
        assert refused.value.sqlstate == "RP002"
        assert "party" in str(refused.value.diag.message_hint)
        for retired in ("notifications", "oauth_sessions"):
            with pytest.raises(psycopg.Error):
                execute(database.dsn, [f"DELETE FROM {retired}"])
        execute(
            database.dsn,
            [
                "UPDATE party.requests SET status = 'rejected' WHERE legacy->>'id' = 'r1'",
                "DELETE FROM party.requests WHERE legacy->>'id' = 'r2'",
                "INSERT INTO party.admins (id, email, password_hash, created_at) "
                "VALUES ('00000000-0000-0000-0000-000000000001', 'new@example.org', 'h', now())",
                "UPDATE party.events SET config = "
                "jsonb_set(config #- '{settings,party_name}', '{settings,fresh}', '\"1\"')",
            ],
        )
        await running.until(lambda: one(database.dsn, "SELECT status FROM requests WHERE id = 'r1'") == "rejected")
        assert one(database.dsn, "SELECT count(*) FROM requests WHERE id = 'r2'") == 0
        assert one(database.dsn, "SELECT count(*) FROM admins WHERE username = 'new@example.org'") == 1
        assert one(database.dsn, "SELECT string_agg(key, ',' ORDER BY key) FROM settings") == "fresh,target_device_id"
        assert one(database.dsn, "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()") == 1
        reverse = running.active
        assert reverse is not None
        assert reverse.direction == "reverse"
        await running.until(lambda: reverse.verifier.clean)


async def test_the_planner_knows_the_new_tables(database: Database) -> None:
    seed(database.dsn)
    async with daemon(make_settings(database)) as running:
        await running.ready()
        known = "SELECT reltuples FROM pg_class WHERE oid = 'party.requests'::regclass"
        assert one(database.dsn, known) == 300


async def test_the_way_back_is_not_echoed(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the commit the forward stream carries what the reverse pipeline writes: it is not to come back."""
    seed(database.dsn)
    original = handover.activate
    async with daemon(make_settings(database)) as running:
        await running.ready()
        forward = running.active
        assert forward is not None

        async def linger(*arguments: Any) -> None:
            await original(*arguments)
            nickname = "SELECT requester_nickname FROM requests WHERE id = 'r1'"
            execute(database.dsn, ["UPDATE party.requests SET submitted_by = 'once' WHERE legacy->>'id' = 'r1'"])
            await running.until(lambda: one(database.dsn, nickname) == "once")
            written = parse_lsn(one(database.dsn, "SELECT pg_current_wal_flush_lsn()::text"))
            await running.until(lambda: forward.received >= written)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(forward.wait_applied(written), 1)

        monkeypatch.setattr("replicator.daemon.switchovers.activate", linger)
        await running.cut_over()
        assert running.session.phase.now == Phase.SOAK


async def test_two_databases(database: Database, other_database: Database) -> None:
    seed(database.dsn)
    async with daemon(make_settings(database, other_database)) as running:
        await running.ready()
        await running.cut_over()
        for dsn in (database.dsn, other_database.dsn):
            assert one(dsn, "SELECT replicator.active_schema()") == "party"
        execute(other_database.dsn, ["UPDATE party.requests SET status = 'rejected' WHERE legacy->>'id' = 'r1'"])
        await running.until(lambda: one(database.dsn, "SELECT status FROM requests WHERE id = 'r1'") == "rejected")


@pytest.mark.one_server
async def test_a_lock_that_does_not_come_leaves_the_writers_alone(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.switchover.attempts.ATTEMPTS", 2)
    monkeypatch.setattr("replicator.switchover.cutover.LOCK_SECONDS", 0.05)
    seed(database.dsn)
    with psycopg.connect(database.dsn) as writer:

        async def hold() -> None:
            """A transaction that holds its lock through all attempts; the slot is made before it begins."""
            writer.execute("UPDATE requests SET status = 'played' WHERE id = 'r1'")

        async with daemon(make_settings(database)) as running:
            await running.ready()
            with handled(Failpoint.OPPOSITE_MADE, hold), pytest.raises(CutoverError, match="2 attempts"):
                await running.cut_over()
            assert sum("attempt" in step for step in running.steps) == 2
            assert running.session.phase.now == Phase.FOLLOW
            writer.execute("UPDATE requests SET status = 'played' WHERE id = 'r2'")
            writer.commit()
            assert one(database.dsn, "SELECT owner FROM _replicator.ownership") == "old"
            played = "SELECT count(*) FROM party.requests WHERE status = 'played'"
            await running.until(lambda: one(database.dsn, played) == 2)


@pytest.mark.one_server
async def test_what_would_keep_the_other_database_from_opening_leaves_the_writers_alone(
    database: Database, other_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the commit neither side would take writes until that ends: a VACUUM, an index in the making."""
    monkeypatch.setattr("replicator.switchover.attempts.ATTEMPTS", 2)
    monkeypatch.setattr("replicator.switchover.cutover.LOCK_SECONDS", 0.1)
    seed(database.dsn, 5)
    with psycopg.connect(other_database.dsn) as somebody:

        async def lock() -> None:
            somebody.execute("LOCK TABLE party.requests IN SHARE UPDATE EXCLUSIVE MODE")

        async with daemon(make_settings(database, other_database)) as running:
            await running.ready()
            async with asyncio.timeout(SECONDS):
                with handled(Failpoint.OPPOSITE_MADE, lock), pytest.raises(CutoverError, match="2 attempts"):
                    await running.cut_over()
            execute(database.dsn, ["UPDATE requests SET status = 'played'"])
            somebody.rollback()
            monkeypatch.undo()
            await running.clean()
            await running.cut_over()
            assert one(other_database.dsn, "SELECT count(*) FROM party.requests WHERE status = 'played'") == 5


async def test_over_the_pause_everything_is_as_before(database: Database) -> None:
    seed(database.dsn)
    async with daemon(make_settings(database, max_write_pause=3)) as running:
        await running.ready()
        with (
            handled(Failpoint.CUTOVER_LOCKED, asyncio.Event().wait),
            pytest.raises(CutoverError, match="longer than 3 s"),
        ):
            await running.cut_over()
        assert running.session.phase.now == Phase.FOLLOW
        assert one(database.dsn, "SELECT owner FROM _replicator.ownership") == "old"
        execute(database.dsn, ["UPDATE requests SET status = 'played' WHERE id = 'r1'"])
        assert one(database.dsn, "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()") == 1
        await running.until(
            lambda: one(database.dsn, "SELECT status FROM party.requests WHERE legacy->>'id' = 'r1'") == "played"
        )
        await running.ready()
        assert (await running.cut_over()).epoch == 1


async def test_the_last_write_is_waited_for(database: Database) -> None:
    seed(database.dsn)
    async with daemon(make_settings(database, max_write_pause=2)) as running:
        await running.ready()
        assert running.active is not None
        await running.active.write_gate.pause()
        execute(database.dsn, ["UPDATE requests SET status = 'played' WHERE id = 'r1'"])
        with pytest.raises(CutoverError, match="'drain' took the time"):
            await running.cut_over()
        assert one(database.dsn, "SELECT owner FROM _replicator.ownership") == "old"


@pytest.mark.one_server
async def test_the_final_check_stops_it(database: Database) -> None:
    seed(database.dsn)
    async with daemon(make_settings(database)) as running:
        await running.ready()
        execute(database.dsn, ["UPDATE requests SET status = 'played' WHERE id = 'r5'"])
        await running.until(
            lambda: one(database.dsn, "SELECT status FROM party.requests WHERE legacy->>'id' = 'r5'") == "played"
        )
        await running.session.pipelines.stop_verifying()
        execute(
            database.dsn,
            [
                "SELECT set_config('replicator.pass', pass, false) FROM _replicator.secrets",
                "UPDATE party.requests SET status = 'pending' WHERE legacy->>'id' = 'r5'",
            ],
        )
        assert running.active is not None
        running.active.context.dirty_keys.touch("requests", [("r5",)])
        with pytest.raises(NotReadyError, match="diverge"):
            await running.cut_over()
        assert one(database.dsn, "SELECT owner FROM _replicator.ownership") == "old"
        execute(database.dsn, ["DELETE FROM requests WHERE id = 'r6'"])


async def lost() -> None:
    raise ConnectionLostError("The reply was lost.")


async def test_the_lost_reply_is_read_from_the_state_row(database: Database) -> None:
    """The commit happens, its reply does not arrive."""
    seed(database.dsn)
    async with daemon(make_settings(database)) as running:
        await running.ready()
        with handled(Failpoint.CUTOVER_COMMITTED, lost):
            result = await running.cut_over()
        assert result.epoch == 1
        assert running.session.phase.now == Phase.SOAK


@pytest.mark.one_server
async def test_in_doubt_nothing_is_tried_again_and_nothing_applied(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply is lost, and the state row cannot be read at once: ownership may have moved."""
    seed(database.dsn)

    async def unreadable(_: object) -> None:
        raise RetryableError("A deadlock.")

    async def lost_for_good() -> None:
        for module in ("cutover", "handover"):
            monkeypatch.setattr(f"replicator.switchover.{module}.settled_ownership", unreadable)
        await lost()

    async with daemon(make_settings(database)) as running:
        await running.ready()
        forward = running.active
        assert forward is not None
        with (
            handled(Failpoint.CUTOVER_COMMITTED, lost_for_good),
            pytest.raises(ConnectionLostError, match="the state row cannot be read"),
        ):
            await running.cut_over()
        assert sum("attempt" in step for step in running.steps) == 1
        assert forward.write_gate.paused
        with pytest.raises(ReplicatorError):
            await running.task
    monkeypatch.undo()
    async with daemon(make_settings(database)) as running:
        await running.until(running.session.up.is_set)
        assert running.session.phase.now == Phase.SOAK


@pytest.mark.parametrize("committed", [False, True])
async def test_a_daemon_that_died_in_the_cutover(database: Database, committed: bool) -> None:
    """Dead just before or just after the commit: the next one reads the state row, and goes on from there."""
    seed(database.dsn)
    point = Failpoint.CUTOVER_COMMITTED if committed else Failpoint.CUTOVER_COMMITTING
    async with daemon(make_settings(database)) as running:
        await running.ready()
        with killed_at(point), pytest.raises(KilledError):
            await running.cut_over()
        running.task.cancel()
        await asyncio.gather(running.task, return_exceptions=True)
    assert one(database.dsn, "SELECT phase FROM _replicator.state") == "cutover"
    async with daemon(make_settings(database)) as running:
        await running.until(running.session.up.is_set)
        assert running.session.phase.now == (Phase.SOAK if committed else Phase.FOLLOW)
        owner = "new" if committed else "old"
        assert one(database.dsn, "SELECT owner FROM _replicator.ownership") == owner
        table = "party.requests" if committed else "public.requests"
        execute(database.dsn, [f"UPDATE {table} SET status = 'played'"])
        other = "public.requests" if committed else "party.requests"
        await running.until(lambda: one(database.dsn, f"SELECT count(*) FROM {other} WHERE status = 'played'") == 300)


class Copy:
    """A connection to a server that was started at another time, and is like this one otherwise."""

    def __init__(self, connected: Connection) -> None:
        self._connected = connected

    async def execute(self, query: str) -> Any:
        started = "pg_postmaster_start_time()"
        assert started in query
        return await self._connected.execute(query.replace(started, "now()").encode())


async def test_a_copy_of_a_data_folder_is_another_database(database: Database) -> None:
    """It has the same system identifier, and the database the same oid: only when it was started is its own."""
    async with connection(database.dsn, "test") as one_server, connection(database.dsn, "test") as other:
        assert await same_database(one_server, other)
        assert not await same_database(one_server, cast("Connection", Copy(other)))


@pytest.mark.one_server
async def test_a_second_daemon_is_refused(database: Database) -> None:
    seed(database.dsn, 5)
    async with daemon(make_settings(database)) as running:
        await running.until(running.session.up.is_set)
        second = Session(make_settings(database), reference(), Metrics(), Reporter("party"))
        with pytest.raises(ReplicatorError, match="Another daemon"):
            await second.run(asyncio.Event())


async def test_an_answer_that_cannot_be_given_ends_the_session(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would do the same thing again."""
    seed(database.dsn)
    asked = []

    async def deaf(*_: Any) -> None:
        asked.append(True)
        raise ConnectionLostError("The connection failed.")

    monkeypatch.setattr("replicator.postgres.control.mailbox.finish_command", deaf)
    async with daemon(make_settings(database)) as running, asyncio.timeout(SECONDS):
        await running.ready()
        execute(database.dsn, ["INSERT INTO _replicator.commands (command, arguments) VALUES ('dance', '{}')"])
        with pytest.raises(ConnectionLostError, match=r"^The connection failed\."):
            await running.task
    assert asked == [True]
