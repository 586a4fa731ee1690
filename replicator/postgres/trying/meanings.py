"""Whether an author's SELECT means in our sessions what it means in the author's.

Our sessions look names up in pg_catalog only. An operator or a function of an extension's type is mostly not found
there, and Postgres refuses the statement. Where the type has an implicit cast, it is silently another one: ``=`` of two
``citext`` values is ``text``'s, which tells upper case from lower case (PostgreSQL manual, "Operator Type Resolution").
"""

import re
from typing import Final

from psycopg import sql

from replicator.errors import DatabaseError
from replicator.postgres.session.connect import Connection, comma, identifier, translated
from replicator.postgres.session.server import fetch

OPERATORS_ELSEWHERE: Final = """
    SELECT DISTINCT n.nspname AS schema FROM pg_catalog.pg_operator o
    JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
    WHERE n.nspname OPERATOR(pg_catalog.<>) 'pg_catalog' AND n.nspname !~ '^pg_(temp|toast)'
    ORDER BY 1
"""
SHOWN: Final = "SELECT pg_catalog.pg_get_viewdef('pg_temp.replicator_meaning'::regclass) AS text"
OURS: Final = "pg_catalog, pg_temp"
PARAMETER: Final = re.compile(r"%\(.+?\)s")

ANOTHER: Final = (
    "takes other operators or functions here than where the schema {schemas} is searched: an extension's type is "
    "compared as text, for example. Name them with their schema, as in a OPERATOR({schema}.=) b, or write the cast "
    "that you mean"
)
"""What is wrong with such SQL, after its subject."""


async def means_another(connection: Connection, query: str) -> str | None:
    """What is wrong with a SELECT whose operators or functions are others in our sessions; None if nothing is.

    To be called inside a rehearsal. Nothing runs: the query becomes a temporary view that is rolled back.
    """
    with translated():
        schemas = [row["schema"] for row in await fetch(connection, OPERATORS_ELSEWHERE)]
    if not schemas:
        return None
    searched = sql.SQL("pg_catalog, {}, pg_temp").format(comma([identifier(each) for each in schemas]))
    try:
        elsewhere = await _shown(connection, query, searched)
    except DatabaseError:  # ambiguous there: then it is nothing that the author has tried there
        return None
    if elsewhere == await _shown(connection, query, sql.SQL(OURS)):
        return None
    return ANOTHER.format(schemas=" or ".join(schemas), schema=schemas[0])


def without_parameters(lookup: str) -> str:
    """A Lookup with NULLs for its parameters: of no type yet, as their values are when it runs."""
    return PARAMETER.sub("NULL", lookup).replace("%%", "%")


async def _shown(connection: Connection, query: str, searched: sql.Composable) -> str:
    """How the server prints a query that was read with one search_path, every name as it looks from ours.

    :raises DatabaseError: it cannot be read so.
    """
    with translated():
        async with connection.transaction(force_rollback=True):
            await connection.execute(sql.SQL("SET LOCAL search_path = {}").format(searched))
            await connection.execute(b"CREATE TEMP VIEW replicator_meaning AS " + query.encode())
            await connection.execute(sql.SQL("SET LOCAL search_path = {}").format(sql.SQL(OURS)))
            (shown,) = await fetch(connection, SHOWN)
    return str(shown["text"])
