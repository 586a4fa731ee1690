"""One daemon at a time: a row says whose session it is, and an epoch that every write transaction compares (I6).

No advisory lock: anybody could take that. The table is in a schema that nobody else may use: Postgres locks the tables
of a statement before it looks at privileges, but not before it has found them by their names.
"""

import asyncio
import os
import socket

from replicator.core.epochs import LeaseEpoch
from replicator.errors import LeaseError, RetryableError
from replicator.postgres.control.control import IS_HOLDER
from replicator.postgres.control.ownership import limit_lock
from replicator.postgres.session.connect import Connection, connect, translated

TRIES = 50
PAUSE = 0.1
"""Seconds. A killed daemon's session needs a moment until the server notices."""
FENCE_SECONDS = 120.0
"""How long a dead daemon's last write is waited for: it may be large. In one go, so that no other one can begin."""

# Within a transaction it is always the same sessions that are seen: ask once in each.
HOLDER = f"""
    SELECT l.holder, l.since::text FROM _replicator.lease l JOIN pg_stat_activity a ON {IS_HOLDER}
"""

IN_THE_WAY = """
    SELECT format('pid %s, role %s, application %s', l.pid, coalesce(quote_ident(a.usename), '?'),
                  coalesce(quote_literal(a.application_name), '?'))
    FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.relation = '_replicator.lease'::regclass AND l.granted AND l.pid <> pg_backend_pid()
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND l.mode IN ('RowShareLock', 'RowExclusiveLock', 'ShareUpdateExclusiveLock', 'ShareLock',
                   'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
    ORDER BY 1
"""


class Lease:
    """Held as long as its connection lives."""

    def __init__(self, connection: Connection, epoch: LeaseEpoch) -> None:
        self._connection = connection
        self.epoch = epoch

    @classmethod
    async def acquire(cls, dsn: str) -> "Lease":
        """Take the lease on this database; waits for a dead daemon's last write. Raises LeaseError if one is alive."""
        connection = await connect(dsn, "lease")
        try:
            return cls(connection, await _take(connection))
        except BaseException:
            await connection.close()
            raise

    async def watch(self) -> None:
        """Returns never; raises ConnectionLostError when the session that holds the lease is gone."""
        while True:
            with translated():
                await self._connection.execute("SELECT 1")
            await asyncio.sleep(1)

    async def release(self) -> None:
        """Give the lease back."""
        await self._connection.close()


async def _holder(connection: Connection) -> str | None:
    """None when no living session has the lease; else whose it is. Takes no lock: who has it is not disturbed."""
    with translated():
        cursor = await connection.execute(HOLDER)
        row = await cursor.fetchone()
    return f"{row[0]}, since {row[1]}" if row else None


async def _take(connection: Connection) -> LeaseEpoch:
    """Wait until nobody has the lease, and nobody's write is under way; gives the epoch from now on."""
    for _ in range(TRIES):
        whose = await _holder(connection)
        if whose is None and (epoch := await _next_epoch(connection)) is not None:
            return epoch
        await asyncio.sleep(PAUSE)
    raise LeaseError(
        f"Another daemon is running this migration ({whose or 'it has just begun'}).", "Stop that one first."
    )


async def _next_epoch(connection: Connection) -> LeaseEpoch | None:
    """None when another session has been faster. Raises LeaseError when the last write of another does not end."""
    try:
        return await _next_epoch_once(connection)
    except RetryableError as error:
        with translated():
            cursor = await connection.execute(IN_THE_WAY)
            sessions = "; ".join([row[0] for row in await cursor.fetchall()]) or "one that has just ended"
        raise LeaseError(
            f"The last write of another session is not over ({sessions}).",
            "Wait for it, or end it: SELECT pg_terminate_backend(pid);",
        ) from error


async def _next_epoch_once(connection: Connection) -> LeaseEpoch | None:
    holder = f"pid {os.getpid()} on {socket.gethostname()}"
    async with connection.transaction():
        await limit_lock(connection, FENCE_SECONDS)
        with translated():
            # Waits for a dead daemon's last write, which could commit beside ours: each write transaction holds
            # ROW SHARE, see `_replicator.enter` (I6). guard: FENCE
            await connection.execute("LOCK TABLE _replicator.lease IN EXCLUSIVE MODE")
        if await _holder(connection) is not None:
            return None
        with translated():
            cursor = await connection.execute(
                "INSERT INTO _replicator.lease AS l (epoch, holder, pid, backend_start) "
                "SELECT 1, %s, pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid() "
                "ON CONFLICT (only_row) DO UPDATE SET epoch = l.epoch + 1, holder = EXCLUDED.holder, "
                "pid = EXCLUDED.pid, backend_start = EXCLUDED.backend_start, since = clock_timestamp() "
                "RETURNING epoch",
                (holder,),
            )
            row = await cursor.fetchone()
            return LeaseEpoch(row[0]) if row else None
