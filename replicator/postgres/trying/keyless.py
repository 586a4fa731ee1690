"""Rows of a query that have no key, because of a NULL in it: they are in no chunk, and nothing is made of them."""

from psycopg import sql

from replicator.mapping.plan import Source
from replicator.postgres.session.connect import Connection, identifier, translated
from replicator.postgres.trying.rehearsal import SAMPLE_TIMEOUT


async def keyless_rows(connection: Connection, source: Source, most: int | None = None) -> int:
    """How many there are; counted up to ``most``."""
    if source.table is not None:
        return 0
    missing = sql.SQL(" OR ").join([sql.SQL("{} IS NULL").format(identifier(name)) for name in source.key])
    with translated():
        cursor = await connection.execute(
            sql.SQL("SELECT count(*) FROM (SELECT FROM ({}) AS q WHERE {} LIMIT {}) AS k").format(
                sql.SQL(source.query or ""), missing, sql.Literal(most)
            )
        )
        row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def sampled_keyless(connection: Connection, source: Source) -> bool:
    """Whether there are any. Waits as long as for a sample."""
    with translated():
        async with connection.transaction():
            await connection.execute(f"SET LOCAL statement_timeout = '{SAMPLE_TIMEOUT}'")
            return await keyless_rows(connection, source, 1) > 0


def keyless(source: Source) -> str:
    """What is wrong with a query that has some."""
    key = ", ".join(source.key)
    return f"The query {source.name} returns rows with a NULL in their key ({key}): no row comes of them"
