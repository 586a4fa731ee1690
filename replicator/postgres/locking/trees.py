"""All tables that hang on some: partitions on every level, and what inherits."""

from collections.abc import Iterable, Sequence
from typing import Final

from psycopg import sql

from replicator.core.tables import Name
from replicator.postgres.session.connect import Connection, identifier, of_a_list, translated

TREE: Final = """
    WITH RECURSIVE tree AS (
        SELECT unnest(%(oids)s::oid[]) AS oid
        UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.oid
    )
"""
"""The beginning of a query: ``tree`` has the oids of these tables and of all below them, each once."""


# Whoever makes a partition makes its triggers, and must be allowed to. On tables of his own the functions do nothing.
MAKERS: Final = f"""{TREE}
    SELECT DISTINCT quote_ident(pg_get_userbyid(c.relowner)) FROM tree t JOIN pg_class c ON c.oid = t.oid
    WHERE c.relkind = 'p' AND NOT has_function_privilege(c.relowner, %(function)s::text, 'EXECUTE')
"""


async def let_make_partitions(connection: Connection, function: sql.SQL, oids: Sequence[int]) -> None:
    """Let the owners of these partitioned tables, and of those below, hang a trigger function of ours on partitions."""
    given = {"oids": list(oids), "function": function.as_string(connection)}
    with translated():
        cursor = await connection.execute(MAKERS.encode(), given, prepare=False)
        found = await cursor.fetchall()
    with of_a_list():
        for (owner,) in found:
            await connection.execute(
                sql.SQL("GRANT EXECUTE ON FUNCTION {} TO {}").format(function, sql.SQL(owner))
            )  # fmt: skip


async def oids_by_name(connection: Connection, tables: Iterable[Name]) -> dict[Name, int]:
    """The oid of each of these tables; those that are gone are left out."""
    names = {identifier(name.schema, name.table).as_string(connection): name for name in tables}
    with translated():
        cursor = await connection.execute(
            "SELECT t.quoted, to_regclass(t.quoted)::oid::int8 FROM unnest(%s::text[]) AS t(quoted) "
            "WHERE to_regclass(t.quoted) IS NOT NULL",
            (list(names),),
        )
        return {names[row[0]]: int(row[1]) for row in await cursor.fetchall()}


async def oids_of(connection: Connection, tables: Iterable[Name]) -> list[int]:
    """Of these tables; those that are gone are left out."""
    return list((await oids_by_name(connection, tables)).values())


async def oids_with(connection: Connection, trigger: str) -> list[int]:
    """The tables that have a trigger of ours of this name, whether it is switched on or off, and that is no clone."""
    with translated():
        cursor = await connection.execute(
            "SELECT t.tgrelid::int8 FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid "
            "WHERE t.tgname = %s AND t.tgparentid = 0 AND p.pronamespace = to_regnamespace('_replicator')",
            (trigger,),
        )
        return [int(row[0]) for row in await cursor.fetchall()]
