"""Trying what the application does, in transactions that are rolled back: writes, and writes that are refused."""

from psycopg import sql

from replicator.core.lsn import LSN, parse_lsn
from replicator.core.tables import Name, Table
from replicator.errors import DatabaseError, ReplicatorError
from replicator.postgres.catalog.operators import all_equal
from replicator.postgres.session.connect import Connection, comma, identifier, translated
from replicator.postgres.session.messages import EMIT

REFUSED = "RP002"
LOCK_TIMEOUT = "2s"


async def write_a_row(connection: Connection, table: Table) -> int:
    """Write one row over itself, as its own new version; gives how many there were: none in an empty table.

    A row that somebody else is writing is passed over. Raises ReplicatorError when the write is refused.
    """
    name = identifier(table.name.schema, table.name.table)
    free = [each for each in table.columns if not each.generated and not each.identity]
    column = next((each.name for each in free if each.name not in table.key), free[0].name if free else None)
    if column is None:  # nothing in it may be set
        return await _rolled_back(connection, sql.SQL("DELETE FROM {} WHERE false").format(name))
    same = all_equal("t", "one", table.key_columns)
    return await _rolled_back(
        connection,
        sql.SQL(
            "WITH one AS (SELECT {key} FROM {table} LIMIT 1 FOR UPDATE SKIP LOCKED) "
            "UPDATE {table} AS t SET {column} = t.{column} FROM one WHERE {same}"
        ).format(
            key=comma([identifier(each) for each in table.key]), table=name, column=identifier(column), same=same
        ),
    )  # fmt: skip


async def refuses_writes(connection: Connection, name: Name) -> bool:
    """Whether the guard refuses a write of anybody but the replicator; no row is touched in any case."""
    try:
        await _rolled_back(
            connection, sql.SQL("DELETE FROM {} WHERE false").format(identifier(name.schema, name.table))
        )
    except DatabaseError as error:
        if error.sqlstate == REFUSED:
            return True
        raise
    return False


async def _rolled_back(connection: Connection, statement: sql.Composed) -> int:
    with translated():
        async with connection.transaction(force_rollback=True):
            await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'".encode())
            cursor = await connection.execute(statement)
            return cursor.rowcount


async def send_marker(connection: Connection, content: str) -> LSN:
    """Send a message down the log, as a transaction of its own; gives a position that is not beyond its commit."""
    with translated():
        cursor = await connection.execute(EMIT.encode(), (content,))
        row = await cursor.fetchone()
    if row is None:
        raise ReplicatorError("The server gave no position.")
    return parse_lsn(row[0])


async def owner_says(connection: Connection) -> tuple[str, str]:
    """The owner in the state row, and the schema that the application is told."""
    with translated():
        cursor = await connection.execute("SELECT owner, replicator.active_schema() FROM _replicator.ownership")
        row = await cursor.fetchone()
        return (row[0], row[1]) if row else ("old", "")
