"""Messages of ours in the write-ahead log (``pg_logical_emit_message``)."""

from replicator.postgres.session.connect import Connection, translated

EMIT = "SELECT pg_logical_emit_message(true, message_prefix, %s)::text FROM _replicator.secrets"
"""The prefix goes from the table into the log: no statement's text holds it, for others to read in pg_stat_activity."""


async def emit_message(connection: Connection, content: str) -> None:
    """Send a message of ours down the log, as a transaction of its own: its commit flushes at once."""
    with translated():
        await connection.execute(EMIT.encode(), (content,))
