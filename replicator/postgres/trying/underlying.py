"""What a query stands on besides tables: views and functions, whose own texts may change under it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from replicator.core.tables import Name
from replicator.postgres.session.connect import Connection, translated
from replicator.postgres.session.server import fetch
from replicator.postgres.trying.rehearsal import LOCK_TIMEOUT, VIEW_READS

# Through views in views. What a function calls in turn, the catalogue does not know.
STANDS_ON: Final = """
    WITH RECURSIVE views AS (
        SELECT 'pg_temp.replicator_query'::regclass::oid AS oid
        UNION
        SELECT d.refobjid FROM views v JOIN pg_rewrite r ON r.ev_class = v.oid
        JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
        JOIN pg_class c ON c.oid = d.refobjid AND c.relkind = 'v' WHERE d.refclassid = 'pg_class'::regclass
    )
    SELECT r.oid::int8 AS number FROM views v JOIN pg_rewrite r ON r.ev_class = v.oid
    WHERE v.oid <> 'pg_temp.replicator_query'::regclass
    UNION
    SELECT d.refobjid::int8 FROM views v JOIN pg_rewrite r ON r.ev_class = v.oid
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid WHERE d.refclassid = 'pg_proc'::regclass
"""

VERSIONS: Final = """
    SELECT oid::int8 AS number, xmin::text AS version FROM pg_rewrite WHERE oid = ANY (%(numbers)s::oid[])
    UNION ALL SELECT oid::int8, xmin::text FROM pg_proc WHERE oid = ANY (%(numbers)s::oid[])
"""


@dataclass(frozen=True)
class Underlying:
    """What one query reads, and the versions of the views' rules and the functions that make it mean what it means."""

    tables: frozenset[Name]
    versions: Mapping[int, str]


async def read_underlying(connection: Connection, query: str) -> Underlying:
    """By the catalogue's word: the query becomes a temporary view that is rolled back. Waits for no lock for long."""
    with translated():
        async with connection.transaction(force_rollback=True):
            await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
            await connection.execute(b"CREATE TEMP VIEW replicator_query AS " + query.encode())
            tables = await fetch(connection, VIEW_READS, view="pg_temp.replicator_query")
            numbers = [int(each["number"]) for each in await fetch(connection, STANDS_ON)]
    return Underlying(
        frozenset(Name(schema=each["schema"], table=each["table"]) for each in tables),
        await read_versions(connection, numbers),
    )


async def read_versions(connection: Connection, numbers: Collection[int]) -> dict[int, str]:
    """As ``Underlying`` has them; what is gone is left out. Takes no lock on anything of the application's."""
    if not numbers:
        return {}
    found = await fetch(connection, VERSIONS, numbers=list(numbers))
    return {int(each["number"]): str(each["version"]) for each in found}
