"""Publications and replication slots: made, checked against the stored progress, and dropped."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from psycopg import sql

from replicator.core.lsn import LSN, ZERO, format_lsn, parse_lsn
from replicator.core.tables import Table
from replicator.errors import ConnectionLostError, DatabaseError, SlotError
from replicator.postgres.control.owned import foreign_publications, forget, note, noted, taken
from replicator.postgres.control.progress import Progress
from replicator.postgres.session.connect import Connection, comma, identifier, translated
from replicator.runtime.retrying import retry

IN_USE = "55006"
TRIES = 100
PAUSE = 0.05
"""Seconds. A session that is ended needs a moment."""
AGAIN = "Start the migration anew: see docs/operator/troubleshooting.md, Starting anew."


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A row of pg_replication_slots, as far as we need it."""

    name: str
    plugin: str
    database: str
    active: bool
    confirmed: LSN
    retained_bytes: int
    wal_status: str
    here: bool
    """Whether it belongs to the connection's database."""


async def read_slot(connection: Connection, name: str) -> Slot | None:
    """The slot of that name, whichever database it belongs to."""
    with translated():
        cursor = await connection.execute(
            "SELECT slot_name, plugin, database, active, coalesce(confirmed_flush_lsn, '0/0')::text, "
            "coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint, coalesce(wal_status, 'lost'), "
            "database = current_database() FROM pg_replication_slots WHERE slot_name = %s AND slot_type = 'logical'",
            (name,),
        )
        row = await cursor.fetchone()
    if row is None:
        return None
    found, plugin, database, active, confirmed, retained, wal_status, here = row
    return Slot(
        name=found,
        plugin=plugin,
        database=database,
        active=active,
        confirmed=parse_lsn(confirmed),
        retained_bytes=retained,
        wal_status=wal_status,
        here=here,
    )


async def create_slot(connection: Connection, name: str, plugin: str) -> LSN:
    """Create a slot; waits for every transaction that runs now. Returns where decoding begins.

    PostgreSQL calls that position the slot's consistent point ("Logical Decoding Concepts"); ours is another one, see
    ``progress.consistent_point``. The slot is noted as ours before it is there: no crash can leave one that we would
    not know for ours. Raises DatabaseError when the server refuses it.
    """
    await note(connection, "slot", name, None)
    with translated():
        cursor = await connection.execute(
            "SELECT lsn::text FROM pg_create_logical_replication_slot(%s, %s)", (name, plugin)
        )
        row = await cursor.fetchone()
        return parse_lsn(row[0]) if row else ZERO


async def drop_slot(connection: Connection, name: str) -> bool:
    """Drop a slot of this database, ending the process that still reads it; gives whether it is ours to drop.

    Slots have their names in the whole cluster: one of another database is another migration's.
    """
    if name not in await noted(connection, "slot"):
        return False
    await _drop_slot(connection, name)
    await forget(connection, "slot", name)
    return True


async def _drop_slot(connection: Connection, name: str) -> None:
    with translated():
        await connection.execute(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots "
            "WHERE slot_name = %s AND database = current_database() AND active_pid IS NOT NULL",
            (name,),
        )

    async def drop() -> None:
        with translated():
            await connection.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots "
                "WHERE slot_name = %s AND database = current_database()",
                (name,),
            )

    await retry(drop, on=DatabaseError, when=lambda error: error.sqlstate == IN_USE, tries=TRIES, pause=PAUSE)


def check_slot(slot: Slot | None, progress: Progress, system_id: str, timeline: int) -> None:
    """Raise SlotError unless the slot goes on exactly where the stored progress ends (invariant I2)."""
    name = progress.slot
    if progress.system_id != system_id:
        raise SlotError(
            f"The source is another cluster (system {system_id}) than the one the slot {name} was made on "
            f"({progress.system_id}).",
            "Point REPLICATOR_SOURCE_DSN back at it, or start again.",
        )
    if progress.timeline != timeline:  # what is applied may be what that server never had: its slot proves nothing
        raise SlotError(
            f"The source is on the timeline {timeline}, the slot {name} was made on {progress.timeline}: it is a "
            "standby that was promoted, or was restored.",
            AGAIN,
        )
    if slot is None:
        raise SlotError(
            f"The replication slot {name} is gone: changes since {format_lsn(progress.applied)} cannot be read.", AGAIN
        )
    if not slot.here:
        raise SlotError(f"The replication slot {name} belongs to the database {slot.database}.", "Set REPLICATOR_SLOT.")
    if slot.plugin != progress.plugin:
        raise SlotError(f"The slot {name} was re-created with the plugin {slot.plugin}; changes may be missing.", AGAIN)
    if slot.wal_status == "lost":
        raise SlotError(
            f"The server has removed WAL that the slot {name} needed (max_slot_wal_keep_size).",
            f"Raise that limit. {AGAIN}",
        )
    # What lies between has been read by somebody else, and would be missing (I2). mutation: slot-ahead
    if slot.confirmed > progress.applied:
        raise SlotError(
            f"The slot {name} is at {format_lsn(slot.confirmed)}, ahead of what is stored "
            f"({format_lsn(progress.applied)}): it was re-created, or somebody else read from it.",
            AGAIN,
        )


async def write_publication(connection: Connection, name: str, tables: Iterable[Table]) -> None:
    """Create a publication of exactly these tables; one that we have made before is made anew.

    Partitions are published under their own names: under their root's, the truncation of one would go unsaid.

    :raises CheckError: there is one of this name that we have not made.
    """
    if await foreign_publications(connection, [name]):
        raise taken("publication", name, "REPLICATOR_PUBLICATION", f"`DROP PUBLICATION {name};`")
    # ONLY: a child that somebody has just made would be published too, and without a key refuse the application's
    # updates of its parent. A partitioned table's partitions belong to it all the same.
    listed = comma(
        [sql.SQL("ONLY {}").format(identifier(table.name.schema, table.name.table)) for table in tables]
    )  # fmt: skip
    with translated():
        async with connection.transaction():
            await connection.execute(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(identifier(name)))
            # Of none, where there is no way back: its slot says how far the new tables are, and no more.
            of_tables = sql.SQL(" FOR TABLE {}").format(listed) if listed.as_string() else sql.SQL("")
            await connection.execute(
                sql.SQL("CREATE PUBLICATION {}{} WITH (publish_via_partition_root = false)").format(
                    identifier(name), of_tables
                )
            )
            cursor = await connection.execute("SELECT oid::bigint FROM pg_publication WHERE pubname = %s", (name,))
            row = await cursor.fetchone()
            await note(connection, "publication", name, row[0] if row else None)


async def drop_publication(connection: Connection, name: str) -> None:
    """Drop a publication of ours if it is there."""
    if name not in await noted(connection, "publication"):
        return
    theirs = await foreign_publications(connection, [name])
    with translated():
        async with connection.transaction():
            if not theirs:
                await connection.execute(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(identifier(name)))
            await forget(connection, "publication", name)


async def read_message_prefix(connection: Connection) -> str:
    """What our messages in this database's log begin with; nobody else can know it."""
    with translated():
        cursor = await connection.execute("SELECT message_prefix FROM _replicator.secrets")
        row = await cursor.fetchone()
        if row is None:
            raise ConnectionLostError("The control tables are gone.", "Start the migration anew.")
        return str(row[0])


async def current_position(connection: Connection) -> LSN:
    """The end of what is flushed to the log."""
    with translated():
        cursor = await connection.execute("SELECT pg_current_wal_flush_lsn()::text")
        row = await cursor.fetchone()
        return parse_lsn(row[0]) if row else ZERO


async def clock_and_position(connection: Connection) -> tuple[datetime, LSN]:
    """What time it is by this server's clock; and a position that all that is in the log by then is before."""
    with translated():
        cursor = await connection.execute("SELECT clock_timestamp(), pg_current_wal_insert_lsn()::text")
        row = await cursor.fetchone()
        if row is None:
            raise ConnectionLostError("The server did not say what time it is.")
        return row[0], parse_lsn(row[1])
