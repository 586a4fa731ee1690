"""While both schemas take writes, a TRUNCATE of one partition is what it deletes: the other partitions' rows stay."""

from collections.abc import Mapping

from replicator.core.changes import Change, RelationName
from replicator.core.tables import Table
from replicator.postgres.rows.context import Context
from replicator.postgres.rows.versions import emptied_rows
from replicator.postgres.session.connect import Connection
from replicator.postgres.wire.snapshots import read_point
from replicator.runtime.log import get_logger

log = get_logger("emptied")


async def spelt_out(
    changes: list[Change], relations: Mapping[RelationName, Table | None], context: Context, reader: Connection
) -> list[Change]:
    """The changes, with the deletions that each TRUNCATE of a partition stands for in its place.

    The log names the partition, and a trigger has noted its rows. To take it for one of the whole table would delete
    what the application has written on the target meanwhile, and the source does not hold yet. Where nothing has noted
    them, on a partition younger than the last look, it is left out: then all rows of the table are to be compared.
    """
    if not context.policy.both_write or not any(_of_a_partition(each, relations) for each in changes):
        return changes
    found: list[Change] = []
    async with read_point(reader, context.visibility):  # it sees what was noted by the transactions in the stream
        for each in changes:
            found += await _deletions(each, context, relations, reader) if _of_a_partition(each, relations) else [each]
    return found


def _of_a_partition(change: Change, relations: Mapping[RelationName, Table | None]) -> bool:
    table = relations[change.relation]
    return (
        change.operation == "truncate"
        and table is not None
        and change.relation != (table.name.schema, table.name.table)
    )


async def _deletions(
    change: Change, context: Context, relations: Mapping[RelationName, Table | None], reader: Connection
) -> list[Change]:
    images = None
    if change.committed_at is not None:
        images = await emptied_rows(reader, change.relation, change.committed_at)
    if images is None:
        table = relations[change.relation]
        log.warning("nothing has noted which rows a TRUNCATE has deleted", partition=".".join(change.relation))
        context.suspect([table.declared] if table is not None else [])
        return []
    return [Change(change.relation, "delete", old=image, committed_at=change.committed_at) for image in images]
