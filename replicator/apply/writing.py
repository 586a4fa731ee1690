"""Writes a batch's effects, in the first way that the target admits; else what Postgres refuses is searched for."""

from replicator.apply.deleting import Written
from replicator.apply.effects import Effects
from replicator.apply.order import CLASHES, write_anew, write_plainly
from replicator.apply.search import Refusal, Search
from replicator.errors import RowError
from replicator.mapping.plan import Plan
from replicator.postgres.rows.target import TargetWriter
from replicator.postgres.session.connect import translated


async def write_effects(
    writer: TargetWriter, plan: Plan, effects: Effects, *, whole: bool
) -> tuple[Written, list[Refusal]]:
    """Write inside the caller's savepoint ``batch``; with refusals, the caller rolls back to it.

    :raises DatabaseError: no row explains what Postgres says.
    """
    for write in (write_plainly, write_anew):
        try:
            return await write(writer, plan, effects, whole=whole), []
        except RowError as error:
            await _back(writer)
            if error.sqlstate not in CLASHES:
                break
    search = Search(writer, plan, effects, whole=whole)
    return await search.run()


async def _back(writer: TargetWriter) -> None:
    with translated():
        await writer.connection.execute("ROLLBACK TO SAVEPOINT batch")
