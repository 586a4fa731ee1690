"""Lists the keys of a source; of a query that fails for a row, from the tables that lead to its keys.

So each of its rows can still be read by its key, and the one that fails is known. A key that none of these tables has
is missed meanwhile: ``Source.listing`` says so, and verification does not call the target clean.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

from psycopg import sql

from replicator.core.tables import Key
from replicator.errors import RowError
from replicator.mapping.plan import Source
from replicator.postgres.rows import source as strictly
from replicator.postgres.session.connect import Connection, comma, identifier
from replicator.runtime.log import get_logger

log = get_logger("source")

KEYS_AT_ONCE = 20_000

T = TypeVar("T")


async def read_key_lists(
    connection: Connection,
    source: Source,
    keys_at_once: int = KEYS_AT_ONCE,
    lower: Key | None = None,
    upper: Key | None = None,
) -> AsyncGenerator[list[Key]]:
    """The keys of rows in a range, in their order, a list at a time; inside a transaction of the caller's.

    :raises RowError: as ``next_bound``.
    """
    while True:
        keys = await _listed(connection, source, partial(_next_keys, connection, keys_at_once, lower, upper))
        if not keys:
            return
        yield keys
        lower = keys[-1]


async def _next_keys(
    connection: Connection, most: int, lower: Key | None, upper: Key | None, source: Source
) -> list[Key]:
    return await strictly.next_keys(connection, source, most, lower, upper)


async def next_bound(connection: Connection, source: Source, lower: Key | None, rows: int) -> Key | None:
    """The key that ends a chunk of so many rows after ``lower``; None when fewer are left.

    :raises RowError: the query fails for a row, and no table leads to its keys.
    """
    return await _listed(connection, source, lambda asked: strictly.next_bound(connection, asked, lower, rows))


async def estimate_rows(connection: Connection, source: Source) -> int:
    """About how many rows there are: the planner's estimate, or a count where there is none yet."""
    return await _listed(connection, source, lambda asked: strictly.estimate_rows(connection, asked))


async def _listed(connection: Connection, source: Source, ask: Callable[[Source], Awaitable[T]]) -> T:
    try:
        async with connection.transaction():
            return await ask(source)
    except RowError as error:
        await strictly.without_rows(connection, source)
        if not source.leads:
            raise RowError(
                f"The query {source.name} fails for a row, and nobody can say for which: {error.problem}",
                "Mend the row; or let the query compute in its SELECT list what its condition fails for. Where "
                "depends_on= names, for a table, the columns that are the key, such a row is found.",
                error.sqlstate,
            ) from None
        if not source.listing.failed:
            log.warning("a query fails for a row: its keys are listed from other tables", source=source.name,
                        error=error.problem)  # fmt: skip
        source.listing.failed = error.problem
        return await ask(_leading(source))


def _leading(source: Source) -> Source:
    """Stands for the query: only its keys, from the tables that lead to them."""
    keys = [
        sql.SQL("SELECT {} FROM {}").format(
            comma([
                sql.SQL("{} AS {}").format(identifier(column), identifier(key))
                for column, key in zip(columns, source.key, strict=True)
            ]),
            identifier(table.schema, table.table),
        )
        for table, columns in source.leads
    ]  # fmt: skip
    columns = tuple(source.by_name[name] for name in source.key)
    return replace(source, query=sql.SQL(" UNION ").join(keys).as_string(), columns=columns, leads=())
