"""How a session of ours passes the guards: it sets what only the control tables know."""

from replicator.postgres.session.connect import Connection, translated


async def pass_guards(connection: Connection, *, in_transaction: bool = False) -> None:
    """Let the guards let this session's writes pass, as the daemon's own.

    The pass goes from the table into the setting on the server: no statement's text holds it.

    :param in_transaction: in the caller's transaction only.
    """
    with translated():
        cursor = await connection.execute("SELECT to_regclass('_replicator.secrets') IS NOT NULL")
        if await cursor.fetchone() in ((True,), ("t",)):  # without control tables there are no guards either
            await connection.execute(
                "SELECT set_config('replicator.pass', pass, %s) FROM _replicator.secrets", (in_transaction,)
            )
