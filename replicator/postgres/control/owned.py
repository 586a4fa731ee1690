"""What we have made outside our schema: publications, slots, origins. What is not noted is another's.

A note stands in the database that the thing was made through, in the transaction that makes it, where there is one. So
nothing of somebody else's is ever taken over, or dropped.
"""

from collections.abc import Iterable
from typing import Literal

from replicator.errors import CheckError
from replicator.postgres.session.connect import Connection, translated
from replicator.postgres.session.server import fetch_plain

Kind = Literal["publication", "slot", "origin"]

READABLE = """
    SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE n.nspname = '_replicator' AND c.relname = 'made' AND c.relkind = 'r'
                   AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')) AS readable
"""

# By the shape of two of our tables: whoever has a schema of this name for something else has not both. Older versions
# had them in the schema that now holds only what the application asks.
SCHEMA = """
    WITH shapes (home, is_ours) AS (
        SELECT home, 3 = (SELECT count(*) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
            WHERE c.relnamespace = to_regnamespace(home) AND c.relkind = 'r' AND NOT a.attisdropped
            AND (c.relname, a.attname) IN (('ownership', 'migration'), ('ownership', 'epoch'), ('lease', 'epoch')))
        FROM unnest(ARRAY['_replicator', 'replicator']) AS h(home)
    )
    SELECT (SELECT is_ours FROM shapes WHERE home = '_replicator') AS ours,
           (SELECT is_ours FROM shapes WHERE home = 'replicator') AS older,
           (SELECT ARRAY[home, pg_describe_object(d.classid, d.objid, 0)]
            FROM shapes JOIN pg_depend d ON d.refclassid = 'pg_namespace'::regclass
            AND d.refobjid = to_regnamespace(home) AND d.classid <> 'pg_default_acl'::regclass
            ORDER BY home LIMIT 1) AS foreign_object
"""

PUBLICATIONS = "SELECT pubname AS name, oid::bigint FROM pg_publication WHERE pubname = ANY (%(names)s::text[])"


async def noted(connection: Connection, kind: Kind) -> dict[str, int | None]:
    """What is ours of this kind in the connection's database, by name: its oid, or None for a slot, which has none."""
    (found,) = await fetch_plain(connection, READABLE)
    if not found["readable"]:
        return {}
    query = "SELECT name, number FROM _replicator.made WHERE kind = %(kind)s"
    return {each["name"]: each["number"] for each in await fetch_plain(connection, query, kind=kind)}


async def note(connection: Connection, kind: Kind, name: str, number: int | None) -> None:
    """Note what is made in the caller's transaction; of a slot, what is about to be made."""
    with translated():
        await connection.execute(
            "INSERT INTO _replicator.made (kind, name, number) VALUES (%s, %s, %s) "
            "ON CONFLICT (kind, name) DO UPDATE SET number = EXCLUDED.number",
            (kind, name, number),
        )


async def forget(connection: Connection, kind: Kind, name: str) -> None:
    """Strike the note of what is gone."""
    with translated():
        await connection.execute("DELETE FROM _replicator.made WHERE kind = %s AND name = %s", (kind, name))


async def foreign_publications(connection: Connection, names: Iterable[str]) -> list[str]:
    """Those of these publications that are there, and that we have not made."""
    ours = await noted(connection, "publication")
    found = await fetch_plain(connection, PUBLICATIONS, names=list(names))
    return [each["name"] for each in found if ours.get(each["name"]) != each["oid"]]


async def schema_is_ours(connection: Connection) -> bool:
    """Whether control tables of ours are there. Raises CheckError where they are an older version's."""
    (found,) = await fetch_plain(connection, SCHEMA)
    if found["older"]:
        raise CheckError(
            "The control tables are an older version's.",
            "Start the daemon of this version, `replicator run`: it takes them along, or says why it cannot.",
        )
    return bool(found["ours"])


async def is_older(connection: Connection) -> bool:
    """Whether the control tables are where older versions had them: in the schema ``replicator``."""
    (found,) = await fetch_plain(connection, SCHEMA)
    return bool(found["older"])


async def foreign_schema(connection: Connection) -> CheckError | None:
    """What one of our schemas holds that is not ours, as an error; an empty one is anybody's."""
    (found,) = await fetch_plain(connection, SCHEMA)
    if found["ours"] or found["older"] or found["foreign_object"] is None:
        return None
    home, what = found["foreign_object"]
    return CheckError(
        f"The schema {home} is not ours: it holds the {what}.",
        "The control tables need that name. Rename it: `ALTER SCHEMA ... RENAME TO ...;`",
    )


def taken(what: str, name: str, setting: str, drop: str) -> CheckError:
    """Our error for a name that is another's."""
    return CheckError(
        f"There is a {what} {name} that this migration has not made.",
        f"Set {setting} to another name; or, if nobody needs it: {drop}",
    )
