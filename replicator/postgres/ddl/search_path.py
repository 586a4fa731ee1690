"""Moves a role's ``search_path`` with the ownership: ALTER ROLE ... IN DATABASE, in the cutover's own transaction.

It counts for sessions that begin after it.
"""

import re

from psycopg import sql

from replicator.errors import CheckError, DatabaseError, NotReadyError
from replicator.postgres.session.connect import Connection, identifier, translated

DEFAULT = '"$user", public'
ITEM = re.compile(r'\s*("(?:[^"]|"")*"|[^",\s]+)\s*(?:,|$)')

PATHS = """
    SELECT
        (SELECT substr(item, length('search_path=') + 1) FROM pg_db_role_setting s, unnest(s.setconfig) item
        WHERE s.setrole = r.oid AND s.setdatabase = d.oid AND item LIKE 'search\\_path=%%'),
        (SELECT substr(item, length('search_path=') + 1) FROM pg_db_role_setting s, unnest(s.setconfig) item
        WHERE (s.setrole, s.setdatabase) IN ((r.oid, 0), (0, d.oid)) AND item LIKE 'search\\_path=%%'
        ORDER BY s.setrole DESC LIMIT 1)
    FROM pg_roles r, pg_database d WHERE r.rolname = %s AND d.datname = current_database()
"""
"""The path of a role in this database; and the one that it has without that, from the role or the database."""


async def switch_search_path(connection: Connection, role: str, leaving: str, entering: str) -> None:
    """Put one schema where the other one is in a role's path (or before all), and remember what it was.

    :raises NotReadyError: there is no such role, or ours may not alter it.
    """
    with translated():
        cursor = await connection.execute(PATHS.encode(), (role,))
        row = await cursor.fetchone()
        if row is None:
            raise NotReadyError(f"There is no role {role}.", "Name the role that the application connects as.")
        own, inherited = row
        await _alter(connection, role, moved(own or inherited or DEFAULT, leaving, entering))
        await connection.execute(
            "UPDATE _replicator.ownership SET search_path_role = %s, search_path_before = %s", (role, own)
        )


async def restore_search_path(connection: Connection) -> None:
    """Give the role back the path that it had; nothing if none was moved, or the role is gone."""
    with translated():
        cursor = await connection.execute(
            "SELECT search_path_role, search_path_before FROM _replicator.ownership WHERE search_path_role IS NOT NULL"
        )
        row = await cursor.fetchone()
        if row is not None:
            role, before = row
            cursor = await connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (role,))
            if await cursor.fetchone() is not None:
                await _alter(connection, role, None if before is None else items(before))
            await connection.execute(
                "UPDATE _replicator.ownership SET search_path_role = NULL, search_path_before = NULL"
            )


async def _alter(connection: Connection, role: str, path: list[str] | None) -> None:
    cursor = await connection.execute("SELECT current_database()")
    (database,) = await cursor.fetchone() or ("",)
    what = (
        sql.SQL("RESET search_path")
        if path is None
        else sql.SQL("SET search_path TO {}").format(sql.SQL(", ").join(map(sql.Literal, path)))
    )
    try:
        with translated():
            await connection.execute(
                sql.SQL("ALTER ROLE {} IN DATABASE {} {}").format(identifier(role), identifier(database), what)
            )
    except (DatabaseError, CheckError) as error:
        raise NotReadyError(
            f"The search_path of the role {role} cannot be set: {error.problem}",
            "Give the daemon's role CREATEROLE (from Postgres 16 on also ADMIN on that role), or leave the option out.",
        ) from error


def moved(path: str, leaving: str, entering: str) -> list[str]:
    """The schemas of a path with one put in another's place; in front where that one is not in it."""
    found = items(path)
    if leaving not in found:
        return [entering, *found]
    return [entering if each == leaving else each for each in found if each != entering]


def items(path: str) -> list[str]:
    """The names in a ``search_path``, without quotes."""
    return [_unquoted(each) for each in ITEM.findall(path)]


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()
