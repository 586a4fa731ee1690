"""Reads source rows in groups, as ``source`` does, past those that the server cannot give: these are told as such."""

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing

from psycopg.pq import TransactionStatus

from replicator.core.tables import Key, Row
from replicator.errors import RowError
from replicator.mapping.derive import UnreadableRow
from replicator.mapping.plan import Source
from replicator.postgres.rows import source as strictly
from replicator.postgres.rows.keys import is_key
from replicator.postgres.rows.listing import read_key_lists
from replicator.postgres.rows.streaming import ROW_BYTES
from replicator.postgres.session.connect import Connection, translated

KEYS_AT_ONCE = 200
"""Of a range in which a row cannot be read, so many are read at a time."""


async def key_groups(
    connection: Connection, source: Source, keys: Iterable[Key]
) -> AsyncGenerator[tuple[dict[Key, Row | None], int]]:
    """The rows with these keys in groups of bounded size, each with its size; None for a key without a row.

    A query may divide by zero, or cast what is no number, for one row, which is found by halving: an UnreadableRow
    stands for it. To be closed when it is left early.
    """
    waiting = [list(keys)]
    while waiting:
        part = waiting.pop()
        missing = dict.fromkeys(part)
        await _savepoint(connection, "SAVEPOINT reading")
        try:
            async with aclosing(strictly.key_groups(connection, source, part)) as groups:
                async for rows, size in groups:
                    for key in rows:
                        missing.pop(key, None)
                    yield rows, size
        except RowError:
            await _savepoint(connection, "ROLLBACK TO SAVEPOINT reading")
            await strictly.without_rows(connection, source)
            rest = list(missing)
            if len(rest) > 1:
                waiting += [rest[len(rest) // 2 :], rest[: len(rest) // 2]]
            else:
                for key in rest:
                    yield {key: await _alone(connection, source, key)}, ROW_BYTES
        await _savepoint(connection, "RELEASE SAVEPOINT reading")


async def _alone(connection: Connection, source: Source, key: Key) -> Row | None:
    """The row with one key, which could not be read together with others; None where there is none, or can be none."""
    if not await is_key(connection, [source.by_name[name] for name in source.key], key):
        return None
    try:
        return await strictly.read_alone(connection, source, key)
    except RowError as error:
        return UnreadableRow(error.problem)


async def range_groups(
    connection: Connection, source: Source, lower: Key | None, upper: Key | None, limit: int | None = None
) -> AsyncGenerator[tuple[list[tuple[Key, Row]], int, bool]]:
    """The rows with ``lower < key <= upper`` in key order, in such groups, each with its size and whether it ends them.

    :raises RowError: a row's key itself cannot be read, nor found otherwise: then nobody can say which row it is.
    """
    count = 0
    await _savepoint(connection, "SAVEPOINT reading")
    try:
        async with aclosing(strictly.range_groups(connection, source, lower, upper, limit)) as groups:
            async for rows, size, last in groups:
                lower, count = rows[-1][0] if rows else lower, count + len(rows)
                if last:
                    await _savepoint(connection, "RELEASE SAVEPOINT reading")
                yield rows, size, last
    except RowError:
        await _savepoint(connection, "ROLLBACK TO SAVEPOINT reading")
        await strictly.without_rows(connection, source)
    else:
        return
    async with aclosing(read_key_lists(connection, source, KEYS_AT_ONCE, lower, upper)) as lists:
        async for keys in lists:
            wanted = keys if limit is None else keys[: limit - count]
            yield await _in_order(connection, source, wanted), len(wanted) * ROW_BYTES, False
            count += len(wanted)
    await _savepoint(connection, "RELEASE SAVEPOINT reading")
    yield [], 0, True


async def _in_order(connection: Connection, source: Source, keys: list[Key]) -> list[tuple[Key, Row]]:
    found: dict[Key, Row | None] = {}
    async with aclosing(key_groups(connection, source, keys)) as groups:
        async for rows, _ in groups:
            found.update(rows)
    return [(key, row) for key in keys if (row := found.get(key)) is not None]


async def _savepoint(connection: Connection, statement: str) -> None:
    """Outside a transaction none is needed."""
    if connection.info.transaction_status != TransactionStatus.IDLE:  # "active": another task's, on one that is held
        with translated():
            await connection.execute(statement.encode())
