"""Deletes target rows that no source row gives: those that others hold on to stay, and keep no other one from going."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from replicator.apply.order import check_constraints
from replicator.core.tables import Key, Table
from replicator.mapping.plan import Plan
from replicator.postgres.rows.halving import Halving
from replicator.postgres.rows.rearranging import without_rows
from replicator.postgres.rows.target import TargetWriter
from replicator.runtime.log import get_logger

log = get_logger("apply")


async def remove(writer: TargetWriter, plan: Plan, extra: Mapping[str, Iterable[Key]]) -> Counter[str]:
    """Delete them, children before their parents; gives how many rows of each target went.

    :param extra: keys by target, as the migration calls it.
    :raises DatabaseError: no row explains what Postgres says.
    """
    gone: Counter[str] = Counter()
    for table in reversed(plan.targets):
        left = list(extra.get(table.declared, ()))
        before = -1
        while left and len(left) != before:  # rows of one table may hold on to each other
            before = len(left)
            deleted, left = await _remove(writer, table, left)
            gone[table.declared] += deleted
        if left:
            log.warning(
                "rows that no source row produces cannot be deleted: others refer to them, or a trigger refuses it",
                table=str(table.name),
                rows=len(left),
            )
    return gone


async def _remove(writer: TargetWriter, table: Table, keys: Sequence[Key]) -> tuple[int, list[Key]]:
    """How many rows went, and the keys of those that did not."""
    counts: list[int] = []

    async def work(part: Sequence[Key]) -> None:
        deleted = await writer.delete(table, part)
        await check_constraints(writer, whole=True)  # at the end, nobody could tell any more which row it was
        counts.append(deleted)

    search: Halving[Key] = Halving(writer.connection, table, work)
    if await search.whole(keys):
        return sum(counts), []
    async with writer.connection.transaction():
        await without_rows(writer, table, table.key)
    await search.halves(keys)
    return sum(counts), [key for key, _ in search.refused]
