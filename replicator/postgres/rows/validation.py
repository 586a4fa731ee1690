"""Looks at the rows of foreign keys that a move has made without looking at any."""

from typing import Final

from psycopg import sql

from replicator.core.tables import Name
from replicator.errors import RetryableError, RowError
from replicator.postgres.session.connect import Connection, identifier, translated
from replicator.postgres.session.server import fetch_plain

VALIDATE_LOCK: Final = "2s"
"""The lock keeps no reader and no writer waiting, but DDL and VACUUM."""


async def unvalidated(connection: Connection) -> list[tuple[Name, str]]:
    """The keys that have been made and not been looked at row by row; those that are gone are forgotten."""
    with translated():
        await connection.execute(
            "DELETE FROM _replicator.edges e WHERE state = 'unvalidated' AND NOT EXISTS (SELECT FROM pg_constraint c "
            "WHERE c.conrelid = e.relation AND c.conname = e.name AND NOT c.convalidated)"
        )
    found = await fetch_plain(
        connection,
        "SELECT n.nspname AS schema, c.relname AS table, e.name FROM _replicator.edges e "
        "JOIN pg_class c ON c.oid = e.relation JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE e.state = 'unvalidated' ORDER BY 1, 2, 3",
    )
    return [(Name(schema=each["schema"], table=each["table"]), each["name"]) for each in found]


async def validate(connection: Connection, table: Name, name: str) -> bool:
    """Look at every row; whether each refers to one that is there.

    Keeps no reader and no writer waiting. Raises RetryableError when the lock does not come.
    """
    try:
        with translated():
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = '{VALIDATE_LOCK}'")
                await connection.execute(
                    sql.SQL("ALTER TABLE {} VALIDATE CONSTRAINT {}").format(
                        identifier(table.schema, table.table), identifier(name)
                    )
                )
    except RetryableError:
        raise
    except RowError:
        return False
    return True
