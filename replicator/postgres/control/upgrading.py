"""Control tables that an older version has made: brought along where nothing hangs on them, else refused."""

from replicator.errors import CheckError, LeaseError
from replicator.postgres.control.owned import is_older
from replicator.postgres.session.connect import Connection

KEYED_BY_TEXT = """
    SELECT EXISTS (
        SELECT FROM pg_catalog.pg_constraint
        WHERE conname = 'produced_pkey' AND connamespace = to_regnamespace('{home}')
    )
"""
# Older ones lack these columns: through jsonb they are null then.
ALIVE = """
    SELECT EXISTS (
        SELECT FROM replicator.lease l, jsonb_to_record(to_jsonb(l)) AS s(pid integer, backend_start timestamptz)
        JOIN pg_stat_activity a ON a.pid = s.pid AND a.backend_start = s.backend_start
    )
"""


async def refuse_underway(connection: Connection) -> None:
    """Raise CheckError when a migration is under way whose keys are noted as an older version spelt them."""
    home = "replicator" if await is_older(connection) else "_replicator"
    if await _is(connection, KEYED_BY_TEXT.format(home=home)) and await _is(
        connection, f"SELECT EXISTS (SELECT FROM {home}.progress)"
    ):
        raise CheckError(
            "The control tables are an older version's, in the middle of a migration: it spelt keys otherwise.",
            "End the migration with the version that began it, by `replicator finalize` or `replicator abort`.",
        )


async def bring_along(connection: Connection) -> None:
    """In the caller's transaction, before ``control.sql`` runs.

    :raises CheckError: as ``refuse_underway`` does.
    :raises LeaseError: a daemon of the older version runs.
    """
    await refuse_underway(connection)
    if await is_older(connection):
        await _move_in(connection)
    if await _is(connection, KEYED_BY_TEXT.format(home="_replicator")):
        # What these hold is of a migration that is over, and their columns are other ones now.
        await connection.execute("DROP TABLE _replicator.produced")
        await connection.execute("DROP TABLE IF EXISTS _replicator.definitions")
        await connection.execute(
            "ALTER TABLE _replicator.quarantine DROP CONSTRAINT quarantine_pkey, "
            "ADD CONSTRAINT quarantine_id PRIMARY KEY (id)"
        )


async def _move_in(connection: Connection) -> None:
    """Take the tables out of the schema that everybody may use. No table is locked; guards keep their function.

    The application's functions stay: whatever it has built on them goes on.
    """
    if await _is(connection, ALIVE):
        raise LeaseError("A daemon of an older version is running this migration.", "Stop that one first.")
    if await _is(connection, "SELECT to_regnamespace('_replicator') IS NOT NULL"):
        await connection.execute("DROP SCHEMA _replicator RESTRICT")  # an empty one, made beforehand
    await connection.execute("ALTER SCHEMA replicator RENAME TO _replicator")
    await connection.execute("CREATE SCHEMA replicator")
    for function in ("active_schema", "use_new_schema"):
        await connection.execute(f"ALTER FUNCTION _replicator.{function}() SET SCHEMA replicator".encode())


async def _is(connection: Connection, question: str) -> bool:
    cursor = await connection.execute(question.encode())
    return await cursor.fetchone() == (True,)
