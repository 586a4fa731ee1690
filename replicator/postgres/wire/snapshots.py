"""Reads that never miss what the stream has delivered (ARCHITECTURE.md, I4).

Postgres streams a commit when it is flushed, before new snapshots can see it; so a read that meets the stream waits for
a snapshot that sees every transaction delivered so far.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from psycopg.pq import TransactionStatus

from replicator.core.lsn import LSN, parse_lsn
from replicator.errors import ConnectionLostError
from replicator.postgres.locking.blockers import listed, who_is_older
from replicator.postgres.session.connect import Connection, translated
from replicator.postgres.session.held import alone_on
from replicator.runtime.log import get_logger

log = get_logger("snapshots")

EPOCH = 1 << 32
WARN_AFTER_TRIES = 2_000
TELL_AFTER = 1.0
"""Seconds."""


@dataclass(frozen=True)
class Snapshot:
    """``pg_current_snapshot()``: everything below ``xmin`` is visible, nothing from ``xmax`` on, nor what is in between
    and in progress (Postgres documentation, "Transaction ID and Snapshot Information Functions")."""

    xmin: int
    xmax: int
    in_progress: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> "Snapshot":
        """Read ``xmin:xmax:xip,...``."""
        xmin, xmax, running = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(int(each) for each in running.split(",") if each))

    def sees(self, xid: int) -> bool:
        """Whether a committed transaction, by its 32-bit id, is visible."""
        full = self._full(xid)
        # One that runs while the snapshot is taken is not in it, whatever its number (I4).
        # mutation: snapshot-in-progress
        return full < self.xmin or (full < self.xmax and full not in self.in_progress)

    def _full(self, xid: int) -> int:
        """The 64-bit id nearest to the snapshot: the stream gives 32 bits only."""
        candidate = (self.xmax & ~(EPOCH - 1)) | xid
        if candidate - self.xmax > EPOCH // 2:
            return candidate - EPOCH
        if self.xmax - candidate > EPOCH // 2:
            return candidate + EPOCH
        return candidate


class Visibility:
    """The transactions that the stream has delivered and that no snapshot has been seen to contain yet."""

    def __init__(self, delivered: Iterable[int] = ()) -> None:
        self._delivered = set(delivered)

    def delivered(self, xid: int) -> None:
        """Note a transaction that the stream has begun to deliver: its commit is in the log."""
        self._delivered.add(xid)

    def admits(self, snapshot: Snapshot) -> bool:
        """Whether the snapshot sees all that was delivered. What it sees is forgotten: later ones see it too."""
        self._delivered = {xid for xid in self._delivered if not snapshot.sees(xid)}
        # A read that misses a deletion which the stream has delivered brings the row back (I4).
        # guard: SIGHT; mutation: snapshot-admits
        return not self._delivered

    @property
    def unseen(self) -> frozenset[int]:
        """The transactions themselves."""
        return frozenset(self._delivered)

    def __len__(self) -> int:
        return len(self._delivered)


async def look(connection: Connection, visibility: Visibility) -> None:
    """Forget what a new snapshot contains."""
    with translated():
        cursor = await connection.execute("SELECT pg_current_snapshot()::text")
        row = await cursor.fetchone()
    if row is not None:
        visibility.admits(Snapshot.parse(row[0]))


async def wait_for_running(connection: Connection, tell: Callable[[str], Awaitable[None]]) -> None:
    """Wait until every transaction that runs now has ended, and snapshots contain it if it was committed.

    :param tell: is told whose they are, when it takes longer than a moment, and whenever these are others.
    """
    told: set[str] = set()
    clock = asyncio.get_running_loop().time
    due = clock() + TELL_AFTER
    with translated():
        cursor = await connection.execute("SELECT pg_current_xact_id()::text")  # later than all that run
        (later,) = await cursor.fetchone() or ("0",)
        while True:
            cursor = await connection.execute(
                "SELECT pg_snapshot_xmin(pg_current_snapshot()) >= %s::text::xid8", (later,)
            )
            (ended,) = await cursor.fetchone() or (False,)
            if ended:
                return
            if clock() > due:
                due = clock() + TELL_AFTER
                found = await who_is_older(connection, later)
                if {each.who for each in found} - told:
                    told = {each.who for each in found}
                    await tell(f"waiting for the transactions that run now; in the way: {listed(found)}")
            await asyncio.sleep(0.01)


@asynccontextmanager
async def read_point(connection: Connection, visibility: Visibility) -> AsyncIterator[LSN]:
    """One REPEATABLE READ transaction that sees all that the stream had delivered when the block began.

    Gives a position that no transaction visible here is beyond. ``connection`` must be in autocommit mode; or held
    (``held.hold``), in a transaction that keeps all others from what is read: that one is taken, and not ended. It
    waited for them to end, so that it sees them.
    """
    async with alone_on(connection) as held:
        if held:
            yield await inserted_position(connection)
            return
        with translated():
            lsn = await _begin(connection, visibility)
            try:
                yield lsn
            finally:
                await _end(connection)


async def _end(connection: Connection) -> None:
    """Roll back. A read that was interrupted has left the connection of no use: it is closed, and hides no error."""
    if connection.info.transaction_status == TransactionStatus.ACTIVE:
        await connection.close()
    if not connection.closed:
        await connection.execute("ROLLBACK")


async def inserted_position(connection: Connection) -> LSN:
    """A position that no transaction is beyond which this one has seen until now."""
    with translated():
        cursor = await connection.execute("SELECT pg_current_wal_insert_lsn()::text")
        row = await cursor.fetchone()
    if row is None:
        raise ConnectionLostError("The server gave no position.")
    return parse_lsn(row[0])


async def _begin(connection: Connection, visibility: Visibility) -> LSN:
    tries = 0
    while True:
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        cursor = await connection.execute("SELECT pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text")
        row = await cursor.fetchone()
        if row is None:
            raise ConnectionLostError("The server gave no snapshot.")
        if visibility.admits(Snapshot.parse(row[0])):
            return parse_lsn(row[1])
        await connection.execute("ROLLBACK")
        tries += 1
        if tries % WARN_AFTER_TRIES == 0:
            log.warning("waiting for commits to become visible", transactions=len(visibility), tries=tries)
        await asyncio.sleep(0.002)
