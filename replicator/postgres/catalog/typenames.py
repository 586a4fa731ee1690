"""Types as authors write them, beside those that columns have."""

from replicator.core.tables import Column
from replicator.errors import DatabaseError
from replicator.postgres.session.connect import Connection, translated


async def is_type_of(connection: Connection, written: str, column: Column) -> bool:
    """Whether a column has the type that an author has written, with its modifier.

    True for a name that is not found under ``search_path = pg_catalog, pg_temp``: it may be the type's all the same.
    """
    try:
        with translated():
            async with connection.transaction():
                value = f"CAST(NULL AS {written}\n)"
                # The result's description has the modifier, but of a domain the type under it; the function knows that.
                cursor = await connection.execute(f"SELECT {value}, pg_typeof({value})::oid::int8".encode())
                modifier = -1 if cursor.pgresult is None else cursor.pgresult.fmod(0)
                (_, oid) = await cursor.fetchone() or (None, None)
                cursor = await connection.execute(
                    "SELECT format_type(oid, CASE typtype WHEN 'd' THEN -1 ELSE %s END) FROM pg_type "
                    "WHERE oid = %s::oid",
                    (modifier, oid),
                )
                row = await cursor.fetchone()
    except DatabaseError:
        return True
    return row is None or row[0] == column.type
