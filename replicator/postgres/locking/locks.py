"""Locks on tables that an application is using: asked for briefly, all within one deadline; who is in the way is named.

Two rules keep the application's transactions from ``deadlock detected``. Who queues for locks gives up well before
``deadlock_timeout``, counted for all tables together: a transaction of theirs that began to wait for one of ours
meanwhile is not looked at before we are gone. And who holds locks already queues for no more: it asks again and again.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Literal, TypeVar

from psycopg import sql

from replicator.core.tables import Name
from replicator.errors import DatabaseError, ReplicatorError, RetryableError
from replicator.postgres.locking.blockers import Blocker, listed, who_blocks, who_holds
from replicator.postgres.locking.trees import oids_by_name
from replicator.postgres.session.connect import Connection, another, comma, identifier, of_a_list, translated
from replicator.postgres.session.server import fetch, fetch_plain
from replicator.runtime.retrying import retry

T = TypeVar("T")
Mode = Literal["SHARE ROW EXCLUSIVE", "ACCESS EXCLUSIVE"]
WRITERS: Mode = "SHARE ROW EXCLUSIVE"
"""Keeps out whoever writes."""
EVERYBODY: Mode = "ACCESS EXCLUSIVE"
"""Keeps out readers too."""
HARMLESS: dict[Mode, tuple[str, ...]] = {WRITERS: ("AccessShareLock", "RowShareLock"), EVERYBODY: ()}

SHORTEST = 0.02
"""Seconds. With a ``deadlock_timeout`` of less than twice that, a deadlock is possible."""
OWN_SECONDS = 2.0
"""For a lock on what is ours: no writer of the application's queues behind it."""
OWN_TRIES = 10
BETWEEN_TRIES = 0.01
BETWEEN_TURNS = 1.0
GAVE_UP = ("55P03", "57014", "40P01")
MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1_000.0, "min": 60_000.0, "h": 3_600_000.0, "d": 86_400_000.0}

# The default, this session's, and what any role has: whose transaction it will be is not known.
DEADLOCK_TIMEOUTS = """
    SELECT unnest(ARRAY[setting, boot_val]) || unit AS value FROM pg_settings WHERE name = 'deadlock_timeout'
    UNION ALL SELECT substring(each FROM '=(.*)$') FROM pg_db_role_setting, unnest(setconfig) AS each
    WHERE each LIKE 'deadlock_timeout=%%'
        AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
"""


LOCKABLE = """
    SELECT n.nspname AS schema, c.relname AS table FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema', '_replicator')
      AND n.nspname NOT LIKE 'pg\\_t%%' AND has_schema_privilege(n.oid, 'USAGE')
      AND (has_table_privilege(c.oid, 'UPDATE') OR has_table_privilege(c.oid, 'DELETE')
           OR has_table_privilege(c.oid, 'TRUNCATE'))
"""


class LockedOutError(RetryableError):
    """The lock did not come in time. ``blockers``: who was in the way, as far as it was seen."""

    def __init__(self, what: str, seconds: float, blockers: Sequence[Blocker], sqlstate: str | None = None) -> None:
        by = f"in the way: {listed(blockers)}" if blockers else "many short transactions were in the way"
        super().__init__(
            f"{what} could not be locked within {seconds * 1000:.0f} ms; {by}.",
            "Wait for it, or end it with pg_terminate_backend(process); then try again.",
            sqlstate,
        )
        self.blockers = list(blockers)


async def lockable(connection: Connection) -> set[Name]:
    """The tables that this role may keep others from writing to."""
    return {Name(schema=each["schema"], table=each["table"]) for each in await fetch_plain(connection, LOCKABLE)}


async def lock_tables(
    connection: Connection, tables: Sequence[Name], mode: Mode, seconds: float, observer: Connection
) -> None:
    """Lock all the tables, in the caller's transaction, which has locked no table yet.

    With a partitioned table all below it are locked. A partition that has gone since it was listed is left out: whoever
    tries for minutes would fail each time for want of it.

    :param seconds: for all of them together, and at most half of ``deadlock_timeout``.
    :param observer: another connection to the database: it sees who is in the way.
    :raises LockedOutError: when it takes longer; the transaction is aborted.
    """
    tables = await _still_there(observer, tables)
    if not tables:
        return
    patience = await patience_of(connection, seconds)
    pid = connection.info.backend_pid
    async with _watching(lambda: who_blocks(observer, pid), patience / 4) as seen:
        try:
            # Not lock_timeout: that counts anew for each table.
            limit = f"{max(1, int(patience * 1000))}ms"
            before = await _limit(connection, "statement_timeout", limit)
            await _limit(connection, "lock_timeout", limit)  # for whatever the transaction asks for later
            await _lock(connection, tables, mode)
        except DatabaseError as error:
            if error.sqlstate not in GAVE_UP:
                raise
            raise LockedOutError(_named(tables), patience, seen, error.sqlstate) from error
    await _limit(connection, "statement_timeout", before)


async def lock_more(
    connection: Connection, tables: Sequence[Name], mode: Mode, seconds: float, observer: Connection
) -> None:
    """Lock the tables too, in a transaction that holds locks already: it never queues. Raises as ``lock_tables``."""
    tables = await _still_there(observer, tables)
    if not tables:
        return
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds

    async def lock() -> None:
        async with connection.transaction():
            await _lock(connection, tables, mode, nowait=True)

    try:
        await retry(
            lock,
            on=DatabaseError,
            when=lambda error: error.sqlstate in GAVE_UP and clock() <= deadline,
            pause=BETWEEN_TRIES,
        )
    except DatabaseError as error:
        if error.sqlstate not in GAVE_UP:
            raise
        seen = await who_holds(observer, tables, HARMLESS[mode], connection.info.backend_pid)
        raise LockedOutError(_named(tables), seconds, seen, error.sqlstate) from error


async def send_vacuum_away(connection: Connection, tables: Sequence[Name]) -> None:
    """Have an autovacuum of any of these tables end, where Postgres lets it: it would begin anew later.

    It gives way to whoever waits for ``deadlock_timeout``. That is done here in the weakest mode in which it can be,
    which keeps no reader and no writer waiting, for one table at a time.
    """
    limit = f"{int((await _deadlock_timeout(connection) + 1) * 1000)}ms"
    for table in tables:
        with contextlib.suppress(RetryableError), translated():
            async with connection.transaction(force_rollback=True):
                await connection.execute("SELECT set_config('lock_timeout', %s, true)", (limit,))
                await connection.execute(
                    sql.SQL("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE").format(
                        identifier(table.schema, table.table)
                    )
                )


async def in_turns(
    work: Callable[[], Awaitable[T]],
    observer: Connection,
    tables: Sequence[Name],
    *,
    tries: int,
    tell: Callable[[str], Awaitable[None]],
) -> T:
    """Do what locks tables, again and again until it has its locks: whoever waits holds up everybody behind.

    :param tell: is told who was in the way.
    :raises RetryableError: the last one.
    """

    async def make_way(error: RetryableError) -> None:
        await tell(error.problem)
        if gives_way(error):
            await send_vacuum_away(observer, tables)

    return await retry(work, on=RetryableError, tries=tries, pause=BETWEEN_TURNS, between=make_way)


async def patiently(
    connection: Connection,
    work: Callable[[], Awaitable[T]],
    *,
    what: str = "What the replicator keeps here",
    tries: int = OWN_TRIES,
    tell: Callable[[str], Awaitable[None]] | None = None,
) -> T:
    """Do in one transaction what locks only what is ours, again and again until it has its locks.

    :param what: in the error's words.
    :param tell: is told who was in the way.
    :raises LockedOutError: the last one.
    """
    async with AsyncExitStack() as stack:
        observer: Connection | None = None  # mostly nobody is in the way, and no second connection is needed

        async def look_from_now_on(error: RetryableError) -> None:
            nonlocal observer
            if observer is None:
                observer = await stack.enter_async_context(another(connection, "watch"))
            elif tell is not None:
                await tell(error.problem)

        return await retry(
            lambda: _briefly(connection, work, what, observer),
            on=RetryableError,
            tries=tries,
            pause=lambda tried: BETWEEN_TRIES if tried == 1 else BETWEEN_TURNS,
            between=look_from_now_on,
        )


async def _briefly(
    connection: Connection, work: Callable[[], Awaitable[T]], what: str, observer: Connection | None
) -> T:
    pid = connection.info.backend_pid

    async def look() -> list[Blocker]:
        return await who_blocks(observer, pid) if observer is not None else []

    async with _watching(look, OWN_SECONDS / 4) as seen:
        try:
            with translated():
                async with connection.transaction():
                    await _limit(connection, "lock_timeout", f"{int(OWN_SECONDS * 1000)}ms")
                    return await work()
        except RetryableError as error:
            if error.sqlstate not in GAVE_UP:
                raise
            raise LockedOutError(what, OWN_SECONDS, seen, error.sqlstate) from error


def gives_way(error: RetryableError) -> bool:
    """Whether an autovacuum was in the way that can be sent away."""
    return isinstance(error, LockedOutError) and any(each.vacuum for each in error.blockers)


async def patience_of(connection: Connection, seconds: float) -> float:
    """For how many of these seconds one may queue for locks and be in no deadlock."""
    return max(SHORTEST, min(seconds, await _deadlock_timeout(connection) / 2))


async def _deadlock_timeout(connection: Connection) -> float:
    """In seconds: the shortest that any session might have."""
    rows = await fetch(connection, DEADLOCK_TIMEOUTS)
    return min(_milliseconds(row["value"]) for row in rows) / 1000


def _milliseconds(text: str) -> float:
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([a-z]*)\s*", text)
    return float(found.group(1)) * MILLISECONDS.get(found.group(2) or "ms", 1.0) if found else 1_000.0


async def _still_there(observer: Connection, tables: Sequence[Name]) -> list[Name]:
    there = await oids_by_name(observer, tables)
    return [each for each in tables if each in there]


async def _lock(connection: Connection, tables: Sequence[Name], mode: Mode, *, nowait: bool = False) -> None:
    with of_a_list():
        await connection.execute(
            sql.SQL("LOCK TABLE {} IN {} MODE{}").format(
                comma([identifier(name.schema, name.table) for name in tables]),
                sql.SQL(mode),
                sql.SQL(" NOWAIT" if nowait else ""),
            )
        )


async def _limit(connection: Connection, setting: str, limit: str) -> str:
    """In the caller's transaction; gives what the limit was."""
    (row,) = await fetch(
        connection,
        "SELECT current_setting(%(setting)s) AS before, set_config(%(setting)s, %(limit)s, true)",
        setting=setting,
        limit=limit,
    )
    return str(row["before"])


def _named(tables: Sequence[Name]) -> str:
    return str(tables[0]) if len(tables) == 1 else f"The {len(tables)} tables"


@contextlib.asynccontextmanager
async def _watching(look: Callable[[], Awaitable[list[Blocker]]], every: float) -> AsyncIterator[list[Blocker]]:
    """Who was in the way at the last look that found anybody."""
    seen: list[Blocker] = []

    async def go_on() -> None:
        with contextlib.suppress(ReplicatorError):  # to name them is a help, no condition
            while True:
                await asyncio.sleep(every)
                seen[:] = await look() or seen

    task = asyncio.create_task(go_on())
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
