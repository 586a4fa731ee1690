"""What a cutover does to a database: lock, guards, the state row. Also how it is read what became of it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from psycopg import sql

from replicator.core.epochs import NEVER_MOVED, OwnershipEpoch
from replicator.core.tables import Name, Table
from replicator.errors import ConnectionLostError
from replicator.postgres.control.control import Owner
from replicator.postgres.control.mailbox import CUTOVER_CHANNEL
from replicator.postgres.session.connect import Connection, translated
from replicator.postgres.session.messages import emit_message


@dataclass(frozen=True, kw_only=True)
class Ownership:
    """The state row: who owns the data, after how many moves."""

    owner: Owner
    epoch: OwnershipEpoch
    rolling: bool = False
    """Both schemas take writes."""
    settling: bool = False
    """Both did; what both had written is not decided in all cases yet."""
    renamed: bool = False
    """The new tables are in the old schema, under the old names or their own; the old ones have made room."""


async def read_ownership(connection: Connection) -> Ownership:
    """The state row of this database."""
    return await _read_ownership(connection, sql.SQL(""))


async def settled_ownership(connection: Connection) -> Ownership:
    """The state row once no transaction is about to change it: waits for the commit of one whose reply was lost."""
    # Waits for the row's lock: a commit under way would be taken for one that failed (I8).
    # guard: STATE_ROW_SETTLED; mutation: settled-ownership
    return await _read_ownership(connection, sql.SQL("FOR SHARE"))


async def _read_ownership(connection: Connection, lock: sql.SQL) -> Ownership:
    with translated():
        cursor = await connection.execute(
            sql.SQL(
                "SELECT owner, epoch, rolling_since IS NOT NULL, rolling_since IS NULL AND settling_since IS NOT NULL, "
                "EXISTS (SELECT FROM _replicator.renames) FROM _replicator.ownership {}"
            ).format(lock)
        )
        row = await cursor.fetchone()
        if row is None:
            return Ownership(owner="old", epoch=NEVER_MOVED)
        return Ownership(owner=row[0], epoch=OwnershipEpoch(row[1]), rolling=row[2], settling=row[3], renamed=row[4])


async def rolling_since(connection: Connection) -> datetime | None:
    """Since when both schemas take writes, or did until it was ended, by this server's clock."""
    with translated():
        cursor = await connection.execute("SELECT coalesce(rolling_since, settling_since) FROM _replicator.ownership")
        row = await cursor.fetchone()
        return row[0] if row else None


async def write_settled(connection: Connection) -> None:
    """Only the owner's schema takes writes, and nothing is left to decide."""
    with translated():
        await connection.execute("UPDATE _replicator.ownership SET settling_since = NULL")


async def clock(connection: Connection) -> datetime:
    """What time it is by this server's clock."""
    with translated():
        cursor = await connection.execute("SELECT clock_timestamp()")
        row = await cursor.fetchone()
        if row is None:
            raise ConnectionLostError("The server did not say what time it is.")
        now: datetime = row[0]
        return now


async def limit_lock(connection: Connection, seconds: float) -> None:
    """Wait no longer for any lock, in the caller's transaction: RetryableError."""
    with translated():
        await connection.execute(
            sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(f"{int(seconds * 1000)}ms"))
        )  # fmt: skip


async def limit_transaction(connection: Connection, seconds: float) -> None:
    """Let the server itself end this transaction: a daemon that is cut off must not hold a lock."""
    milliseconds = f"{int(seconds * 1000)}ms"
    with translated():
        for setting in ("idle_in_transaction_session_timeout", "statement_timeout"):
            await connection.execute(
                sql.SQL("SET LOCAL {} = {}").format(sql.SQL(setting), sql.Literal(milliseconds))
            )  # fmt: skip


async def write_ownership(
    connection: Connection, owner: Owner, epoch: OwnershipEpoch, marker: str | None, *, rolling: bool = False
) -> None:
    """Move ownership: the state row, and the marker that tells the opposite stream where to begin."""
    with translated():
        await connection.execute(
            "UPDATE _replicator.ownership SET owner = %s, epoch = %s, since = clock_timestamp(), "
            "rolling_since = CASE WHEN %s THEN clock_timestamp() END, settling_since = rolling_since",
            (owner, epoch, rolling),
        )
        # With the opening: what is written before the marker is not carried back (I8). guard: MARKER_WITH_OPENING
        if marker is not None:
            await emit_message(connection, marker)


async def notify_of_owner(connection: Connection) -> None:
    """Tell who listens whose the data are, in a transaction of its own: it may wait for others, and fail."""
    with translated():
        await connection.execute("SELECT pg_notify(%s, owner) FROM _replicator.ownership", (CUTOVER_CHANNEL,))


async def same_database(one: Connection, other: Connection) -> bool:
    """Whether two connections lead to one database of one cluster."""
    identities = []
    with translated():
        for connection in (one, other):
            cursor = await connection.execute(  # copies of a data folder share all but the last
                "SELECT system_identifier::text, d.oid::text, pg_postmaster_start_time()::text "
                "FROM pg_control_system(), pg_database d WHERE d.datname = current_database()"
            )
            identities.append(await cursor.fetchone())
    return bool(identities[0] == identities[1])


def all_names(tables: Iterable[Table]) -> list[Name]:
    """The tables and their partitions, which can be written to by their own names."""
    return [name for table in tables for name in (table.name, *table.leaves)]
