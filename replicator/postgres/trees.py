"""All tables that hang on some: partitions on every level, and what inherits."""

from collections.abc import Iterable
from typing import Final

from replicator.postgres.connect import Connection, identifier, translated
from replicator.tables import Name

TREE: Final = """
    WITH RECURSIVE tree AS (
        SELECT unnest(%(oids)s::oid[]) AS oid
        UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.oid
    )
"""
"""The beginning of a query: ``tree`` has the oids of these tables and of all below them, each once."""


async def oids_of(connection: Connection, tables: Iterable[Name]) -> list[int]:
    """Of these tables; those that are gone are left out."""
    quoted = [identifier(name.schema, name.table).as_string(connection) for name in tables]
    with translated():
        cursor = await connection.execute(
            "SELECT to_regclass(t.quoted)::oid::int8 FROM unnest(%s::text[]) AS t(quoted) "
            "WHERE to_regclass(t.quoted) IS NOT NULL",
            (quoted,),
        )
        return [int(row[0]) for row in await cursor.fetchall()]
