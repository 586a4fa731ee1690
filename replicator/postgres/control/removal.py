"""Takes the control tables away again, and nothing that is somebody else's."""

import re
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.resources import files
from typing import Final

from psycopg import sql

from replicator.errors import CheckError
from replicator.postgres.control.created import Made, objects_in
from replicator.postgres.control.trigger_names import GUARD, GUARD_ROWS, NOTES
from replicator.postgres.locking.locks import patiently
from replicator.postgres.session.connect import Connection, translated

DROP_TRIES = 60

MADE: Final = re.compile(
    r"^\s*CREATE (?:OR REPLACE )?(TABLE|VIEW|FUNCTION) (?:IF NOT EXISTS )?(_?replicator\.\w+)", re.MULTILINE
)

# What belongs to one of ours goes with it. Our own triggers on the application's tables go before.
DEPENDENTS: Final = """
    WITH RECURSIVE going (class, oid) AS (
        SELECT d.classid, d.objid FROM pg_namespace n
        JOIN pg_depend d ON d.refclassid = 'pg_namespace'::regclass AND d.refobjid = n.oid
        WHERE n.nspname IN ('_replicator', 'replicator')
        UNION
        SELECT d.classid, d.objid FROM going g
        JOIN pg_depend d ON d.refclassid = g.class AND d.refobjid = g.oid AND d.deptype IN ('a', 'i', 'P', 'S')
    )
    SELECT DISTINCT CASE d.classid
        WHEN 'pg_rewrite'::regclass THEN
            (SELECT pg_describe_object('pg_class'::regclass, r.ev_class, 0) FROM pg_rewrite r WHERE r.oid = d.objid)
        ELSE pg_describe_object(d.classid, d.objid, d.objsubid) END
    FROM going g
    JOIN pg_depend d ON d.refclassid = g.class AND d.refobjid = g.oid AND d.deptype = 'n'
    WHERE NOT EXISTS (SELECT FROM going o WHERE o.class = d.classid AND o.oid = d.objid)
    AND NOT EXISTS (SELECT FROM pg_trigger t WHERE d.classid = 'pg_trigger'::regclass AND t.oid = d.objid
                    AND t.tgname = ANY (%s))
    ORDER BY 1
"""


async def refuse_control_dependents(connection: Connection) -> None:
    """Raise CheckError when something of somebody else's uses what is in one of our schemas, or is in it."""
    async with connection.transaction():
        with translated():
            await connection.execute("SET LOCAL search_path = pg_catalog, pg_temp")  # names come with their schema
            cursor = await connection.execute(DEPENDENTS.encode(), ([GUARD, GUARD_ROWS, *NOTES],))
            needed = [row[0] for row in await cursor.fetchall()]
    if needed:
        raise CheckError(
            f"The schema replicator is still used by: {', '.join(needed)}.",
            "Drop these, or change them so that they do without; nothing of others is dropped.",
        )
    ours = {(kind.lower(), name) for kind, name in _made()}
    strange = [
        f"{each.type} {each.identity}"
        for each in sorted(await _there(connection))
        if each.type != "schema" and (each.type, each.identity.split("(")[0]) not in ours
    ]
    if strange:
        raise CheckError(
            f"The schema replicator holds what the replicator has not made: {', '.join(strange)}.",
            "Drop that, or move it to another schema; nothing of others is dropped.",
        )


async def drop_control(connection: Connection, tell: Callable[[str], Awaitable[None]]) -> None:
    """Drop our schemas and what this version makes in them, in one transaction, never with CASCADE.

    :param tell: is told who is in the way: who has asked for the schema in use, and has not ended his transaction.
    :raises CheckError: where ``refuse_control_dependents`` does, and drops nothing.
    :raises LockedOutError: somebody stays in the way; nothing is dropped.
    """
    await patiently(connection, partial(_drop_once, connection), tries=DROP_TRIES, tell=tell)


async def _drop_once(connection: Connection) -> None:
    await refuse_control_dependents(connection)
    there = {(each.type, each.identity) for each in await _there(connection)}
    for kind in ("function", "view", "table"):  # the application's functions are built on the view
        # as the server itself has written and quoted it
        names = [sql.SQL(name) for type_, name in sorted(there) if type_ == kind]
        if names:
            await connection.execute(
                sql.SQL("DROP {} {} RESTRICT").format(sql.SQL(kind.upper()), sql.SQL(", ").join(names))
            )
    await connection.execute("DROP SCHEMA IF EXISTS _replicator, replicator RESTRICT")


async def _there(connection: Connection) -> set[Made]:
    return await objects_in(connection, "_replicator") | await objects_in(connection, "replicator")


def _made() -> list[tuple[str, str]]:
    """Kind and name of all that control.sql makes."""
    return MADE.findall(files("replicator.postgres.control").joinpath("control.sql").read_text(encoding="utf-8"))
