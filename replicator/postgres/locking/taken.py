"""The locks that a transaction holds on tables and views, as far as they keep anybody waiting."""

from typing import Final

from replicator.postgres.session.connect import Connection
from replicator.postgres.session.server import fetch_plain

# By the strongest mode on each; on what is ours nobody waits.
HELD: Final = """
    WITH modes (mode, name, strength) AS (VALUES
        ('ShareLock', 'SHARE', 1), ('ShareRowExclusiveLock', 'SHARE ROW EXCLUSIVE', 2),
        ('ExclusiveLock', 'EXCLUSIVE', 3), ('AccessExclusiveLock', 'ACCESS EXCLUSIVE', 4)
    )
    SELECT format('%%I.%%I', n.nspname, c.relname) AS relation, c.oid::int8,
           (array_agg(m.name ORDER BY m.strength DESC))[1] AS mode
    FROM pg_locks l JOIN modes m USING (mode) JOIN pg_class c ON c.oid = l.relation
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.granted
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT IN ('pg_catalog', '_replicator', 'replicator')
    GROUP BY n.nspname, c.relname, c.oid ORDER BY 1
"""


async def held_locks(connection: Connection) -> dict[int, tuple[str, str]]:
    """By oid, the name of each table or view that this transaction has locked, and the strongest mode."""
    rows = await fetch_plain(connection, HELD)
    return {each["oid"]: (each["relation"], each["mode"]) for each in rows}
