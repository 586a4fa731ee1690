"""Plays a history on real servers, with the engine in between, and tells what is wrong at its end."""

import asyncio
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import psycopg
from psycopg import AsyncConnection

from replicator.core.lsn import parse_lsn
from replicator.errors import MigrationError
from replicator.pipeline.pipeline import Pipeline
from replicator.postgres.ddl import ddl
from replicator.postgres.wire.slots import drop_slot
from tests.engine import OLD_DDL, Engine, differences, make_settings, reference
from tests.fix_postgres import Database
from tests.histories import (
    Apply,
    Copy,
    CopyTo,
    Deliver,
    End,
    Finish,
    Follow,
    History,
    Operation,
    Plan,
    Restart,
    Show,
    Step,
    Work,
    statements,
)
from tests.leftovers import patched
from tests.stepping import APPLY, COPIERS, PLAN, SECONDS, Stepper, attach, points

SESSION = "-c lock_timeout=20ms -c synchronous_commit=local"
"""A session that meets another's lock gives its transaction up."""

CLEAR_OLD = b"TRUNCATE requests, settings, admins, spotify_auth, event_settings, oauth_sessions, notifications"
CLEAR_NEW = b"""
    ALTER TABLE party.events DROP CONSTRAINT IF EXISTS events_active_admin_id_fkey;
    ALTER TABLE party.spotify_tokens DROP CONSTRAINT IF EXISTS spotify_tokens_admin_id_fkey;
    ALTER TABLE party.requests DROP CONSTRAINT IF EXISTS requests_event_id_fkey;
    DROP INDEX IF EXISTS party.admins_email_key;
    SELECT set_config('replicator.pass', pass, false) FROM _replicator.secrets;
    TRUNCATE party.events, party.requests, party.admins, party.spotify_tokens;
"""
"""The new tables as they are before the backfill; what no row can violate may stay."""

Finding = tuple[Any, ...]


class Application:
    """Two sessions on the source; the commits of either may be hidden."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._sessions: dict[int, AsyncConnection[Any]] = {}
        self._hidden: list[tuple[AsyncConnection[Any], asyncio.Task[Any]]] = []
        self.hidden: set[int] = set()
        """Transactions that are committed and invisible."""
        self._truncated: set[AsyncConnection[Any]] = set()
        """Those that hold locks which keep everybody from reading."""

    async def work(self, session: int, operations: Iterable[Operation]) -> None:
        """Do something. An error ends the transaction."""
        connection = await self._session(session)
        try:
            for operation in operations:
                for statement in statements(operation):
                    if b"TRUNCATE" in statement.as_bytes():
                        self._truncated.add(connection)
                    await connection.execute(statement)
        except psycopg.Error:
            await connection.rollback()
            self._truncated.discard(connection)

    async def finish(self, session: int, end: End) -> None:
        """End the transaction that is open, if one is."""
        connection = await self._session(session)
        if end == "hidden" and await self._hide(session, connection):
            return
        await (connection.rollback() if end == "rollback" else connection.commit())
        self._truncated.discard(connection)

    async def show(self) -> None:
        """Make the hidden commits visible."""
        async with await AsyncConnection.connect(self._dsn, autocommit=True) as watcher:
            for connection, committing in self._hidden:
                await watcher.execute("SELECT pg_cancel_backend(%s)", [connection.info.backend_pid])
                await committing
                await connection.close()
                self._truncated.discard(connection)
        self._hidden.clear()
        self.hidden.clear()

    async def end(self) -> None:
        """Leave nothing open and nothing hidden."""
        for connection in self._sessions.values():
            await connection.close()
        self._truncated -= set(self._sessions.values())
        self._sessions.clear()
        await self.show()

    @property
    def locks(self) -> bool:
        """Whether some table cannot be read."""
        return bool(self._truncated)

    async def keeps_the_stream(self) -> bool:
        """Whether the stream itself waits for a lock: wal2json opens the indexes of the tables whose rows it writes."""
        async with await AsyncConnection.connect(self._dsn, autocommit=True) as watcher:
            cursor = await watcher.execute(
                "SELECT FROM pg_stat_replication AS r JOIN pg_stat_activity AS a USING (pid) "
                "WHERE a.datname = current_database() AND a.wait_event_type = 'Lock'"
            )
            return cursor.rowcount > 0

    async def unlock(self) -> None:
        """Let every table be read."""
        if self.locks:
            for connection in self._sessions.values():
                await connection.commit()
            await self.show()
            self._truncated.clear()

    async def _session(self, session: int) -> AsyncConnection[Any]:
        if session not in self._sessions:
            self._sessions[session] = await AsyncConnection.connect(self._dsn, options=SESSION)
        return self._sessions[session]

    async def _hide(self, session: int, connection: AsyncConnection[Any]) -> bool:
        """Commit as one that waits for a standby: in the log and streamed, but not visible. False: nothing to hide."""
        cursor = await connection.execute("SELECT pg_current_xact_id_if_assigned()::text")
        row = await cursor.fetchone()
        if not row or row[0] is None:
            return False
        await connection.execute("SET LOCAL synchronous_commit = on")
        committing = asyncio.create_task(connection.commit())
        async with await AsyncConnection.connect(self._dsn, autocommit=True) as watcher, asyncio.timeout(SECONDS):
            while not committing.done():
                cursor = await watcher.execute(
                    "SELECT FROM pg_stat_activity WHERE pid = %s AND wait_event = 'SyncRep'",
                    [connection.info.backend_pid],
                )
                if cursor.rowcount:
                    break
        assert not committing.done(), "the server does not wait for a standby"
        self._hidden.append((connection, committing))
        self.hidden.add(int(row[0]) % (1 << 32))
        del self._sessions[session]
        return True


class Player:
    """Plays one history after another on the same databases."""

    def __init__(self, database: Database, target: Database | None = None) -> None:
        self.engine = Engine(make_settings(database, target, chunk_rows=2, batch_rows=4), reference())
        self.engine.on_start = self._attach
        self.stepper = Stepper()
        self.application = Application(self.engine.source_dsn)
        self._backfill: asyncio.Task[Any] | None = None
        self._made = False
        self._statements = cache(ddl.statements)  # parsed once, not with each history

    async def play(self, history: History) -> list[Finding]:
        """What is wrong at the end: rows that differ from f(source), rows in quarantine. Raises the engine's error."""
        self.stepper = Stepper()
        self.stepper.failed = self._raise_failure
        self.application = Application(self.engine.source_dsn)
        self.stepper.hidden = self.application.hidden
        self.stepper.locked = lambda: self.application.locks
        with points(self.stepper), patched(ddl, "statements", self._statements):
            try:
                return await self._play(history)
            finally:
                await self.application.end()
                await self._stop()

    async def _play(self, history: History) -> list[Finding]:
        await self._reset()
        await self.application.work(0, history.before)
        await self.application.finish(0, "commit")
        await self.engine.set_up_slot()
        await self._start()
        await self._take_steps(history.during)
        await self._run_free()
        found = await self._findings("backfill")
        try:
            await self.engine.build()
        except MigrationError as error:
            return [*found, ("build", str(error))]
        self.stepper.hold()
        await self._take_steps(history.after)
        await self._run_free()
        return found + await self._findings("follow")

    async def close(self) -> None:
        """Leave no slot behind."""
        async with await AsyncConnection.connect(self.engine.source_dsn, autocommit=True) as source:
            await drop_slot(source, self.engine.settings.slot)

    async def _findings(self, when: str) -> list[Finding]:
        await self.engine.drain()
        found: list[Finding] = [(when, *each) for each in await differences(self.engine)]
        async with await AsyncConnection.connect(self.engine.target_dsn, autocommit=True) as target:
            cursor = await target.execute("SELECT transform, source_key, error FROM _replicator.quarantine")
            return found + [(when, "quarantined", *each) for each in await cursor.fetchall()]

    async def _reset(self) -> None:
        async with (
            await AsyncConnection.connect(self.engine.source_dsn, autocommit=True) as source,
            await AsyncConnection.connect(self.engine.target_dsn, autocommit=True) as target,
        ):
            if not self._made:
                await source.execute(OLD_DDL.read_bytes())
                await self.engine.make_tables()
                self._made = True
            await source.execute(CLEAR_OLD)
            await target.execute(CLEAR_NEW)

    # ---- the engine

    def _attach(self, pipeline: Pipeline) -> None:
        attach(pipeline, self.stepper)

    async def _start(self) -> None:
        pipeline = await self.engine.start()
        self._backfill = asyncio.create_task(pipeline.backfill())
        await self.stepper.begin(APPLY, *COPIERS)

    async def _stop(self) -> None:
        if self._backfill is not None:
            self._backfill.cancel()
            await asyncio.gather(self._backfill, return_exceptions=True)
        await self.engine.stop()

    async def _run_free(self) -> None:
        """Until the consistent point is applied."""
        await self.application.end()
        self.stepper.release()
        assert self._backfill is not None
        await self.engine.within(self._backfill)

    def _raise_failure(self) -> None:
        for task in (self.engine.following, self._backfill):
            if task is not None and task.done() and not task.cancelled():
                task.result()

    # ---- steps

    async def _take_steps(self, steps: Sequence[Step]) -> None:
        for step in steps:
            await self._take_step(step)

    async def _take_step(self, step: Step) -> None:
        match step:
            case Work(session, operations):
                await self.application.work(session, operations)
            case Finish(session, end):
                await self.application.finish(session, end)
            case Show():
                await self.application.show()
                await self.stepper.settle()
            case _:
                await self._step_the_engine(step)

    async def _step_the_engine(self, step: Step) -> None:
        match step:
            case Deliver():
                await self._deliver()
            case Follow():
                await self._follow()
            case Apply(steps):
                await self._advance(APPLY, steps)
            case Plan(steps):
                await self._advance(PLAN, steps)
            case Copy(copier, steps):
                for _ in range(steps):
                    await self._copy(COPIERS[copier])
            case CopyTo(copier, point):
                await self._copy_to(COPIERS[copier], point)
            case Restart():
                await self.application.unlock()  # one that comes up waits to read every table
                await self._stop()
                await self._start()

    async def _copy_to(self, copier: str, point: str) -> None:
        """Until it is there, or waits for somebody, or has nothing left to copy."""
        while not (self.stepper.at(copier) or "gone").startswith((point, "gone")):
            await self._copy(copier)

    async def _advance(self, actor: str, steps: int) -> None:
        for _ in range(steps):
            await self.stepper.advance(actor)

    async def _copy(self, copier: str) -> None:
        await self.stepper.advance(copier)
        if self.stepper.stuck(copier) == "chunk":
            await self.stepper.advance(PLAN)

    async def _deliver(self) -> None:
        async with await AsyncConnection.connect(self.engine.source_dsn, autocommit=True, options=SESSION) as own:
            cursor = await own.execute("SELECT pg_logical_emit_message(true, 'replicator', 'heartbeat')::text")
            row = await cursor.fetchone()
        position = parse_lsn(row[0] if row else "0/0")
        delivered = asyncio.create_task(self.stepper.deliver(self.engine.running._inbox, position))
        while not (await asyncio.wait([delivered], timeout=0.1))[0]:
            if self.application.locks and await self.application.keeps_the_stream():
                await self.application.unlock()
        await delivered
        await self.stepper.settle()

    async def _follow(self) -> None:
        """Until nothing is left, or the applier waits for another."""
        await self._deliver()
        inbox, batch_rows = self.engine.running._inbox, self.engine.settings.batch_rows
        while (at := self.stepper.at(APPLY)) is not None:
            if at == "take" and not inbox._ready(batch_rows):
                if not self.engine.running.context.rw_lock._written:
                    return
                await self._deliver()  # a batch that is to be extended
            await self.stepper.advance(APPLY)
