"""Whether the server's lock table has room for all tables and indexes of a migration: a partition is a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from replicator.core.tables import Name
from replicator.postgres.locking.trees import TREE, oids_of
from replicator.postgres.session.connect import Connection
from replicator.postgres.session.server import fetch_plain

STEP: Final = 64

# For each process that the server may have, it has room for so many; who needs more takes what others leave.
ROOM: Final = f"""{TREE}
    SELECT (SELECT count(*) FROM tree) AS tables,
           (SELECT count(*) FROM pg_index i JOIN tree t ON t.oid = i.indrelid) AS indexes,
           current_setting('max_locks_per_transaction')::int AS each,
           1 + (SELECT sum(setting::int) FROM pg_settings WHERE name IN (
               'max_connections', 'max_prepared_transactions', 'max_wal_senders', 'max_worker_processes',
               'autovacuum_max_workers')) AS processes
"""


@dataclass(frozen=True, kw_only=True)
class LockRoom:
    """Of one server: how many tables and indexes of the migration it has, and how many locks there is room for."""

    tables: int
    indexes: int
    each: int
    """``max_locks_per_transaction``."""
    processes: int

    @property
    def needed(self) -> int:
        """A move locks all tables; a query that cannot tell in which partition its rows are, all indexes as well."""
        return self.tables + self.indexes

    @property
    def room(self) -> int:
        """For all sessions together, the application's too."""
        return self.each * self.processes

    @property
    def enough(self) -> int:
        """The setting that leaves half of the room to others."""
        return STEP * -(-2 * self.needed // (STEP * self.processes))

    def beside(self, other: "LockRoom") -> "LockRoom":
        """Both, on one server."""
        return LockRoom(
            tables=self.tables + other.tables,
            indexes=self.indexes + other.indexes,
            each=self.each,
            processes=self.processes,
        )


async def lock_room(connection: Connection, tables: Sequence[Name]) -> LockRoom:
    """For these tables, with all that is below them."""
    (row,) = await fetch_plain(connection, ROOM, oids=await oids_of(connection, tables))
    return LockRoom(**row)
