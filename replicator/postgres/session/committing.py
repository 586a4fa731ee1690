"""The end of a transaction, of which the server's answer alone says whether it was one."""

from replicator.errors import DatabaseError
from replicator.postgres.session.connect import Connection, translated


async def commit(connection: Connection) -> None:
    """Commit the caller's transaction. Raises DatabaseError when the server has rolled it back instead."""
    with translated():
        cursor = await connection.execute("COMMIT")
    # In a transaction that has failed, COMMIT is no error: Postgres rolls back, and only its answer says so. What was
    # not written would count as done.
    if cursor.statusmessage != "COMMIT":
        raise DatabaseError("The transaction had failed: the server rolled it back where it was to be committed.")
