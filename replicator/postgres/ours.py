"""What we have made outside our schema: publications, slots, origins. What is not noted is another's.

A note stands in the database that the thing was made through, in the transaction that makes it, where there is one. So
nothing of somebody else's is ever taken over, or dropped.
"""

from collections.abc import Iterable
from typing import Literal

from replicator.errors import CheckError
from replicator.postgres.connect import Connection, translated
from replicator.postgres.server import fetch_plain

Kind = Literal["publication", "slot", "origin"]

READABLE = """
    SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE n.nspname = 'replicator' AND c.relname = 'made' AND c.relkind = 'r'
                   AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')) AS readable
"""

# By the shape of two of our tables: whoever has a schema of this name for something else has not both.
SCHEMA = """
    SELECT (SELECT pg_describe_object(d.classid, d.objid, 0) FROM pg_depend d
            WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = to_regnamespace('replicator')
            AND d.classid <> 'pg_default_acl'::regclass LIMIT 1) AS holds,
           (SELECT count(*) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
            WHERE c.relnamespace = to_regnamespace('replicator') AND c.relkind = 'r' AND NOT a.attisdropped
            AND (c.relname, a.attname) IN (('ownership', 'migration'), ('ownership', 'epoch'), ('lease', 'epoch'))
           ) = 3 AS ours
"""

PUBLICATIONS = "SELECT pubname AS name, oid::bigint FROM pg_publication WHERE pubname = ANY (%(names)s::text[])"


async def noted(connection: Connection, kind: Kind) -> dict[str, int | None]:
    """What is ours of this kind in the connection's database, by name: its oid, or None for a slot, which has none."""
    (found,) = await fetch_plain(connection, READABLE)
    if not found["readable"]:
        return {}
    query = "SELECT name, number FROM replicator.made WHERE kind = %(kind)s"
    return {each["name"]: each["number"] for each in await fetch_plain(connection, query, kind=kind)}


async def note(connection: Connection, kind: Kind, name: str, number: int | None) -> None:
    """Note what is made in the caller's transaction; of a slot, what is about to be made."""
    with translated():
        await connection.execute(
            "INSERT INTO replicator.made (kind, name, number) VALUES (%s, %s, %s) "
            "ON CONFLICT (kind, name) DO UPDATE SET number = EXCLUDED.number",
            (kind, name, number),
        )


async def forget(connection: Connection, kind: Kind, name: str) -> None:
    """Strike the note of what is gone."""
    with translated():
        await connection.execute("DELETE FROM replicator.made WHERE kind = %s AND name = %s", (kind, name))


async def foreign_publications(connection: Connection, names: Iterable[str]) -> list[str]:
    """Those of these publications that are there, and that we have not made."""
    ours = await noted(connection, "publication")
    found = await fetch_plain(connection, PUBLICATIONS, names=list(names))
    return [each["name"] for each in found if ours.get(each["name"]) != each["oid"]]


async def schema_is_ours(connection: Connection) -> bool:
    """Whether the schema ``replicator`` is there, and holds control tables of ours."""
    (found,) = await fetch_plain(connection, SCHEMA)
    return bool(found["ours"])


async def foreign_schema(connection: Connection) -> CheckError | None:
    """What the schema ``replicator`` holds that is not ours, as an error; an empty one is anybody's."""
    (found,) = await fetch_plain(connection, SCHEMA)
    if found["ours"] or found["holds"] is None:
        return None
    return CheckError(
        f"The schema replicator is not ours: it holds the {found['holds']}.",
        "The control tables need that name. Rename it: `ALTER SCHEMA replicator RENAME TO ...;`",
    )


def taken(what: str, name: str, setting: str, drop: str) -> CheckError:
    """Our error for a name that is another's."""
    return CheckError(
        f"There is a {what} {name} that this migration has not made.",
        f"Set {setting} to another name; or, if nobody needs it: {drop}",
    )
