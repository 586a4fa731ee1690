"""Tells rows that belong to one side only from rows that the other side lacks."""

from collections.abc import Iterable
from contextlib import aclosing

from replicator.core.tables import Key, Row, Table
from replicator.errors import TransformError
from replicator.mapping.derive import derive
from replicator.mapping.plan import Plan, Source
from replicator.postgres.rows.groups import key_groups
from replicator.postgres.session.connect import connection


async def carried(opposite: Plan, dsn: str, table: Table, keys: Iterable[Key]) -> list[Key]:
    """Which of these rows the opposite transforms carry over. A row that they give nothing for is nobody's copy.

    A table that the opposite direction reads through queries only is taken to be carried over as a whole.

    :param dsn: of the database that the table is in.
    """
    wanted = list(keys)
    source = opposite.table_source(table.declared)
    if source is None:
        return wanted if table.declared in opposite.watched else []
    found: set[Key] = set()
    async with (
        connection(dsn, "verify carried", text=True) as reader,
        aclosing(key_groups(reader, source, wanted)) as groups,
    ):
        async for rows, _ in groups:
            found |= {key for key, row in rows.items() if row is not None and _gives(source, key, row)}
    return [key for key in wanted if key in found]


def _gives(source: Source, key: Key, row: Row) -> bool:
    for transform in source.transforms:
        try:
            if derive(transform, source, key, row):
                return True
        except TransformError:
            continue  # it cannot be said to give anything: what fails is in quarantine on that side
    return False
