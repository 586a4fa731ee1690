"""Whose a row of the target is, while both schemas take writes."""

from replicator.core.tables import Key
from replicator.postgres.rows.context import Context
from replicator.postgres.rows.target import TargetWriter
from replicator.postgres.rows.versions import deleted_rows, read_versions
from replicator.postgres.session.connect import Connection, translated


async def foreign_rows(connection: Connection, context: Context, rows: set[tuple[str, Key]]) -> set[tuple[str, Key]]:
    """Which of these target rows, by table and key, the application has written or deleted last."""
    policy, found = context.policy, set()
    if not policy.both_write:
        return set()
    writer = TargetWriter(connection, context.plan.targets)
    await writer.prepare()
    for table in context.plan.targets:
        keys = {key for name, key in rows if name == table.name.table}
        if keys:
            with translated():
                async with connection.transaction():
                    writer.transaction_begins()
                    versions = await read_versions(connection, table, writer.stage(table), keys)
                    deleted = await deleted_rows(connection, table, writer.stage(table), keys - versions.keys())
            theirs = {
                key for key, each in versions.items() if policy.written_by_the_application(each) and not each.rewritten
            }
            found |= {(table.name.table, key) for key in theirs | deleted.keys()}
    return found
