"""Control tables that an older version has made: brought along where nothing hangs on them, else refused."""

from replicator.errors import CheckError
from replicator.postgres.connect import Connection

KEYED_BY_TEXT = """
    SELECT EXISTS (
        SELECT FROM pg_catalog.pg_constraint
        WHERE conname = 'produced_pkey' AND connamespace = to_regnamespace('replicator')
    )
"""


async def bring_along(connection: Connection) -> None:
    """In the caller's transaction, before ``control.sql`` runs.

    :raises CheckError: a migration is under way, and its keys are noted as the older version spelt them.
    """
    if not await _is(connection, KEYED_BY_TEXT):
        return
    if await _is(connection, "SELECT EXISTS (SELECT FROM replicator.progress)"):
        raise CheckError(
            "The control tables are an older version's, in the middle of a migration: it spelt keys otherwise.",
            "End the migration with the version that began it, by `replicator finalize` or `replicator abort`.",
        )
    # What these hold is of a migration that is over, and their columns are other ones now.
    await connection.execute("DROP TABLE replicator.produced")
    await connection.execute("DROP TABLE IF EXISTS replicator.definitions")
    await connection.execute(
        "ALTER TABLE replicator.quarantine DROP CONSTRAINT quarantine_pkey, "
        "ADD CONSTRAINT quarantine_id PRIMARY KEY (id)"
    )


async def _is(connection: Connection, question: str) -> bool:
    cursor = await connection.execute(question.encode())
    return await cursor.fetchone() == (True,)
