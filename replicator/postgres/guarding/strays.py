"""What has left a closed table, a partition that was detached, is open to writers again: guards off, triggers back."""

from typing import Final

from psycopg import sql

from replicator.core.tables import Name
from replicator.postgres.control.ownership import limit_lock
from replicator.postgres.control.trigger_names import GUARD, GUARD_ROWS
from replicator.postgres.guarding.resting import give_back
from replicator.postgres.session.connect import Connection, identifier, of_a_list, translated

# One statement, so one snapshot: a move that closes tables meanwhile is seen as a whole, or not at all. Only the
# daemon's own guards count, for a trigger of others may bear their name; clones go when a partition is detached.
STRAYS: Final = """
    WITH RECURSIVE tree AS (
        SELECT relation AS oid FROM _replicator.closed
        UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.oid
    ), guards AS (
        SELECT t.tgrelid AS oid, array_agg(t.tgname::text) AS names
        FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
        WHERE t.tgname = ANY (%(guards)s::text[]) AND t.tgparentid = 0 AND t.tgenabled <> 'D'
          AND p.pronamespace = to_regnamespace('_replicator')
        GROUP BY 1
    ), astray AS (
        SELECT oid FROM guards UNION SELECT relation FROM _replicator.resting EXCEPT SELECT oid FROM tree
    )
    SELECT c.oid::int8, n.nspname, c.relname, coalesce(g.names, '{}')
    FROM astray a JOIN pg_class c ON c.oid = a.oid JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN guards g ON g.oid = a.oid
    WHERE c.relpersistence <> 't' AND pg_has_role(c.relowner, 'USAGE') ORDER BY 2, 3
"""


async def let_go(connection: Connection, seconds: float) -> list[Name]:
    """Open what hangs on no closed table any more; names it. One cheap look when there is nothing.

    Takes SHARE ROW EXCLUSIVE on each. Raises RetryableError when a lock takes longer than ``seconds``.
    """
    found = await _strays(connection)
    if not found:
        return []
    async with connection.transaction():
        await limit_lock(connection, seconds)
        with of_a_list():
            for _, name, guards in found:
                for each in guards:
                    await connection.execute(
                        sql.SQL("ALTER TABLE ONLY {} DISABLE TRIGGER {}").format(
                            identifier(name.schema, name.table), identifier(each)
                        )
                    )
        await give_back(connection, [oid for oid, _, _ in found])
    return [name for _, name, _ in found]


async def _strays(connection: Connection) -> list[tuple[int, Name, list[str]]]:
    """By oid and name, with the guards that are switched on."""
    with translated():
        cursor = await connection.execute(STRAYS.encode(), {"guards": [GUARD, GUARD_ROWS]}, prepare=False)
        return [
            (oid, Name(schema=schema, table=table), guards)
            for oid, schema, table, guards in await cursor.fetchall()
        ]  # fmt: skip
