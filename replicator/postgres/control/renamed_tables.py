"""Where a migration's tables are found now, as the control tables have it."""

from replicator.core.name_map import NameMap
from replicator.core.tables import Name
from replicator.postgres.session.connect import Connection, translated

# Before the control tables are made there are none; and where they are another role's, checks say so.
READABLE = """
    SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE n.nspname = '_replicator' AND c.relname = 'renames'
                   AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'))::int
"""


async def read_places(connection: Connection) -> NameMap:
    """The tables that a cutover has renamed, and not given back yet, in this database."""
    with translated():
        cursor = await connection.execute(READABLE)
        row = await cursor.fetchone()
        if row is None or not int(row[0]):
            return NameMap()
        cursor = await connection.execute(
            "SELECT from_schema, from_name, to_schema, to_name FROM _replicator.renames WHERE kind = 'table'"
        )
        return NameMap({
            Name(schema=schema, table=table): Name(schema=to_schema, table=to_table)
            for schema, table, to_schema, to_table in await cursor.fetchall()
        })  # fmt: skip
