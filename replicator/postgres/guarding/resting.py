"""The application's triggers rest on the tables that the daemon writes to, and are given back as they were.

What they do, they have done where the application wrote; done once more for our write, it would count twice. Foreign
keys are Postgres's own triggers, and go on.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from psycopg import sql

from replicator.core.tables import Name
from replicator.postgres.locking.trees import TREE, oids_of
from replicator.postgres.session.connect import Connection, identifier, of_a_list, translated

# Where the daemon does not act for a table's owner it can switch nothing: then the gate `ground` is shut (`ownership`).
THEIRS: Final = f"""{TREE}, theirs AS (
        SELECT t.oid, t.tgrelid, t.tgname, t.tgenabled, t.tgparentid FROM tree JOIN pg_trigger t ON t.tgrelid = tree.oid
        JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_class o ON o.oid = t.tgrelid
        WHERE NOT t.tgisinternal AND pg_has_role(o.relowner, 'USAGE')
          AND p.pronamespace IS DISTINCT FROM to_regnamespace('_replicator')::oid
    )
"""

# One that was switched off already stays so. A clone that a later partition has got is off only since its parent is.
# One that somebody has switched on again is to be as he left it.
NOTE: Final = f"""{THEIRS}
    INSERT INTO _replicator.resting AS r (trigger, relation, name, was)
    SELECT t.oid, t.tgrelid, t.tgname, t.tgenabled FROM theirs t
    WHERE t.tgenabled <> 'D'
        OR t.tgparentid <> 0 AND NOT EXISTS (SELECT FROM _replicator.resting p WHERE p.trigger = t.tgparentid)
    ON CONFLICT (trigger) DO UPDATE SET was = EXCLUDED.was, name = EXCLUDED.name WHERE EXCLUDED.was <> 'D'
"""

# Parents first: switching theirs switches the clones too.
AWAKE: Final = f"""{THEIRS}
    SELECT n.nspname, c.relname, t.tgname, (t.tgparentid = 0)::int AS own, 'D' AS wanted
    FROM theirs t JOIN pg_class c ON c.oid = t.tgrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace WHERE t.tgenabled <> 'D' ORDER BY 4 DESC, 1, 2, 3
"""

RESTING: Final = f"""{TREE}
    SELECT n.nspname, c.relname, t.tgname, (t.tgparentid = 0)::int AS own, r.was::text
    FROM (SELECT * FROM _replicator.resting r {{}}) AS r
    JOIN pg_trigger t ON t.oid = r.trigger AND t.tgrelid = r.relation AND t.tgenabled <> r.was
    JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY 4 DESC, 1, 2, 3
"""

STATES: Final = {"O": "ENABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS", "D": "DISABLE"}


async def awake(connection: Connection, oids: Sequence[int]) -> list[str]:
    """The triggers of others that are switched on, on these tables and all below."""
    with translated():
        return [_named(row) for row in await _rows(connection, AWAKE, oids)]


async def lay_to_rest(connection: Connection, oids: Sequence[int]) -> list[str]:
    """Switch off the triggers of others on these tables and all below, and note how they were.

    Names those that were on. In one transaction, the caller's if there is one. Takes SHARE ROW EXCLUSIVE on each table
    that has one.
    """
    if not await awake(connection, oids):
        return []
    with translated():
        async with connection.transaction():
            await connection.execute(NOTE.encode(), {"oids": list(oids)})
            return await _switch_off(connection, oids)


async def switch_off(connection: Connection, tables: Iterable[Name]) -> None:
    """The same, without a note: in a transaction of the caller's that is rolled back."""
    oids = await oids_of(connection, tables)
    with translated():
        await _switch_off(connection, oids)


async def give_back(connection: Connection, oids: Sequence[int] | None = None) -> list[str]:
    """Let the triggers of these tables and all below be as they were; of all tables, if none are given. Names them.

    In one transaction, the caller's if there is one. A trigger that is gone stays gone.
    """
    which = "" if oids is None else "WHERE r.relation IN (SELECT oid FROM tree)"
    with translated():
        async with connection.transaction():
            back = await _rows(connection, RESTING.format(which), oids or [])
            await _switch(connection, [row for row in back if int(row[3])])
            # Of the clones, those that were not as their parent was.
            await _switch(connection, await _rows(connection, RESTING.format(which), oids or []))
            gone = f"{TREE} DELETE FROM _replicator.resting AS r {which}"
            await connection.execute(gone.encode(), {"oids": list(oids or [])})
    return [_named(row) for row in back]


async def _switch_off(connection: Connection, oids: Sequence[int]) -> list[str]:
    found = await _rows(connection, AWAKE, oids)
    await _switch(connection, [row for row in found if int(row[3])])
    await _switch(connection, await _rows(connection, AWAKE, oids))
    return [_named(row) for row in found]


async def _switch(connection: Connection, triggers: Sequence[tuple[Any, ...]]) -> None:
    """Each is schema, table, trigger, whether it is no clone, and the state to be."""
    statements = [
        sql.SQL("ALTER TABLE {}{} {} TRIGGER {}").format(
            sql.SQL("" if int(own) else "ONLY "), identifier(schema, table), sql.SQL(STATES[state]), identifier(name)
        )
        for schema, table, name, own, state in triggers
    ]
    if statements:
        with of_a_list():
            await connection.execute(sql.SQL("; ").join(statements))


async def _rows(connection: Connection, query: str, oids: Sequence[int]) -> list[tuple[Any, ...]]:
    cursor = await connection.execute(query.encode(), {"oids": list(oids)}, prepare=False)
    return await cursor.fetchall()


def _named(row: tuple[Any, ...]) -> str:
    return f"{row[2]} on {Name(schema=row[0], table=row[1])}"
