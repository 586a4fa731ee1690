"""One daemon at a time: a session advisory lock, and an epoch that every write transaction compares (invariant I6)."""

import asyncio
import os
import socket

from replicator.errors import LeaseError
from replicator.postgres.connect import Connection, connect, translated
from replicator.postgres.control import FENCE_LOCK, LEASE_CLASS, LEASE_LOCK

TRIES = 50
PAUSE = 0.1
"""Seconds. A killed daemon's session needs a moment until the server notices."""


class Lease:
    """Held as long as its connection lives."""

    def __init__(self, connection: Connection, epoch: int) -> None:
        self._connection = connection
        self.epoch = epoch

    @classmethod
    async def acquire(cls, dsn: str) -> "Lease":
        """Take the lease on this database; waits for a dead daemon's last write. Raises LeaseError if one is alive."""
        connection = await connect(dsn, "lease")
        try:
            await _lock(connection)
            return cls(connection, await _next_epoch(connection))
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


async def _lock(connection: Connection) -> None:
    for _ in range(TRIES):
        with translated():
            cursor = await connection.execute("SELECT pg_try_advisory_lock(%s, %s)", (LEASE_CLASS, LEASE_LOCK))
            row = await cursor.fetchone()
            if row and row[0]:
                return
        await asyncio.sleep(PAUSE)
    with translated():
        cursor = await connection.execute("SELECT holder, since::text FROM replicator.lease")
        row = await cursor.fetchone()
    holder = f"{row[0]}, since {row[1]}" if row else "unknown"
    raise LeaseError(f"Another daemon is running this migration ({holder}).", "Stop that one first.")


async def _next_epoch(connection: Connection) -> int:
    holder = f"pid {os.getpid()} on {socket.gethostname()}"
    with translated():
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (LEASE_CLASS, FENCE_LOCK))
            cursor = await connection.execute(
                "INSERT INTO replicator.lease AS l (epoch, holder) VALUES (1, %s) ON CONFLICT (only_row) "
                "DO UPDATE SET epoch = l.epoch + 1, holder = EXCLUDED.holder, since = clock_timestamp() "
                "RETURNING epoch",
                (holder,),
            )
            row = await cursor.fetchone()
            return int(row[0]) if row else 0
