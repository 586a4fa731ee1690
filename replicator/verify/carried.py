"""Tells rows that belong to one side only from rows that the other side lacks."""

from collections.abc import Iterable
from contextlib import aclosing

from replicator.core.tables import Key, Table
from replicator.errors import TransformError
from replicator.mapping.plan import Plan
from replicator.postgres.rows.derived import derive_rows
from replicator.postgres.rows.groups import key_groups
from replicator.postgres.session.connect import connection


async def carried(opposite: Plan, dsn: str, runs_on: str, table: Table, keys: Iterable[Key]) -> list[Key]:
    """Which of these rows the opposite transforms carry over. A row that they give nothing for is nobody's copy.

    A table that the opposite direction reads through queries only is taken to be carried over as a whole.

    :param dsn: of the database that the table is in.
    :param runs_on: of the one that the opposite direction writes: SQL transforms run there.
    """
    wanted = list(keys)
    source = opposite.table_source(table.declared)
    if source is None:
        return wanted if table.declared in opposite.watched else []
    found: set[Key] = set()
    async with (
        connection(dsn, "verify carried", text=True) as reader,
        connection(runs_on, "verify carried") as server,
        aclosing(key_groups(reader, source, wanted)) as groups,
    ):
        async for rows, _ in groups:
            there = {key: row for key, row in rows.items() if row is not None}
            for transform in source.transforms:
                given = await derive_rows(server, transform, source, there)
                # Of one that fails, it cannot be said that it gives anything: it is in quarantine on that side.
                found |= {key for key, each in given.items() if each and not isinstance(each, TransformError)}
    return [key for key in wanted if key in found]
