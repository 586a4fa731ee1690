"""Reads a result as it comes from the server, and hands it out in groups of bounded size.

A cursor's ``execute`` holds the whole result. Here the server waits while a group is worked on: what is in memory is
one group, and a row beyond it.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final

from psycopg import sql

from replicator.postgres.session.connect import Connection, translated

GROUP_BYTES: Final = 4 << 20
"""A group ends with the row that makes it as large as this."""

ROW_BYTES: Final = 500
"""What each row counts beyond its text: as objects, narrow rows take many times their text."""

Texts = Sequence[str | None]


async def streamed(
    connection: Connection,
    query: sql.Composed,
    parameters: Sequence[object],
    edge: Callable[[], AbstractContextManager[None]] = translated,
) -> AsyncGenerator[Texts]:
    """The rows of a SELECT, each value as the text that Postgres prints; the connection is busy until the end.

    To be closed when it is left early: that cancels the query, and with it the transaction.

    :param query: composed for parameters, so that each ``%`` in it is doubled.
    :param edge: makes errors ours: ``translated``, or ``refusing`` where they may be a row's.
    """
    copying = sql.SQL("COPY ({}) TO STDOUT").format(query)
    if not parameters:  # psycopg leaves such a statement as it is
        copying = sql.SQL("{}").format(sql.SQL(copying.as_string(connection).replace("%%", "%")))
    with edge():
        async with connection.cursor() as cursor, cursor.copy(copying, list(parameters)) as copy:
            async for texts in copy.rows():
                yield texts


async def grouped(rows: AsyncIterator[Texts]) -> AsyncGenerator[tuple[list[Texts], int, bool]]:
    """Rows in groups of about GROUP_BYTES, each with its size and whether it is the last, which may be empty."""
    group: list[Texts] = []
    size = 0
    async for texts in rows:
        if size >= GROUP_BYTES:
            yield group, size, False
            group, size = [], 0
        group.append(texts)
        size += ROW_BYTES + sum(len(text) for text in texts if text is not None)
    yield group, size, True
