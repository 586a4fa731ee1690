"""A sample of a source that cannot be read as a whole, because the server fails for a row of it."""

import asyncio
from contextlib import aclosing
from typing import Final

from psycopg import sql

from replicator.core.tables import Key, Row, key_of
from replicator.errors import RowError
from replicator.mapping.derive import UnreadableRow
from replicator.mapping.plan import Source
from replicator.postgres.rows.refusals import refusing
from replicator.postgres.rows.selecting import source_as
from replicator.postgres.rows.source import parse_row, read_alone
from replicator.postgres.rows.streaming import streamed
from replicator.postgres.session.connect import Connection, beside_parameters, comma, identifier
from replicator.postgres.trying.rehearsal import SAMPLE_TIMEOUT

SECONDS: Final = 10.0


async def sample_one_by_one(connection: Connection, source: Source, limit: int) -> list[tuple[Key, Row]]:
    """The first rows that ten seconds are enough for; an UnreadableRow stands for one that the server fails for.

    :raises RowError: a key itself cannot be read.
    """
    found: list[tuple[Key, Row]] = []
    until = asyncio.get_running_loop().time() + SECONDS
    for key in await _keys(connection, source, limit):
        try:
            row = await read_alone(connection, source, key)
        except RowError as error:
            row = UnreadableRow(error.problem)
        if row is not None:
            found.append((key, row))
        if asyncio.get_running_loop().time() > until:
            break
    return found


async def _keys(connection: Connection, source: Source, limit: int) -> list[Key]:
    names = comma([identifier(name) for name in source.key])
    query = sql.SQL("SELECT {} FROM {} LIMIT {}").format(
        beside_parameters(names), source_as(source), sql.Literal(limit)
    )  # fmt: skip
    columns = [source.by_name[name] for name in source.key]
    with refusing():
        async with connection.transaction(force_rollback=True):
            await connection.execute(f"SET LOCAL statement_timeout = '{SAMPLE_TIMEOUT}'")
            async with aclosing(streamed(connection, query, [])) as rows:
                parsed = [parse_row(columns, texts) async for texts in rows]
    return [
        key_of(row, source.key, source.by_name) for row in parsed if not any(value is None for value in row.values())
    ]
