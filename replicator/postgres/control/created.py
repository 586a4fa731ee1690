"""What the migration's DDL has made in the database of the new schema: noted when it is made, for giving up."""

from dataclasses import dataclass

from psycopg import sql

from replicator.postgres.session.connect import Connection, identifier, translated

DROPPABLE = (
    "table", "view", "materialized view", "foreign table", "sequence", "type", "function", "procedure", "aggregate",
    "schema",
)  # fmt: skip
DEPENDENTS = "2BP01"

# Whatever stands by itself in the schema: what belongs to something else (a serial's sequence, an array type, a row
# type, an extension's function) comes and goes with that.
OBJECTS = """
    SELECT o.type, o.identity FROM (
        SELECT 'pg_class'::regclass AS class, c.oid FROM pg_class c
        WHERE c.relnamespace = to_regnamespace(%(schema)s) AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
        UNION ALL
        SELECT 'pg_type'::regclass, t.oid FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
        WHERE t.typnamespace = to_regnamespace(%(schema)s)
        AND (t.typtype IN ('e', 'd', 'r') OR (t.typtype = 'c' AND c.relkind = 'c'))
        UNION ALL
        SELECT 'pg_proc'::regclass, p.oid FROM pg_proc p WHERE p.pronamespace = to_regnamespace(%(schema)s)
        UNION ALL
        SELECT 'pg_namespace'::regclass, to_regnamespace(%(schema)s) WHERE to_regnamespace(%(schema)s) IS NOT NULL
    ) AS found, pg_identify_object(found.class, found.oid, 0) AS o
    WHERE NOT EXISTS (
        SELECT FROM pg_depend d WHERE d.classid = found.class AND d.objid = found.oid AND d.deptype IN ('a', 'i', 'e')
        AND d.refclassid <> 'pg_namespace'::regclass
    )
"""


@dataclass(frozen=True, order=True, kw_only=True)
class Made:
    """An object as ``pg_identify_object`` names it; the identity is quoted where it must be."""

    type: str
    identity: str


async def objects_in(connection: Connection, schema: str) -> set[Made]:
    """The objects of a schema, and the schema itself."""
    with translated():
        quoted = identifier(schema).as_string(connection)
        cursor = await connection.execute(OBJECTS.encode(), {"schema": quoted})
        return {Made(type=row[0], identity=row[1]) for row in await cursor.fetchall()}


async def note_created(connection: Connection, made: set[Made]) -> None:
    """Store what is ours. The control tables are there."""
    with translated():
        for each in sorted(made):
            await connection.execute(
                "INSERT INTO _replicator.created (type, identity) VALUES (%s, %s) ON CONFLICT DO NOTHING",
                (each.type, each.identity),
            )


async def created(connection: Connection) -> list[Made]:
    """What is ours."""
    with translated():
        cursor = await connection.execute("SELECT type, identity FROM _replicator.created ORDER BY 1, 2")
        return [Made(type=row[0], identity=row[1]) for row in await cursor.fetchall()]


async def drop_created(connection: Connection) -> tuple[list[Made], list[tuple[Made, str]]]:
    """Drop what is ours, in the caller's transaction, and nothing else.

    Gives what went, and what stays because something else depends on it, with what that is.
    """
    left, gone, reasons = await created(connection), list[Made](), dict[Made, str]()
    progress = True
    while left and progress:
        progress = False
        for each in list(left):
            reason = await _drop(connection, each)
            if reason is None:
                left.remove(each)
                gone.append(each)
                progress = True
            else:
                reasons[each] = reason
    return gone, [(each, reasons[each]) for each in left]


async def _drop(connection: Connection, made: Made) -> str | None:
    """Drop one object; gives what depends on it if it cannot go."""
    if made.type not in DROPPABLE:
        return f"a {made.type} is not dropped"
    with translated():
        try:
            async with connection.transaction():
                await connection.execute(
                    sql.SQL("DROP {} IF EXISTS {}").format(
                        # as the server itself has written and quoted it
                        sql.SQL(made.type.upper()),
                        sql.SQL(made.identity),
                    )
                )
        except Exception as error:
            if getattr(error, "sqlstate", None) != DEPENDENTS:
                raise
            detail = getattr(getattr(error, "diag", None), "message_detail", None)
            return detail or str(error)
    return None
